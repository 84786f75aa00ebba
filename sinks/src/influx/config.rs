//! What may be set for InfluxDB.

use std::time::Duration;

use runtime::config::{ByteSize, Check, Problems, Secret, key};
use serde::Deserialize;

/// Which write API the server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteApi {
    /// `/api/v2/write`: InfluxDB 2 and 3 and stores that speak it.
    V2,
    /// `/write`: InfluxDB 1 and stores that speak it.
    V1,
}

/// InfluxDB.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InfluxConfig {
    /// Whether this process runs the sink.
    pub enabled: bool,
    /// The server, `http://host:port`.
    pub url: String,
    /// Which write API to use.
    pub api: WriteApi,
    /// Organisation (v2).
    pub org: String,
    /// Bucket (v2) or database (v1).
    pub bucket: String,
    /// Token; takes the place of user name and password.
    pub token: Option<Secret>,
    /// User name (v1).
    pub username: Option<String>,
    /// Password (v1).
    pub password: Option<Secret>,
    /// Retention policy (v1).
    pub retention_policy: Option<String>,
    /// Consumer group; its committed offsets are where the sink goes on.
    pub group: String,
    /// Static membership name of this process in the group.
    pub instance: Option<String>,
    /// Columns that are not written: content that a time series has no use for.
    pub skip: Vec<String>,
    /// Values that one tag of one agent may take: each is a series of its own. Those beyond are written as `other`.
    pub tag_values: usize,
    /// Lines of one request at most.
    pub batch_lines: usize,
    /// Bytes of one request, before compression, at most.
    pub batch_bytes: ByteSize,
    /// Lines are written when the oldest held has this age.
    #[serde(with = "humantime_serde")]
    pub batch_age: Duration,
    /// Longest wait for the answer to one request.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Whether requests are compressed with gzip.
    pub gzip: bool,
    /// Rows in one poll at most.
    pub poll_rows: usize,
    /// Bytes that one poll aims at.
    pub poll_bytes: ByteSize,
    /// How long a stop may take to write what is held.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for InfluxConfig {
    fn default() -> Self {
        let skip = ["extra", "command_line", "parameters", "title", "url", "document", "payload", "pids"];
        Self {
            enabled: true,
            url: "http://127.0.0.1:8086".to_owned(),
            api: WriteApi::V2,
            org: "varta".to_owned(),
            bucket: "varta".to_owned(),
            token: None,
            username: None,
            password: None,
            retention_policy: None,
            group: "varta-influx".to_owned(),
            instance: None,
            skip: skip.map(str::to_owned).to_vec(),
            tag_values: 100,
            batch_lines: 5000,
            batch_bytes: ByteSize::mib(2),
            batch_age: Duration::from_secs(1),
            timeout: Duration::from_secs(30),
            gzip: true,
            poll_rows: 4096,
            poll_bytes: ByteSize::mib(2),
            drain: Duration::from_secs(15),
        }
    }
}

impl Check for InfluxConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        match reqwest::Url::parse(&self.url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => {}
            _ => problems.add(
                key(at, "url"),
                format!("`{}` is not an http or https URL", self.url),
                Some("http://127.0.0.1:8086".to_owned()),
            ),
        }
        for (name, value) in [
            ("batch_lines", self.batch_lines),
            ("poll_rows", self.poll_rows),
            ("tag_values", self.tag_values),
        ] {
            if value == 0 {
                problems.add(key(at, name), "must be greater than nothing", None);
            }
        }
        for (name, size) in [("batch_bytes", self.batch_bytes), ("poll_bytes", self.poll_bytes)] {
            if size.bytes() == 0 {
                problems.add(key(at, name), "must be greater than nothing", None);
            }
        }
        if self.api == WriteApi::V2 && self.org.is_empty() {
            problems.add(key(at, "org"), "must not be empty: this API asks for it", None);
        }
        for (name, value) in [("bucket", &self.bucket), ("group", &self.group)] {
            if value.is_empty() {
                problems.add(key(at, name), "must not be empty", None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::config::load;

    use super::*;

    #[test]
    fn the_defaults_are_right_and_all_problems_are_named_at_once() {
        assert!(load::<InfluxConfig>("", "test", &|_| None).is_ok());
        let problems = load::<InfluxConfig>(
            "url = \"nowhere\"\nbatch_lines = 0\nbucket = \"\"\norg = \"\"",
            "test",
            &|_| None,
        )
        .unwrap_err();
        let mut named: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        let mut expected = ["url", "batch_lines", "bucket", "org"];
        named.sort_unstable();
        expected.sort_unstable();
        assert_eq!(named, expected);
        assert!(!problems.to_string().contains("secret"));
    }
}

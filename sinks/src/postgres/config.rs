//! What may be set for PostgreSQL.

use std::{str::FromStr as _, time::Duration};

use runtime::config::{ByteSize, Check, Problems, Secret, key};
use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;

use super::outbox::Notify;

/// PostgreSQL.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresConfig {
    /// Whether this process runs the sink.
    pub enabled: bool,
    /// `postgres://user:password@host:port/database`.
    pub url: Secret,
    /// Name under which the table `offsets` keeps how far this sink has come.
    pub sink: String,
    /// Consumer group; processes of one group share the partitions.
    pub group: String,
    /// Static membership name of this process in the group.
    pub instance: Option<String>,
    /// Program starts that are not stored.
    pub exclude: Exclude,
    /// What people are to be told; comes from the section of the notifier.
    #[serde(skip)]
    pub notify: Option<Notify>,
    /// A transaction is made when this many rows are held …
    pub batch_rows: usize,
    /// … or this many bytes …
    pub batch_bytes: ByteSize,
    /// … or rows of this age.
    #[serde(with = "humantime_serde")]
    pub batch_age: Duration,
    /// Longest wait for one statement.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Rows in one poll at most.
    pub poll_rows: usize,
    /// Bytes that one poll aims at.
    pub poll_bytes: ByteSize,
    /// How long a stop may take to store what is held.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

/// Programs whose starts are not stored, as the specification's filter of system processes. Nothing by default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exclude {
    /// Names of programs, whatever their case.
    pub names: Vec<String>,
    /// Names of users, whatever their case.
    pub users: Vec<String>,
    /// Path classes, as the normaliser writes them.
    pub path_classes: Vec<String>,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            url: Secret::new("postgres://varta@127.0.0.1:5432/varta"),
            sink: "postgres".to_owned(),
            group: "varta-postgres".to_owned(),
            instance: None,
            exclude: Exclude::default(),
            notify: None,
            batch_rows: 10_000,
            batch_bytes: ByteSize::mib(16),
            batch_age: Duration::from_millis(500),
            timeout: Duration::from_secs(30),
            poll_rows: 4096,
            poll_bytes: ByteSize::mib(2),
            drain: Duration::from_secs(15),
        }
    }
}

impl Check for PostgresConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        // The parser's own words could repeat the password.
        let url = self.url.expose();
        let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        if !is_postgres || PgConnectOptions::from_str(url).is_err() {
            problems.add(
                key(at, "url"),
                "is not a PostgreSQL URL",
                Some("postgres://user:password@host:5432/database".to_owned()),
            );
        }
        for (name, value) in [("batch_rows", self.batch_rows), ("poll_rows", self.poll_rows)] {
            if value == 0 {
                problems.add(key(at, name), "must be greater than nothing", None);
            }
        }
        for (name, size) in [("batch_bytes", self.batch_bytes), ("poll_bytes", self.poll_bytes)] {
            if size.bytes() == 0 {
                problems.add(key(at, name), "must be greater than nothing", None);
            }
        }
        for (name, value) in [("sink", &self.sink), ("group", &self.group)] {
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
        assert!(load::<PostgresConfig>("", "test", &|_| None).is_ok());
        let problems =
            load::<PostgresConfig>("url = \"mysql:secret@x\"\nbatch_rows = 0\nsink = \"\"", "test", &|_| {
                None
            })
            .unwrap_err();
        let mut named: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        let mut expected = ["url", "batch_rows", "sink"];
        named.sort_unstable();
        expected.sort_unstable();
        assert_eq!(named, expected);
        assert!(!problems.to_string().contains("secret"));
    }
}

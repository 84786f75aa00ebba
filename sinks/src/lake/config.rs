//! What may be set for the lake.

use std::time::Duration;

use runtime::config::{ByteSize, Check, Problems, Secret, key};
use serde::Deserialize;

use super::{dates::Believable, encoding::Writing, table::Root, writer::Limits};

/// The Delta lake.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LakeConfig {
    /// Whether this process runs the sink.
    pub enabled: bool,
    /// Folder, or URL of a store, under which each table has a folder of its own.
    pub root: String,
    /// Options of the store behind an URL, as `object_store` names them (`aws_region`, `aws_secret_access_key`, …).
    /// All of them count as secrets.
    pub options: std::collections::BTreeMap<String, Secret>,
    /// Consumer group; processes of one group share the partitions.
    pub group: String,
    /// Static membership name of this process in the group.
    pub instance: Option<String>,
    /// First part of the application id that each table keeps its offsets under,
    /// `<app>:<topic>:<partition>`. Never change it for tables that exist: everything would be written again.
    pub app: String,
    /// A table is committed when it holds this many rows …
    pub commit_rows: usize,
    /// … or this many bytes in memory …
    pub commit_bytes: ByteSize,
    /// … or rows of this age.
    #[serde(with = "humantime_serde")]
    pub commit_age: Duration,
    /// Rows that were logged more than an hour after the end of their day are committed at this age, together, lest
    /// each minute adds a small file to each old day. They are read again after a crash.
    #[serde(with = "humantime_serde")]
    pub late_age: Duration,
    /// Bytes held in memory over all tables, with what ordering them will cost; above it the fullest table is
    /// committed first.
    pub memory: ByteSize,
    /// Rows in one poll at most.
    pub poll_rows: usize,
    /// Bytes that one poll aims at.
    pub poll_bytes: ByteSize,
    /// Rows of a Parquet row group.
    pub row_group_rows: usize,
    /// zstd level of Parquet pages, 1 to 22.
    pub zstd_level: i32,
    /// A checkpoint of a table's log is written at each version that this number divides.
    pub checkpoint_every: u64,
    /// An event time this much older than its arrival is not believed: the row goes into the partition of its
    /// arrival and is marked `dt_by_arrival`.
    #[serde(with = "humantime_serde")]
    pub oldest: Duration,
    /// An event time this much after its arrival is not believed.
    #[serde(with = "humantime_serde")]
    pub ahead: Duration,
    /// How long a stop may take to commit what is held.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for LakeConfig {
    fn default() -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self {
            enabled: true,
            root: ".varta/lake".to_owned(),
            options: std::collections::BTreeMap::new(),
            group: "varta-lake".to_owned(),
            instance: None,
            app: "varta".to_owned(),
            commit_rows: 500_000,
            commit_bytes: ByteSize::mib(128),
            commit_age: Duration::from_mins(1),
            late_age: Duration::from_mins(15),
            memory: ByteSize::mib(192),
            poll_rows: 4096,
            poll_bytes: ByteSize::mib(4),
            row_group_rows: 128 * 1024,
            zstd_level: 3,
            checkpoint_every: 100,
            oldest: 400 * DAY,
            ahead: 2 * DAY,
            drain: Duration::from_secs(20),
        }
    }
}

impl LakeConfig {
    pub(super) fn root(&self) -> Root {
        Root { location: self.root.clone(), options: self.options.clone() }
    }

    /// Whether an URL leads nowhere, whoever answers there.
    fn location_is_wrong(&self) -> bool {
        let options = self.options.iter().map(|(name, value)| (name, value.expose()));
        let leads_somewhere = |text: &str| {
            url::Url::parse(text).is_ok_and(|url| object_store::parse_url_opts(&url, options).is_ok())
        };
        self.root.contains("://") && !leads_somewhere(&self.root)
    }

    pub(super) fn writing(&self) -> Writing {
        Writing {
            row_group_rows: self.row_group_rows,
            zstd_level: self.zstd_level,
            believable: Believable::new(self.oldest, self.ahead),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            rows: self.commit_rows,
            bytes: self.commit_bytes.bytes(),
            age: self.commit_age,
            late_age: self.late_age,
        }
    }
}

impl Check for LakeConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        let mut positive = |name: &str, value: u64| {
            if value == 0 {
                problems.add(key(at, name), "must be greater than nothing", None);
            }
        };
        positive("commit_rows", self.commit_rows as u64);
        positive("commit_bytes", self.commit_bytes.bytes());
        positive("memory", self.memory.bytes());
        positive("poll_rows", self.poll_rows as u64);
        positive("poll_bytes", self.poll_bytes.bytes());
        positive("row_group_rows", self.row_group_rows as u64);
        positive("checkpoint_every", self.checkpoint_every);
        for (name, value) in [("root", &self.root), ("group", &self.group), ("app", &self.app)] {
            if value.is_empty() {
                problems.add(key(at, name), "must not be empty", None);
            }
        }
        if self.location_is_wrong() {
            // the library's own words could repeat an option, and options are secrets
            problems.add(
                key(at, "root"),
                format!(
                    "`{}` is no URL of a store that this program knows, or its options do not fit",
                    self.root
                ),
                Some("a folder, or s3://bucket/folder with the options of that store".to_owned()),
            );
        }
        if self.late_age < self.commit_age {
            problems.add(
                key(at, "late_age"),
                "must not be shorter than `commit_age`",
                Some("15m".to_owned()),
            );
        }
        if !(1..=22).contains(&self.zstd_level) {
            problems.add(key(at, "zstd_level"), "must be between 1 and 22", Some("3".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::config::load;

    use super::*;

    #[test]
    fn the_defaults_are_right_and_all_problems_are_named_at_once() {
        assert!(load::<LakeConfig>("", "test", &|_| None).is_ok());
        let problems = load::<LakeConfig>("zstd_level = 99\nroot = \"\"\ncommit_rows = 0", "test", &|_| None)
            .unwrap_err();
        let mut named: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        let mut expected = ["commit_rows", "root", "zstd_level"];
        named.sort_unstable();
        expected.sort_unstable();
        assert_eq!(named, expected);
        assert!(!problems.to_string().contains("secret"));
    }

    #[test]
    fn a_store_that_cannot_be_is_named_before_anything_is_written_to_it() {
        let problems = |text: &str| -> Vec<String> {
            match load::<LakeConfig>(text, "test", &|_| None) {
                Ok(_) => Vec::new(),
                Err(problems) => problems.iter().map(|problem| problem.at.clone()).collect(),
            }
        };
        assert!(problems("root = \"file:///tmp/lake\"").is_empty());
        assert_eq!(problems("root = \"gopher://x/lake\""), ["root"]);
        assert_eq!(problems("root = \"s3://\""), ["root"]);
    }
}

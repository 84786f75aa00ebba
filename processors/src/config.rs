//! Configuration of the stream jobs.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use runtime::config::{ByteSize, Check, Problems};
use serde::Deserialize;

use crate::engine::OnMismatch;

/// The jobs. `core` is all in one; `normalise` and `detect` do the same in two, with the clean topic between them, and
/// each runs and scales for itself. `fleet` judges what either found of many machines together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobName {
    /// Raw events to events, features and alerts.
    #[default]
    Core,
    /// Raw events to events and the clean log.
    Normalise,
    /// The clean log to features and alerts.
    Detect,
    /// What `core` or `detect` found of many machines to alerts.
    Fleet,
}

impl JobName {
    /// Its name in groups, topics and transactional ids.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Normalise => "normalise",
            Self::Detect => "detect",
            Self::Fleet => "fleet",
        }
    }
}

impl FromStr for JobName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = [Self::Core, Self::Normalise, Self::Detect, Self::Fleet]
            .into_iter()
            .find(|job| job.as_str() == text);
        named.ok_or_else(|| format!("{text:?} is no job: core, normalise, detect or fleet"))
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How jobs run. Every duration is about *when* something is written, never about what.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessConfig {
    /// Which job: part of its consumer group, its state topic and its transactional ids.
    pub job: JobName,
    /// Name of this process among those that run the job. Two processes must not share a name: the later one
    /// would fence the earlier one.
    pub name: String,
    /// Put before group and transactional ids, so that several installations can share a cluster.
    pub prefix: String,
    /// Worker threads, each with a consumer and a transactional producer.
    pub workers: usize,
    /// Keep the partitions of a restarted worker for it until the session times out.
    pub static_membership: bool,
    /// Longest time between the first row of a transaction and its commit.
    #[serde(with = "humantime_serde")]
    pub commit_interval: Duration,
    /// The same once an alert is in the transaction.
    #[serde(with = "humantime_serde")]
    pub alert_commit_interval: Duration,
    /// The same once more rows have waited for a second than are processed at once, as after a stop: few large
    /// transactions cost far less than many small ones. As many as four micro-batches are processed at once then.
    #[serde(with = "humantime_serde")]
    pub behind_commit_interval: Duration,
    /// Input rows after which a transaction is committed early.
    pub max_commit_rows: usize,
    /// Output bytes after which a transaction is committed early.
    pub max_commit_bytes: ByteSize,
    /// Most rows that are processed at once.
    pub max_batch_rows: usize,
    /// How long rows may wait for company before they are processed.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// How long state and committed offsets may disagree after a rebalance before the worker gives up.
    #[serde(with = "humantime_serde")]
    pub restore_deadline: Duration,
    /// What to do with state that another definition of an operator wrote: `refuse` or `rebuild`.
    pub on_state_mismatch: OnMismatch,
    /// How far an agent's events may be out of order before its windows close.
    #[serde(with = "humantime_serde")]
    pub lateness: Duration,
    /// How long nobody may have heard of an agent before its windows are closed and it is dropped from memory and
    /// state: at least as long as its outbox may hold. Counted while all bridges hear their broker. What comes of it
    /// later is late in windows that were closed, and passes flagged `dedup_uncertain` unless of a new session.
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
    /// Folder of rule files; the rules that ship with the program if not given.
    pub rules: Option<PathBuf>,
    /// How often that folder is looked at for changes.
    #[serde(with = "humantime_serde")]
    pub rules_interval: Duration,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            job: JobName::Core,
            name: "main".to_owned(),
            prefix: "varta-".to_owned(),
            workers: 1,
            static_membership: true,
            commit_interval: Duration::from_millis(50),
            alert_commit_interval: Duration::from_millis(25),
            behind_commit_interval: Duration::from_millis(500),
            max_commit_rows: 100_000,
            max_commit_bytes: ByteSize(32 * 1024 * 1024),
            max_batch_rows: 2_000,
            linger: Duration::from_millis(4),
            restore_deadline: Duration::from_mins(1),
            on_state_mismatch: OnMismatch::Refuse,
            lateness: Duration::from_secs(2),
            hold: Duration::from_hours(30 * 24),
            rules: None,
            rules_interval: Duration::from_secs(2),
        }
    }
}

impl ProcessConfig {
    /// Consumer group of the job.
    pub fn group(&self) -> String {
        format!("{}{}", self.prefix, self.job)
    }

    /// Transactional id, and group instance id, of one worker slot.
    pub fn worker_id(&self, slot: usize) -> String {
        format!("{}{}-{}-{slot}", self.prefix, self.job, self.name)
    }
}

impl Check for ProcessConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        let mut require = |holds: bool, field: &str, what: &str| {
            if !holds {
                problems.add(format!("{at}.{field}"), what.to_owned(), None);
            }
        };
        require(!self.name.is_empty(), "name", "must not be empty");
        require((1..=256).contains(&self.workers), "workers", "must be between 1 and 256");
        require(self.max_batch_rows > 0, "max_batch_rows", "must be at least 1");
        require(self.max_commit_rows > 0, "max_commit_rows", "must be at least 1");
        for (name, interval) in [
            ("commit_interval", self.commit_interval),
            ("behind_commit_interval", self.behind_commit_interval),
        ] {
            require(
                interval <= Duration::from_secs(5),
                name,
                "must be at most 5 s: a transaction that stays open longer holds up every reader and may time out",
            );
        }
        require(
            self.alert_commit_interval <= self.commit_interval,
            "alert_commit_interval",
            "must not be longer than commit_interval",
        );
        require(!self.rules_interval.is_zero(), "rules_interval", "must be longer than nothing");
        require(
            (Duration::from_hours(1)..=Duration::from_hours(10 * 366 * 24)).contains(&self.hold),
            "hold",
            "must be between 1 h and 10 years",
        );
        if let Some(rules) = &self.rules {
            require(rules.is_dir(), "rules", "is not a folder");
        }
    }
}

//! Kafka topics: their names below a prefix, and how each is kept.
//!
//! MQTT topics are in [`crate::mqtt`], also reachable as `topics::mqtt`.

use std::sync::Arc;
use std::time::Duration;

pub use crate::mqtt;

use crate::family::Family;

const DAY: Duration = Duration::from_hours(24);
const MIB: u32 = 1024 * 1024;
/// A dead letter holds a whole MQTT message (at most 2 MiB) or a whole record of another topic, and headers.
const DEAD_LETTER_MAX: u32 = 4 * MIB;
/// An alert carries its evidence, up to one whole event and more; a clean record is one of raw with flags and a header.
const ALERT_MAX: u32 = 2 * MIB;

/// Sizes of windows whose features have a topic.
pub const FEATURE_SIZES: [&str; 3] = ["1m", "5m", "1h"];
/// Jobs that have a state topic.
pub const JOBS: [&str; 4] = ["core", "normalise", "detect", "fleet"];

/// What Kafka does with old records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cleanup {
    /// Deletes them after the retention.
    Delete,
    /// Keeps the last record of each key.
    Compact,
}

impl Cleanup {
    /// Value of Kafka's `cleanup.policy`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Compact => "compact",
        }
    }
}

/// How a topic is created. Its number of partitions is chosen by whoever creates it, one number for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Full name, with the prefix.
    pub name: Arc<str>,
    /// What happens to old records.
    pub cleanup: Cleanup,
    /// How long records are kept; `None` for compacted topics.
    pub retention: Option<Duration>,
    /// True if the broker's clock stamps records when it appends them, false if the producer's does.
    pub append_time: bool,
    /// Largest record batch that the broker takes, in bytes.
    pub max_message_bytes: u32,
}

/// What is being written is never compacted, and whoever takes over a partition reads all of it: Kafka's default of a
/// gibibyte would be most of a restore.
const COMPACTED_SEGMENT: u32 = 64 * MIB;

impl TopicSpec {
    /// The topic's settings by Kafka's own names.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let stamp = if self.append_time { "LogAppendTime" } else { "CreateTime" };
        let mut settings = vec![
            ("cleanup.policy", self.cleanup.as_str().to_owned()),
            ("message.timestamp.type", stamp.to_owned()),
            ("max.message.bytes", self.max_message_bytes.to_string()),
        ];
        if let Some(retention) = self.retention {
            settings.push(("retention.ms", retention.as_millis().to_string()));
        }
        if self.cleanup == Cleanup::Compact {
            settings.push(("segment.bytes", COMPACTED_SEGMENT.to_string()));
        }
        settings
    }
}

/// Names of all Kafka topics below one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    prefix: Arc<str>,
}

impl Default for Topics {
    fn default() -> Self {
        Self::new("varta")
    }
}

impl Topics {
    /// Topics below `prefix`, which names are joined to by a dot.
    pub fn new(prefix: impl Into<Arc<str>>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn named(&self, rest: &str) -> Arc<str> {
        format!("{}.{rest}", self.prefix).into()
    }

    /// Events as received, clock records and rejected markers.
    pub fn raw(&self) -> Arc<str> {
        self.named("raw")
    }

    /// Normalised, deduplicated events of a family.
    pub fn events(&self, family: Family) -> Arc<str> {
        self.named(&format!("events.{}", family.name()))
    }

    /// Features of machines over windows of a size, e.g. `1m`.
    pub fn features(&self, size: &str) -> Arc<str> {
        self.named(&format!("features.{size}"))
    }

    /// Features of users on machines over windows of a size. A topic of their own: whoever sums up features of
    /// machines must not count each user's part a second time.
    pub fn user_features(&self, size: &str) -> Arc<str> {
        self.named(&format!("user_features.{size}"))
    }

    /// Alerts in Avro.
    pub fn alerts(&self) -> Arc<str> {
        self.named("alerts")
    }

    /// Alerts as OCSF JSON.
    pub fn alerts_ocsf(&self) -> Arc<str> {
        self.named("alerts.ocsf")
    }

    /// Rows that came after their windows had closed for good.
    pub fn late(&self) -> Arc<str> {
        self.named("late")
    }

    /// Dead letters.
    pub fn dlq(&self) -> Arc<str> {
        self.named("dlq")
    }

    /// State of a job.
    pub fn state(&self, job: &str) -> Arc<str> {
        self.named(&format!("state.{job}"))
    }

    /// What a backfill into these topics was begun with: compacted, a key for each plan.
    pub fn backfill(&self) -> TopicSpec {
        compacted(self.named("backfill"))
    }

    /// The topics that the jobs `core` and `fleet` write, their state included.
    pub fn written(&self) -> Vec<TopicSpec> {
        let mut names = vec![self.alerts(), self.alerts_ocsf(), self.late(), self.dlq(), self.fleet()];
        names.extend([self.state("core"), self.state("fleet")]);
        names.extend(Family::ALL.map(|family| self.events(family)));
        names.extend(FEATURE_SIZES.map(|size| self.features(size)));
        names.extend(FEATURE_SIZES.map(|size| self.user_features(size)));
        self.all().into_iter().filter(|spec| names.contains(&spec.name)).collect()
    }

    /// Every record of raw that can be read, in its order, events as they were normalised: between the jobs `normalise`
    /// and `detect`.
    pub fn clean(&self) -> Arc<str> {
        self.named("clean")
    }

    /// Rows for rules over the whole fleet, by rule and group; in every partition also how far each source has come:
    /// between the jobs `core` or `detect` and the job `fleet`.
    pub fn fleet(&self) -> Arc<str> {
        self.named("fleet")
    }

    /// What people said about alerts, each author's newest word about each alert.
    pub fn feedback(&self) -> Arc<str> {
        self.named("feedback")
    }

    /// Policies for agents.
    pub fn policies(&self) -> Arc<str> {
        self.named("policies")
    }

    /// Commands to agents.
    pub fn commands(&self) -> Arc<str> {
        self.named("commands")
    }

    /// Answers of agents to commands.
    pub fn responses(&self) -> Arc<str> {
        self.named("responses")
    }

    /// Every topic that must exist before anything starts.
    pub fn all(&self) -> Vec<TopicSpec> {
        let mut specs = vec![TopicSpec { append_time: true, ..kept(self.raw(), 7, MIB) }];
        specs.extend(Family::ALL.map(|family| kept(self.events(family), 7, MIB)));
        specs.extend(FEATURE_SIZES.map(|size| kept(self.features(size), 7, MIB)));
        specs.extend(FEATURE_SIZES.map(|size| kept(self.user_features(size), 7, MIB)));
        specs.push(kept(self.alerts(), 30, ALERT_MAX));
        specs.push(kept(self.alerts_ocsf(), 30, ALERT_MAX));
        specs.push(kept(self.late(), 30, ALERT_MAX));
        specs.push(kept(self.dlq(), 30, DEAD_LETTER_MAX));
        specs.extend(JOBS.map(|job| compacted(self.state(job))));
        specs.push(kept(self.clean(), 7, ALERT_MAX));
        specs.push(kept(self.fleet(), 7, MIB));
        specs.push(compacted(self.feedback()));
        specs.push(compacted(self.policies()));
        specs.push(kept(self.commands(), 30, MIB));
        specs.push(kept(self.responses(), 30, MIB));
        specs
    }
}

fn kept(name: Arc<str>, days: u32, max_message_bytes: u32) -> TopicSpec {
    TopicSpec {
        name,
        cleanup: Cleanup::Delete,
        retention: Some(DAY * days),
        append_time: false,
        max_message_bytes,
    }
}

fn compacted(name: Arc<str>) -> TopicSpec {
    TopicSpec { name, cleanup: Cleanup::Compact, retention: None, append_time: false, max_message_bytes: MIB }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str) -> TopicSpec {
        Topics::default().all().into_iter().find(|spec| &*spec.name == name).unwrap()
    }

    #[test]
    fn every_family_and_every_purpose_has_a_topic_once() {
        let all = Topics::new("t").all();
        let names: std::collections::BTreeSet<_> = all.iter().map(|spec| spec.name.clone()).collect();
        assert_eq!(names.len(), all.len());
        for family in Family::ALL {
            assert!(names.contains(&*format!("t.events.{family}")));
        }
        for name in [
            "t.raw",
            "t.features.1m",
            "t.features.1h",
            "t.user_features.5m",
            "t.alerts.ocsf",
            "t.late",
            "t.state.core",
            "t.clean",
            "t.fleet",
            "t.state.fleet",
            "t.responses",
        ] {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn a_job_writes_neither_its_input_nor_what_people_say() {
        let written = Topics::new("t").written();
        let names: std::collections::BTreeSet<&str> = written.iter().map(|spec| &*spec.name).collect();
        assert_eq!(names.len(), Family::ALL.len() + 2 * FEATURE_SIZES.len() + 7);
        assert!(names.contains("t.state.core") && names.contains("t.user_features.1h"));
        assert!(names.contains("t.fleet") && names.contains("t.state.fleet"));
        assert!(!names.contains("t.raw") && !names.contains("t.clean") && !names.contains("t.feedback"));
        assert_eq!(Topics::new("t").backfill().cleanup, Cleanup::Compact);
    }

    #[test]
    fn the_broker_stamps_raw_and_nothing_else() {
        let stamped: Vec<_> = Topics::default().all().into_iter().filter(|spec| spec.append_time).collect();
        assert_eq!(stamped.len(), 1);
        assert_eq!(&*stamped[0].name, "varta.raw");
        assert!(stamped[0].settings().contains(&("message.timestamp.type", "LogAppendTime".to_owned())));
    }

    #[test]
    fn a_dead_letter_may_be_larger_than_any_message_that_mqtt_brings() {
        assert!(spec("varta.dlq").max_message_bytes as usize > mqtt::MAX_PAYLOAD_BYTES + 64 * 1024);
    }

    #[test]
    fn state_is_compacted_and_never_expires() {
        let settings = spec("varta.state.core").settings();
        assert!(settings.contains(&("cleanup.policy", "compact".to_owned())));
        assert!(settings.iter().all(|(key, _)| *key != "retention.ms"));
        assert!(settings.contains(&("segment.bytes", "67108864".to_owned())));
        assert!(spec("varta.raw").settings().iter().all(|(key, _)| *key != "segment.bytes"));
        assert!(spec("varta.raw").settings().contains(&("retention.ms", "604800000".to_owned())));
    }
}

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use schemas::identity::{FOREIGN_SEQ, FOREIGN_SESSION, Lane};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{AlertError, rows};
use crate::rules::{Rule, Run};

/// What happened to the finding, with the numbers of OCSF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It is new.
    Create,
    /// It goes on.
    Update,
    /// It is over.
    Close,
}

impl Activity {
    /// `activity_id` of OCSF: 1 to 3.
    pub const fn id(self) -> i32 {
        self as i32 + 1
    }

    /// `activity_name` of OCSF.
    pub const fn caption(self) -> &'static str {
        match self {
            Self::Create => "Create",
            Self::Update => "Update",
            Self::Close => "Close",
        }
    }
}

/// How far people are with the finding, with the numbers of OCSF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nobody looked yet.
    New,
    /// Somebody looks.
    InProgress,
    /// Known, and not told again.
    Suppressed,
    /// Done with.
    Resolved,
}

impl Status {
    /// `status_id` of OCSF: 1 to 4.
    pub const fn id(self) -> i32 {
        self as i32 + 1
    }

    /// `status` of OCSF.
    pub const fn caption(self) -> &'static str {
        match self {
            Self::New => "New",
            Self::InProgress => "In Progress",
            Self::Suppressed => "Suppressed",
            Self::Resolved => "Resolved",
        }
    }
}

/// One finding of a rule. Times are in µs since 1970-01-01 UTC.
#[derive(Debug, Clone)]
pub struct Alert {
    /// Shaped as a UUID; the same for the same finding, however often the log is read.
    pub finding_uid: String,
    /// The rule that found it.
    pub rule: Arc<Rule>,
    /// Hash of the rule set in force.
    pub rule_set: Arc<str>,
    /// What happened to the finding.
    pub activity: Activity,
    /// How far people are with it.
    pub status: Status,
    /// The agent it is about.
    pub agent_id: String,
    /// Session of the event that completed it; 0 where there is none.
    pub session: i64,
    /// Lane of that event; `foreign` where there is none.
    pub lane: String,
    /// Seq of that event; −1 where there is none.
    pub seq: i64,
    /// Id of that event, if it has no sequence.
    pub event_id: Option<String>,
    /// The machine.
    pub host: Option<String>,
    /// The account.
    pub user: Option<String>,
    /// When it was complete.
    pub event_time: i64,
    /// Event time of the first evidence.
    pub first_seen: i64,
    /// Event time of the last evidence.
    pub last_seen: i64,
    /// How many rows it stands for.
    pub count: i64,
    /// Start of the window, inclusive, and its end, exclusive.
    pub window: Option<(i64, i64)>,
    /// One sentence for a person.
    pub message: String,
    /// The rows that led to it.
    pub evidence: Vec<Map<String, Value>>,
}

impl Alert {
    /// What a match rule found in one event.
    pub(crate) fn of_event(
        rule: &Arc<Rule>,
        rule_set: &Arc<str>,
        batch: &RecordBatch,
        row: usize,
    ) -> Result<Self, AlertError> {
        let agent_id = rows::texts(batch, "agent_id")?.value(row).to_owned();
        let session = rows::longs(batch, "session")?.value(row);
        let lane = rows::texts(batch, "lane")?.value(row).to_owned();
        let seq = rows::longs(batch, "seq")?.value(row);
        let event_id = rows::text(batch, "event_id", row);
        let event_time = rows::times(batch, "event_time")?.value(row);
        let finding_uid = finding_uid(&[
            "event",
            &rule.id,
            &agent_id,
            &session.to_string(),
            &lane,
            &seq.to_string(),
            event_id.as_deref().unwrap_or_default(),
        ]);
        Ok(Self {
            finding_uid,
            rule: Arc::clone(rule),
            rule_set: Arc::clone(rule_set),
            activity: Activity::Create,
            status: Status::New,
            agent_id,
            session,
            lane,
            seq,
            event_id,
            host: rows::text(batch, "host", row),
            user: rows::text(batch, "user", row),
            event_time,
            first_seen: event_time,
            last_seen: event_time,
            count: 1,
            window: None,
            message: rule.message.fill(batch, row),
            evidence: vec![rows::json(batch, row)?],
        })
    }

    /// What a threshold rule found in windows in a row, the last of which is the row given.
    pub(crate) fn of_windows(
        rule: &Arc<Rule>,
        rule_set: &Arc<str>,
        batch: &RecordBatch,
        row: usize,
        run: &Run,
    ) -> Result<Self, AlertError> {
        let agent_id = rows::texts(batch, "agent_id")?.value(row).to_owned();
        let finding_uid = finding_uid(&["windows", &rule.id, &agent_id, &run.first_start.to_string()]);
        Ok(Self {
            finding_uid,
            rule: Arc::clone(rule),
            rule_set: Arc::clone(rule_set),
            activity: Activity::Create,
            status: Status::New,
            agent_id,
            session: FOREIGN_SESSION,
            lane: Lane::Foreign.as_str().to_owned(),
            seq: FOREIGN_SEQ,
            event_id: None,
            host: rows::text(batch, "host", row),
            user: rows::text(batch, "user", row),
            event_time: run.last_end,
            first_seen: run.first_start,
            last_seen: run.last_end,
            count: i64::from(run.count),
            window: Some((run.first_start, run.last_end)),
            message: rule.message.fill(batch, row),
            evidence: vec![rows::json(batch, row)?],
        })
    }

    /// `type_uid` of OCSF.
    pub fn type_uid(&self) -> i64 {
        i64::from(super::CLASS_UID) * 100 + i64::from(self.activity.id())
    }
}

/// The first 128 bits of a SHA-256 over the parts, each with its length before it, in the shape of a UUID (version 8).
fn finding_uid(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(finding_uid(&["ab", "c"]), finding_uid(&["a", "bc"]));
        assert_ne!(finding_uid(&["a", ""]), finding_uid(&["a"]));
    }

    #[test]
    fn ids_never_change() {
        // findings are stored under these ids for years: whoever changes how they are made breaks updates of old ones
        assert_eq!(
            finding_uid(&["event", "suspicious-path", "agent-1", "1", "normal", "7", ""]),
            "eb09f0b1-c10d-8875-822b-7e0393fc7bd1",
        );
    }
}

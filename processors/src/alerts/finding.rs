use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use schemas::identity::{FOREIGN_SEQ, FOREIGN_SESSION, Lane};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{AlertError, rows};
use crate::rules::{Carried, Rule, Subject, Waiting};

/// No sentence is longer, in bytes.
const MESSAGE: usize = 4096;

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

/// One message about a finding of a rule. Times are in µs since 1970-01-01 UTC.
#[derive(Debug, Clone)]
pub struct Alert {
    /// Shaped as a UUID; the same for the same finding, however often the log is read.
    pub finding_uid: String,
    /// Number of the message in the life of the finding, from 0.
    pub revision: i32,
    /// The rule that found it.
    pub rule: Arc<Rule>,
    /// Hash of the rule set in force.
    pub rule_set: Arc<str>,
    /// What happened to the finding.
    pub activity: Activity,
    /// Why it is told, where that does not go without saying: what ended it.
    pub status_detail: Option<String>,
    /// What it is about.
    pub subject: Subject,
    /// The agent it is about, or the bridge.
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
    /// When what is told was complete.
    pub event_time: i64,
    /// When the finding was first told.
    pub created_at: i64,
    /// Event time of the first evidence.
    pub first_seen: i64,
    /// Event time of the last evidence.
    pub last_seen: i64,
    /// How many rows it stands for, those held back among them.
    pub count: i64,
    /// How many findings were held back since the alert before.
    pub suppressed: i64,
    /// Start of the window, inclusive, and its end, exclusive.
    pub window: Option<(i64, i64)>,
    /// One sentence for a person.
    pub message: String,
    /// The rows that led to it, or that ended it.
    pub evidence: Vec<Map<String, Value>>,
}

/// What is remembered of a finding that lasts, so that it can be told again. Times are in µs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// When it was first told.
    pub(crate) created_at: i64,
    /// When it was last told.
    pub(crate) at: i64,
    /// Number of the last message.
    pub(crate) revision: i32,
    /// The first sentence.
    pub(crate) message: String,
    /// What was held back before it, which every later message stands for as well.
    pub(crate) carried: Carried,
}

/// What all messages of a lasting finding say alike.
#[derive(Debug)]
pub(crate) struct Lasting<'a> {
    pub(crate) rule: &'a Arc<Rule>,
    pub(crate) rule_set: &'a Arc<str>,
    pub(crate) subject: Subject,
    pub(crate) agent_id: &'a str,
    pub(crate) host: Option<String>,
    /// When it began.
    pub(crate) first_seen: i64,
    /// When it was last seen to hold, or seen to be over.
    pub(crate) last_seen: i64,
    /// How many rows it stands for.
    pub(crate) count: i64,
    pub(crate) window: Option<(i64, i64)>,
    pub(crate) evidence: Vec<Map<String, Value>>,
}

/// What a column says, for people.
type ValueOf<'a> = Box<dyn Fn(&str) -> Option<String> + 'a>;

/// A window over many agents that a rule holds for. Times are in µs.
pub(crate) struct OfFleet<'a> {
    /// What tells its group from others, of all rules.
    pub(crate) key: &'a str,
    /// Start, inclusive, and end, exclusive.
    pub(crate) window: (i64, i64),
    pub(crate) first_seen: i64,
    pub(crate) last_seen: i64,
    /// How many rows it has.
    pub(crate) count: i64,
    /// The first rows of the first agents.
    pub(crate) evidence: Vec<Map<String, Value>>,
    /// Values of the columns that the message may name.
    pub(crate) value: ValueOf<'a>,
}

/// What findings about many agents have in place of an agent.
const FLEET: &str = "fleet";

impl Alert {
    /// What a rule over the fleet found in one window.
    pub(crate) fn of_fleet(rule: &Arc<Rule>, rule_set: &Arc<str>, of: OfFleet<'_>) -> Self {
        let uid = finding_uid(&["fleet", &rule.id, of.key, &of.window.0.to_string()]);
        let message = rule.message.fill(|_, column| (of.value)(column));
        let identity = Identity::of_nobody(FLEET, None);
        let times = (of.first_seen, of.last_seen);
        Self {
            subject: Subject::Fleet,
            event_time: of.window.1,
            created_at: of.window.1,
            count: of.count,
            window: Some(of.window),
            ..Self::about(rule, rule_set, uid, identity, times, message, of.evidence)
        }
    }

    /// What a match rule found in one row.
    pub(crate) fn of_row(
        rule: &Arc<Rule>,
        rule_set: &Arc<str>,
        batch: &RecordBatch,
        row: usize,
        carried: Carried,
    ) -> Result<Self, AlertError> {
        let event_time = rows::times(batch, "event_time")?.value(row);
        let identity = Identity::of(batch, row)?;
        let seq = identity.seq.to_string();
        let session = identity.session.to_string();
        let event_id = identity.event_id.as_deref().unwrap_or_default();
        let parts = ["event", &rule.id, &identity.agent_id, &session, &identity.lane, &seq, event_id];
        let uid = finding_uid(&parts);
        let message = rule.message.fill(|_, column| rows::display(batch, column, row));
        let evidence = vec![rows::evidence(batch, row)?];
        let base = Self::about(rule, rule_set, uid, identity, (event_time, event_time), message, evidence);
        Ok(base.carrying(carried))
    }

    /// What a sequence rule found: the rows of its steps, in their order. `completing` is the row that arrived last.
    pub(crate) fn of_chain(
        rule: &Arc<Rule>,
        rule_set: &Arc<str>,
        by: &str,
        chain: &[Waiting],
        completing: (&RecordBatch, usize),
        carried: Carried,
    ) -> Result<Self, AlertError> {
        let identity = Identity::of(completing.0, completing.1)?;
        let mut parts = vec!["sequence", &rule.id, &identity.agent_id, by];
        parts.extend(chain.iter().map(|row| row.id.as_str()));
        let uid = finding_uid(&parts);
        let times = (chain.first().map_or(0, |row| row.time), chain.last().map_or(0, |row| row.time));
        let evidence = chain.iter().map(|row| row.row.fields()).collect::<Result<Vec<_>, _>>()?;
        let message = rule.message.fill(|step, column| {
            let at = step.map_or(evidence.len(), |step| step).checked_sub(1)?;
            rows::display_value(evidence.get(at)?.get(column)?)
        });
        let count = evidence.len() as i64;
        let mut alert = Self::about(rule, rule_set, uid, identity, times, message, evidence);
        alert.count = count;
        Ok(alert.carrying(carried))
    }

    /// The first message about a finding that lasts.
    pub(crate) fn create(of: Lasting<'_>, message: String, carried: Carried, at: i64) -> (Self, Told) {
        let told = Told { created_at: at, at, revision: 0, message: message.clone(), carried };
        (Self::lasting(of, Activity::Create, &told, message), told)
    }

    /// It goes on.
    pub(crate) fn update(of: Lasting<'_>, message: String, told: &mut Told, at: i64) -> Self {
        told.revision += 1;
        told.at = at;
        Self::lasting(of, Activity::Update, told, message)
    }

    /// It is over, for the reason given.
    pub(crate) fn close(of: Lasting<'_>, mut told: Told, at: i64, why: &str) -> Self {
        told.revision += 1;
        told.at = at;
        let message = format!("Over: {}", told.message);
        let mut alert = Self::lasting(of, Activity::Close, &told, message);
        alert.status_detail = Some(why.to_owned());
        alert
    }

    fn lasting(of: Lasting<'_>, activity: Activity, told: &Told, message: String) -> Self {
        let kind = if of.window.is_some() { "windows" } else { of.subject.name() };
        let uid = finding_uid(&[kind, &of.rule.id, of.agent_id, &of.first_seen.to_string()]);
        let identity = Identity::of_nobody(of.agent_id, of.host);
        let times = (of.first_seen, of.last_seen);
        let alert = Self {
            activity,
            revision: told.revision,
            subject: of.subject,
            event_time: told.at,
            created_at: told.created_at,
            count: of.count,
            window: of.window,
            ..Self::about(of.rule, of.rule_set, uid, identity, times, message, of.evidence)
        };
        let is_first = activity == Activity::Create;
        let alert = alert.carrying(told.carried);
        Self { suppressed: if is_first { alert.suppressed } else { 0 }, ..alert }
    }

    fn about(
        rule: &Arc<Rule>,
        rule_set: &Arc<str>,
        finding_uid: String,
        identity: Identity,
        (first_seen, last_seen): (i64, i64),
        message: String,
        evidence: Vec<Map<String, Value>>,
    ) -> Self {
        Self {
            finding_uid,
            revision: 0,
            rule: Arc::clone(rule),
            rule_set: Arc::clone(rule_set),
            activity: Activity::Create,
            status_detail: None,
            subject: Subject::Agent,
            agent_id: identity.agent_id,
            session: identity.session,
            lane: identity.lane,
            seq: identity.seq,
            event_id: identity.event_id,
            host: identity.host,
            user: identity.user,
            event_time: last_seen,
            created_at: last_seen,
            first_seen,
            last_seen,
            count: 1,
            suppressed: 0,
            window: None,
            message: rows::shortened(message, MESSAGE),
            evidence,
        }
    }

    fn carrying(mut self, carried: Carried) -> Self {
        self.count += carried.count;
        self.suppressed = carried.count;
        self.first_seen = self.first_seen.min(carried.first_seen.unwrap_or(i64::MAX));
        self
    }

    /// How far people can be with it: what has ended needs nobody any more.
    pub const fn status(&self) -> Status {
        match self.activity {
            Activity::Create | Activity::Update => Status::New,
            Activity::Close => Status::Resolved,
        }
    }

    /// `type_uid` of OCSF.
    pub fn type_uid(&self) -> i64 {
        i64::from(super::CLASS_UID) * 100 + i64::from(self.activity.id())
    }
}

/// Who and which event a row is.
struct Identity {
    agent_id: String,
    session: i64,
    lane: String,
    seq: i64,
    event_id: Option<String>,
    host: Option<String>,
    user: Option<String>,
}

impl Identity {
    /// Of a finding that no single event completed.
    fn of_nobody(agent_id: &str, host: Option<String>) -> Self {
        Self {
            agent_id: agent_id.to_owned(),
            session: FOREIGN_SESSION,
            lane: Lane::Foreign.as_str().to_owned(),
            seq: FOREIGN_SEQ,
            event_id: None,
            host,
            user: None,
        }
    }

    fn of(batch: &RecordBatch, row: usize) -> Result<Self, AlertError> {
        Ok(Self {
            agent_id: rows::texts(batch, "agent_id")?.value(row).to_owned(),
            session: rows::longs(batch, "session")?.value(row),
            lane: rows::texts(batch, "lane")?.value(row).to_owned(),
            seq: rows::longs(batch, "seq")?.value(row),
            event_id: rows::text(batch, "event_id", row),
            host: rows::text(batch, "host", row),
            user: rows::text(batch, "user", row),
        })
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

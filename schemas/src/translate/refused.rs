//! What is said about an event that cannot be taken.

use bytes::Bytes;
use thiserror::Error;

use crate::identity::Identity;

/// An event that cannot be taken, with all that a dead letter needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// Why.
    pub reason: RefusedReason,
    /// Which event of the agent's sequence is missing now. `None` for foreign events, where it is not readable, and
    /// where the agent ids disagree: a marker is never written in the name of another agent.
    pub identity: Option<Identity>,
    /// The bytes of that one event, or of the whole message if it does not hold together.
    pub original: Bytes,
    /// True if the message speaks for another agent than its topic.
    pub agent_mismatch: bool,
}

/// Why an event is refused. Fields are named by their path, e.g. `event_time` or `payload.cpu_percent`.
///
/// The contents of text fields are never repeated, since reasons end up in logs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RefusedReason {
    /// More bytes than allowed.
    #[error("{what} has {found} bytes, at most {limit} are taken")]
    TooLarge {
        /// The message, or the event.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// More parts than allowed.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Which parts.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Bytes that are no text.
    #[error("{}not UTF-8 at byte {at}", named(.field.as_ref()))]
    NotUtf8 {
        /// The field, where it can be told.
        field: Option<String>,
        /// Offset of the first bad byte within the event.
        at: usize,
    },
    /// Text that is no JSON, at or after the named field.
    #[error("{}not JSON: {detail}", named(.field.as_ref()))]
    NotJson {
        /// The last field that was begun, where there is one.
        field: Option<String>,
        /// What the parser says.
        detail: String,
    },
    /// A message that is neither an object nor an array, or an array that does not hold together.
    #[error("expected an event or an array of events, found {found}")]
    NotEvents {
        /// What was found.
        found: &'static str,
    },
    /// A mandatory field is missing or null.
    #[error("{field}: missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A value of the wrong type.
    #[error("{field}: expected {expected}, found {found}")]
    WrongType {
        /// The field.
        field: String,
        /// What the schema asks for.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// A value of the right type beyond what can be.
    #[error("{field}: {found} is out of range, expected {expected}")]
    OutOfRange {
        /// The field.
        field: String,
        /// What the schema asks for.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// A known field that occurs twice.
    #[error("{field}: given twice")]
    Duplicate {
        /// The field.
        field: String,
    },
    /// Arrays and objects nested too deep, or a value that no reader could parse later.
    #[error("{field}: {detail}")]
    Unreadable {
        /// The field.
        field: String,
        /// What is wrong.
        detail: String,
    },
    /// The message speaks for another agent than its topic.
    #[error("agent_id: the topic says {topic:?}, the event says {event:?}")]
    AgentMismatch {
        /// Agent of the topic.
        topic: String,
        /// Agent of the event.
        event: String,
    },
}

fn named(field: Option<&String>) -> String {
    field.map_or_else(String::new, |field| format!("{field}: "))
}

/// A judgement on the way to becoming [`Refused`]: all but the bytes.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: RefusedReason,
    pub(super) identity: Option<Identity>,
    pub(super) agent_mismatch: bool,
}

impl Refusal {
    pub(super) fn with(self, original: Bytes) -> Refused {
        Refused {
            reason: self.reason,
            identity: self.identity,
            original,
            agent_mismatch: self.agent_mismatch,
        }
    }
}

impl From<RefusedReason> for Refusal {
    fn from(reason: RefusedReason) -> Self {
        Self { reason, identity: None, agent_mismatch: false }
    }
}

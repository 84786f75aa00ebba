//! Who made an event and which one it is.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Id of an agent: a UUID made at installation unless configured otherwise.
pub type AgentId = Arc<str>;

/// Queue of an agent that carries an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Sent at once.
    Critical,
    /// Sent soon.
    Normal,
    /// Sent in batches; shed first when the outbox is full.
    Bulk,
    /// For sources without a sequence of their own; such events carry an `event_id` instead.
    Foreign,
}

impl Lane {
    /// All lanes.
    pub const ALL: [Self; 4] = [Self::Critical, Self::Normal, Self::Bulk, Self::Foreign];

    /// Name of the lane in JSON and Avro.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
            Self::Foreign => "foreign",
        }
    }

    /// The lane of a name; `None` for anything else, case matters.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "critical" => Some(Self::Critical),
            "normal" => Some(Self::Normal),
            "bulk" => Some(Self::Bulk),
            "foreign" => Some(Self::Foreign),
            _ => None,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Session of every event of the lane [`Lane::Foreign`].
pub const FOREIGN_SESSION: i64 = 0;
/// Seq of every event of the lane [`Lane::Foreign`].
pub const FOREIGN_SEQ: i64 = -1;

/// The exact identity of an event of an agent. Events of the lane [`Lane::Foreign`] share one and differ by `event_id`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// Which agent.
    pub agent_id: AgentId,
    /// When the agent started, in µs; larger than any earlier session of this agent.
    pub session: i64,
    /// Which queue.
    pub lane: Lane,
    /// Number without gaps within agent, session and lane.
    pub seq: i64,
}

impl Identity {
    /// True if agent, session, lane and seq name one event: false for the lane `foreign`.
    pub fn is_sequenced(&self) -> bool {
        self.lane != Lane::Foreign
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.agent_id, self.session, self.lane, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_have_one_spelling() {
        for lane in Lane::ALL {
            assert_eq!(Lane::parse(lane.as_str()), Some(lane));
            assert_eq!(serde_json::to_string(&lane).unwrap(), format!("\"{lane}\""));
        }
        assert_eq!(Lane::parse("Normal"), None);
    }
}

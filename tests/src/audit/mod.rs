//! Sets of identities, read by an outsider: made by the agent, in `varta.raw`, in `varta.events.*`, in the lake.

mod avro;
mod compare;
mod lake;
mod outbox;
mod row;
mod topic;

use std::collections::BTreeMap;
use std::fmt;

pub use avro::SchemaCache;
pub use compare::{Finding, compare};
pub use lake::{LakeRows, count_lake, read_lake};
pub use outbox::{Made, read_outbox};
pub use row::{Cell, Row, visit_lake, visit_topic};
pub use topic::{TopicRecord, read_topic};

/// Who an event is: `(agent, session, lane, seq)`, or the id that a foreign sender gave it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Id {
    /// An event of one of our agents.
    Own {
        /// The agent.
        agent_id: String,
        /// Its session.
        session: i64,
        /// The lane's name.
        lane: String,
        /// Its number in the lane.
        seq: i64,
    },
    /// An event of another sender.
    Foreign {
        /// The agent named in the topic.
        agent_id: String,
        /// The sender's own id, or the one that the bridge minted.
        event_id: String,
    },
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own { agent_id, session, lane, seq } => write!(f, "{agent_id}/{session}/{lane}/{seq}"),
            Self::Foreign { agent_id, event_id } => write!(f, "{agent_id}/foreign/{event_id}"),
        }
    }
}

/// How often each identity occurs somewhere.
pub type Counts = BTreeMap<Id, u32>;

/// What one place has that another has not.
#[derive(Debug, Default)]
pub struct Difference {
    /// In the first, not in the second.
    pub missing: Vec<Id>,
    /// In the second, not in the first.
    pub surplus: Vec<Id>,
    /// More than once in the second.
    pub twice: Vec<Id>,
}

impl Difference {
    /// Compares a place with the one it must equal. `once`: the second must hold each identity once only.
    pub fn between(first: &Counts, second: &Counts, once: bool) -> Self {
        Self {
            missing: first.keys().filter(|id| !second.contains_key(*id)).cloned().collect(),
            surplus: second.keys().filter(|id| !first.contains_key(*id)).cloned().collect(),
            twice: second.iter().filter(|(_, count)| once && **count > 1).map(|(id, _)| id.clone()).collect(),
        }
    }

    /// True when there is none.
    pub fn is_none(&self) -> bool {
        self.missing.is_empty() && self.surplus.is_empty() && self.twice.is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return write!(f, "equal");
        }
        for (what, ids) in
            [("missing", &self.missing), ("surplus", &self.surplus), ("more than once", &self.twice)]
        {
            if !ids.is_empty() {
                let sample: Vec<String> = ids.iter().take(3).map(ToString::to_string).collect();
                write!(f, "{} {what} ({} …) ", ids.len(), sample.join(", "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seq: i64) -> Id {
        Id::Own { agent_id: "a".into(), session: 1, lane: "normal".into(), seq }
    }

    #[test]
    fn each_kind_of_difference_is_seen() {
        let first: Counts = [(id(1), 1), (id(2), 1)].into();
        let second: Counts = [(id(2), 2), (id(3), 1)].into();
        let difference = Difference::between(&first, &second, true);
        assert_eq!(difference.missing, [id(1)]);
        assert_eq!(difference.surplus, [id(3)]);
        assert_eq!(difference.twice, [id(2)]);
        assert!(Difference::between(&second, &second, false).is_none());
    }
}

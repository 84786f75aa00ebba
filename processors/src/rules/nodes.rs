//! What agents said about themselves, as far as rules on silence and on tampering need it.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int64Array, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::error::ArrowError;
use schemas::event::event_type;
use schemas::identity::{FOREIGN_SEQ, Lane};
use serde::{Deserialize, Serialize};

use super::keyed::{Key, Keyed, Remembered};
use super::reads::fact_columns;
use crate::alerts::{AlertError, rows};
use crate::engine::operator::Operator;
use crate::event_time::{Clone as Cloned, Noticed, Tracker};

/// Longest host name that is kept, in bytes.
const HOST: usize = 256;
/// Minutes of the log's clock that the end of a session may come later than the start of the next: another bridge may
/// hold it.
const PATIENCE: u8 = 2;

/// One agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    /// Name of the machine.
    pub(super) host: Option<String>,
    /// Latest session that a status event came from, and the latest that said goodbye.
    session: i64,
    stopped: i64,
    /// A start that followed a session which has not said goodbye yet.
    start: Option<Start>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Start {
    session: i64,
    previous: i64,
    time: i64,
    minutes: u8,
}

impl Remembered for Node {
    fn bytes(&self) -> usize {
        self.host.as_ref().map_or(0, String::len)
    }
}

impl Node {
    /// Whether the last session that is known has said goodbye.
    pub(super) fn has_stopped(&self) -> bool {
        self.session > 0 && self.stopped >= self.session
    }
}

/// The agents of one partition that ever sent a status event.
#[derive(Debug)]
pub(super) struct Nodes {
    rows: Keyed<Node>,
    key: Key,
    /// Agents with a start that waits for the end before it; unknown after a restore.
    starts: Option<BTreeSet<Arc<str>>>,
}

impl Default for Nodes {
    fn default() -> Self {
        Self { rows: Keyed::new("nodes"), key: Key::new("", ""), starts: None }
    }
}

impl Nodes {
    /// Its keyed state.
    pub(super) fn operator(&mut self) -> &mut dyn Operator {
        &mut self.rows
    }

    /// An agent.
    pub(super) fn get(&self, agent: &str) -> Option<&Node> {
        self.rows.get(agent, &self.key)
    }

    /// Takes a row of `agent_status`, in the order of the log.
    pub(super) fn see(&mut self, batch: &RecordBatch, row: usize) -> Result<(), AlertError> {
        let session = rows::longs(batch, "session")?.value(row);
        if session <= 0 {
            // the broker's last will and its like say nothing about sessions
            return Ok(());
        }
        let agent = rows::texts(batch, "agent_id")?.value(row);
        let what = rows::texts(batch, "event_type")?.value(row);
        let host = rows::maybe(batch, "host", row).map(|host| rows::shortened(host.to_owned(), HOST));
        let known = self.rows.get(agent, &self.key);
        let mut node = known.cloned().unwrap_or_default();
        if session >= node.session && host.is_some() {
            node.host = host;
        }
        if what == event_type::AGENT_STOPPED {
            node.stopped = node.stopped.max(session);
        }
        if what == event_type::AGENT_STARTED && session > node.session {
            let column = batch.column_by_name("previous_session");
            let column = column.and_then(|column| column.as_any().downcast_ref::<Int64Array>());
            let previous = column.filter(|column| column.is_valid(row)).map(|column| column.value(row));
            // of a session that was never heard nobody can say how it ended
            if let Some(previous) = previous.filter(|previous| *previous == node.session) {
                let time = rows::times(batch, "event_time")?.value(row);
                node.start = Some(Start { session, previous, time, minutes: 0 });
                if let Some(starts) = &mut self.starts {
                    starts.insert(Arc::from(agent));
                }
            }
        }
        node.session = node.session.max(session);
        if known != Some(&node) {
            self.rows.put(agent, self.key.clone(), node);
        }
        Ok(())
    }

    /// A minute of the log's clock has passed: sessions that ended without goodbye.
    pub(super) fn minute(&mut self, facts: &mut Vec<Fact>) {
        let starts = self.starts.take().unwrap_or_else(|| {
            let keys = self.rows.keys().into_iter().map(|(agent, _)| agent);
            keys.filter(|agent| self.get(agent).is_some_and(|node| node.start.is_some())).collect()
        });
        let mut waiting = BTreeSet::new();
        for agent in starts {
            let Some(mut node) = self.get(&agent).cloned() else { continue };
            let Some(mut start) = node.start.take() else { continue };
            start.minutes += 1;
            if node.stopped < start.previous {
                if start.minutes < PATIENCE {
                    node.start = Some(start);
                    waiting.insert(Arc::clone(&agent));
                } else {
                    facts.push(Fact::unclean_stop(&agent, node.host.clone(), &start));
                }
            }
            self.rows.put(&agent, self.key.clone(), node);
        }
        self.starts = Some(waiting);
    }

    /// Forgets agents that are gone.
    pub(super) fn forget(&mut self, tracker: &Tracker) {
        self.rows.remove_where(|agent, _, _| tracker.find(agent).is_none());
    }
}

/// Something that the engine noticed about an agent.
#[derive(Debug)]
pub(super) struct Fact {
    what: &'static str,
    agent: Arc<str>,
    session: i64,
    lane: Lane,
    seq: i64,
    id: String,
    host: Option<String>,
    time: i64,
    other_session: Option<i64>,
    missing: Option<i64>,
}

impl Fact {
    /// What the tracker noticed, with what is known of the agent at that place of the log; nothing if it is no fact.
    pub(super) fn of(noticed: &Noticed, tracker: &Tracker, nodes: &Nodes) -> Option<Self> {
        match noticed {
            Noticed::Clone(Cloned { agent, older, newer, lane, seq, event_time }) => Some(Self {
                what: "clone",
                agent: Arc::clone(agent),
                session: *older,
                lane: *lane,
                seq: *seq,
                id: format!("clone/{older}/{newer}"),
                host: nodes.get(agent).and_then(|node| node.host.clone()),
                time: *event_time,
                other_session: Some(*newer),
                missing: None,
            }),
            Noticed::Gap { agent, missing, now } => {
                let agent = &tracker.agent(*agent).id;
                Some(Self {
                    what: "gap",
                    agent: Arc::clone(agent),
                    session: 0,
                    lane: Lane::Foreign,
                    seq: FOREIGN_SEQ,
                    id: format!("gap/{now}"),
                    host: nodes.get(agent).and_then(|node| node.host.clone()),
                    time: *now,
                    other_session: None,
                    missing: Some(*missing),
                })
            }
            Noticed::Back { .. } => None,
        }
    }

    fn unclean_stop(agent: &Arc<str>, host: Option<String>, start: &Start) -> Self {
        Self {
            what: "unclean_stop",
            agent: Arc::clone(agent),
            session: start.previous,
            lane: Lane::Foreign,
            seq: FOREIGN_SEQ,
            id: format!("unclean_stop/{}", start.previous),
            host,
            time: start.time,
            other_session: Some(start.session),
            missing: None,
        }
    }

    /// Facts as rows with [`fact_columns`].
    pub(super) fn rows(facts: &[Self]) -> Result<RecordBatch, ArrowError> {
        let text = |of: &dyn Fn(&Self) -> Option<String>| -> ArrayRef {
            let mut texts = StringBuilder::new();
            for fact in facts {
                texts.append_option(of(fact));
            }
            Arc::new(texts.finish())
        };
        let long = |of: &dyn Fn(&Self) -> Option<i64>| -> ArrayRef {
            Arc::new(facts.iter().map(of).collect::<Int64Array>())
        };
        let times: Vec<i64> = facts.iter().map(|fact| fact.time).collect();
        RecordBatch::try_new(
            fact_columns(),
            vec![
                text(&|fact| Some(fact.what.to_owned())),
                text(&|fact| Some(fact.agent.to_string())),
                long(&|fact| Some(fact.session)),
                text(&|fact| Some(fact.lane.as_str().to_owned())),
                long(&|fact| Some(fact.seq)),
                text(&|fact| Some(fact.id.clone())),
                text(&|fact| fact.host.clone()),
                Arc::new(StringArray::new_null(facts.len())),
                Arc::new(TimestampMicrosecondArray::from(times).with_timezone("+00:00")),
                long(&|fact| fact.other_session),
                long(&|fact| fact.missing),
            ],
        )
    }
}

//! Every agent of a partition: its sessions and lanes, and where its event time stands.

use std::sync::Arc;

use ahash::AHashMap;
use arrow::array::{BinaryArray, BinaryBuilder, RecordBatch, StringArray, StringBuilder, UInt8Builder};
use arrow::datatypes::{DataType, Field, SchemaRef};

use super::codec::{put, take};
use super::sequence::Sequence;
use crate::engine::operator::{
    Op, Operator, StateError, arrow_error, column, definition_hash, schema_text, state_schema,
};

/// More sessions of one agent than this are not kept; rows of older ones pass flagged.
pub const MAX_SESSIONS: usize = 16;

const NAME: &str = "agents";
/// Lanes that have sequences: critical, normal, bulk.
pub(super) const LANES: usize = 3;
/// A tail that nobody told yet.
pub const UNTOLD: i64 = -2;

/// One run of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its identity: the start time in µs.
    pub session: i64,
    /// What was seen, by lane.
    pub lanes: [Option<Box<Sequence>>; LANES],
    /// Last number of each lane, once the next session told it: -1 if the lane was never used, [`UNTOLD`] before.
    pub tails: [i64; LANES],
    /// Bits of the lanes that the agent said it uses.
    pub in_use: u8,
    /// No longer waited for.
    pub released: bool,
    /// Quiet clock when this session was last heard of.
    pub moved: i64,
}

impl Session {
    fn new(session: i64, quiet: i64) -> Self {
        Self {
            session,
            lanes: Default::default(),
            tails: [UNTOLD; LANES],
            in_use: 0,
            released: false,
            moved: quiet,
        }
    }

    /// Whether the agent told the end of each lane and everything up to it has arrived or was given up.
    pub fn is_drained(&self) -> bool {
        self.lanes.iter().zip(self.tails).all(|(lane, tail)| match lane {
            _ if tail == UNTOLD => false,
            Some(sequence) => sequence.has_reached(tail),
            None => tail < 0,
        })
    }

    /// Whether nothing of this session can still be missing.
    pub fn is_complete(&self) -> bool {
        self.is_drained() && self.lanes.iter().flatten().all(|lane| lane.has_no_holes())
    }
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its name.
    pub id: Arc<str>,
    /// Oldest first.
    pub sessions: Vec<Session>,
    /// Sessions up to here have arrived completely: what comes of them is a repeat.
    pub forgotten: i64,
    /// Sessions up to here were given up for lack of room: what comes of them passes flagged.
    pub uncertain: i64,
    /// Event time (µs) up to which everything of this agent has been seen; only ever grows.
    pub watermark: i64,
    /// Latest event time of events without a sequence.
    pub foreign_time: i64,
    /// Oldest row that the agent said it still holds, if that is a backlog.
    pub backlog: i64,
    /// The agent's own reporting interval in µs; 0 if never told.
    pub interval: i64,
    /// Quiet clock when the agent was last heard.
    pub heard: i64,
    /// Windows emitted as partial: start, next revision.
    pub revisions: Vec<(i64, i32)>,
    /// Whether its open windows were emitted because it is silent.
    pub silent: bool,
    /// Turns between two sessions that are both alive; a clone once there are enough.
    pub turns: u8,
    /// The session heard last.
    pub last_session: i64,
    dirty: bool,
}

impl Agent {
    fn new(id: Arc<str>, quiet: i64) -> Self {
        Self {
            id,
            sessions: Vec::with_capacity(1),
            forgotten: i64::MIN,
            uncertain: i64::MIN,
            watermark: i64::MIN,
            foreign_time: i64::MIN,
            backlog: i64::MAX,
            interval: 0,
            heard: quiet,
            revisions: Vec::new(),
            silent: false,
            turns: 0,
            last_session: i64::MIN,
            dirty: false,
        }
    }

    /// The session with this start time, made if it is new.
    pub fn session(&mut self, session: i64, quiet: i64) -> &mut Session {
        let at = match self.sessions.last() {
            Some(last) if last.session == session => self.sessions.len() - 1,
            _ => match self.sessions.binary_search_by_key(&session, |known| known.session) {
                Ok(at) => at,
                Err(at) => self.admit(at, session, quiet),
            },
        };
        &mut self.sessions[at]
    }

    fn admit(&mut self, at: usize, session: i64, quiet: i64) -> usize {
        let mut made = Session::new(session, quiet);
        if at > 0 {
            // Until it says otherwise a new session uses the lanes of the one before.
            made.in_use = self.sessions[at - 1].in_use;
        }
        self.sessions.insert(at, made);
        if self.sessions.len() <= MAX_SESSIONS || at == 0 {
            return at;
        }
        let oldest = self.sessions.remove(0);
        self.uncertain = self.uncertain.max(oldest.session);
        at - 1
    }

    /// Drops the sessions of which nothing can come any more.
    pub fn forget_complete(&mut self) {
        while self.sessions.len() > 1 && self.sessions[0].is_complete() {
            let oldest = self.sessions.remove(0);
            self.forgotten = self.forgotten.max(oldest.session);
        }
    }

    fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        for value in [self.forgotten, self.uncertain, self.watermark, self.foreign_time, self.backlog] {
            put(&mut out, value);
        }
        for value in [self.interval, self.heard, self.last_session, i64::from(self.turns)] {
            put(&mut out, value);
        }
        put(&mut out, (self.revisions.len() as i64) << 1 | i64::from(self.silent));
        for (window, revision) in &self.revisions {
            put(&mut out, *window);
            put(&mut out, i64::from(*revision));
        }
        put(&mut out, self.sessions.len() as i64);
        for session in &self.sessions {
            put(&mut out, session.session);
            session.tails.iter().for_each(|tail| put(&mut out, *tail));
            put(&mut out, i64::from(session.in_use) << 1 | i64::from(session.released));
            put(&mut out, session.moved);
            for lane in &session.lanes {
                put(&mut out, i64::from(lane.is_some()));
                if let Some(sequence) = lane {
                    sequence.write(&mut out);
                }
            }
        }
        out
    }

    fn read(id: Arc<str>, mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let mut agent = Self::new(id, 0);
        agent.forgotten = take(bytes)?;
        agent.uncertain = take(bytes)?;
        agent.watermark = take(bytes)?;
        agent.foreign_time = take(bytes)?;
        agent.backlog = take(bytes)?;
        agent.interval = take(bytes)?;
        agent.heard = take(bytes)?;
        agent.last_session = take(bytes)?;
        agent.turns = u8::try_from(take(bytes)?).ok()?;
        let revisions = take(bytes)?;
        agent.silent = revisions & 1 == 1;
        for _ in 0..revisions >> 1 {
            agent.revisions.push((take(bytes)?, i32::try_from(take(bytes)?).ok()?));
        }
        for _ in 0..take(bytes)? {
            let mut session = Session::new(take(bytes)?, 0);
            for tail in &mut session.tails {
                *tail = take(bytes)?;
            }
            let flags = take(bytes)?;
            session.in_use = (flags >> 1) as u8;
            session.released = flags & 1 == 1;
            session.moved = take(bytes)?;
            for lane in &mut session.lanes {
                if take(bytes)? == 1 {
                    *lane = Some(Box::new(Sequence::read(bytes)?));
                }
            }
            agent.sessions.push(session);
        }
        bytes.is_empty().then_some(agent)
    }
}

/// All agents of a partition, by a small number given to each.
#[derive(Debug)]
pub struct Agents {
    list: Vec<Agent>,
    index: AHashMap<Arc<str>, u32>,
    dirty: Vec<u32>,
    schema: SchemaRef,
}

impl Default for Agents {
    fn default() -> Self {
        let schema = state_schema([
            Field::new("agent_id", DataType::Utf8, false),
            Field::new("state", DataType::Binary, false),
        ]);
        Self { list: Vec::new(), index: AHashMap::new(), dirty: Vec::new(), schema }
    }
}

impl Agents {
    /// The number of an agent, given now if it is new.
    pub fn intern(&mut self, id: &str, quiet: i64) -> u32 {
        if let Some(number) = self.index.get(id) {
            return *number;
        }
        self.add(Agent::new(Arc::from(id), quiet))
    }

    fn add(&mut self, agent: Agent) -> u32 {
        let number = self.list.len() as u32;
        self.index.insert(Arc::clone(&agent.id), number);
        self.list.push(agent);
        number
    }

    /// The agent of this name, if it is known.
    pub fn find(&self, id: &str) -> Option<&Agent> {
        self.index.get(id).map(|number| self.get(*number))
    }

    /// An agent, to read.
    pub fn get(&self, number: u32) -> &Agent {
        &self.list[number as usize]
    }

    /// An agent, to change: it is written with the next commit.
    pub fn change(&mut self, number: u32) -> &mut Agent {
        let agent = &mut self.list[number as usize];
        if !agent.dirty {
            agent.dirty = true;
            self.dirty.push(number);
        }
        agent
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All agents with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Agent)> {
        self.list.iter().enumerate().map(|(number, agent)| (number as u32, agent))
    }

    fn batch(&self, numbers: impl Iterator<Item = u32>) -> Result<RecordBatch, StateError> {
        let mut op = UInt8Builder::new();
        let mut id = StringBuilder::new();
        let mut state = BinaryBuilder::new();
        for number in numbers {
            let agent = self.get(number);
            op.append_value(Op::Put as u8);
            id.append_value(&agent.id);
            state.append_value(agent.write());
        }
        RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![Arc::new(op.finish()), Arc::new(id.finish()), Arc::new(state.finish())],
        )
        .map_err(arrow_error(NAME))
    }

    fn clean(&mut self) -> Vec<u32> {
        let dirty = std::mem::take(&mut self.dirty);
        for number in &dirty {
            self.list[*number as usize].dirty = false;
        }
        dirty
    }
}

impl Operator for Agents {
    fn name(&self) -> &'static str {
        NAME
    }

    fn definition_hash(&self) -> u64 {
        definition_hash(&[NAME, "varint 2", &schema_text(&self.schema)])
    }

    fn state_schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn restore(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        let ids = column::<StringArray>(NAME, rows, 1)?;
        let states = column::<BinaryArray>(NAME, rows, 2)?;
        for row in 0..rows.num_rows() {
            let id = ids.value(row);
            let agent =
                Agent::read(Arc::from(id), states.value(row)).ok_or_else(|| StateError::Malformed {
                    operator: NAME,
                    what: format!("the row of agent {id} cannot be read"),
                })?;
            if let Some(number) = self.index.get(id) {
                self.list[*number as usize] = agent;
            } else {
                self.add(agent);
            }
        }
        Ok(())
    }

    fn drain_changes(&mut self) -> Result<Option<RecordBatch>, StateError> {
        if self.dirty.is_empty() {
            return Ok(None);
        }
        let dirty = self.clean();
        self.batch(dirty.into_iter()).map(Some)
    }

    fn snapshot(&mut self) -> Result<RecordBatch, StateError> {
        self.clean();
        self.batch(0..self.list.len() as u32)
    }

    fn live_rows(&self) -> usize {
        self.list.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_survives_the_changelog() {
        let mut agents = Agents::default();
        let number = agents.intern("a", 5);
        let agent = agents.change(number);
        agent.revisions.push((60, 1));
        agent.turns = 2;
        let session = agent.session(1_000, 5);
        session.tails = [UNTOLD, 4, -1];
        let mut lane = Sequence::new(5);
        lane.see(1, 10, 5);
        lane.see(4, 40, 5);
        session.lanes[1] = Some(Box::new(lane));
        let rows = agents.drain_changes().unwrap().unwrap();
        assert!(agents.drain_changes().unwrap().is_none());
        let mut restored = Agents::default();
        restored.restore(&rows).unwrap();
        restored.restore(&rows).unwrap();
        assert_eq!(restored.len(), 1);
        assert_eq!(restored.get(0), agents.get(number));
    }

    #[test]
    fn a_cut_row_is_refused() {
        let mut agent = Agent::new(Arc::from("a"), 0);
        agent.session(7, 0).lanes[0] = Some(Box::new(Sequence::new(0)));
        let bytes = agent.write();
        for end in 0..bytes.len() {
            assert!(Agent::read(Arc::from("a"), &bytes[..end]).is_none());
        }
    }

    #[test]
    fn only_complete_sessions_are_forgotten_and_too_many_become_uncertain() {
        let mut agent = Agent::new(Arc::from("a"), 0);
        for session in 1..=i64::try_from(MAX_SESSIONS).unwrap() + 1 {
            agent.session(session, 0);
        }
        assert_eq!((agent.sessions.len(), agent.uncertain), (MAX_SESSIONS, 1));
        agent.forget_complete();
        assert_eq!(agent.forgotten, i64::MIN);
        agent.sessions[0].tails = [-1, -1, -1];
        agent.forget_complete();
        assert_eq!((agent.forgotten, agent.sessions[0].session), (2, 3));
    }
}

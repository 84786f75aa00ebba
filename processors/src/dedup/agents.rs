//! Every agent of a partition, and what is left of those that were dropped.

use std::sync::Arc;

use ahash::AHashMap;
use arrow::array::{
    Array, BinaryArray, BinaryBuilder, RecordBatch, StringArray, StringBuilder, UInt8Builder,
};
use arrow::datatypes::{DataType, Field, SchemaRef};

use super::agent::Agent;
use super::codec::{put, take};
use super::floors::{Floor, Floors, MAX_FLOORS};
use crate::engine::operator::{
    Op, Operator, StateError, arrow_error, column, definition_hash, ops, schema_text, state_schema,
};
use crate::engine::pieces::{Piece, Pieces, pieces};

const NAME: &str = "agents";

/// First byte of a row: what it is of.
const OF_AGENT: u8 = 0;
const OF_FLOOR: u8 = 1;
/// Of all floors that were dropped; such a row has no agent.
const OF_PARTITION: u8 = 2;

/// What a row is made of.
enum Of {
    Other(Arc<str>),
    Agent(u32),
    Partition,
}

/// All agents of a partition, by a small number given to each while it is known.
#[derive(Debug)]
pub struct Agents {
    list: Vec<Agent>,
    index: AHashMap<Arc<str>, u32>,
    free: Vec<u32>,
    floors: Floors,
    most_floors: usize,
    dirty: Vec<u32>,
    /// Agents whose row is no longer one of an agent.
    dropped: Vec<Arc<str>>,
    /// What is remembered of dropped floors has changed. The first commit writes it in any case: where it is missing
    /// the rows of all agents were dropped.
    bound_moved: bool,
    restored: bool,
    was_restored: bool,
    schema: SchemaRef,
}

impl Default for Agents {
    fn default() -> Self {
        let schema = state_schema([
            Field::new("agent_id", DataType::Utf8, true),
            Field::new("state", DataType::Binary, false),
        ]);
        Self {
            list: Vec::new(),
            index: AHashMap::new(),
            free: Vec::new(),
            floors: Floors::default(),
            most_floors: MAX_FLOORS,
            dirty: Vec::new(),
            dropped: Vec::new(),
            bound_moved: true,
            restored: false,
            was_restored: false,
            schema,
        }
    }
}

impl Agents {
    /// The number of an agent, given now if it is not known. One that was dropped begins above its floor.
    pub fn intern(&mut self, id: &str, quiet: i64) -> u32 {
        if let Some(number) = self.index.get(id) {
            return *number;
        }
        let mut agent = Agent::new(Arc::from(id), quiet);
        agent.floor = self.floors.dropped();
        let Some(floor) = self.floors.take(id) else {
            return self.add(agent);
        };
        agent.floor = floor.session;
        agent.watermark = floor.watermark;
        let number = self.add(agent);
        self.change(number);
        number
    }

    fn add(&mut self, agent: Agent) -> u32 {
        let id = Arc::clone(&agent.id);
        let number = if let Some(number) = self.free.pop() {
            self.list[number as usize] = agent;
            number
        } else {
            self.list.push(agent);
            self.list.len() as u32 - 1
        };
        self.index.insert(id, number);
        number
    }

    /// The agent of this name, if it is known.
    pub fn find(&self, id: &str) -> Option<&Agent> {
        self.index.get(id).map(|number| self.get(*number))
    }

    fn remove(&mut self, id: &str) -> Option<Agent> {
        let number = self.index.remove(id)?;
        self.free.push(number);
        Some(std::mem::replace(&mut self.list[number as usize], Agent::vacant()))
    }

    /// Drops an agent whose windows up to `closed` (µs) are closed for good; its number is free from now on. A floor
    /// stays. Answers how many floors were dropped for it: no honest session of those began after `latest`.
    pub fn expire(&mut self, number: u32, closed: i64, quiet: i64, latest: i64) -> u64 {
        let id = Arc::clone(&self.get(number).id);
        let Some(agent) = self.remove(&id) else { return 0 };
        if let Some(floor) = agent.to_floor(closed, quiet) {
            self.floors.put(Arc::clone(&id), floor);
        }
        self.dropped.push(id);
        let mut excess = 0;
        while let Some(id) = self.floors.drop_excess(self.most_floors, latest) {
            self.dropped.push(id);
            self.bound_moved = true;
            excess += 1;
        }
        excess
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

    /// How many are known.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// How many floors of dropped agents are kept.
    pub fn floors(&self) -> usize {
        self.floors.len()
    }

    /// All agents with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Agent)> {
        let all = self.list.iter().enumerate().map(|(number, agent)| (number as u32, agent));
        all.filter(|(_, agent)| !agent.vacant)
    }

    /// Nothing is remembered of any agent: what comes of a session up to `session` may be a repeat.
    pub fn begin_above(&mut self, session: i64) {
        self.floors.set_dropped(session);
        self.bound_moved = true;
    }

    /// Whether rows were ever restored.
    pub fn was_restored(&self) -> bool {
        self.was_restored
    }

    /// Whether rows were restored since the last call.
    pub fn take_restored(&mut self) -> bool {
        std::mem::take(&mut self.restored)
    }

    /// The numbers of agents that changed since the last call, each once.
    fn take_dirty(&mut self) -> Vec<u32> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.retain(|number| {
            let agent = &mut self.list[*number as usize];
            std::mem::take(&mut agent.dirty) && !agent.vacant
        });
        dirty
    }

    /// Rows of agents that are known, and what is there of all others that are named.
    fn pieces<'a>(
        &'a self,
        numbers: impl Iterator<Item = u32> + 'a,
        others: impl Iterator<Item = Arc<str>> + 'a,
        with_bound: bool,
    ) -> Pieces<'a> {
        let others = others.filter(|other| !self.index.contains_key(other)).map(Of::Other);
        let rows = others.chain(numbers.map(Of::Agent)).chain(with_bound.then_some(Of::Partition));
        pieces(rows, |piece| self.batch(piece))
    }

    fn batch(&self, piece: &mut Piece<'_, impl Iterator<Item = Of>>) -> Result<RecordBatch, StateError> {
        let mut op = UInt8Builder::new();
        let mut id = StringBuilder::new();
        let mut state = BinaryBuilder::new();
        let mut row = Vec::new();
        while let Some(of) = piece.next() {
            row.clear();
            let mut does = Op::Put;
            let name = match &of {
                Of::Other(other) => {
                    if let Some(floor) = self.floors.get(other) {
                        row.push(OF_FLOOR);
                        for value in [floor.session, floor.watermark, floor.since] {
                            put(&mut row, value);
                        }
                    } else {
                        does = Op::Delete;
                    }
                    Some(other)
                }
                Of::Agent(number) => {
                    let agent = self.get(*number);
                    row.push(OF_AGENT);
                    agent.write(&mut row);
                    Some(&agent.id)
                }
                Of::Partition => {
                    row.push(OF_PARTITION);
                    put(&mut row, self.floors.dropped());
                    None
                }
            };
            op.append_value(does as u8);
            id.append_option(name);
            state.append_value(&row);
            piece.took(row.len() + name.map_or(0, |name| name.len()));
        }
        RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![Arc::new(op.finish()), Arc::new(id.finish()), Arc::new(state.finish())],
        )
        .map_err(arrow_error(NAME))
    }

    /// Takes one row over; `None` if it cannot be read.
    fn apply(&mut self, id: Option<&str>, state: &[u8]) -> Option<()> {
        let (kind, mut rest) = state.split_first()?;
        match (*kind, id) {
            (OF_AGENT, Some(id)) => {
                let agent = Agent::read(Arc::from(id), rest)?;
                self.floors.take(id);
                if let Some(number) = self.index.get(id) {
                    self.list[*number as usize] = agent;
                } else {
                    self.add(agent);
                }
                return Some(());
            }
            (OF_FLOOR, Some(id)) => {
                let rest = &mut rest;
                let floor = Floor { session: take(rest)?, watermark: take(rest)?, since: take(rest)? };
                self.remove(id);
                self.floors.put(Arc::from(id), floor);
            }
            (OF_PARTITION, None) => {
                self.floors.set_dropped(take(&mut rest)?);
                self.bound_moved = false;
            }
            _ => return None,
        }
        rest.is_empty().then_some(())
    }
}

impl Operator for Agents {
    fn name(&self) -> &'static str {
        NAME
    }

    fn definition_hash(&self) -> u64 {
        definition_hash(&[NAME, "varint 6", &schema_text(&self.schema)])
    }

    fn state_schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn restore(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        let ids = column::<StringArray>(NAME, rows, 1)?;
        let states = column::<BinaryArray>(NAME, rows, 2)?;
        (self.restored, self.was_restored) = (true, true);
        for (row, op) in ops(NAME, rows)?.values().iter().enumerate() {
            let id = ids.is_valid(row).then(|| ids.value(row));
            if Op::of(*op) == Some(Op::Delete) {
                let id = id.unwrap_or_default();
                self.remove(id);
                self.floors.take(id);
                continue;
            }
            self.apply(id, states.value(row)).ok_or_else(|| StateError::Malformed {
                operator: NAME,
                what: format!("the row of agent {} cannot be read", id.unwrap_or("(none)")),
            })?;
        }
        Ok(())
    }

    fn changes(&mut self) -> Pieces<'_> {
        let mut dropped = std::mem::take(&mut self.dropped);
        dropped.sort_unstable();
        dropped.dedup();
        let dirty = self.take_dirty();
        let bound_moved = std::mem::take(&mut self.bound_moved);
        self.pieces(dirty.into_iter(), dropped.into_iter(), bound_moved)
    }

    fn all(&mut self) -> Pieces<'_> {
        self.dropped.clear();
        self.bound_moved = false;
        self.take_dirty();
        let numbers = self.iter().map(|(number, _)| number);
        self.pieces(numbers, self.floors.ids().cloned(), true)
    }

    fn live_rows(&self) -> usize {
        self.index.len() + self.floors.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dedup::UNTOLD;
    use crate::engine::pieces::small;

    type Kept = (Vec<Agent>, Vec<(Arc<str>, Floor)>, i64);

    /// Everything that is kept, by name.
    fn kept(agents: &Agents) -> Kept {
        let mut all: Vec<Agent> = agents.iter().map(|(_, agent)| agent.clone()).collect();
        for agent in &mut all {
            agent.dirty = false;
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        let floors =
            agents.floors.ids().map(|id| (Arc::clone(id), *agents.floors.get(id).unwrap())).collect();
        (all, floors, agents.floors.dropped())
    }

    #[test]
    fn an_agent_survives_the_changelog() {
        let mut agents = Agents::default();
        let number = agents.intern("a", 5);
        let agent = agents.change(number);
        agent.turns = 2;
        let session = agent.session(1_000, 5).unwrap();
        session.tails = [UNTOLD, 4, -1];
        session.lane(1, 0, 5).see(1, 10, 5);
        session.lane(1, 0, 5).see(4, 40, 5);
        let rows = agents.drain_changes().unwrap().unwrap();
        assert!(agents.drain_changes().unwrap().is_none());
        let mut restored = Agents::default();
        restored.restore(&rows).unwrap();
        restored.restore(&rows).unwrap();
        assert_eq!(restored.len(), 1);
        assert_eq!(restored.get(0), agents.get(number));
    }

    #[test]
    fn many_agents_are_given_in_small_pieces() {
        let mut agents = Agents::default();
        for number in 0..20_000 {
            let number = agents.intern(&format!("agent-{number}"), 5);
            agents.change(number).session(1_000, 5).unwrap().lane(1, 0, 5).see(0, 10, 5);
        }
        for number in 0..100 {
            agents.expire(number, 60, 70, 2_000);
        }
        let changes = small(agents.changes(), 0);
        let all = small(agents.all(), 0);
        for pieces in [changes, all] {
            assert!(pieces.len() > 3, "{}", pieces.len());
            let mut restored = Agents::default();
            for piece in &pieces {
                restored.restore(piece).unwrap();
            }
            assert_eq!(kept(&restored), kept(&agents));
        }
    }

    #[test]
    fn an_agent_that_was_dropped_begins_above_its_floor() {
        let mut agents = Agents::default();
        let number = agents.intern("a", 5);
        let agent = agents.change(number);
        agent.session(1_000, 5).unwrap().lane(1, 0, 5).see(0, 10, 5);
        agent.watermark = 40;
        assert_eq!(agents.expire(number, 60, 70, 2_000), 0);
        assert_eq!((agents.len(), agents.floors(), agents.live_rows()), (0, 1, 1));
        let number = agents.intern("a", 80);
        let back = agents.get(number);
        assert_eq!((back.floor, back.watermark, back.heard, back.sessions.len()), (1_000, 60, 80, 0));
        assert_eq!(agents.floors(), 0);
        // Of whom nothing was known nothing is left.
        let nobody = agents.intern("nobody", 5);
        agents.expire(nobody, i64::MIN, 70, 2_000);
        assert_eq!((agents.len(), agents.floors()), (1, 0));
    }

    #[test]
    fn of_floors_that_were_dropped_one_bound_is_left() {
        let mut agents = Agents { most_floors: 1, ..Agents::default() };
        for (at, (id, session)) in [("a", 1_000), ("b", 900), ("c", 1_100)].into_iter().enumerate() {
            let number = agents.intern(id, 0);
            agents.change(number).session(session, 0);
            assert_eq!(agents.expire(number, i64::MIN, at as i64, 950), u64::from(at > 0));
        }
        let rows = agents.snapshot().unwrap();
        let mut restored = Agents::default();
        restored.restore(&rows).unwrap();
        assert_eq!(kept(&restored), kept(&agents));
        let (c, new) = (restored.intern("c", 9), restored.intern("new", 9));
        assert_eq!((restored.get(c).floor, restored.get(new).floor), (1_100, 950));
    }

    proptest! {
        /// Whatever happens in whatever order between two commits, the changelog brings it back.
        #[test]
        fn the_changelog_follows(steps in proptest::collection::vec((0_u8..6, 0_u8..5, 1_i64..9), 1..120)) {
            let most_floors = 2;
            let mut agents = Agents { most_floors, ..Agents::default() };
            let mut restored = Agents { most_floors, ..Agents::default() };
            for (at, (what, who, session)) in steps.into_iter().enumerate() {
                let quiet = at as i64;
                let id = format!("agent-{who}");
                match what {
                    0 => {
                        if let Some(rows) = agents.drain_changes().unwrap() {
                            restored.restore(&rows).unwrap();
                        }
                        prop_assert_eq!(kept(&restored), kept(&agents));
                        prop_assert_eq!(restored.live_rows(), agents.live_rows());
                    }
                    1 => {
                        restored = Agents { most_floors, ..Agents::default() };
                        restored.restore(&agents.snapshot().unwrap()).unwrap();
                        prop_assert_eq!(kept(&restored), kept(&agents));
                    }
                    2 if agents.index.contains_key(id.as_str()) => {
                        let number = agents.index[id.as_str()];
                        agents.expire(number, quiet, quiet, 5);
                        prop_assert!(agents.floors() <= most_floors);
                    }
                    _ => {
                        let number = agents.intern(&id, quiet);
                        agents.change(number).session(session, quiet);
                        prop_assert_eq!(&*agents.get(number).id, id.as_str());
                    }
                }
            }
        }
    }
}

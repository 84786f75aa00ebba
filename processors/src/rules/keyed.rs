//! What rules remember: rows by agent, rule and key, kept in the changelog as JSON, whole or in parts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use arrow::array::{RecordBatch, StringArray, StringBuilder, UInt8Array, UInt64Array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::engine::operator::{
    Op, Operator, StateError, arrow_error, column, definition_hash, ops, schema_text, state_schema,
};
use crate::engine::pieces::{PIECE_BYTES, Piece, Pieces, pieces};

/// What a row is about, beside the agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    /// Id of the rule.
    pub(super) rule: Arc<str>,
    /// Values of the columns that the rule tells rows apart by; empty if there are none.
    pub(super) by: Arc<str>,
}

impl Key {
    pub(super) fn new(rule: &str, by: &str) -> Self {
        Self { rule: Arc::from(rule), by: Arc::from(by) }
    }

    /// The key of other values, of the same rule.
    pub(super) fn with(&self, by: &str) -> Self {
        let by = if *self.by == *by { Arc::clone(&self.by) } else { Arc::from(by) };
        Self { rule: Arc::clone(&self.rule), by }
    }
}

/// Longest key that is kept as it is, in bytes.
const KEY: usize = 200;

/// Values as the text of a key. A long one is replaced by its hash: whoever sends a megabyte does not fill the state.
pub(super) fn joined(values: impl Iterator<Item = Option<String>>) -> String {
    let values = values.map(|value| value.unwrap_or_else(|| "\u{0}".to_owned()));
    let key = values.collect::<Vec<_>>().join("\u{1f}");
    if key.len() <= KEY { key } else { format!("sha256:{}", hex(&Sha256::digest(&key))) }
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// More rows of one partition are not kept: what is new is passed over.
const MOST_ROWS: usize = 200_000;
/// More bytes of one partition are not kept: what is new is passed over. Enough for as many rows as there may be, with
/// an ordinary row of evidence each.
const MOST_BYTES: usize = 128 << 20;
/// More bytes of one agent are not kept: whoever sends huge fields pushes out what is remembered of himself.
const MOST_OF_AGENT: usize = 1 << 20;
/// Most bytes of what is remembered of one key; a part of it must fit into a chunk of the changelog, whatever its texts
/// look like as JSON.
pub(super) const MOST_OF_ROW: usize = 128 * 1024;
/// What a row takes beside its texts, in bytes.
const ROW: usize = 64;

/// What is remembered and written whole whenever it changes.
pub(super) trait Remembered: Serialize + DeserializeOwned {
    /// Bytes of it that its sender chose. The same after a restore: what is kept depends on it.
    fn bytes(&self) -> usize {
        0
    }
}

/// What is remembered in numbered parts, of which each has a row of its own in the changelog.
pub(super) trait InParts: Sized {
    /// What is written by itself.
    type Part: Serialize + DeserializeOwned;

    /// As [`Remembered::bytes`].
    fn bytes(&self) -> usize;

    /// All parts by their numbers.
    fn parts(&self) -> impl Iterator<Item = (u64, &Self::Part)>;

    /// One part.
    fn part(&self, number: u64) -> Option<&Self::Part>;

    /// Of its first part.
    fn of(number: u64, part: Self::Part) -> Self;

    /// Adds a part, in place of the one of its number.
    fn put(&mut self, number: u64, part: Self::Part);

    /// Leaves a part out; answers whether there are others.
    fn has_without(&mut self, number: u64) -> bool;
}

impl<V: Remembered> InParts for V {
    type Part = V;

    fn bytes(&self) -> usize {
        Remembered::bytes(self)
    }

    fn parts(&self) -> impl Iterator<Item = (u64, &V)> {
        std::iter::once((0, self))
    }

    fn part(&self, _: u64) -> Option<&V> {
        Some(self)
    }

    fn of(_: u64, part: V) -> Self {
        part
    }

    fn put(&mut self, _: u64, part: V) {
        *self = part;
    }

    fn has_without(&mut self, _: u64) -> bool {
        false
    }
}

/// Keyed rows of one partition. What is removed while something is remembered about it is the caller's to decide; it
/// must depend on the order of the log alone.
#[derive(Debug)]
pub(super) struct Keyed<V> {
    name: &'static str,
    agents: AHashMap<Arc<str>, BTreeMap<Key, V>>,
    /// Rows of each rule; rules without rows are left out.
    rules: AHashMap<Arc<str>, usize>,
    rows: usize,
    parts: usize,
    bytes: usize,
    /// Parts that changed since they were last written.
    changed: AHashSet<(Arc<str>, Key, u64)>,
    schema: SchemaRef,
}

impl<V: InParts> Keyed<V> {
    /// Nothing remembered under this name in the changelog.
    pub(super) fn new(name: &'static str) -> Self {
        let schema = state_schema([
            Field::new("agent_id", DataType::Utf8, false),
            Field::new("rule_id", DataType::Utf8, false),
            Field::new("key", DataType::Utf8, false),
            Field::new("part", DataType::UInt64, false),
            Field::new("state", DataType::Utf8, true),
        ]);
        Self {
            name,
            agents: AHashMap::new(),
            rules: AHashMap::new(),
            rows: 0,
            parts: 0,
            bytes: 0,
            changed: AHashSet::new(),
            schema,
        }
    }

    /// One row.
    pub(super) fn get(&self, agent: &str, key: &Key) -> Option<&V> {
        self.agents.get(agent)?.get(key)
    }

    /// Takes what a row has and leaves nothing in its place, until it is [put back](Self::put_back). What is empty has no
    /// parts.
    pub(super) fn take(&mut self, agent: &str, key: &Key) -> Option<V>
    where
        V: Default,
    {
        let value = std::mem::take(self.agents.get_mut(agent)?.get_mut(key)?);
        self.bytes -= value.bytes();
        self.parts -= value.parts().count();
        Some(value)
    }

    /// Gives a row back what was taken; `changed` are the parts that came or went.
    pub(super) fn put_back(&mut self, agent: &str, key: &Key, value: V, changed: &[u64]) {
        if !changed.is_empty()
            && let Some((agent, rows)) = self.agents.get_key_value(agent)
            && let Some((key, _)) = rows.get_key_value(key)
        {
            let of = |number: &u64| (Arc::clone(agent), key.clone(), *number);
            self.changed.extend(changed.iter().map(of));
        }
        if let Some(place) = self.agents.get_mut(agent).and_then(|rows| rows.get_mut(key)) {
            self.bytes += value.bytes();
            self.parts += value.parts().count();
            *place = value;
        }
    }

    /// All rows of an agent, sorted by key.
    pub(super) fn of(&self, agent: &str) -> impl Iterator<Item = (&Key, &V)> + Clone {
        self.agents.get(agent).into_iter().flatten()
    }

    /// Whether the agent has any row.
    pub(super) fn has_agent(&self, agent: &str) -> bool {
        self.agents.contains_key(agent)
    }

    /// Whether the rule has any row.
    pub(super) fn has_rule(&self, rule: &str) -> bool {
        self.rules.contains_key(rule)
    }

    /// Sets a row.
    pub(super) fn put(&mut self, agent: &str, key: Key, value: V) {
        let known = self.get(agent, &key).into_iter().flat_map(InParts::parts);
        let numbers: Vec<u64> = known.chain(value.parts()).map(|(number, _)| number).collect();
        let agent = self.set(agent, key.clone(), value);
        let changed = move |number| (Arc::clone(&agent), key.clone(), number);
        self.changed.extend(numbers.into_iter().map(changed));
    }

    /// Removes a row.
    pub(super) fn remove(&mut self, agent: &str, key: &Key) -> Option<V> {
        let removed = self.unset(agent, key)?;
        let agent: Arc<str> = Arc::from(agent);
        let gone = removed.parts().map(|(number, _)| (Arc::clone(&agent), key.clone(), number));
        self.changed.extend(gone);
        Some(removed)
    }

    /// All keys, sorted.
    pub(super) fn keys(&self) -> Vec<(Arc<str>, Key)> {
        let rows = self.agents.iter().flat_map(|(agent, rows)| rows.keys().map(move |key| (agent, key)));
        let mut keys: Vec<_> = rows.map(|(agent, key)| (Arc::clone(agent), key.clone())).collect();
        keys.sort();
        keys
    }

    /// All keys of an agent, sorted.
    pub(super) fn keys_of(&self, agent: &str) -> Vec<(Arc<str>, Key)> {
        let Some((agent, rows)) = self.agents.get_key_value(agent) else { return Vec::new() };
        rows.keys().map(|key| (Arc::clone(agent), key.clone())).collect()
    }

    /// Removes the rows for which `is_over` says so.
    pub(super) fn remove_where(&mut self, is_over: impl Fn(&str, &Key, &V) -> bool) {
        for (agent, key) in self.keys() {
            if self.get(&agent, &key).is_some_and(|value| is_over(&agent, &key, value)) {
                self.remove(&agent, &key);
            }
        }
    }

    /// Makes room for one more row of an agent and rule, which may have `most` of them, if it can be made. `age` says of
    /// a row its last time (µs) and whether it is over: those that are over go, else the one whose last time is earliest.
    pub(super) fn has_room(
        &mut self,
        agent: &str,
        rule: &str,
        most: usize,
        age: impl Fn(&V) -> (Option<i64>, bool),
    ) -> bool {
        let of_rule = self.of(agent).filter(|(key, _)| &*key.rule == rule);
        let mut rows: Vec<(Option<i64>, Key, bool)> = of_rule
            .map(|(key, value)| {
                let (last, is_over) = age(value);
                (last, key.clone(), is_over)
            })
            .collect();
        if rows.len() >= most {
            rows.sort();
            let over: Vec<_> = rows.iter().filter(|(.., is_over)| *is_over).collect();
            if over.is_empty() {
                self.has_dropped();
                self.remove(agent, &rows[0].1);
            } else {
                for (_, key, _) in over {
                    self.remove(agent, key);
                }
            }
        }
        let has_room = self.len() < MOST_ROWS;
        if !has_room {
            self.has_dropped();
        }
        has_room
    }

    /// Makes room for so many bytes that a row of an agent is to have, if it can be made: rows of the agent go of which `last` says
    /// the earliest time (µs).
    pub(super) fn has_bytes_for(
        &mut self,
        agent: &str,
        key: &Key,
        bytes: usize,
        last: impl Fn(&V) -> Option<i64>,
    ) -> bool {
        let weight = ROW + key.by.len() + bytes;
        let known = self.get(agent, key).map_or(0, |known| self::weight(key, known));
        if weight <= known {
            return true;
        }
        loop {
            let others = self.of(agent).filter(|(other, _)| *other != key);
            let all: usize = others.clone().map(|(other, value)| self::weight(other, value)).sum();
            if all + weight <= MOST_OF_AGENT {
                break;
            }
            let Some(earliest) = others.min_by_key(|(other, value)| (last(value), *other)) else { break };
            let earliest = earliest.0.clone();
            self.has_dropped();
            self.remove(agent, &earliest);
        }
        let has_room = self.bytes - known + weight <= MOST_BYTES;
        if !has_room {
            self.has_dropped();
        }
        has_room
    }

    /// Counts something that had to be forgotten for lack of room.
    pub(super) fn has_dropped(&self) {
        metrics::counter!("varta_processors_rule_state_dropped_total", "of" => self.name).increment(1);
    }

    /// What the rows take, in bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    fn set(&mut self, agent: &str, key: Key, value: V) -> Arc<str> {
        let known = self.agents.get_key_value(agent).map(|(known, _)| Arc::clone(known));
        let agent = known.unwrap_or_else(|| Arc::from(agent));
        let (rule, by) = (Arc::clone(&key.rule), key.by.len());
        self.bytes += weight(&key, &value);
        self.parts += value.parts().count();
        if let Some(before) = self.agents.entry(Arc::clone(&agent)).or_default().insert(key, value) {
            self.bytes -= ROW + by + before.bytes();
            self.parts -= before.parts().count();
        } else {
            self.rows += 1;
            *self.rules.entry(rule).or_default() += 1;
        }
        agent
    }

    fn unset(&mut self, agent: &str, key: &Key) -> Option<V> {
        let rows = self.agents.get_mut(agent)?;
        let removed = rows.remove(key)?;
        if rows.is_empty() {
            self.agents.remove(agent);
        }
        self.rows -= 1;
        self.parts -= removed.parts().count();
        self.bytes -= weight(key, &removed);
        if let Some(count) = self.rules.get_mut(&key.rule) {
            *count -= 1;
            if *count == 0 {
                self.rules.remove(&key.rule);
            }
        }
        Some(removed)
    }

    /// Changes a row that is there as the changelog says.
    fn restored<T: Default>(&mut self, agent: &str, key: &Key, change: impl FnOnce(&mut V) -> T) -> T {
        let Some(value) = self.agents.get_mut(agent).and_then(|rows| rows.get_mut(key)) else {
            return T::default();
        };
        self.bytes -= value.bytes();
        self.parts -= value.parts().count();
        let changed = change(value);
        self.bytes += value.bytes();
        self.parts += value.parts().count();
        changed
    }

    fn batch(
        &self,
        piece: &mut Piece<'_, impl Iterator<Item = (Arc<str>, Key, u64)>>,
    ) -> Result<RecordBatch, StateError> {
        let (mut keys, mut ops, mut text) = (Vec::new(), Vec::new(), Vec::new());
        let mut states = StringBuilder::with_capacity(256, PIECE_BYTES);
        while let Some((agent, key, number)) = piece.next() {
            text.clear();
            if let Some(state) = self.get(&agent, &key).and_then(|value| value.part(number)) {
                serde_json::to_writer(&mut text, state).map_err(|error| self.malformed(&error))?;
                states.append_value(std::str::from_utf8(&text).map_err(|error| self.malformed(&error))?);
                ops.push(Op::Put as u8);
            } else {
                states.append_null();
                ops.push(Op::Delete as u8);
            }
            piece.took(agent.len() + key.rule.len() + key.by.len() + text.len());
            keys.push((agent, key, number));
        }
        RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![
                Arc::new(UInt8Array::from(ops)),
                Arc::new(keys.iter().map(|(agent, ..)| Some(&**agent)).collect::<StringArray>()),
                Arc::new(keys.iter().map(|(_, key, _)| Some(&*key.rule)).collect::<StringArray>()),
                Arc::new(keys.iter().map(|(_, key, _)| Some(&*key.by)).collect::<StringArray>()),
                Arc::new(keys.iter().map(|(.., number)| Some(*number)).collect::<UInt64Array>()),
                Arc::new(states.finish()),
            ],
        )
        .map_err(arrow_error(self.name))
    }

    fn malformed(&self, error: &dyn std::error::Error) -> StateError {
        StateError::Malformed { operator: self.name, what: error.to_string() }
    }
}

impl<V: InParts + Send> Operator for Keyed<V> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn definition_hash(&self) -> u64 {
        definition_hash(&[self.name, "json 2", &schema_text(&self.schema)])
    }

    fn state_schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn restore(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        let name = self.name;
        let agents = column::<StringArray>(name, rows, 1)?;
        let rules = column::<StringArray>(name, rows, 2)?;
        let by = column::<StringArray>(name, rows, 3)?;
        let numbers = column::<UInt64Array>(name, rows, 4)?;
        let states = column::<StringArray>(name, rows, 5)?;
        for (row, op) in ops(name, rows)?.values().iter().enumerate() {
            let (agent, key) = (agents.value(row), Key::new(rules.value(row), by.value(row)));
            let number = numbers.value(row);
            if Op::of(*op) == Some(Op::Delete) {
                if !self.restored(agent, &key, |value| value.has_without(number)) {
                    self.unset(agent, &key);
                }
                continue;
            }
            let part = serde_json::from_str(states.value(row)).map_err(|error| self.malformed(&error))?;
            if self.get(agent, &key).is_some() {
                self.restored(agent, &key, |value| value.put(number, part));
            } else {
                self.set(agent, key, V::of(number, part));
            }
        }
        Ok(())
    }

    fn changes(&mut self) -> Pieces<'_> {
        let mut changed: Vec<_> = self.changed.drain().collect();
        changed.sort_unstable();
        pieces(changed.into_iter(), |piece| self.batch(piece))
    }

    fn all(&mut self) -> Pieces<'_> {
        self.changed.clear();
        let kept = &*self;
        let mut agents: Vec<_> = kept.agents.iter().collect();
        agents.sort_unstable_by_key(|(agent, _)| *agent);
        let rows = agents.into_iter().flat_map(|(agent, rows)| rows.iter().map(move |row| (agent, row)));
        let parts = rows.flat_map(|(agent, (key, value))| {
            value.parts().map(move |(number, _)| (Arc::clone(agent), key.clone(), number))
        });
        pieces(parts, |piece| kept.batch(piece))
    }

    fn live_rows(&self) -> usize {
        self.parts
    }
}

/// What a row takes in memory, in bytes.
fn weight<V: InParts>(key: &Key, value: &V) -> usize {
    ROW + key.by.len() + value.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::pieces::small;

    impl Remembered for Vec<i64> {}
    impl Remembered for i64 {}
    impl Remembered for String {
        fn bytes(&self) -> usize {
            self.len()
        }
    }

    #[test]
    fn a_large_state_is_given_in_small_pieces() {
        let mut keyed = Keyed::new("test");
        for row in 0..2_000 {
            keyed.put(
                &format!("a{}", row % 50),
                Key::new("r", &row.to_string()),
                "x".repeat(row * 7 % 5_000),
            );
        }
        let changes = small(keyed.changes(), 5_000);
        let all = small(keyed.all(), 5_000);
        assert!(all.len() > 15, "{}", all.len());
        for pieces in [changes, all] {
            let mut restored = Keyed::<String>::new("test");
            for piece in &pieces {
                restored.restore(piece).unwrap();
            }
            assert_eq!((restored.len(), restored.bytes), (keyed.len(), keyed.bytes));
        }
    }

    #[test]
    fn neither_an_agent_nor_all_of_them_fill_the_memory_with_bytes() {
        let mut keyed: Keyed<String> = Keyed::new("test");
        let put = |keyed: &mut Keyed<String>, agent: &str, number: usize, length: usize| {
            let (key, value) = (Key::new("r", &format!("{number:05}")), "x".repeat(length));
            let has_room = keyed.has_bytes_for(agent, &key, length, |_| None);
            if has_room {
                keyed.put(agent, key, value);
            }
            has_room
        };
        for number in 0..100 {
            assert!(put(&mut keyed, "loud", number, 60_000), "its own rows make room");
            assert!(keyed.bytes <= MOST_OF_AGENT);
        }
        assert!(keyed.len() > 10 && keyed.get("loud", &Key::new("r", "00099")).is_some());
        assert!(put(&mut keyed, "calm", 0, 100));
        let full = (0..10_000).find(|agent| !put(&mut keyed, &format!("a{agent}"), 0, 500_000)).unwrap();
        assert!(keyed.bytes <= MOST_BYTES && full > 200, "{full}");
        let before = keyed.bytes;
        assert!(put(&mut keyed, "a7", 0, 400_000), "what shrinks needs no room");
        assert_eq!(before - keyed.bytes, 100_000);
        keyed.remove_where(|agent, _, _| agent != "calm");
        assert_eq!(keyed.bytes, ROW + "00000".len() + 100);
    }

    /// Letters by number.
    #[derive(Debug, Clone, Default, PartialEq)]
    struct Letters(BTreeMap<u64, String>);

    impl InParts for Letters {
        type Part = String;

        fn bytes(&self) -> usize {
            self.0.len()
        }

        fn parts(&self) -> impl Iterator<Item = (u64, &String)> {
            self.0.iter().map(|(number, letter)| (*number, letter))
        }

        fn part(&self, number: u64) -> Option<&String> {
            self.0.get(&number)
        }

        fn of(number: u64, part: String) -> Self {
            Self(BTreeMap::from([(number, part)]))
        }

        fn put(&mut self, number: u64, part: String) {
            self.0.insert(number, part);
        }

        fn has_without(&mut self, number: u64) -> bool {
            self.0.remove(&number);
            !self.0.is_empty()
        }
    }

    #[test]
    fn of_what_lies_in_parts_only_those_are_written_that_changed() {
        let (key, mut keyed, mut replayed) = (Key::new("r", ""), Keyed::new("test"), Keyed::new("test"));
        let letters =
            |of: &[(u64, &str)]| Letters(of.iter().map(|(at, text)| (*at, (*text).to_owned())).collect());
        keyed.put("a", key.clone(), letters(&[(1, "x"), (2, "y"), (3, "z")]));
        let mut written = |keyed: &mut Keyed<Letters>| {
            let rows = keyed.drain_changes().unwrap();
            let count = rows.as_ref().map_or(0, RecordBatch::num_rows);
            if let Some(rows) = &rows {
                replayed.restore(rows).unwrap();
            }
            assert_eq!(replayed.get("a", &key), keyed.get("a", &key));
            assert_eq!((replayed.live_rows(), replayed.bytes), (keyed.live_rows(), keyed.bytes));
            count
        };
        assert_eq!(written(&mut keyed), 3);
        let key = Key::new("r", "");
        assert_eq!(keyed.take("a", &key), Some(letters(&[(1, "x"), (2, "y"), (3, "z")])));
        keyed.put_back("a", &key, letters(&[(2, "y"), (3, "z"), (4, "v")]), &[1, 4]);
        assert_eq!((written(&mut keyed), keyed.live_rows()), (2, 3));
        let snapshot = keyed.snapshot().unwrap();
        assert_eq!(snapshot.num_rows(), 3);
        keyed.put("a", key.clone(), letters(&[(4, "w")]));
        assert_eq!(written(&mut keyed), 3);
        keyed.remove("a", &key);
        assert_eq!((written(&mut keyed), keyed.live_rows(), keyed.len()), (1, 0, 0));
    }

    fn rows(keyed: &Keyed<Vec<i64>>) -> Vec<(Arc<str>, Key, Vec<i64>)> {
        let keys = keyed.keys().into_iter();
        keys.map(|(agent, key)| (agent.clone(), key.clone(), keyed.get(&agent, &key).unwrap().clone()))
            .collect()
    }

    #[test]
    fn changes_and_snapshots_restore_to_the_same_rows() {
        let mut keyed = Keyed::new("test");
        let mut replayed = Keyed::new("test");
        for turn in 0..60_i64 {
            let (agent, key) = (format!("a{}", turn % 5), Key::new(&format!("r{}", turn % 3), ""));
            if turn % 4 == 3 {
                keyed.remove(&agent, &key);
            } else {
                keyed.put(&agent, key, vec![turn]);
            }
            if turn % 7 == 0
                && let Some(changes) = keyed.drain_changes().unwrap()
            {
                replayed.restore(&changes).unwrap();
                assert_eq!(rows(&replayed), rows(&keyed));
            }
        }
        assert!(keyed.drain_changes().unwrap().is_some());
        assert!(keyed.drain_changes().unwrap().is_none());
        keyed.put("a1", Key::new("r0", "x"), vec![7]);
        let snapshot = keyed.snapshot().unwrap();
        assert!(keyed.drain_changes().unwrap().is_none(), "the snapshot has everything");
        let mut restored = Keyed::new("test");
        restored.restore(&snapshot).unwrap();
        assert_eq!(rows(&restored), rows(&keyed));
        assert_eq!((restored.len(), snapshot.num_rows()), (keyed.len(), keyed.live_rows()));
        assert!(restored.drain_changes().unwrap().is_none(), "restoring changes nothing");
    }

    #[test]
    fn long_keys_become_hashes_and_null_is_a_value_of_its_own() {
        let key = |values: &[Option<&str>]| joined(values.iter().map(|value| value.map(str::to_owned)));
        assert_eq!(key(&[Some("a"), Some("b")]), "a\u{1f}b");
        assert_ne!(key(&[None]), key(&[Some("")]));
        let (long, longer) = ("x".repeat(1_000_000), "x".repeat(1_000_001));
        assert_ne!(key(&[Some(&long)]), key(&[Some(&longer)]));
        assert!(key(&[Some(&long)]).len() < 100);
    }

    #[test]
    fn it_knows_which_agents_and_rules_have_rows() {
        let mut keyed: Keyed<i64> = Keyed::new("test");
        keyed.put("a", Key::new("r", "1"), 1);
        keyed.put("a", Key::new("r", "2"), 2);
        assert!(keyed.has_agent("a") && keyed.has_rule("r"));
        assert!(!keyed.has_agent("b") && !keyed.has_rule("s"));
        keyed.remove("a", &Key::new("r", "1"));
        assert_eq!((keyed.has_rule("r"), keyed.of("a").count()), (true, 1));
        keyed.remove("a", &Key::new("r", "2"));
        assert!(!keyed.has_agent("a") && !keyed.has_rule("r"));
        assert_eq!(keyed.remove("a", &Key::new("r", "2")), None);
    }

    #[test]
    fn a_row_that_cannot_be_read_is_named() {
        let mut keyed = Keyed::new("texts");
        keyed.put("a", Key::new("r", ""), "text".to_owned());
        let rows = keyed.drain_changes().unwrap().unwrap();
        let error = Keyed::<i64>::new("numbers").restore(&rows).unwrap_err().to_string();
        assert!(error.contains("numbers"), "{error}");
    }
}

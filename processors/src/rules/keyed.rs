//! What rules remember: rows by agent, rule and key, kept in the changelog as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use arrow::array::{RecordBatch, StringArray, StringBuilder, UInt8Array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::engine::operator::{
    Op, Operator, StateError, arrow_error, column, definition_hash, ops, schema_text, state_schema,
};

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

/// Keyed rows of one partition. What is removed while something is remembered about it is the caller's to decide; it
/// must depend on the order of the log alone.
#[derive(Debug)]
pub(super) struct Keyed<V> {
    name: &'static str,
    agents: AHashMap<Arc<str>, BTreeMap<Key, V>>,
    /// Rows of each rule; rules without rows are left out.
    rules: AHashMap<Arc<str>, usize>,
    rows: usize,
    changed: AHashSet<(Arc<str>, Key)>,
    schema: SchemaRef,
}

impl<V: Serialize + DeserializeOwned> Keyed<V> {
    /// Nothing remembered under this name in the changelog.
    pub(super) fn new(name: &'static str) -> Self {
        let schema = state_schema([
            Field::new("agent_id", DataType::Utf8, false),
            Field::new("rule_id", DataType::Utf8, false),
            Field::new("key", DataType::Utf8, false),
            Field::new("state", DataType::Utf8, true),
        ]);
        Self {
            name,
            agents: AHashMap::new(),
            rules: AHashMap::new(),
            rows: 0,
            changed: AHashSet::new(),
            schema,
        }
    }

    /// One row.
    pub(super) fn get(&self, agent: &str, key: &Key) -> Option<&V> {
        self.agents.get(agent)?.get(key)
    }

    /// One row, to be changed in its place. What was changed has to be [`put`](Self::put) back or
    /// [noted](Self::has_changed).
    pub(super) fn get_mut(&mut self, agent: &str, key: &Key) -> Option<&mut V> {
        self.agents.get_mut(agent)?.get_mut(key)
    }

    /// Notes that a row was changed in its place.
    pub(super) fn has_changed(&mut self, agent: &str, key: &Key) {
        if let Some((agent, rows)) = self.agents.get_key_value(agent)
            && let Some((key, _)) = rows.get_key_value(key)
        {
            self.changed.insert((Arc::clone(agent), key.clone()));
        }
    }

    /// All rows of an agent, sorted by key.
    pub(super) fn of(&self, agent: &str) -> impl Iterator<Item = (&Key, &V)> {
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
        let agent = self.set(agent, key.clone(), value);
        self.changed.insert((agent, key));
    }

    /// Removes a row.
    pub(super) fn remove(&mut self, agent: &str, key: &Key) -> Option<V> {
        let removed = self.unset(agent, key)?;
        self.changed.insert((Arc::from(agent), key.clone()));
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

    /// Counts something that had to be forgotten for lack of room.
    pub(super) fn has_dropped(&self) {
        metrics::counter!("varta_processors_rule_state_dropped_total", "of" => self.name).increment(1);
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    fn set(&mut self, agent: &str, key: Key, value: V) -> Arc<str> {
        let known = self.agents.get_key_value(agent).map(|(known, _)| Arc::clone(known));
        let agent = known.unwrap_or_else(|| Arc::from(agent));
        let rule = Arc::clone(&key.rule);
        if self.agents.entry(Arc::clone(&agent)).or_default().insert(key, value).is_none() {
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
        if let Some(count) = self.rules.get_mut(&key.rule) {
            *count -= 1;
            if *count == 0 {
                self.rules.remove(&key.rule);
            }
        }
        Some(removed)
    }

    fn batch(&self, keys: &[(Arc<str>, Key)]) -> Result<RecordBatch, StateError> {
        let mut states = StringBuilder::with_capacity(keys.len(), 64 * keys.len());
        let mut ops = Vec::with_capacity(keys.len());
        let mut text = Vec::new();
        for (agent, key) in keys {
            let Some(state) = self.get(agent, key) else {
                states.append_null();
                ops.push(Op::Delete as u8);
                continue;
            };
            text.clear();
            serde_json::to_writer(&mut text, state).map_err(|error| self.malformed(&error))?;
            states.append_value(String::from_utf8_lossy(&text));
            ops.push(Op::Put as u8);
        }
        RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![
                Arc::new(UInt8Array::from(ops)),
                Arc::new(keys.iter().map(|(agent, _)| Some(&**agent)).collect::<StringArray>()),
                Arc::new(keys.iter().map(|(_, key)| Some(&*key.rule)).collect::<StringArray>()),
                Arc::new(keys.iter().map(|(_, key)| Some(&*key.by)).collect::<StringArray>()),
                Arc::new(states.finish()),
            ],
        )
        .map_err(arrow_error(self.name))
    }

    fn malformed(&self, error: &serde_json::Error) -> StateError {
        StateError::Malformed { operator: self.name, what: error.to_string() }
    }
}

impl<V: Serialize + DeserializeOwned + Send> Operator for Keyed<V> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn definition_hash(&self) -> u64 {
        definition_hash(&[self.name, "json 1", &schema_text(&self.schema)])
    }

    fn state_schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn restore(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        let name = self.name;
        let agents = column::<StringArray>(name, rows, 1)?;
        let rules = column::<StringArray>(name, rows, 2)?;
        let by = column::<StringArray>(name, rows, 3)?;
        let states = column::<StringArray>(name, rows, 4)?;
        for (row, op) in ops(name, rows)?.values().iter().enumerate() {
            let key = Key::new(rules.value(row), by.value(row));
            if Op::of(*op) == Some(Op::Delete) {
                self.unset(agents.value(row), &key);
            } else {
                let state =
                    serde_json::from_str(states.value(row)).map_err(|error| self.malformed(&error))?;
                self.set(agents.value(row), key, state);
            }
        }
        Ok(())
    }

    fn drain_changes(&mut self) -> Result<Option<RecordBatch>, StateError> {
        if self.changed.is_empty() {
            return Ok(None);
        }
        let mut changed: Vec<_> = self.changed.drain().collect();
        changed.sort_unstable();
        self.batch(&changed).map(Some)
    }

    fn snapshot(&mut self) -> Result<RecordBatch, StateError> {
        self.changed.clear();
        self.batch(&self.keys())
    }

    fn live_rows(&self) -> usize {
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

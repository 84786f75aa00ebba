use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, UInt8Array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use eventlog::memory::MemoryLog;
use eventlog::{Appender, Consumer, Log, NewRecord, StartAt, TopicPartition};

use super::*;
use crate::engine::operator::{Op, column, state_schema};
use crate::engine::restore::{OnMismatch, RestoreError, apply, read};

#[derive(Default)]
struct Counters {
    values: BTreeMap<i64, i64>,
    changed: Vec<i64>,
    definition: u64,
}

impl Counters {
    fn add(&mut self, key: i64) {
        *self.values.entry(key).or_default() += 1;
        self.changed.push(key);
    }

    fn batch(&self, keys: &[i64]) -> RecordBatch {
        let values: Vec<i64> = keys.iter().map(|key| self.values[key]).collect();
        let ops = UInt8Array::from(vec![Op::Put as u8; keys.len()]);
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(ops),
            Arc::new(Int64Array::from(keys.to_vec())),
            Arc::new(Int64Array::from(values)),
        ];
        RecordBatch::try_new(self.state_schema(), columns).unwrap()
    }
}

impl Operator for Counters {
    fn name(&self) -> &'static str {
        "counters"
    }
    fn definition_hash(&self) -> u64 {
        self.definition
    }
    fn state_schema(&self) -> SchemaRef {
        state_schema([Field::new("key", DataType::Int64, false), Field::new("value", DataType::Int64, false)])
    }
    fn restore(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        let keys = column::<Int64Array>("counters", rows, 1)?;
        let values = column::<Int64Array>("counters", rows, 2)?;
        self.values.extend(keys.values().iter().copied().zip(values.values().iter().copied()));
        Ok(())
    }
    fn drain_changes(&mut self) -> Result<Option<RecordBatch>, StateError> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        Ok((!changed.is_empty()).then(|| self.batch(&changed)))
    }
    fn snapshot(&mut self) -> Result<RecordBatch, StateError> {
        self.changed.clear();
        let keys: Vec<i64> = self.values.keys().copied().collect();
        Ok(self.batch(&keys))
    }
    fn live_rows(&self) -> usize {
        self.values.len()
    }
}

struct Bench {
    log: MemoryLog,
    of: TopicPartition,
}

impl Bench {
    fn new() -> Self {
        let log = MemoryLog::new();
        log.create("state", 1);
        Self { log, of: TopicPartition::new("state", 0) }
    }

    fn write(&self, records: Vec<NewRecord>) {
        let appender = self.log.appender(Box::new(|_, _| {})).unwrap();
        for record in records {
            appender.append(record, 0).unwrap();
        }
    }

    fn restore(
        &self,
        definition: u64,
        on: OnMismatch,
    ) -> Result<(Counters, BTreeMap<String, Standing>), RestoreError> {
        let mut consumer = self.log.consumer("g", &["state"], None, StartAt::Earliest).unwrap();
        let (from, end) = consumer.bounds(&self.of).unwrap();
        let found = read(&self.log, &self.of, from, end)?;
        let mut counters = Counters { definition, ..Counters::default() };
        let standings = apply(found, 0, vec![&mut counters], on)?;
        Ok((counters, standings))
    }
}

#[test]
fn the_changelog_stays_small_and_restores_after_compaction() {
    let bench = Bench::new();
    let mut counters = Counters::default();
    let mut changelog = Changelog::new("state".into(), 0, BTreeMap::new()).with_small(2_000);
    for commit in 0..400 {
        for key in 0..20 {
            counters.add((commit * 7 + key) % 50);
        }
        bench.write(changelog.commit(vec![&mut counters], commit).unwrap());
        if commit % 37 == 0 {
            bench.log.compact("state");
            let (restored, standings) = bench.restore(0, OnMismatch::Refuse).unwrap();
            assert_eq!(restored.values, counters.values);
            assert_eq!(standings["counters"].next_number, changelog.standings["counters"].next_number);
            assert_eq!(standings["counters"].generation, changelog.standings["counters"].generation);
            changelog = Changelog::new("state".into(), 0, standings).with_small(2_000);
        }
    }
    bench.log.compact("state");
    let live: usize =
        bench.log.records("state").iter().filter_map(|record| record.value.as_ref()).map(Bytes::len).sum();
    assert!(changelog.standings["counters"].generation > 2);
    assert!(live < 25_000, "{live} bytes live");
}

#[test]
fn large_states_are_cut_into_chunks() {
    let bench = Bench::new();
    let mut counters = Counters::default();
    (0..200_000).for_each(|key| counters.add(key));
    let records = Changelog::new("state".into(), 0, BTreeMap::new()).commit(vec![&mut counters], 9).unwrap();
    assert!(records.len() > 3);
    assert!(
        records
            .iter()
            .all(|record| { record.value.as_ref().is_none_or(|value| value.len() <= MAX_CHUNK_BYTES) })
    );
    bench.write(records);
    assert_eq!(bench.restore(0, OnMismatch::Refuse).unwrap().0.values, counters.values);
}

#[test]
fn another_definition_is_refused_by_name_or_rebuilt() {
    let bench = Bench::new();
    let mut counters = Counters { definition: 1, ..Counters::default() };
    counters.add(5);
    bench.write(Changelog::new("state".into(), 0, BTreeMap::new()).commit(vec![&mut counters], 1).unwrap());
    let refused = bench.restore(2, OnMismatch::Refuse).err().unwrap().to_string();
    assert!(refused.contains("counters") && refused.contains("on_state_mismatch"), "{refused}");
    let (mut rebuilt, standings) = bench.restore(2, OnMismatch::Rebuild).unwrap();
    assert!(rebuilt.values.is_empty());
    rebuilt.add(6);
    let mut changelog = Changelog::new("state".into(), 0, standings);
    bench.write(changelog.commit(vec![&mut rebuilt], 2).unwrap());
    assert_eq!(bench.restore(2, OnMismatch::Refuse).unwrap().0.values, rebuilt.values);
}

#[test]
fn a_missing_chunk_is_named() {
    let bench = Bench::new();
    let mut counters = Counters::default();
    let mut changelog = Changelog::new("state".into(), 0, BTreeMap::new());
    for commit in 0..3 {
        counters.add(commit);
        let mut records = changelog.commit(vec![&mut counters], commit).unwrap();
        if commit == 1 {
            records.remove(0);
        }
        bench.write(records);
    }
    let error = bench.restore(0, OnMismatch::Refuse).err().unwrap();
    assert!(matches!(error, RestoreError::Incomplete { missing: 1, .. }), "{error}");
}

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Int64Array, RecordBatch, UInt8Array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use eventlog::memory::MemoryLog;
use eventlog::{Appender, Consumer, Log, NewRecord, StartAt, TopicPartition};

use super::*;
use crate::engine::operator::{Op, column, state_schema};
use crate::engine::pieces::{Pieces, pieces, small};
use crate::engine::restore::{OnMismatch, RestoreError, apply, read};

#[derive(Default)]
struct Counters {
    values: BTreeMap<i64, i64>,
    changed: Vec<i64>,
    definition: u64,
    /// Pieces made so far.
    made: Arc<AtomicUsize>,
}

impl Counters {
    fn add(&mut self, key: i64) {
        *self.values.entry(key).or_default() += 1;
        self.changed.push(key);
    }

    fn batch(&self, keys: &[i64]) -> RecordBatch {
        self.made.fetch_add(1, Ordering::Relaxed);
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
    fn changes(&mut self) -> Pieces<'_> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        pieces(changed.into_iter(), |piece| Ok(self.batch(&piece.collect::<Vec<_>>())))
    }
    fn all(&mut self) -> Pieces<'_> {
        self.changed.clear();
        let counters = &*self;
        pieces(counters.values.keys().copied(), |piece| Ok(counters.batch(&piece.collect::<Vec<_>>())))
    }
    fn live_rows(&self) -> usize {
        self.values.len()
    }
}

/// What one commit sends.
fn records(changelog: &mut Changelog, operator: &mut dyn Operator, next_offset: i64) -> Vec<NewRecord> {
    let mut records = Vec::new();
    let mut send = |record| {
        records.push(record);
        Ok(())
    };
    changelog.commit(vec![operator], next_offset, &mut send).unwrap();
    records
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
        bench.write(records(&mut changelog, &mut counters, commit));
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
    small(counters.all(), 0);
    (0..200_000).for_each(|key| counters.add(key));
    let mut changelog = Changelog::new("state".into(), 0, BTreeMap::new());
    let records = records(&mut changelog, &mut counters, 9);
    assert!(records.len() > 3);
    assert!(
        records
            .iter()
            .all(|record| { record.value.as_ref().is_none_or(|value| value.len() <= MAX_CHUNK_BYTES) })
    );
    bench.write(records);
    assert_eq!(bench.restore(0, OnMismatch::Refuse).unwrap().0.values, counters.values);
}

/// What is written down is on its way before more of it is made: neither the batches nor their chunks pile up.
#[test]
fn a_state_is_written_piece_by_piece() {
    let mut counters = Counters::default();
    (0..200_000).for_each(|key| counters.add(key));
    let made = Arc::clone(&counters.made);
    let mut changelog = Changelog::new("state".into(), 0, BTreeMap::new()).with_small(1);
    for whole in [false, true, true] {
        made.store(0, Ordering::Relaxed);
        let (mut sent, mut most) = (0, 0);
        let mut send = |record: NewRecord| {
            sent += usize::from(record.value.is_some());
            most = most.max(made.load(Ordering::Relaxed).saturating_sub(sent - 1));
            Ok(())
        };
        changelog.commit(vec![&mut counters], 1, &mut send).unwrap();
        let pieces = made.load(Ordering::Relaxed);
        assert!(pieces >= 10 && most == 1, "{pieces} pieces, {most} at a time");
        assert_eq!(changelog.standings["counters"].generation > 0, whole);
        // so that the next commit writes a new generation
        changelog.standings.get_mut("counters").unwrap().delta_bytes = usize::MAX;
    }
}

#[test]
fn another_definition_is_refused_by_name_or_rebuilt() {
    let bench = Bench::new();
    let mut counters = Counters { definition: 1, ..Counters::default() };
    counters.add(5);
    let mut changelog = Changelog::new("state".into(), 0, BTreeMap::new());
    bench.write(records(&mut changelog, &mut counters, 1));
    let refused = bench.restore(2, OnMismatch::Refuse).err().unwrap().to_string();
    assert!(refused.contains("counters") && refused.contains("on_state_mismatch"), "{refused}");
    let (mut rebuilt, standings) = bench.restore(2, OnMismatch::Rebuild).unwrap();
    assert!(rebuilt.values.is_empty());
    rebuilt.add(6);
    let mut changelog = Changelog::new("state".into(), 0, standings);
    bench.write(records(&mut changelog, &mut rebuilt, 2));
    assert_eq!(bench.restore(2, OnMismatch::Refuse).unwrap().0.values, rebuilt.values);
}

#[test]
fn a_missing_chunk_is_named() {
    let bench = Bench::new();
    let mut counters = Counters::default();
    let mut changelog = Changelog::new("state".into(), 0, BTreeMap::new());
    for commit in 0..3 {
        counters.add(commit);
        let mut records = records(&mut changelog, &mut counters, commit);
        if commit == 1 {
            records.remove(0);
        }
        bench.write(records);
    }
    let error = bench.restore(0, OnMismatch::Refuse).err().unwrap();
    assert!(matches!(error, RestoreError::Incomplete { missing: 1, .. }), "{error}");
}

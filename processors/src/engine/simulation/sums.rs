//! The least job that shows a wrong state in its outputs: it counts and sums by key, once each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray, UInt8Array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use eventlog::{NewRecord, Record};

use crate::engine::job::{Job, JobError, Output, PartitionState};
use crate::engine::operator::{
    Op, Operator, StateError, arrow_error, column, definition_hash, ops, state_schema,
};
use crate::engine::pieces::{Pieces, pieces};

/// Per key: which numbers were seen and their sum. Every output shows both, so that a state that is too old,
/// too new or applied twice shows in the outputs.
#[derive(Default)]
pub(super) struct Sums {
    sums: BTreeMap<String, (BTreeSet<i64>, i64)>,
    changed: BTreeSet<String>,
}

impl Sums {
    fn batch(&self, keys: &BTreeSet<String>) -> Result<RecordBatch, StateError> {
        let rows: Vec<_> = keys.iter().map(|key| (key.as_str(), &self.sums[key])).collect();
        let seen = |seen: &BTreeSet<i64>| seen.iter().map(i64::to_string).collect::<Vec<_>>().join(" ");
        RecordBatch::try_new(
            self.state_schema(),
            vec![
                Arc::new(UInt8Array::from(vec![Op::Put as u8; rows.len()])),
                Arc::new(rows.iter().map(|(key, _)| Some(*key)).collect::<StringArray>()),
                Arc::new(rows.iter().map(|(_, row)| Some(seen(&row.0))).collect::<StringArray>()),
                Arc::new(Int64Array::from(rows.iter().map(|(_, row)| row.1).collect::<Vec<_>>())),
            ],
        )
        .map_err(arrow_error("sums"))
    }
}

impl Operator for Sums {
    fn name(&self) -> &'static str {
        "sums"
    }
    fn definition_hash(&self) -> u64 {
        definition_hash(&["sums 1"])
    }
    fn state_schema(&self) -> SchemaRef {
        state_schema([
            Field::new("key", DataType::Utf8, false),
            Field::new("seen", DataType::Utf8, false),
            Field::new("sum", DataType::Int64, false),
        ])
    }
    fn restore(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        assert_eq!(ops("sums", rows)?.len(), rows.num_rows());
        let keys = column::<StringArray>("sums", rows, 1)?;
        let seen = column::<StringArray>("sums", rows, 2)?;
        let sums = column::<Int64Array>("sums", rows, 3)?;
        for row in 0..rows.num_rows() {
            let seen = seen.value(row).split_whitespace().map(|seq| seq.parse().unwrap()).collect();
            self.sums.insert(keys.value(row).to_owned(), (seen, sums.value(row)));
        }
        Ok(())
    }
    fn changes(&mut self) -> Pieces<'_> {
        let changed = std::mem::take(&mut self.changed);
        pieces(changed.into_iter(), |piece| self.batch(&piece.collect()))
    }
    fn all(&mut self) -> Pieces<'_> {
        self.changed.clear();
        let sums = &*self;
        pieces(sums.sums.keys().cloned(), |piece| sums.batch(&piece.collect()))
    }
    fn live_rows(&self) -> usize {
        self.sums.len()
    }
}

pub(super) struct SumState(Sums);

impl PartitionState for SumState {
    fn operators(&mut self) -> Vec<&mut dyn Operator> {
        vec![&mut self.0]
    }
}

pub(super) struct SumJob;

impl Job for SumJob {
    type State = SumState;

    fn open(&mut self, _: i32) -> Result<SumState, JobError> {
        Ok(SumState(Sums::default()))
    }

    fn process(
        &mut self,
        state: &mut SumState,
        records: &[Record],
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        for record in records {
            let key = String::from_utf8_lossy(record.key.as_deref().unwrap()).into_owned();
            let Ok(seq) = String::from_utf8_lossy(record.value.as_deref().unwrap()).parse::<i64>() else {
                output.send(NewRecord::keyed("dlq", key, record.value.clone().unwrap()))?;
                continue;
            };
            let (seen, sum) = state.0.sums.entry(key.clone()).or_default();
            if !seen.insert(seq) {
                continue;
            }
            *sum += seq * seq;
            let text = format!("{seq} of {} sums to {sum}", seen.len());
            state.0.changed.insert(key.clone());
            if seq % 7 == 0 {
                output.send(NewRecord::keyed("alerts", key.clone(), text.clone()))?;
                output.hurry();
            }
            output.send(NewRecord::keyed("out", key, text))?;
        }
        Ok(())
    }
}

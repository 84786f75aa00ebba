//! Tumbling windows keyed by agent.
//!
//! The state is partial rows, one per (agent, window) after reduction. What a transaction adds is reduced once
//! and written as [`Op::Merge`] rows, so that work and changelog follow what changed, not what is open.

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt8Array, new_null_array,
};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef, TimestampMicrosecondType};

use super::aggregate::Aggregate;
use crate::engine::operator::{
    Op, Operator, StateError, arrow_error, definition_hash, ops, rows_with, schema_text, state_schema,
};
use crate::functions::Functions;
use crate::plan::PlanError;

/// Windows of one agent that end at or before its watermark are to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The agent.
    pub agent: Arc<str>,
    /// Its watermark, µs.
    pub watermark: i64,
}

/// Tumbling windows of one size over one family.
#[derive(Debug)]
pub struct Tumbling {
    name: &'static str,
    definition: u64,
    size: i64,
    aggregate: Aggregate,
    /// Partial rows that the changelog has.
    kept: Vec<RecordBatch>,
    /// Partial rows since the last commit.
    added: Vec<RecordBatch>,
    /// Keys closed since the last commit.
    closed: Vec<(Arc<str>, i64)>,
    /// Keys deleted by the changelog while restoring, and how many batches had been kept before.
    gone: AHashMap<(String, i64), usize>,
    schema: SchemaRef,
}

impl Tumbling {
    /// Windows of `size` µs; see [`Aggregate::new`] for `sql`, `table` and `rows`.
    pub fn new(
        name: &'static str,
        size: i64,
        sql: &str,
        table: &str,
        rows: &Schema,
        functions: &Functions,
    ) -> Result<Self, PlanError> {
        let aggregate = Aggregate::new(sql, table, rows, functions)?;
        let schema = state_schema(aggregate.state().fields().iter().map(|field| field.as_ref().clone()));
        let definition = definition_hash(&[name, sql, &size.to_string(), &schema_text(&schema)]);
        Ok(Self {
            name,
            definition,
            size,
            aggregate,
            kept: Vec::new(),
            added: Vec::new(),
            closed: Vec::new(),
            gone: AHashMap::new(),
            schema,
        })
    }

    /// Start of the window that holds `time`.
    pub fn start_of(&self, time: i64) -> i64 {
        time.div_euclid(self.size).saturating_mul(self.size)
    }

    /// Whether the window of `time` is closed at `watermark`.
    pub fn is_late(&self, time: i64, watermark: i64) -> bool {
        self.start_of(time).saturating_add(self.size) <= watermark
    }

    /// Whether moving from one watermark to the other closes a window.
    pub fn closes(&self, before: i64, after: i64) -> bool {
        self.start_of(after) > self.start_of(before)
    }

    /// Adds rows that are not late; `starts` are the starts of their windows (µs).
    pub fn add(&mut self, rows: &RecordBatch, starts: Vec<i64>) -> Result<(), PlanError> {
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(TimestampMicrosecondArray::from(starts).with_timezone("+00:00")) as ArrayRef);
        let schema = super::aggregate::with_window_start(rows.schema_ref());
        let partial = self.aggregate.partial(RecordBatch::try_new(schema, columns)?)?;
        if partial.num_rows() > 0 {
            self.added.push(partial);
        }
        Ok(())
    }

    /// Closes windows: their results, sorted by agent and window, each once. `None` if nothing closed.
    pub fn close(&mut self, closings: &[Closing]) -> Result<Option<RecordBatch>, PlanError> {
        let size = self.size;
        let by_agent: AHashMap<&str, i64> =
            closings.iter().map(|closing| (&*closing.agent, closing.watermark)).collect();
        let closes = |agent: &str, start: i64| {
            by_agent.get(agent).is_some_and(|watermark| start.saturating_add(size) <= *watermark)
        };
        let mut taken = Vec::new();
        for batches in [&mut self.kept, &mut self.added] {
            for batch in batches.iter_mut() {
                let mask = mask(batch, &closes);
                if mask.true_count() == 0 {
                    continue;
                }
                taken.push(filter_record_batch(batch, &mask)?);
                *batch = filter_record_batch(batch, &arrow::compute::not(&mask)?)?;
            }
            batches.retain(|batch| batch.num_rows() > 0);
        }
        if taken.is_empty() {
            return Ok(None);
        }
        for batch in &taken {
            let (agents, starts) = keys(batch);
            for row in 0..batch.num_rows() {
                self.closed.push((Arc::from(agents.value(row)), starts.value(row)));
            }
        }
        self.results(taken).map(Some)
    }

    /// Results of the open windows of some agents as they stand; the windows stay open.
    pub fn peek(&mut self, agents: &AHashSet<Arc<str>>) -> Result<Option<RecordBatch>, PlanError> {
        let wanted = |agent: &str, _: i64| agents.contains(agent);
        let mut taken = Vec::new();
        for batch in self.kept.iter().chain(&self.added) {
            let mask = mask(batch, &wanted);
            if mask.true_count() > 0 {
                taken.push(filter_record_batch(batch, &mask)?);
            }
        }
        if taken.is_empty() { Ok(None) } else { self.results(taken).map(Some) }
    }

    fn results(&mut self, states: Vec<RecordBatch>) -> Result<RecordBatch, PlanError> {
        let result = self.aggregate.finish(states)?;
        let sort = |name: &str| {
            let values = result.column_by_name(name).map(Arc::clone);
            values.map(|values| arrow::compute::SortColumn { values, options: None })
        };
        let by: Vec<_> = ["agent_id", super::WINDOW_START].into_iter().filter_map(sort).collect();
        let order = arrow::compute::lexsort_to_indices(&by, None)?;
        Ok(arrow::compute::take_record_batch(&result, &order)?)
    }

    /// Reduces when small batches pile up, so that each row is reduced a logarithmic number of times.
    fn compact(&mut self) -> Result<(), PlanError> {
        let total: usize = self.kept.iter().map(RecordBatch::num_rows).sum();
        let first = self.kept.first().map_or(0, RecordBatch::num_rows);
        if self.kept.len() > 32 || (self.kept.len() > 4 && total > 2 * first) {
            let states = std::mem::take(&mut self.kept);
            self.kept.push(self.aggregate.reduce(states)?);
        }
        Ok(())
    }

    fn changelog(&self, op: Op, rows: &RecordBatch) -> Result<RecordBatch, StateError> {
        let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt8Array::from(vec![op as u8; rows.num_rows()]))];
        columns.extend(rows.columns().iter().cloned());
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow_error(self.name))
    }

    fn deletions(&mut self) -> Result<RecordBatch, StateError> {
        let mut closed = std::mem::take(&mut self.closed);
        closed.sort();
        closed.dedup();
        let agents: StringArray = closed.iter().map(|(agent, _)| Some(&**agent)).collect();
        let starts: Vec<i64> = closed.iter().map(|(_, start)| *start).collect();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt8Array::from(vec![Op::Delete as u8; closed.len()])),
            Arc::new(agents),
            Arc::new(TimestampMicrosecondArray::from(starts).with_timezone("+00:00")),
        ];
        for field in self.schema.fields().iter().skip(3) {
            columns.push(new_null_array(field.data_type(), closed.len()));
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow_error(self.name))
    }

    fn failed(&self, error: &PlanError) -> StateError {
        StateError::Malformed { operator: self.name, what: error.to_string() }
    }
}

/// The key columns of partial rows.
fn keys(batch: &RecordBatch) -> (&StringArray, Int64Array) {
    let starts = batch.column(1).as_primitive::<TimestampMicrosecondType>();
    (batch.column(0).as_string::<i32>(), Int64Array::new(starts.values().clone(), None))
}

fn mask(batch: &RecordBatch, wanted: &dyn Fn(&str, i64) -> bool) -> BooleanArray {
    let (agents, starts) = keys(batch);
    (0..batch.num_rows()).map(|row| Some(wanted(agents.value(row), starts.value(row)))).collect()
}

impl Operator for Tumbling {
    fn name(&self) -> &'static str {
        self.name
    }

    fn definition_hash(&self) -> u64 {
        self.definition
    }

    fn state_schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn restore(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        if rows.schema_ref().fields().len() != self.schema.fields().len() {
            return Err(StateError::Malformed { operator: self.name, what: "other columns".into() });
        }
        let deleted = rows_with(self.name, rows, Op::Delete)?;
        let (agents, starts) = (rows.column(1).as_string::<i32>(), rows.column(2));
        let starts = starts.as_primitive::<TimestampMicrosecondType>();
        for row in (0..rows.num_rows()).filter(|row| deleted.value(*row)) {
            // What was merged before is gone. What comes after counts: an agent that was dropped without a trace may
            // open a window of that time once more.
            self.gone.insert((agents.value(row).to_owned(), starts.value(row)), self.kept.len());
        }
        debug_assert_eq!(ops(self.name, rows)?.null_count(), 0);
        let live = arrow::compute::not(&deleted).map_err(arrow_error(self.name))?;
        let live = filter_record_batch(rows, &live).map_err(arrow_error(self.name))?;
        if live.num_rows() > 0 {
            let state =
                RecordBatch::try_new(Arc::clone(self.aggregate.state()), live.columns()[1..].to_vec());
            self.kept.push(state.map_err(arrow_error(self.name))?);
        }
        Ok(())
    }

    fn restored(&mut self) -> Result<(), StateError> {
        let gone = std::mem::take(&mut self.gone);
        let mut states = Vec::new();
        for (at, batch) in std::mem::take(&mut self.kept).into_iter().enumerate() {
            let stays = |agent: &str, start: i64| {
                gone.get(&(agent.to_owned(), start)).is_none_or(|before| at >= *before)
            };
            let batch = filter_record_batch(&batch, &mask(&batch, &stays)).map_err(arrow_error(self.name))?;
            if batch.num_rows() > 0 {
                states.push(batch);
            }
        }
        if !states.is_empty() {
            let reduced = self.aggregate.reduce(states).map_err(|error| self.failed(&error))?;
            self.kept.push(reduced);
        }
        Ok(())
    }

    fn drain_changes(&mut self) -> Result<Option<RecordBatch>, StateError> {
        let mut rows = Vec::with_capacity(2);
        if !self.closed.is_empty() {
            rows.push(self.deletions()?);
        }
        if !self.added.is_empty() {
            let added = std::mem::take(&mut self.added);
            let added = self.aggregate.reduce(added).map_err(|error| self.failed(&error))?;
            rows.push(self.changelog(Op::Merge, &added)?);
            self.kept.push(added);
            self.compact().map_err(|error| self.failed(&error))?;
        }
        if rows.is_empty() {
            return Ok(None);
        }
        concat_batches(&self.schema, &rows).map(Some).map_err(arrow_error(self.name))
    }

    fn snapshot(&mut self) -> Result<RecordBatch, StateError> {
        self.closed.clear();
        let mut states = std::mem::take(&mut self.kept);
        states.append(&mut self.added);
        if states.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let reduced = self.aggregate.reduce(states).map_err(|error| self.failed(&error))?;
        let rows = self.changelog(Op::Merge, &reduced)?;
        self.kept.push(reduced);
        Ok(rows)
    }

    fn live_rows(&self) -> usize {
        self.kept.iter().map(RecordBatch::num_rows).max().unwrap_or(0)
    }
}

//! What all kinds of windows keep, and its form in the changelog.
//!
//! A row of the changelog is a partial row with the level of its window before it: [`Op::Merge`] adds it to what its
//! key holds, [`Op::Delete`] names an agent and a window whose rows are gone. Within what one commit writes deletions
//! come first; restoring applies all in their order.

use std::sync::Arc;

use ahash::AHashMap;
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt8Array, UInt32Array, new_null_array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef, UInt8Type};

use super::aggregate::{Aggregate, start_column, starts};
use super::partials::{Partials, Place};
use super::{Closing, Late, in_time};
use crate::engine::operator::{
    Op, Operator, StateError, arrow_error, definition_hash, ops, schema_text, state_schema,
};
use crate::engine::pieces::{Pieces, groups, one, rows_of_a_piece};
use crate::plan::PlanError;

/// Columns before the partial row: operation and level.
const BEFORE: usize = 2;
/// Rows of the first piece of a snapshot. The next has fewer if those were large: what a sketch takes is seen once it is
/// copied.
const FIRST_ROWS: usize = 1_024;

/// The partial rows of one operator, by level: longer windows are made of those of the level before.
#[derive(Debug)]
pub(super) struct Store {
    name: &'static str,
    definition: u64,
    /// Columns of the changelog.
    schema: SchemaRef,
    /// Columns of partial rows, with those that the kind of window adds.
    state: SchemaRef,
    /// Columns of rows, with the start of the window.
    rows: SchemaRef,
    levels: Vec<Partials>,
    /// Rows that were not yet made partial rows, with the starts of their windows.
    waiting: Vec<RecordBatch>,
    /// Windows in the changelog that are to be deleted from it.
    gone: Vec<(u8, Arc<str>, i64)>,
}

impl Store {
    /// Partial rows of `aggregate` with `further` columns after them; `sizes` are what tells one definition from
    /// another, µs, one a level.
    pub(super) fn new(
        name: &'static str,
        kind: &str,
        sizes: &[i64],
        levels: usize,
        aggregate: &Aggregate,
        further: &[Field],
    ) -> Self {
        let fields: Vec<Field> =
            aggregate.state().fields().iter().map(|field| field.as_ref().clone()).collect();
        let state = Arc::new(Schema::new([fields, further.to_vec()].concat()));
        let level = Field::new("level", arrow::datatypes::DataType::UInt8, false);
        let columns = state.fields().iter().map(|field| field.as_ref().clone());
        let schema = state_schema(std::iter::once(level).chain(columns));
        let definition =
            definition_hash(&[name, kind, aggregate.sql(), &format!("{sizes:?}"), &schema_text(&schema)]);
        let levels = (0..levels).map(|_| Partials::new(Arc::clone(&state))).collect();
        let rows = Arc::clone(aggregate.rows());
        Self { name, definition, schema, state, rows, levels, waiting: Vec::new(), gone: Vec::new() }
    }

    /// Columns of partial rows.
    pub(super) fn state(&self) -> &SchemaRef {
        &self.state
    }

    pub(super) fn level(&mut self, level: usize) -> &mut Partials {
        &mut self.levels[level]
    }

    /// Whose partial rows there are on the first level.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.levels[0].keys()
    }

    /// Whether there are partial rows of this key on the first level.
    pub(super) fn has(&self, key: &str) -> bool {
        self.levels[0].has(key)
    }

    /// Rows that count, of all levels.
    pub(super) fn live(&self) -> usize {
        self.levels.iter().map(Partials::live).sum()
    }

    /// Partial rows copied so far.
    pub(super) fn copied(&self) -> u64 {
        self.levels.iter().map(Partials::copied).sum()
    }

    /// Keeps the rows that are not late until they are made partial rows, all of a commit at once. `starts` are the
    /// starts of the windows of all rows, µs.
    pub(super) fn wait(
        &mut self,
        rows: &RecordBatch,
        starts: Vec<i64>,
        late: &[Late],
    ) -> Result<(), PlanError> {
        let (rows, starts) = in_time(rows, starts, late)?;
        if rows.num_rows() > 0 {
            let mut columns = rows.columns().to_vec();
            columns.push(start_column(starts));
            self.waiting.push(RecordBatch::try_new(Arc::clone(&self.rows), columns)?);
        }
        Ok(())
    }

    /// What waited, as partial rows; tidies up before with `reduce`.
    pub(super) fn settle(
        &mut self,
        aggregate: &mut Aggregate,
        reduce: impl Fn(&mut Aggregate, RecordBatch) -> Result<RecordBatch, PlanError>,
    ) -> Result<Option<RecordBatch>, PlanError> {
        for level in &mut self.levels {
            level.tidy(|rows| reduce(aggregate, rows))?;
        }
        if self.waiting.is_empty() {
            return Ok(None);
        }
        aggregate.partial(std::mem::take(&mut self.waiting)).map(Some)
    }

    /// Takes the windows that start before what `end` says of each agent, and answers their rows.
    pub(super) fn take(
        &mut self,
        level: usize,
        closings: &[Closing],
        end: impl Fn(&Closing) -> i64,
    ) -> Result<RecordBatch, PlanError> {
        let mut places = Vec::new();
        for closing in closings {
            for window in self.levels[level].take(&closing.agent, end(closing)) {
                self.forget(level, &closing.agent, window.start, &window.places);
                places.extend(window.places);
            }
        }
        let rows = self.levels[level].gather(&places)?;
        self.levels[level].release(&places);
        Ok(rows)
    }

    /// Notes that the changelog shall forget a window, if it knows it.
    pub(super) fn forget(&mut self, level: usize, agent: &Arc<str>, start: i64, places: &[Place]) {
        if self.levels[level].is_logged(places) {
            self.gone.push((level as u8, Arc::clone(agent), start));
        }
    }

    fn merges(&self, level: u8, rows: &RecordBatch) -> Result<RecordBatch, StateError> {
        let count = rows.num_rows();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt8Array::from(vec![Op::Merge as u8; count])),
            Arc::new(UInt8Array::from(vec![level; count])),
        ];
        columns.extend(rows.columns().iter().cloned());
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow_error(self.name))
    }

    /// What changed since the last call: what the changelog shall forget, then what it shall add.
    fn changed(&mut self) -> Result<Vec<RecordBatch>, StateError> {
        if !self.waiting.is_empty() {
            return Err(self.malformed(&"rows wait that were not made partial rows before the commit"));
        }
        let mut rows = Vec::new();
        if !self.gone.is_empty() {
            rows.push(self.deletions()?);
        }
        for level in 0..self.levels.len() {
            let fresh = self.levels[level].take_fresh().map_err(|error| self.malformed(&error))?;
            for fresh in fresh {
                rows.push(self.merges(level as u8, &fresh)?);
            }
        }
        Ok(rows)
    }

    fn deletions(&mut self) -> Result<RecordBatch, StateError> {
        let gone = std::mem::take(&mut self.gone);
        let agents: StringArray = gone.iter().map(|(_, agent, _)| Some(&**agent)).collect();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt8Array::from(vec![Op::Delete as u8; gone.len()])),
            Arc::new(gone.iter().map(|(level, ..)| Some(*level)).collect::<UInt8Array>()),
            Arc::new(agents),
            start_column(gone.iter().map(|(_, _, start)| *start).collect()),
        ];
        for field in self.schema.fields().iter().skip(columns.len()) {
            columns.push(new_null_array(field.data_type(), gone.len()));
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow_error(self.name))
    }

    pub(super) fn malformed(&self, what: &dyn ToString) -> StateError {
        StateError::Malformed { operator: self.name, what: what.to_string() }
    }
}

impl Operator for Store {
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
            return Err(self.malformed(&"other columns"));
        }
        let ops = ops(self.name, rows)?;
        let levels = rows.column(1).as_primitive::<UInt8Type>();
        let partial = RecordBatch::try_new(
            Arc::new(
                rows.schema_ref()
                    .project(&(BEFORE..rows.num_columns()).collect::<Vec<_>>())
                    .map_err(arrow_error(self.name))?,
            ),
            rows.columns()[BEFORE..].to_vec(),
        )
        .map_err(arrow_error(self.name))?;
        let agents = partial.column(0).as_string::<i32>();
        let starts = starts(&partial);
        let mut merges: AHashMap<u8, Vec<u32>> = AHashMap::new();
        for (row, start) in starts.iter().enumerate() {
            let level = levels.value(row);
            if usize::from(level) >= self.levels.len() {
                return Err(self.malformed(&"a level that there is not"));
            }
            if Op::of(ops.value(row)) == Some(Op::Delete) {
                let of = &mut self.levels[usize::from(level)];
                if let Some(window) = of.take_one(agents.value(row), *start) {
                    of.release(&window.places);
                }
            } else {
                merges.entry(level).or_default().push(row as u32);
            }
        }
        for (level, rows) in merges {
            let some =
                take_record_batch(&partial, &UInt32Array::from(rows)).map_err(arrow_error(self.name))?;
            let some = RecordBatch::try_new(Arc::clone(&self.state), some.columns().to_vec())
                .map_err(arrow_error(self.name))?;
            self.levels[usize::from(level)].insert(some, false);
        }
        Ok(())
    }

    fn changes(&mut self) -> Pieces<'_> {
        match self.changed() {
            Ok(rows) => {
                let (schema, name) = (Arc::clone(&self.schema), self.name);
                let join = move |rows: Vec<_>| concat_batches(&schema, &rows).map_err(arrow_error(name));
                Box::new(groups(rows).into_iter().map(join))
            }
            Err(error) => one(Err(error)),
        }
    }

    fn all(&mut self) -> Pieces<'_> {
        if !self.waiting.is_empty() {
            return one(
                Err(self.malformed(&"rows wait that were not made partial rows before the snapshot")),
            );
        }
        self.gone.clear();
        let (mut next_level, mut places, mut rows) = (0, Vec::new().into_iter(), FIRST_ROWS);
        Box::new(std::iter::from_fn(move || {
            while places.len() == 0 {
                places = match self.levels.get_mut(next_level)?.places() {
                    Ok(places) => places.into_iter(),
                    Err(error) => return Some(Err(self.malformed(&error))),
                };
                next_level += 1;
            }
            let level = next_level - 1;
            let some: Vec<Place> = places.by_ref().take(rows).collect();
            match self.levels[level].gather(&some) {
                Ok(piece) => {
                    rows = rows.min(rows_of_a_piece(&piece));
                    Some(self.merges(level as u8, &piece))
                }
                Err(error) => Some(Err(self.malformed(&error))),
            }
        }))
    }

    fn live_rows(&self) -> usize {
        self.live()
    }
}

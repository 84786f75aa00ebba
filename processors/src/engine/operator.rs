//! The seam between an operator and the engine: keyed state that can be written down and read back.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt8Array};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use thiserror::Error;

use super::pieces::Pieces;

/// State that could not be written or read back. Always fatal: a worker must not run on half a state.
#[derive(Debug, Error)]
pub enum StateError {
    /// The Arrow library refused a batch.
    #[error("state of operator `{operator}`: {source}")]
    Arrow {
        /// Whose state.
        operator: &'static str,
        /// What Arrow said.
        source: arrow::error::ArrowError,
    },
    /// A row of the changelog does not have the shape that its definition hash promises.
    #[error("state of operator `{operator}` is malformed: {what}")]
    Malformed {
        /// Whose state.
        operator: &'static str,
        /// What was found.
        what: String,
    },
}

/// What a row of a changelog batch does to the state, held in its first column [`OP`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// The row replaces what its key held.
    Put = 0,
    /// The key is gone; the other columns mean nothing.
    Delete = 1,
    /// The row is combined with what its key holds (partial aggregates). A merged key is never put.
    Merge = 2,
}

impl Op {
    /// Reads the value of the [`OP`] column.
    pub fn of(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Put),
            1 => Some(Self::Delete),
            2 => Some(Self::Merge),
            _ => None,
        }
    }
}

/// Name of the first column of every state schema: a `UInt8` of [`Op`].
pub const OP: &str = "op";

/// One operator's state of one partition.
///
/// The engine calls `restore` for each batch in the order in which they were drained, then `restored` once,
/// before the first row is processed. After that it calls `changes` in every commit; work there must
/// be proportional to what changed since the last call. Rows are given in pieces, and each is made when it is asked
/// for: what a state takes while it is written down does not grow with it.
pub trait Operator: Send {
    /// Stable name: part of the changelog's keys.
    fn name(&self) -> &'static str;
    /// Changes whenever old state would be misread: schema, codec, the SQL or the sizes behind it.
    fn definition_hash(&self) -> u64;
    /// Columns of the changelog rows; the first is [`OP`].
    fn state_schema(&self) -> SchemaRef;
    /// Applies rows that were drained or snapshotted earlier.
    fn restore(&mut self, rows: &RecordBatch) -> Result<(), StateError>;
    /// Called once after the last `restore`.
    fn restored(&mut self) -> Result<(), StateError> {
        Ok(())
    }
    /// The keys that changed since the last call; no piece if none did.
    fn changes(&mut self) -> Pieces<'_>;
    /// All live keys, and forgets pending changes: these pieces contain them.
    fn all(&mut self) -> Pieces<'_>;
    /// How many keys live.
    fn live_rows(&self) -> usize;

    /// The changes as one batch, or `None`.
    #[cfg(test)]
    fn drain_changes(&mut self) -> Result<Option<RecordBatch>, StateError> {
        let schema = self.state_schema();
        let pieces: Vec<RecordBatch> = self.changes().collect::<Result<_, _>>()?;
        let rows = arrow::compute::concat_batches(&schema, &pieces).map_err(arrow_error(self.name()))?;
        Ok((rows.num_rows() > 0).then_some(rows))
    }

    /// All live keys as one batch.
    #[cfg(test)]
    fn snapshot(&mut self) -> Result<RecordBatch, StateError> {
        let schema = self.state_schema();
        let pieces: Vec<RecordBatch> = self.all().collect::<Result<_, _>>()?;
        arrow::compute::concat_batches(&schema, &pieces).map_err(arrow_error(self.name()))
    }
}

/// A state schema: [`OP`] first, then the given columns.
pub fn state_schema(columns: impl IntoIterator<Item = Field>) -> SchemaRef {
    let op = Arc::new(Field::new(OP, DataType::UInt8, false)) as FieldRef;
    Arc::new(Schema::new(std::iter::once(op).chain(columns.into_iter().map(Arc::new)).collect::<Vec<_>>()))
}

/// The [`OP`] column of a batch.
pub fn ops<'a>(operator: &'static str, rows: &'a RecordBatch) -> Result<&'a UInt8Array, StateError> {
    column::<UInt8Array>(operator, rows, 0)
}

/// How many rows say what there is, without those that say what is gone.
pub fn lasting(rows: &RecordBatch) -> usize {
    let is_there = |op: &&u8| Op::of(**op) != Some(Op::Delete);
    let ops = rows.columns().first().and_then(|column| column.as_any().downcast_ref::<UInt8Array>());
    ops.map_or(rows.num_rows(), |ops| ops.values().iter().filter(is_there).count())
}

/// Column `at` as the array type that the schema promises.
pub fn column<'a, T: 'static>(
    operator: &'static str,
    rows: &'a RecordBatch,
    at: usize,
) -> Result<&'a T, StateError> {
    rows.columns().get(at).and_then(|array: &ArrayRef| array.as_any().downcast_ref::<T>()).ok_or_else(|| {
        StateError::Malformed { operator, what: format!("column {at} is missing or has another type") }
    })
}

/// A mask of the rows whose [`Op`] is `wanted`.
pub fn rows_with(operator: &'static str, rows: &RecordBatch, wanted: Op) -> Result<BooleanArray, StateError> {
    Ok(ops(operator, rows)?.iter().map(|op| Some(op == Some(wanted as u8))).collect())
}

/// FNV-1a over the parts of a definition: small, stable over builds and machines.
pub fn definition_hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.as_bytes().iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}

/// Definition text of a schema, for [`definition_hash`].
pub fn schema_text(schema: &Schema) -> String {
    schema
        .fields()
        .iter()
        .map(|field| format!("{}:{}", field.name(), field.data_type()))
        .collect::<Vec<_>>()
        .join(",")
}

/// Wraps an Arrow error with the operator's name.
pub fn arrow_error(operator: &'static str) -> impl Fn(arrow::error::ArrowError) -> StateError {
    move |source| StateError::Arrow { operator, source }
}

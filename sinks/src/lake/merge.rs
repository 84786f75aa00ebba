//! Sorted files of one day become one sorted file.
//!
//! In memory are the inputs as they lie in the store, a thousand decoded rows of each or a megabyte, and the file that is
//! being made: about twice the bytes of the result. Only CPU, no I/O.

#[cfg(test)]
mod bounds;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    sync::Arc,
};

use arrow::{
    array::{Array as _, AsArray as _, Int64Array, RecordBatch, StringArray, new_null_array},
    compute::interleave_record_batch,
    datatypes::{Field, Schema, SchemaRef},
};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::{
    encoding::Writing,
    files::{CHUNK, CHUNK_BYTES, DataFile, FileWriter, broken},
    shape::{Layout, layout},
};
use crate::{SinkError, column};

/// Rows that are decoded of an input at once, at most …
const ROWS: usize = 1024;
/// … and about so many bytes: many inputs are open together.
const DECODED: i64 = 1 << 20;

/// Merges files, named for errors, all of `day`. `columns` are the names of the table's columns in their order; a column
/// that none of the files has stays away, one that some lack is null in their rows.
pub(super) fn merge(
    files: Vec<(String, Bytes)>,
    columns: &[String],
    day: &str,
    how: &Writing,
) -> Result<DataFile, SinkError> {
    let mut opened = Vec::with_capacity(files.len());
    for (path, content) in files {
        let builder = ParquetRecordBatchReaderBuilder::try_new(content);
        opened.push((builder.map_err(|error| unreadable(&path, &error))?, path));
    }
    let schemas: Vec<SchemaRef> = opened.iter().map(|(builder, _)| Arc::clone(builder.schema())).collect();
    let layout = layout(&union(&schemas, columns)?)?;
    let mut inputs = Vec::with_capacity(opened.len());
    let mut heap = BinaryHeap::with_capacity(opened.len());
    for (number, (builder, path)) in opened.into_iter().enumerate() {
        let at_once = rows_at_once(&builder);
        let rows = builder.with_batch_size(at_once).build().map_err(|error| unreadable(&path, &error))?;
        let mut input = Input { path, rows, cursor: None };
        if input.advance(&layout)? {
            heap.push(Reverse(input.head(number)));
        }
        inputs.push(input);
    }
    let mut writer = FileWriter::new(layout.clone(), how)?;
    let mut chunk = Chunk::default();
    while let Some(Reverse(head)) = heap.pop() {
        let input = &mut inputs[head.input];
        // One input often has many rows before the next row of any other.
        loop {
            chunk.take(input);
            if chunk.is_full() {
                chunk.write(&mut writer)?;
            }
            if !input.advance(&layout)? {
                break;
            }
            if heap.peek().is_some_and(|Reverse(next)| input.is_behind(next)) {
                heap.push(Reverse(input.head(head.input)));
                break;
            }
        }
    }
    chunk.write(&mut writer)?;
    writer.finish(day.to_owned())
}

/// As many rows as are about [`DECODED`] bytes by what the file says of its uncompressed pages.
fn rows_at_once(file: &ParquetRecordBatchReaderBuilder<Bytes>) -> usize {
    let (mut bytes, mut rows) = (0, 0);
    for group in file.metadata().row_groups() {
        bytes += group.total_byte_size();
        rows += group.num_rows();
    }
    (DECODED / (bytes / rows.max(1)).max(1)).clamp(1, ROWS as i64) as usize
}

fn unreadable(path: &str, error: &dyn std::fmt::Display) -> SinkError {
    SinkError::Fatal(format!("lake file {path} cannot be read: {error}"))
}

/// Columns of any of the files, in the table's order.
fn union(schemas: &[SchemaRef], columns: &[String]) -> Result<SchemaRef, SinkError> {
    let mut fields: Vec<Field> = Vec::new();
    for name in columns {
        let mut found = schemas.iter().filter_map(|schema| schema.field_with_name(name).ok());
        let Some(first) = found.next() else { continue };
        if let Some(other) = found.find(|other| other.data_type() != first.data_type()) {
            return Err(broken(format!(
                "column `{name}` is {} in one file and {} in another",
                first.data_type(),
                other.data_type()
            )));
        }
        fields.push(Field::new(name, first.data_type().clone(), true));
    }
    let known: BTreeSet<&str> = columns.iter().map(String::as_str).collect();
    let stranger =
        schemas.iter().flat_map(|schema| schema.fields()).find(|f| !known.contains(f.name().as_str()));
    if let Some(stranger) = stranger {
        return Err(broken(format!(
            "a file has a column `{}` that its table does not know",
            stranger.name()
        )));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// Where an input stands. Ordered as rows are.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    agent: String,
    time: i64,
    tie: i64,
    input: usize,
}

struct Input {
    path: String,
    rows: ParquetRecordBatchReader,
    cursor: Option<Cursor>,
}

/// A decoded batch and the row in it that is next.
struct Cursor {
    batch: RecordBatch,
    agents: StringArray,
    times: Int64Array,
    ties: Int64Array,
    row: usize,
    /// Place of the batch in the present chunk.
    slot: Option<usize>,
}

impl Input {
    /// Goes to the next row; false at the end.
    fn advance(&mut self, layout: &Layout) -> Result<bool, SinkError> {
        if let Some(cursor) = &mut self.cursor {
            cursor.row += 1;
            if cursor.row < cursor.batch.num_rows() {
                return Ok(true);
            }
        }
        loop {
            let Some(batch) = self.rows.next() else {
                self.cursor = None;
                return Ok(false);
            };
            let batch = batch.map_err(|error| unreadable(&self.path, &error))?;
            if batch.num_rows() > 0 {
                self.cursor = Some(Cursor::new(layout, &batch)?);
                return Ok(true);
            }
        }
    }

    fn head(&self, input: usize) -> Head {
        let (agent, time, tie) = self.cursor.as_ref().map_or(("", i64::MAX, i64::MAX), Cursor::key);
        Head { agent: agent.to_owned(), time, tie, input }
    }

    fn is_behind(&self, head: &Head) -> bool {
        self.cursor.as_ref().is_some_and(|cursor| cursor.key() > (head.agent.as_str(), head.time, head.tie))
    }
}

impl Cursor {
    fn new(layout: &Layout, batch: &RecordBatch) -> Result<Self, SinkError> {
        let found = batch.schema();
        let column = |field: &Arc<Field>| match found.index_of(field.name()) {
            Ok(index) => Arc::clone(batch.column(index)),
            Err(_) => new_null_array(field.data_type(), batch.num_rows()),
        };
        let columns = layout.schema.fields().iter().map(column).collect();
        let batch = RecordBatch::try_new(Arc::clone(&layout.schema), columns).map_err(broken)?;
        let whole = |index: usize| {
            column::as_whole(batch.column(index)).ok_or_else(|| broken("a file cannot be sorted by its time"))
        };
        let agents = batch.column(layout.agent).as_string_opt::<i32>();
        let agents = agents.ok_or_else(|| broken("a file cannot be sorted by its agent"))?.clone();
        let (times, ties) = (whole(layout.time)?, whole(layout.tie)?);
        Ok(Self { batch, agents, times, ties, row: 0, slot: None })
    }

    fn key(&self) -> (&str, i64, i64) {
        let agent = if self.agents.is_null(self.row) { "" } else { self.agents.value(self.row) };
        let number = |numbers: &Int64Array| column::number(numbers, self.row).unwrap_or(i64::MIN);
        (agent, number(&self.times), number(&self.ties))
    }
}

/// Rows that are written together.
#[derive(Default)]
struct Chunk {
    batches: Vec<RecordBatch>,
    indices: Vec<(usize, usize)>,
    /// Bytes of a row of each of the batches, and of all rows taken, about.
    weights: Vec<usize>,
    bytes: usize,
    /// Counts the chunks: slots of an earlier one are void.
    number: usize,
}

impl Chunk {
    fn take(&mut self, input: &mut Input) {
        let Some(cursor) = &mut input.cursor else { return };
        let base = self.number << 32;
        let slot = match cursor.slot {
            Some(slot) if slot >= base => slot - base,
            _ => {
                let slot = self.hold(&cursor.batch);
                cursor.slot = Some(base + slot);
                slot
            }
        };
        self.pick(slot, cursor.row);
    }

    /// Rows of this batch may be picked; gives its slot.
    fn hold(&mut self, batch: &RecordBatch) -> usize {
        self.weights.push(batch.get_array_memory_size() / batch.num_rows().max(1));
        self.batches.push(batch.clone());
        self.batches.len() - 1
    }

    fn pick(&mut self, slot: usize, row: usize) {
        self.bytes += self.weights[slot];
        self.indices.push((slot, row));
    }

    fn is_full(&self) -> bool {
        self.indices.len() >= CHUNK || self.bytes >= CHUNK_BYTES
    }

    fn write(&mut self, writer: &mut FileWriter) -> Result<(), SinkError> {
        if self.indices.is_empty() {
            return Ok(());
        }
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        let rows = interleave_record_batch(&batches, &self.indices).map_err(broken)?;
        writer.write(&rows)?;
        self.weights.clear();
        self.bytes = 0;
        self.batches.clear();
        self.indices.clear();
        self.number += 1;
        Ok(())
    }
}

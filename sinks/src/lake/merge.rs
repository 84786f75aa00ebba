//! Sorted files of one day become one sorted file.
//!
//! In memory are the inputs as they lie in the store, a thousand decoded rows of each or about a megabyte, and the file that is
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
use parquet::{
    arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    errors::ParquetError,
    file::{
        metadata::{PageIndexPolicy, SortingColumn},
        page_index::offset_index::OffsetIndexMetaData,
    },
};

use super::{
    encoding::{self, Writing},
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
        let builder = open(content);
        opened.push((builder.map_err(|error| unreadable(&path, &error))?, path));
    }
    let schemas: Vec<SchemaRef> = opened.iter().map(|(builder, _)| Arc::clone(builder.schema())).collect();
    let layout = layout(&union(&schemas, columns)?)?;
    // Files of a program that sorted otherwise are merged as well as they can be, and the result claims nothing.
    let is_sorted = opened.iter().all(|(builder, _)| is_sorted(builder, &layout));
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
    let mut writer = FileWriter::new(layout.clone(), how, is_sorted)?;
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

/// With what it says of its pages.
fn open(content: Bytes) -> Result<ParquetRecordBatchReaderBuilder<Bytes>, ParquetError> {
    let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
    ParquetRecordBatchReaderBuilder::try_new_with_options(content, options)
}

/// As many rows as are about [`DECODED`] bytes where the file's rows are widest. A dictionary holds a text once, and decoded
/// it is there in each row: what counts is its length, and not what it takes in the file.
fn rows_at_once(file: &ParquetRecordBatchReaderBuilder<Bytes>) -> usize {
    let mut widest = 1;
    for (number, group) in file.metadata().row_groups().iter().enumerate() {
        let rows = group.num_rows().max(1);
        let pages = file.metadata().offset_index().and_then(|index| index.get(number));
        let texts = group.columns().iter().enumerate().map(|(column, chunk)| {
            let of_pages = pages.and_then(|pages| widest_page(pages.get(column)?, rows));
            of_pages.or_else(|| Some(chunk.unencoded_byte_array_data_bytes()? / rows)).unwrap_or(0)
        });
        let numbers = 8 * group.columns().len() as i64;
        widest = widest.max(numbers + texts.sum::<i64>()).max(group.total_byte_size() / rows);
    }
    (DECODED / widest).clamp(1, ROWS as i64) as usize
}

/// Bytes of text in a row, in the page where they are most.
fn widest_page(pages: &OffsetIndexMetaData, rows: i64) -> Option<i64> {
    let texts = pages.unencoded_byte_array_data_bytes()?;
    let begins = pages.page_locations().iter().map(|page| page.first_row_index);
    let ends = begins.clone().skip(1).chain([rows]);
    texts.iter().zip(begins.zip(ends)).map(|(bytes, (begin, end))| bytes / (end - begin).max(1)).max()
}

fn unreadable(path: &str, error: &dyn std::fmt::Display) -> SinkError {
    SinkError::Fatal(format!("lake file {path} cannot be read: {error}"))
}

/// Whether the file says that its rows are in the order of `layout`. It may have fewer columns, and names them by number.
fn is_sorted(file: &ParquetRecordBatchReaderBuilder<Bytes>, layout: &Layout) -> bool {
    let named = |columns: &[SortingColumn], schema: &Schema| -> Vec<Option<String>> {
        let name = |column: &SortingColumn| {
            schema.fields().get(column.column_idx as usize).map(|field| field.name().clone())
        };
        columns.iter().map(name).collect()
    };
    let wanted = named(&encoding::order(layout), &layout.schema);
    file.metadata()
        .row_groups()
        .iter()
        .all(|group| group.sorting_columns().is_some_and(|columns| named(columns, file.schema()) == wanted))
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
    series: Vec<String>,
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
    series: Vec<StringArray>,
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
        let Some(cursor) = &self.cursor else {
            return Head { agent: String::new(), series: Vec::new(), time: i64::MAX, tie: i64::MAX, input };
        };
        let (agent, time, tie) = cursor.key();
        let series = cursor.series().map(str::to_owned).collect();
        Head { agent: agent.to_owned(), series, time, tie, input }
    }

    fn is_behind(&self, head: &Head) -> bool {
        let Some(cursor) = &self.cursor else { return false };
        let (agent, time, tie) = cursor.key();
        let order = agent
            .cmp(head.agent.as_str())
            .then_with(|| cursor.series().cmp(head.series.iter().map(String::as_str)))
            .then_with(|| (time, tie).cmp(&(head.time, head.tie)));
        order.is_gt()
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
        let texts = |column: &usize| batch.column(*column).as_string_opt::<i32>().cloned();
        let series = layout.series.iter().filter_map(texts).collect();
        let (times, ties) = (whole(layout.time)?, whole(layout.tie)?);
        Ok(Self { batch, agents, series, times, ties, row: 0, slot: None })
    }

    fn key(&self) -> (&str, i64, i64) {
        let number = |numbers: &Int64Array| column::number(numbers, self.row).unwrap_or(i64::MIN);
        (text(&self.agents, self.row), number(&self.times), number(&self.ties))
    }

    fn series(&self) -> impl Iterator<Item = &str> {
        self.series.iter().map(|texts| text(texts, self.row))
    }
}

fn text(texts: &StringArray, row: usize) -> &str {
    if texts.is_null(row) { "" } else { texts.value(row) }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use schemas::{family::Family, record::RecordKind};

    use super::{
        super::{
            dates::Believable,
            shape::{Content, Shape},
        },
        *,
    };

    /// Files of an earlier version are sorted otherwise: no reader may be told that their rows are in order.
    #[test]
    fn a_merge_claims_an_order_only_if_all_of_its_files_have_it() {
        let how = Writing {
            row_group_rows: 100,
            zstd_level: 1,
            believable: Believable::new(Duration::from_hours(1), Duration::from_hours(1)),
        };
        let layout = Shape::new(Content::Kind(RecordKind::Family(Family::HostMetrics))).unwrap().layout();
        let columns =
            layout.schema.fields().iter().map(|field| new_null_array(field.data_type(), 3)).collect();
        let rows = RecordBatch::try_new(Arc::clone(&layout.schema), columns).unwrap();
        let names: Vec<String> = layout.schema.fields().iter().map(|field| field.name().clone()).collect();
        let file = |is_sorted: bool| {
            let mut writer = FileWriter::new(layout.clone(), &how, is_sorted).unwrap();
            writer.write(&rows).unwrap();
            let content = writer.finish("2025-11-21".to_owned()).unwrap().content;
            ("f".to_owned(), Bytes::from(content))
        };
        for (second, claims) in [(true, true), (false, false)] {
            let merged = merge(vec![file(true), file(second)], &names, "2025-11-21", &how).unwrap();
            assert_eq!(merged.rows, 6);
            let read = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(merged.content)).unwrap();
            assert_eq!(read.metadata().row_group(0).sorting_columns().is_some(), claims);
        }
    }
}

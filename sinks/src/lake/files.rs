//! Rows held in memory become sorted Parquet files, one for each day.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray},
    compute::interleave_record_batch,
    datatypes::{DataType, Int32Type},
};
use bytes::Bytes;
use chrono::DateTime;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, Encoding, ZstdLevel},
    file::{
        metadata::SortingColumn,
        properties::{WriterProperties, WriterVersion},
    },
    schema::types::ColumnPath,
};
use sha2::{Digest, Sha256};

use super::{
    dates::{self, Believable},
    shape::{PARTITION, Shape},
};
use crate::{SinkError, batch::Rows, column};

/// Rows handed to the Parquet writer at once.
const CHUNK: usize = 8192;
/// Longest text that goes into the statistics of the log.
const LONGEST_STATISTIC: usize = 64;
/// Numbers that hardly repeat but grow: differences are smaller than a dictionary.
const GROWING: [&str; 6] = ["event_time", "received_at", "sent_at", "seq", "window_start", "offset"];

/// How files are written.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    pub(super) row_group_rows: usize,
    pub(super) zstd_level: i32,
    pub(super) believable: Believable,
}

/// A finished file, not yet stored.
#[derive(Debug, Clone)]
pub(super) struct DataFile {
    /// Path below the table.
    pub(super) path: String,
    /// `YYYY-MM-DD`.
    pub(super) day: String,
    pub(super) rows: usize,
    pub(super) content: Bytes,
    /// Lowercase hexadecimal.
    pub(super) sha256: String,
    /// Statistics as the Delta log keeps them.
    pub(super) statistics: String,
}

/// A row's place in the order of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    day: i32,
    agent: u32,
    time: i64,
    tie: i64,
    batch: u32,
    row: u32,
    by_arrival: bool,
}

/// Sorts all rows by day, agent, time and number, and writes one file a day. Only CPU, no I/O.
pub(super) fn write(shape: &Shape, rows: &[Rows], how: &Writing) -> Result<Vec<DataFile>, SinkError> {
    let (keys, agents) = order(shape, rows, how.believable)?;
    let batches: Vec<&RecordBatch> = rows.iter().map(|rows| &rows.batch).collect();
    let properties = properties(shape, how)?;
    keys.chunk_by(|a, b| a.day == b.day)
        .map(|day| write_day(shape, day, &agents, &batches, properties.clone()))
        .collect()
}

fn broken(error: impl std::fmt::Display) -> SinkError {
    SinkError::Fatal(format!("cannot write Parquet: {error}"))
}

fn properties(shape: &Shape, how: &Writing) -> Result<WriterProperties, SinkError> {
    let level = ZstdLevel::try_new(how.zstd_level).map_err(broken)?;
    let ascending =
        |column: usize| SortingColumn { column_idx: column as i32, descending: false, nulls_first: true };
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(how.row_group_rows))
        .set_dictionary_enabled(true)
        .set_sorting_columns(Some(vec![ascending(shape.agent), ascending(shape.time), ascending(shape.tie)]))
        .set_created_by("varta".to_owned());
    for field in shape.schema.fields() {
        if GROWING.contains(&field.name().as_str()) && *field.data_type() != DataType::Int32 {
            let path = ColumnPath::from(field.name().as_str());
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        }
    }
    Ok(properties.build())
}

fn write_day(
    shape: &Shape,
    keys: &[Key],
    agents: &[String],
    batches: &[&RecordBatch],
    properties: WriterProperties,
) -> Result<DataFile, SinkError> {
    let schema = shape.file_schema();
    let mut writer =
        ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties)).map_err(broken)?;
    let mut indices = Vec::with_capacity(CHUNK);
    for chunk in keys.chunks(CHUNK) {
        indices.clear();
        indices.extend(chunk.iter().map(|key| (key.batch as usize, key.row as usize)));
        let sorted = interleave_record_batch(batches, &indices).map_err(broken)?;
        let mut columns = sorted.columns().to_vec();
        let marks: BooleanArray = chunk.iter().map(|key| key.by_arrival.then_some(true)).collect();
        columns.push(Arc::new(marks));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(broken)?;
        writer.write(&batch).map_err(broken)?;
    }
    let content = Bytes::from(writer.into_inner().map_err(broken)?);
    let day = dates::text(keys.first().map_or(0, |key| key.day));
    Ok(DataFile {
        path: format!("{PARTITION}={day}/part-00000-{}-c000.zstd.parquet", uuid::Uuid::now_v7()),
        rows: keys.len(),
        sha256: hex(&Sha256::digest(&content)),
        statistics: statistics(shape, keys, agents),
        content,
        day,
    })
}

/// Lowercase hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The order of all rows, and the agents by rank.
fn order(shape: &Shape, rows: &[Rows], believable: Believable) -> Result<(Vec<Key>, Vec<String>), SinkError> {
    let mut names: HashMap<&str, u32> = HashMap::new();
    let mut keys = Vec::with_capacity(rows.iter().map(|rows| rows.places.len()).sum());
    for (number, rows) in rows.iter().enumerate() {
        let agents: &StringArray = rows.batch.column(shape.agent).as_string();
        let times = numbers(rows, shape.time)?;
        let ties = numbers(rows, shape.tie)?;
        let arrivals = shape.arrival.map(|column| numbers(rows, column)).transpose()?;
        let mut last: Option<(&str, u32)> = None;
        for (row, place) in rows.places.iter().enumerate() {
            let agent = if agents.is_null(row) { "" } else { agents.value(row) };
            let agent = match last {
                Some((name, id)) if name == agent => id,
                _ => {
                    let fresh = names.len() as u32;
                    let id = *names.entry(agent).or_insert(fresh);
                    last = Some((agent, id));
                    id
                }
            };
            let logged = place.timestamp.saturating_mul(1000);
            let arrival = arrivals.as_ref().and_then(|a| column::number(a, row)).unwrap_or(logged);
            let time = column::number(&times, row).unwrap_or(arrival);
            let (day, by_arrival) = believable.day(time, arrival);
            keys.push(Key {
                day,
                agent,
                time,
                tie: column::number(&ties, row).unwrap_or(0),
                batch: number as u32,
                row: row as u32,
                by_arrival,
            });
        }
    }
    let mut by_name: Vec<(&str, u32)> = names.into_iter().collect();
    by_name.sort_unstable();
    let mut rank = vec![0; by_name.len()];
    for (place, (_, id)) in by_name.iter().enumerate() {
        rank[*id as usize] = place as u32;
    }
    for key in &mut keys {
        key.agent = rank[key.agent as usize];
    }
    keys.sort_unstable();
    Ok((keys, by_name.into_iter().map(|(name, _)| name.to_owned()).collect()))
}

fn numbers(rows: &Rows, index: usize) -> Result<Int64Array, SinkError> {
    let array = rows.batch.column(index);
    if let Some(longs) = column::as_long(array) {
        return Ok(longs);
    }
    match array.as_primitive_opt::<Int32Type>() {
        Some(ints) => Ok(ints.unary(i64::from)),
        None => Err(broken(format!("column {index} is not a number"))),
    }
}

/// Bounds of the columns that files are sorted by; readers skip files by them.
fn statistics(shape: &Shape, keys: &[Key], agents: &[String]) -> String {
    let mut least = serde_json::Map::new();
    let mut most = serde_json::Map::new();
    let name = |column: usize| shape.schema.field(column).name().clone();
    let bounds = |of: fn(&Key) -> i64| {
        let values = || keys.iter().map(of);
        values().min().zip(values().max())
    };
    if let (Some(first), Some(last)) = (keys.first(), keys.last()) {
        let (first, last) = (&agents[first.agent as usize], &agents[last.agent as usize]);
        if !first.is_empty() && first.len().max(last.len()) <= LONGEST_STATISTIC {
            least.insert(name(shape.agent), first.as_str().into());
            most.insert(name(shape.agent), last.as_str().into());
        }
    }
    if let Some((low, high)) = bounds(|key| key.time)
        && let (Some(low), Some(high)) = (time_text(low), time_text(high))
    {
        least.insert(name(shape.time), low.into());
        most.insert(name(shape.time), high.into());
    }
    if let Some((low, high)) = bounds(|key| key.tie) {
        least.insert(name(shape.tie), low.into());
        most.insert(name(shape.tie), high.into());
    }
    serde_json::json!({ "numRecords": keys.len(), "minValues": least, "maxValues": most, "nullCount": {} })
        .to_string()
}

/// As the Delta log writes times; `None` outside the years 0 to 9999.
fn time_text(micros: i64) -> Option<String> {
    let text = DateTime::from_timestamp_micros(micros)?.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    (text.len() == "2025-11-21T00:00:00.000000Z".len()).then_some(text)
}

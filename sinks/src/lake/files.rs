//! Finished Parquet files: sorted rows in, one file with its hash and statistics out. Only CPU, no I/O.

use std::{
    io::{self, Write},
    ops::Range,
    sync::Arc,
};

use arrow::{
    array::{AsArray as _, BooleanArray, RecordBatch},
    compute::{interleave_record_batch, max, max_string, min, min_string},
};
use bytes::Bytes;
use chrono::DateTime;
use object_store::PutPayload;
use parquet::arrow::ArrowWriter;
use sha2::{Digest, Sha256};

use super::{
    dates,
    encoding::{self, Writing},
    order::Ordered,
    shape::{Layout, PARTITION, Shape},
};
use crate::{SinkError, column};

/// Rows handed to the Parquet writer at once, at most …
pub(super) const CHUNK: usize = 8192;
/// … and about so many bytes: wide rows must not be in memory a second time.
pub(super) const CHUNK_BYTES: usize = 2 << 20;
/// Longest text that goes into the statistics of the log.
const LONGEST_STATISTIC: usize = 64;

/// A finished file, not yet stored.
#[derive(Debug, Clone)]
pub(super) struct DataFile {
    /// Path below the table.
    pub(super) path: String,
    /// `YYYY-MM-DD`.
    pub(super) day: String,
    pub(super) rows: usize,
    pub(super) content: PutPayload,
    /// Lowercase hexadecimal.
    pub(super) sha256: String,
    /// Statistics as the Delta log keeps them.
    pub(super) statistics: String,
}

pub(super) fn broken(error: impl std::fmt::Display) -> SinkError {
    SinkError::Fatal(format!("cannot write Parquet: {error}"))
}

/// Writes the rows of one day, which are a range of the order.
pub(super) fn write_day(
    shape: &Shape,
    ordered: &Ordered,
    day: Range<usize>,
    how: &Writing,
) -> Result<DataFile, SinkError> {
    let layout = shape.layout();
    let keys = &ordered.keys[day];
    let batches: Vec<&RecordBatch> = ordered.batches.iter().collect();
    let mut writer = FileWriter::new(layout.clone(), how, true)?;
    let bytes: usize = batches.iter().map(|batch| batch.get_array_memory_size()).sum();
    let rows_at_once = (CHUNK_BYTES / (bytes / ordered.keys.len().max(1)).max(1)).clamp(64, CHUNK);
    let mut indices = Vec::with_capacity(rows_at_once);
    for chunk in keys.chunks(rows_at_once) {
        indices.clear();
        indices.extend(chunk.iter().map(|key| (key.batch as usize, key.row as usize)));
        let sorted = interleave_record_batch(&batches, &indices).map_err(broken)?;
        let mut columns = sorted.columns().to_vec();
        let marks: BooleanArray = chunk.iter().map(|key| key.by_arrival.then_some(true)).collect();
        columns.push(Arc::new(marks));
        let batch = RecordBatch::try_new(Arc::clone(&layout.schema), columns).map_err(broken)?;
        writer.write(&batch)?;
    }
    writer.finish(dates::text(keys.first().map_or(0, |key| key.day)))
}

/// A file that is being written, in memory.
pub(super) struct FileWriter {
    writer: ArrowWriter<Pieces>,
    layout: Layout,
    rows: usize,
    bounds: Bounds,
}

impl FileWriter {
    /// `is_sorted`: what will be written is in the table's order.
    pub(super) fn new(layout: Layout, how: &Writing, is_sorted: bool) -> Result<Self, SinkError> {
        let properties = encoding::properties(&layout, how, is_sorted)?;
        let writer = ArrowWriter::try_new(Pieces::default(), Arc::clone(&layout.schema), Some(properties));
        Ok(Self { writer: writer.map_err(broken)?, layout, rows: 0, bounds: Bounds::default() })
    }

    /// Appends rows.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        self.bounds.extend(&self.layout, batch);
        self.rows += batch.num_rows();
        self.writer.write(batch).map_err(broken)
    }

    /// Ends the file. `day` as `YYYY-MM-DD`.
    pub(super) fn finish(self, day: String) -> Result<DataFile, SinkError> {
        let pieces = self.writer.into_inner().map_err(broken)?.finish();
        let mut hash = Sha256::new();
        for piece in &pieces {
            hash.update(piece);
        }
        Ok(DataFile {
            path: format!("{PARTITION}={day}/part-00000-{}-c000.zstd.parquet", uuid::Uuid::now_v7()),
            rows: self.rows,
            sha256: hex(&hash.finalize()),
            statistics: self.bounds.statistics(&self.layout, self.rows),
            content: pieces.into_iter().collect(),
            day,
        })
    }
}

/// Bytes of a piece of a file in memory.
const PIECE: usize = 1 << 20;

/// A file's bytes in pieces: one that grew as a whole would be there twice each time that it moves.
#[derive(Default)]
struct Pieces {
    full: Vec<Bytes>,
    last: Vec<u8>,
}

impl Pieces {
    fn finish(mut self) -> Vec<Bytes> {
        self.last.shrink_to_fit();
        self.full.push(self.last.into());
        self.full
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.last.len() == PIECE {
            self.full.push(std::mem::take(&mut self.last).into());
        }
        if self.last.capacity() == 0 {
            self.last.reserve_exact(PIECE);
        }
        let many = bytes.len().min(PIECE - self.last.len());
        self.last.extend_from_slice(&bytes[..many]);
        Ok(many)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Least and greatest values of the columns that files are sorted by; readers skip files by them.
#[derive(Default)]
struct Bounds {
    agent: Option<(String, String)>,
    time: Option<(i64, i64)>,
    tie: Option<(i64, i64)>,
}

impl Bounds {
    fn extend(&mut self, layout: &Layout, batch: &RecordBatch) {
        if let Some(agents) = batch.column(layout.agent).as_string_opt::<i32>()
            && let (Some(low), Some(high)) = (min_string(agents), max_string(agents))
        {
            self.agent = Some(match self.agent.take() {
                None => (low.to_owned(), high.to_owned()),
                Some((least, most)) => (
                    if low < least.as_str() { low.to_owned() } else { least },
                    if high > most.as_str() { high.to_owned() } else { most },
                ),
            });
        }
        for (index, bound) in [(layout.time, &mut self.time), (layout.tie, &mut self.tie)] {
            if let Some(values) = column::as_whole(batch.column(index))
                && let (Some(low), Some(high)) = (min(&values), max(&values))
            {
                *bound = Some(bound.map_or((low, high), |(least, most)| (least.min(low), most.max(high))));
            }
        }
    }

    fn statistics(&self, layout: &Layout, rows: usize) -> String {
        let (mut least, mut most) = (serde_json::Map::new(), serde_json::Map::new());
        let mut bound = |column: usize, low: serde_json::Value, high: serde_json::Value| {
            let name = layout.schema.field(column).name();
            least.insert(name.clone(), low);
            most.insert(name.clone(), high);
        };
        if let Some((low, high)) = &self.agent
            && low.len().max(high.len()) <= LONGEST_STATISTIC
        {
            bound(layout.agent, low.as_str().into(), high.as_str().into());
        }
        if let Some((low, high)) = self.time
            && let (Some(low), Some(high)) = (time_text(low), time_text(high))
        {
            bound(layout.time, low.into(), high.into());
        }
        if let Some((low, high)) = self.tie {
            bound(layout.tie, low.into(), high.into());
        }
        serde_json::json!({ "numRecords": rows, "minValues": least, "maxValues": most, "nullCount": {} })
            .to_string()
    }
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

/// As the Delta log writes times; `None` outside the years 0 to 9999.
fn time_text(micros: i64) -> Option<String> {
    let text = DateTime::from_timestamp_micros(micros)?.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    (text.len() == "2025-11-21T00:00:00.000000Z".len()).then_some(text)
}

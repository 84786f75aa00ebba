//! What the runner hands to a sink: rows of one topic, as Arrow, each with its place in the log.

use std::sync::Arc;

use arrow::{
    array::{Array as _, BooleanArray, RecordBatch, RecordBatchOptions},
    compute::filter_record_batch,
    error::ArrowError,
};
use bytes::Bytes;
use eventlog::Record;
use schemas::record::RecordKind;

/// Rows of one topic, read in one go.
#[derive(Debug)]
pub struct Batch {
    /// The topic.
    pub topic: Arc<str>,
    /// Which offsets of which partitions were read, whatever became of the records.
    pub spans: Vec<Span>,
    /// The decoded rows, by kind of record.
    pub rows: Vec<Rows>,
    /// Records that are no Avro of ours.
    pub poison: Vec<Poison>,
    /// The records themselves, of a topic that is taken as it is (late, dead letters).
    pub plain: Vec<Record>,
}

/// A half-open range of offsets of one partition. Consecutive spans of a partition touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The partition.
    pub partition: i32,
    /// First offset covered: where reading went on.
    pub from: i64,
    /// The offset to go on from.
    pub to: i64,
}

/// A row's place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Partition of the batch's topic.
    pub partition: i32,
    /// Offset of the record.
    pub offset: i64,
    /// Time that Kafka keeps for the record, in ms.
    pub timestamp: i64,
}

/// Rows of one kind of record. `places` is as long as `batch`.
#[derive(Debug, Clone)]
pub struct Rows {
    /// What the rows are; `None` for records taken as they are.
    pub kind: Option<RecordKind>,
    /// The columns.
    pub batch: RecordBatch,
    /// Where each row stands in the log.
    pub places: Arc<[Place]>,
}

/// A record that could not be decoded.
#[derive(Debug, Clone)]
pub struct Poison {
    /// Where it stands.
    pub place: Place,
    /// What the decoder said.
    pub reason: String,
    /// The record's key.
    pub key: Option<Bytes>,
    /// The record's bytes.
    pub original: Bytes,
    /// The record's headers.
    pub headers: Vec<(String, Bytes)>,
}

impl Rows {
    /// Only the rows whose place is wanted; `self` unchanged when all are.
    pub fn keep(self, wanted: impl Fn(&Place) -> bool) -> Result<Self, ArrowError> {
        let mask: Vec<bool> = self.places.iter().map(wanted).collect();
        if mask.iter().all(|keep| *keep) { Ok(self) } else { self.masked(mask) }
    }

    /// The rows that are wanted, and the others; each `None` when there are none. `wanted` is as long as the batch.
    pub fn parted(self, wanted: Vec<bool>) -> Result<(Option<Self>, Option<Self>), ArrowError> {
        if wanted.iter().all(|want| *want) {
            return Ok((Some(self), None));
        }
        if wanted.iter().all(|want| !*want) {
            return Ok((None, Some(self)));
        }
        let others = wanted.iter().map(|want| !*want).collect();
        let rest = self.clone().masked(others)?;
        Ok((Some(self.masked(wanted)?), Some(rest)))
    }

    fn masked(self, mask: Vec<bool>) -> Result<Self, ArrowError> {
        let places = self.places.iter().zip(&mask).filter(|(_, keep)| **keep).map(|(p, _)| *p);
        Ok(Self {
            kind: self.kind,
            places: places.collect(),
            batch: filter_record_batch(&self.batch, &BooleanArray::from(mask))?,
        })
    }

    /// The same rows in buffers that are no larger than they must be. The decoder begins each column with room for
    /// a thousand rows and doubles it: a batch of ten rows with forty columns would keep 300 KiB alive.
    pub fn compact(self) -> Result<Self, ArrowError> {
        let (schema, mut columns, rows) = self.batch.into_parts();
        for column in &mut columns {
            column.shrink_to_fit();
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
        Ok(Self { kind: self.kind, batch, places: self.places })
    }

    /// Bytes held in memory.
    pub fn memory(&self) -> usize {
        self.batch.get_array_memory_size() + self.places.len() * size_of::<Place>()
    }
}

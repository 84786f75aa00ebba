//! The log between the jobs `normalise` and `detect`: every record of raw that could be read, in its order.
//!
//! An event that goes on is there as it was normalised. One that does not (a repetition, or a row that says nothing) is
//! there as it was received, with a header that says why: `detect` must hear of it all the same, for it tells that the
//! agent is alive, and its number is no hole. Clock records carry their append time in raw, for that is what time is.
//! So `detect` scans the same rows in the same order as the fused job does, and comes to the same results.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use bytes::Bytes;
use eventlog::batches::Group;
use eventlog::{NewRecord, Record};
use schemas::headers::clean as headers;
use schemas::record::RecordKind;

use super::outputs::fatal;
use super::scan::Picked;
use crate::engine::{JobError, Output};
use crate::normalise::Normalised;

/// Why an event does not go on.
const DROPPED: Bytes = Bytes::from_static(b"dropped");

/// The clean records of one micro-batch, gathered by their place in it.
pub(super) struct CleanRecords {
    topic: Arc<str>,
    /// By record of the micro-batch; `None` for what is not passed on.
    values: Vec<Option<Clean>>,
}

#[derive(Clone)]
struct Clean {
    value: Bytes,
    header: Option<(&'static str, Bytes)>,
}

impl CleanRecords {
    /// All that could be read, as if nothing went on.
    pub(super) fn new(topic: Arc<str>, records: &[Record], groups: &[Group]) -> Self {
        let mut values = vec![None; records.len()];
        for group in groups {
            for at in &group.rows {
                let record = &records[*at as usize];
                let header = match group.kind {
                    RecordKind::Family(_) => Some((headers::DROPPED, DROPPED)),
                    RecordKind::Clock => {
                        Some((headers::APPENDED_AT, Bytes::from(record.timestamp.to_string())))
                    }
                    RecordKind::Rejected => None,
                    _ => continue,
                };
                values[*at as usize] = record.value.clone().map(|value| Clean { value, header });
            }
        }
        Self { topic, values }
    }

    /// The event of record `at` goes on as `value`.
    pub(super) fn passes(&mut self, at: u32, value: Bytes) {
        self.values[at as usize] = Some(Clean { value, header: None });
    }

    /// Sends them in their order, each to the partition that it came from.
    pub(super) fn send(self, records: &[Record], output: &mut Output<'_>) -> Result<(), JobError> {
        for (record, value) in records.iter().zip(self.values) {
            let Some(Clean { value, header }) = value else { continue };
            output.send(NewRecord {
                topic: Arc::clone(&self.topic),
                partition: Some(record.partition),
                key: record.key.clone(),
                value: Some(value),
                headers: header.map(|(name, text)| (name.to_owned(), text)).into_iter().collect(),
            })?;
        }
        Ok(())
    }
}

/// Clean records with the timestamps that they had in raw.
pub(super) fn with_raw_times(records: &[Record]) -> Cow<'_, [Record]> {
    let appended = |record: &Record| -> Option<i64> {
        std::str::from_utf8(record.header(headers::APPENDED_AT)?).ok()?.parse().ok()
    };
    let mut restored = Cow::Borrowed(records);
    for (at, record) in records.iter().enumerate() {
        if let Some(timestamp) = appended(record) {
            restored.to_mut()[at].timestamp = timestamp;
        }
    }
    restored
}

/// Rows that were normalised before: what goes on of those that were picked.
pub(super) fn normalised(group: &Group, picked: &Picked, records: &[Record]) -> Result<Normalised, JobError> {
    let goes_on = |row: &u32| records[group.rows[*row as usize] as usize].header(headers::DROPPED).is_none();
    let kept: Vec<u32> =
        (0..picked.rows.len() as u32).filter(|at| goes_on(&picked.rows[*at as usize])).collect();
    let rows: UInt32Array = kept.iter().map(|at| picked.rows[*at as usize]).collect();
    let batch: RecordBatch = take_record_batch(&group.batch, &rows).map_err(fatal)?;
    Ok(Normalised { batch, kept, dropped: Vec::new() })
}

//! Reads what agents say about their sequences and time out of `agent_status` rows.

use arrow::array::{Array, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::TimestampMicrosecondType;
use schemas::identity::Lane;
use schemas::status::{LaneMark, Tails};

use crate::event_time::Status;

/// The columns of a batch of `agent_status` that the scan needs.
pub(super) struct StatusColumns<'a> {
    batch: &'a RecordBatch,
}

impl<'a> StatusColumns<'a> {
    pub(super) fn new(batch: &'a RecordBatch) -> Self {
        Self { batch }
    }

    /// What row `row` of session `session` says. Texts that cannot be read say nothing: the event itself is
    /// kept as it is.
    pub(super) fn read(&self, row: usize, session: i64) -> Status {
        let previous = self.long("previous_session", row);
        let tails = self.json::<Tails>("tails", row);
        let marks = self.json::<Vec<LaneMark>>("marks", row).unwrap_or_default();
        let shed = self.text("shed_lane", row).and_then(Lane::parse).and_then(|lane| {
            let (from, to) = (self.long("shed_from", row)?, self.long("shed_to", row)?);
            // An outbox may shed what an earlier session left in it.
            Some((previous.unwrap_or(session), lane, from, to))
        });
        Status {
            tails: previous.zip(tails).map(|(previous, tails)| (previous, tails.into_iter().collect())),
            marks: marks.into_iter().map(|mark| (mark.lane, mark.seq, mark.time)).collect(),
            lanes: self.json::<Vec<Lane>>("lanes", row),
            interval: self.double("interval_s", row).map(|seconds| (seconds * 1e6) as i64),
            oldest: self.timestamp("oldest_event_time", row),
            shed,
        }
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str, row: usize) -> Option<T> {
        let text = self.text(name, row)?;
        serde_json::from_str(text)
            .inspect_err(|error| tracing::warn!(column = name, %error, "agent_status text cannot be read"))
            .ok()
    }

    fn text(&self, name: &str, row: usize) -> Option<&'a str> {
        let column = self.batch.column_by_name(name)?.as_any().downcast_ref::<StringArray>()?;
        column.is_valid(row).then(|| column.value(row))
    }

    fn long(&self, name: &str, row: usize) -> Option<i64> {
        let column = self.batch.column_by_name(name)?.as_any().downcast_ref::<Int64Array>()?;
        column.is_valid(row).then(|| column.value(row))
    }

    fn double(&self, name: &str, row: usize) -> Option<f64> {
        let column = self.batch.column_by_name(name)?.as_any().downcast_ref::<Float64Array>()?;
        column.is_valid(row).then(|| column.value(row))
    }

    fn timestamp(&self, name: &str, row: usize) -> Option<i64> {
        let column = self.batch.column_by_name(name)?.as_primitive_opt::<TimestampMicrosecondType>()?;
        column.is_valid(row).then(|| column.value(row))
    }
}

//! Reads what agents say about their sequences and time out of `agent_status` rows.

use arrow::array::{Array, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::TimestampMicrosecondType;
use schemas::event::event_type;
use schemas::identity::Lane;
use schemas::status::{LaneMark, Tails};
use schemas::translate::MAX_NUMBER;

use crate::event_time::Status;

/// No agent reports more rarely than once a day, in s.
const LONGEST_INTERVAL: f64 = 86_400.0;

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
            if from < 0 || from > to || to > MAX_NUMBER {
                tracing::warn!(from, to, "a range of shed numbers that cannot be is passed over");
                return None;
            }
            // An outbox may shed what an earlier session left in it.
            Some((previous.unwrap_or(session), lane, from, to))
        });
        Status {
            tails: previous.zip(tails).map(|(previous, tails)| (previous, tails.into_iter().collect())),
            marks: marks.into_iter().map(|mark| (mark.lane, mark.seq, mark.time)).collect(),
            lanes: self.json::<Vec<Lane>>("lanes", row),
            interval: self
                .double("interval_s", row)
                .filter(|seconds| *seconds > 0.0)
                .map(|seconds| (seconds.min(LONGEST_INTERVAL) * 1e6) as i64),
            is_health: self.text("event_type", row) == Some(event_type::AGENT_HEALTH),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::ArrayRef;

    use super::*;

    fn read(from: i64, to: i64, interval: f64) -> Status {
        let columns: [(&str, ArrayRef); 4] = [
            ("shed_lane", Arc::new(StringArray::from(vec!["bulk"]))),
            ("shed_from", Arc::new(Int64Array::from(vec![from]))),
            ("shed_to", Arc::new(Int64Array::from(vec![to]))),
            ("interval_s", Arc::new(Float64Array::from(vec![interval]))),
        ];
        StatusColumns::new(&RecordBatch::try_from_iter(columns).unwrap()).read(0, 5)
    }

    #[test]
    fn a_range_that_cannot_be_shed_says_nothing() {
        assert_eq!(read(0, 0, 1.0).shed, Some((5, Lane::Bulk, 0, 0)));
        assert_eq!(read(2, MAX_NUMBER, 1.0).shed, Some((5, Lane::Bulk, 2, MAX_NUMBER)));
        for (from, to) in [(3, 2), (-1, 4), (0, MAX_NUMBER + 1), (0, i64::MAX), (i64::MIN, i64::MAX)] {
            assert_eq!(read(from, to, 1.0).shed, None, "{from} to {to}");
        }
    }

    #[test]
    fn an_absurd_interval_is_bounded_or_says_nothing() {
        assert_eq!(read(0, 0, 2.5).interval, Some(2_500_000));
        for absurd in [1e300, 3e12, f64::INFINITY] {
            assert_eq!(read(0, 0, absurd).interval, Some(86_400_000_000));
        }
        for none in [f64::NAN, -1.0, 0.0] {
            assert_eq!(read(0, 0, none).interval, None);
        }
    }
}

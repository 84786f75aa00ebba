//! What a job that reads events sends for rules over the whole fleet.

use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use eventlog::NewRecord;
use schemas::record::RecordKind;
use schemas::topics::Topics;

use crate::engine::{JobError, Output};
use crate::event_time::Tracker;
use crate::jobs::outputs::{Encoders, fatal};
use crate::jobs::scan::text;
use crate::rules::fleet::{Origin, announcement};
use crate::rules::{Judge, RuleState};

/// Where such rows go.
pub(in crate::jobs) struct FleetSource {
    topic: Arc<str>,
    /// Partitions of that topic; every one hears how far this partition has come.
    partitions: i32,
    /// Partitions of the input.
    sources: i32,
}

impl FleetSource {
    /// `partitions` are those of the topic of fleet rows, `sources` those of the job's input.
    pub(in crate::jobs) fn new(topics: &Topics, partitions: i32, sources: i32) -> Self {
        Self { topic: topics.fleet(), partitions, sources }
    }

    fn origin(&self, source: i32, watermark: Option<i64>) -> Origin {
        Origin { source, sources: self.sources, watermark }
    }

    /// Sends what rules over the fleet got of the batch that `judge` was last given.
    pub(in crate::jobs) fn send(
        &self,
        judge: &mut Judge,
        batch: &RecordBatch,
        (source, state): (i32, &RuleState),
        encoders: &mut Encoders,
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        if !judge.watches_fleet() {
            return Ok(());
        }
        let origin = self.origin(source, state.source_watermark(source));
        let taken = judge.take_fleet(batch, origin).map_err(fatal)?;
        if taken.late > 0 {
            metrics::counter!("varta_processors_fleet_late_rows_total").increment(taken.late);
        }
        if taken.rows.num_rows() == 0 {
            return Ok(());
        }
        metrics::counter!("varta_processors_fleet_rows_total").increment(taken.rows.num_rows() as u64);
        let keys = text(&taken.rows, "group_key").map_err(fatal)?;
        for (row, value) in encoders.encode(RecordKind::FleetRow, &taken.rows)?.into_iter().enumerate() {
            let key = Bytes::copy_from_slice(keys.value(row).as_bytes());
            output.send(NewRecord::keyed(Arc::clone(&self.topic), key, value))?;
        }
        Ok(())
    }

    /// Announces at a minute of the log's clock how far this partition has come, if any rule is over the fleet.
    pub(in crate::jobs) fn announce(
        &self,
        judge: &Judge,
        tracker: &Tracker,
        (source, state): (i32, &mut RuleState),
        encoders: &mut Encoders,
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        if !judge.watches_fleet() {
            return Ok(());
        }
        let watermark = state.advance_source(source, self.sources, tracker.partition_watermark());
        let announced = announcement(self.origin(source, Some(watermark))).map_err(fatal)?;
        let values = encoders.encode(RecordKind::FleetRow, &announced)?;
        for value in values {
            for partition in 0..self.partitions {
                output.send(NewRecord {
                    topic: Arc::clone(&self.topic),
                    partition: Some(partition),
                    key: None,
                    value: Some(value.clone()),
                    headers: Vec::new(),
                })?;
            }
        }
        Ok(())
    }
}

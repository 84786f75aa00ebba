//! The job `normalise`: raw events in; events by family, and the log that the job `detect` reads.
//!
//! ```text
//! decode ─▶ scan (dedup, event time; row by row) ─▶ normalise ─┬─▶ events.<family>
//!   └▶ dlq                                                     └─▶ clean (see `clean`)
//! ```

use std::sync::Arc;

use eventlog::Record;
use eventlog::batches::BatchDecoder;
use schemas::record::RecordKind;

use super::clean::CleanRecords;
use super::core::CoreSetup;
use super::gauges::Gauges;
use super::outputs::{Events, dead_letters, fatal, registry_trouble};
use super::scan::Scan;
use crate::engine::operator::Operator;
use crate::engine::{Job, JobError, Output, PartitionState};
use crate::event_time::Tracker;

/// What dead letters name as their stage.
const NAME: &str = "normalise";

/// The job; see the module.
pub struct NormaliseJob {
    setup: CoreSetup,
    decoder: BatchDecoder,
    events: Events,
    clean: Arc<str>,
    dlq: Arc<str>,
}

/// State of one partition.
pub struct NormaliseState {
    tracker: Tracker,
    gauges: Gauges,
}

impl PartitionState for NormaliseState {
    fn operators(&mut self) -> Vec<&mut dyn Operator> {
        self.tracker.operators().into()
    }
}

impl NormaliseJob {
    /// Plans everything once. The rules of the setup are not used.
    pub fn new(setup: CoreSetup) -> Result<Self, JobError> {
        Ok(Self {
            decoder: BatchDecoder::new(Arc::clone(&setup.registry)),
            events: Events::new(setup.ids.clone(), &setup.topics)?,
            clean: setup.topics.clean(),
            dlq: setup.topics.dlq(),
            setup,
        })
    }
}

impl Job for NormaliseJob {
    type State = NormaliseState;

    fn open(&mut self, partition: i32) -> Result<NormaliseState, JobError> {
        let tracker = Tracker::new(self.setup.lateness, self.setup.hold);
        Ok(NormaliseState { tracker, gauges: Gauges::new(partition) })
    }

    fn process(
        &mut self,
        state: &mut NormaliseState,
        records: &[Record],
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        let decoded = self.decoder.decode(records).map_err(|error| registry_trouble(&error))?;
        dead_letters(NAME, &self.dlq, decoded.poison, records, output)?;
        let scan = Scan::new(records, &decoded.groups).map_err(fatal)?;
        let mut clean = CleanRecords::new(Arc::clone(&self.clean), records, &decoded.groups);
        let mut from = 0;
        while from < records.len() {
            let segment = scan.segment(&mut state.tracker, from, false);
            from = segment.end;
            metrics::counter!("varta_processors_duplicates_total").increment(segment.duplicates);
            for (group, picked) in decoded.groups.iter().zip(&segment.picked) {
                let RecordKind::Family(family) = group.kind else { continue };
                if picked.rows.is_empty() {
                    continue;
                }
                let (normalised, values) = self.events.send(family, group, picked, records, output)?;
                for (kept, value) in normalised.kept.iter().zip(values) {
                    clean.passes(picked.record(group, *kept), value);
                }
            }
            let tracker = &mut state.tracker;
            // What passes with time is told by `detect`, which scans the same rows.
            tracker.take_advanced();
            tracker.take_lost();
            for agent in tracker.take_expired() {
                let excess = tracker.forget(agent, i64::MIN);
                metrics::counter!("varta_processors_dropped_floors_total").increment(excess);
            }
            metrics::counter!("varta_processors_refused_claims_total").increment(tracker.take_refused());
        }
        state.gauges.show(&state.tracker, || 0);
        clean.send(records, output)
    }
}

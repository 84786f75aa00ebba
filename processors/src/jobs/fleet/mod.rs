//! The job `fleet`: rows for rules over the whole fleet in, by rule and group; alerts out.
//!
//! ```text
//! core or detect, each partition ─▶ fleet ─▶ windows of 5 m … 1 h, one ending at every minute ─▶ having ─▶ alerts
//! ```
//!
//! What a window holds was decided where the rows were read (see [`rules::fleet`](crate::rules::fleet)). A window ends
//! when all partitions of the input have announced a time past its end: a partition that is behind is waited for, one
//! that nobody is in announces the clock. Windows are closed once a commit, for which rows they hold does not depend on
//! when anybody looks.

mod source;
mod windows;

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use eventlog::Record;
use eventlog::batches::BatchDecoder;
use metrics::{Gauge, gauge};
use schemas::record::RecordKind;

pub(super) use self::source::FleetSource;
pub(super) use self::windows::{FleetPlan, FleetWindows};

use super::core::CoreSetup;
use super::outputs::{AlertsOut, Encoders, dead_letters, fatal, registry_trouble};
use super::scan::text;
use crate::engine::operator::Operator;
use crate::engine::{Job, JobError, Output, PartitionState, Share};
use crate::functions::Functions;
use crate::rules::fleet::announced;
use crate::rules::{RuleState, Rulebook};

/// What dead letters name as their stage.
const NAME: &str = "fleet";
/// What was held back is looked through when the watermark has moved so far, µs.
const SWEEP: i64 = 3_600_000_000;

/// The job; see the module.
pub struct FleetJob {
    decoder: BatchDecoder,
    encoders: Encoders,
    rules: Rulebook,
    plan: FleetPlan,
    alerts: AlertsOut,
    dlq: Arc<str>,
}

/// State of one partition.
pub struct FleetState {
    windows: FleetWindows,
    rules: RuleState,
    /// Up to where windows have been closed (µs); `None`: none has been.
    closed: Option<i64>,
    /// Whether it has taken any records since it was opened or restored.
    has_begun: bool,
    open: Gauge,
}

impl PartitionState for FleetState {
    fn operators(&mut self) -> Vec<&mut dyn Operator> {
        let mut operators: Vec<&mut dyn Operator> = self.windows.operators().collect();
        operators.extend(self.rules.operators());
        operators
    }
}

impl Drop for FleetState {
    fn drop(&mut self) {
        self.open.set(0.0);
    }
}

impl FleetJob {
    /// Plans everything once. Lateness and hold of the setup are not used: they were, where the rows come from.
    pub fn new(setup: &CoreSetup) -> Result<Self, JobError> {
        Ok(Self {
            decoder: BatchDecoder::new(Arc::clone(&setup.registry)),
            encoders: Encoders::new(setup.ids.clone()),
            rules: Rulebook::new(setup.rules.clone()).map_err(fatal)?,
            plan: FleetPlan::new(&Functions::new()).map_err(fatal)?,
            alerts: AlertsOut::new(&setup.topics),
            dlq: setup.topics.dlq(),
        })
    }

    fn rules_in_force(
        &mut self,
        state: &mut FleetState,
        records: &[Record],
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        let Some(first) = records.first() else { return Ok(()) };
        if self.rules.is_change_due(&state.rules) {
            // Windows that ended before are judged by the rules that held then.
            self.settle(state, Share::All, output)?;
        }
        let now = state.closed.unwrap_or_default();
        if let Some(change) = self.rules.open(&mut state.rules, first.offset, now).map_err(fatal)? {
            let (partition, offset) = (first.partition, first.offset);
            tracing::info!(
                rule_set = change.held.rule_set,
                partition,
                offset,
                "rules taken over by the fleet"
            );
            self.alerts.send(&change.alerts, &mut self.encoders, output)?;
        }
        Ok(())
    }
}

impl Job for FleetJob {
    type State = FleetState;

    fn open(&mut self, partition: i32) -> Result<FleetState, JobError> {
        let open = gauge!("varta_processors_fleet_open_rows", "partition" => partition.to_string());
        let windows = FleetWindows::new(&self.plan);
        Ok(FleetState { windows, rules: RuleState::new(partition), closed: None, has_begun: false, open })
    }

    fn process(
        &mut self,
        state: &mut FleetState,
        records: &[Record],
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        let decoded = self.decoder.decode(records).map_err(|error| registry_trouble(&error))?;
        dead_letters(NAME, &self.dlq, decoded.poison, records, output)?;
        // What was restored had been closed as far as its sources had come. Whatever they announce from now on has closed
        // nothing until the next commit does, however many batches come before it.
        if !std::mem::replace(&mut state.has_begun, true) {
            state.closed = state.rules.fleet_watermark();
        }
        self.rules_in_force(state, records, output)?;
        for group in decoded.groups.iter().filter(|group| group.kind == RecordKind::FleetRow) {
            take(state, &group.batch)?;
        }
        Ok(())
    }

    fn settle(
        &mut self,
        state: &mut FleetState,
        _: Share,
        output: &mut Output<'_>,
    ) -> Result<bool, JobError> {
        // Before anything is written down, what waits is made partial rows.
        state.windows.settle(&mut self.plan).map_err(fatal)?;
        state.open.set(state.windows.open() as f64);
        let watermark = state.rules.fleet_watermark();
        let Some(watermark) = watermark.filter(|now| state.closed.is_none_or(|closed| closed < *now)) else {
            return Ok(false);
        };
        if !self.rules.hold(&state.rules).map_err(fatal)? {
            return Ok(false);
        }
        let before = state.closed.replace(watermark).unwrap_or(i64::MIN);
        for ended in state.windows.close(&mut self.plan, before, watermark).map_err(fatal)? {
            let judge = self.rules.judge();
            let (alerts, orphans) = judge.windows_of_fleet(&ended, &mut state.rules).map_err(fatal)?;
            metrics::counter!("varta_processors_fleet_orphans_total").increment(orphans);
            self.alerts.send(&alerts, &mut self.encoders, output)?;
        }
        if before.div_euclid(SWEEP) != watermark.div_euclid(SWEEP) {
            self.rules.judge().sweep_fleet(&mut state.rules, watermark);
        }
        state.open.set(state.windows.open() as f64);
        Ok(false)
    }
}

/// Takes rows of the record `FleetRow` in their order: those of rules into windows, and how far sources have come.
fn take(state: &mut FleetState, batch: &RecordBatch) -> Result<(), JobError> {
    for (source, sources, watermark) in announced(batch).map_err(fatal)? {
        state.rules.advance_source(source, sources, watermark);
    }
    let ids = text(batch, "rule_id").map_err(fatal)?;
    if ids.null_count() < ids.len() {
        let is_row: BooleanArray = ids.iter().map(|id| Some(id.is_some())).collect();
        let rows = filter_record_batch(batch, &is_row).map_err(fatal)?;
        let left_out = state.windows.add(&rows, state.closed.unwrap_or(i64::MIN)).map_err(fatal)?;
        metrics::counter!("varta_processors_fleet_dropped_rows_total").increment(left_out.dropped);
        metrics::counter!("varta_processors_fleet_late_rows_total").increment(left_out.late);
    }
    Ok(())
}

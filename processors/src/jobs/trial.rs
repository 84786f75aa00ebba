//! Rules on trial: single records through scan, normalisation and rules as in the job, without log, schemas or windows.

use arrow::array::RecordBatch;
use eventlog::Record;
use eventlog::batches::Group;
use schemas::record::RecordKind;

use super::fleet::{FleetPlan, FleetWindows};
use super::scan::Scan;
use crate::alerts::Alert;
use crate::engine::JobError;
use crate::event_time::{Hold, Lateness, Tracker};
use crate::functions::Functions;
use crate::normalise::Normaliser;
use crate::rules::fleet::Origin;
use crate::rules::{Judge, Place, RuleSet, RuleState};
use crate::windows::Timed;

/// How far events may be out of order, as in the configuration's default, µs.
const LATENESS: i64 = 2_000_000;

/// A set of rules, planned, and what one partition remembers.
pub(crate) struct Trial {
    judge: Judge,
    normaliser: Normaliser,
    tracker: Tracker,
    state: RuleState,
    plan: FleetPlan,
    fleet: FleetWindows,
    offset: i64,
}

/// The only partition that there is.
const PARTITION: i32 = 0;

fn fatal(error: impl std::fmt::Display) -> JobError {
    JobError::Fatal(error.to_string())
}

impl Trial {
    /// Plans the rules.
    pub(crate) fn new(set: &RuleSet) -> Result<Self, JobError> {
        let plan = FleetPlan::new(&Functions::new()).map_err(fatal)?;
        Ok(Self {
            fleet: FleetWindows::new(&plan),
            plan,
            judge: Judge::new(set).map_err(fatal)?,
            normaliser: Normaliser::new(&Functions::new()).map_err(fatal)?,
            tracker: Tracker::new(Lateness(LATENESS), Hold(i64::MAX)).eager(),
            state: RuleState::new(PARTITION),
            offset: 0,
        })
    }

    /// Forgets everything that was seen.
    pub(crate) fn begin(&mut self) {
        self.tracker = Tracker::new(Lateness(LATENESS), Hold(i64::MAX)).eager();
        self.state = RuleState::new(PARTITION);
        self.fleet = FleetWindows::new(&self.plan);
    }

    /// One record, given as a batch of one row, that was appended at `appended` µs. Alerts in their order.
    pub(crate) fn record(
        &mut self,
        kind: RecordKind,
        batch: RecordBatch,
        appended: i64,
    ) -> Result<Vec<Alert>, JobError> {
        self.offset += 1;
        let record = Record {
            topic: "trial".into(),
            partition: 0,
            offset: self.offset,
            timestamp: appended / 1_000,
            key: None,
            value: None,
            headers: Vec::new(),
        };
        let groups = [Group { kind, batch, rows: vec![0] }];
        let scan = Scan::new(std::slice::from_ref(&record), &groups).map_err(fatal)?;
        let segment = scan.segment(&mut self.tracker, 0, self.state.wants_ticks());
        if let (RecordKind::Family(family), picked) = (kind, &segment.picked[0])
            && !picked.rows.is_empty()
        {
            let batch = picked.batch(&groups[0].batch).map_err(fatal)?;
            let normalised = self.normaliser.apply(family, batch).map_err(fatal)?;
            let place = |row: usize| {
                let Timed { time, watermark } = picked.times[normalised.kept[row] as usize];
                Place { at: 0, time, watermark }
            };
            self.judge.rows(family, &normalised.batch, place).map_err(fatal)?;
            let watermark = self.state.source_watermark(PARTITION);
            let origin = Origin { source: PARTITION, sources: 1, watermark };
            let taken = self.judge.take_fleet(&normalised.batch, origin).map_err(fatal)?;
            self.fleet.add(&taken.rows, i64::MIN).map_err(fatal)?;
        }
        self.tracker.take_advanced();
        let mut alerts = self.judge.settle(&mut self.state, &self.tracker, &segment.seen).map_err(fatal)?;
        alerts.extend(self.judge.clock(&mut self.state, &self.tracker, &segment.seen).map_err(fatal)?);
        if segment.seen.at_minute && self.judge.watches_fleet() {
            alerts.extend(self.fleet_alerts()?);
        }
        Ok(alerts)
    }

    /// What rules over the fleet tell of windows that have ended by now: as the job `fleet` would.
    fn fleet_alerts(&mut self) -> Result<Vec<Alert>, JobError> {
        let before = self.state.fleet_watermark().unwrap_or(i64::MIN);
        let watermark = self.state.advance_source(PARTITION, 1, self.tracker.partition_watermark());
        let mut alerts = Vec::new();
        for ended in self.fleet.close(&mut self.plan, before, watermark).map_err(fatal)? {
            alerts.extend(self.judge.windows_of_fleet(&ended, &mut self.state).map_err(fatal)?.0);
        }
        Ok(alerts)
    }

    /// One feature row, as if its window had closed.
    pub(crate) fn features(&mut self, kind: RecordKind, batch: &RecordBatch) -> Result<Vec<Alert>, JobError> {
        self.judge.features(kind, batch, &mut self.state).map_err(fatal)
    }
}

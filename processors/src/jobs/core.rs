//! The job `core`: raw events in; events by family, features, alerts, late rows and dead letters out.
//!
//! ```text
//! decode ─▶ scan (dedup, event time; row by row) ─▶ normalise ─┬─▶ events.<family>
//!   └▶ dlq    └─ silence ─▶ rules                              ├─ rules on rows and sequences ─────┐
//!                                                              └─ windows ─▶ features.<size>       ├─▶ alerts
//!                                                                   └▶ late   └ thresholds on 1m ──┘
//! rows that rules over the whole fleet hold for, and how far the partition has come ─▶ fleet (see `fleet`)
//! ```
//!
//! The same job is `detect` when it reads what the job [`normalise`](super::normalise) has cleaned: it neither
//! normalises nor sends events then, and everything else is the same.
//!
//! Windows are closed with the commits ([`Job::settle`]), those of a few agents at once so that alerts need not wait for
//! the end of everybody's minute: whether a row is late was decided when it came, so it does not matter when anybody
//! looks. At each minute of the log's clock all are closed.

mod closing;
mod owed;

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use eventlog::batches::{BatchDecoder, Group};
use eventlog::registry::{SchemaIds, SchemaRegistry};
use eventlog::{NewRecord, Record};
use schemas::family::Family;
use schemas::headers::late as headers;
use schemas::record::RecordKind;
use schemas::topics::{FEATURE_SIZES, Topics};

use self::owed::Owed;
use super::clean;
use super::features::{Emission, FeaturePlans, FeatureWindows, Heard};
use super::fleet::FleetSource;
use super::gauges::Gauges;
use super::outputs::{AlertsOut, Encoders, Events, dead_letters, fatal, registry_trouble};
use super::scan::{Picked, Scan, text};
use super::stages::{Stages, Step};
use crate::alerts::Alert;
use crate::engine::operator::Operator;
use crate::engine::{Job, JobError, Output, PartitionState, Share};
use crate::event_time::{Hold, Lateness, Tracker};
use crate::functions::Functions;
use crate::rules::{Offer, Place, RuleState, Rulebook};
use crate::windows::{Late, Timed};

/// What late rows name as the operator that was past them.
const FEATURES: &str = "features";

/// Windows of so many agents are closed with a commit, or of a part of all that wait if those are very many.
const CLOSED_AT_ONCE: usize = 64;

/// What every worker's job is made from.
#[derive(Clone)]
pub struct CoreSetup {
    /// Where schemas of records are found.
    pub registry: Arc<dyn SchemaRegistry>,
    /// Ids of the present schemas.
    pub ids: SchemaIds,
    /// Names of the topics.
    pub topics: Topics,
    /// The rules that are to be in force.
    pub rules: Offer,
    /// How long windows wait for what is out of order.
    pub lateness: Lateness,
    /// How long an agent may be unheard of before it is dropped.
    pub hold: Hold,
}

/// The job; see the module.
pub struct CoreJob {
    setup: CoreSetup,
    source: Source,
    decoder: BatchDecoder,
    encoders: Encoders,
    rules: Rulebook,
    features: FeaturePlans,
    /// Where rows for rules over the fleet go; they go nowhere unless asked for.
    fleet: Option<FleetSource>,
    alerts: AlertsOut,
    names: Names,
    stages: Stages,
    /// Agents whose windows are closed with a commit, at least.
    closed_at_once: usize,
}

/// What the job reads.
enum Source {
    /// Events as received; it cleans them and sends them on.
    Raw(Box<Events>),
    /// What the job `normalise` wrote.
    Clean,
}

struct Names {
    /// By size.
    features: [Arc<str>; FEATURE_SIZES.len()],
    user_features: [Arc<str>; FEATURE_SIZES.len()],
    late: Arc<str>,
    dlq: Arc<str>,
}

/// State of one partition.
pub struct CoreState {
    tracker: Tracker,
    windows: FeatureWindows,
    /// Whose windows have ended and are open still.
    owed: Owed,
    rules: RuleState,
    gauges: Gauges,
}

impl PartitionState for CoreState {
    fn operators(&mut self) -> Vec<&mut dyn Operator> {
        let mut operators: Vec<&mut dyn Operator> = self.tracker.operators().into();
        operators.extend(self.windows.operators());
        operators.extend(self.rules.operators());
        operators
    }
}

impl CoreJob {
    /// The job `core`: plans everything once.
    pub fn new(setup: CoreSetup) -> Result<Self, JobError> {
        let events = Events::new(setup.ids.clone(), &setup.topics)?;
        Self::over(Source::Raw(Box::new(events)), setup)
    }

    /// The job `detect`: plans everything once.
    pub fn detect(setup: CoreSetup) -> Result<Self, JobError> {
        Self::over(Source::Clean, setup)
    }

    /// Sends rows for rules over the whole fleet: the input has `sources` partitions, the topic of such rows
    /// `partitions`. Without this, such rules find nothing.
    #[must_use]
    pub fn with_fleet(mut self, sources: i32, partitions: i32) -> Self {
        self.fleet = Some(FleetSource::new(&self.setup.topics, partitions, sources));
        self
    }

    /// Closes windows of fewer agents at once.
    #[cfg(test)]
    pub(super) fn closing_at_once(mut self, agents: usize) -> Self {
        self.closed_at_once = agents;
        self
    }

    fn over(source: Source, setup: CoreSetup) -> Result<Self, JobError> {
        let topics = &setup.topics;
        let names = Names {
            features: FEATURE_SIZES.map(|size| topics.features(size)),
            user_features: FEATURE_SIZES.map(|size| topics.user_features(size)),
            late: topics.late(),
            dlq: topics.dlq(),
        };
        Ok(Self {
            decoder: BatchDecoder::new(Arc::clone(&setup.registry)),
            encoders: Encoders::new(setup.ids.clone()),
            rules: Rulebook::new(setup.rules.clone()).map_err(fatal)?,
            features: FeaturePlans::new(&Functions::new()).map_err(fatal)?,
            fleet: None,
            alerts: AlertsOut::new(topics),
            names,
            source,
            setup,
            stages: Stages::new(),
            closed_at_once: CLOSED_AT_ONCE,
        })
    }

    fn segment(
        &mut self,
        state: &mut CoreState,
        group: &Group,
        family: Family,
        picked: &Picked,
        records: &[Record],
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        let (normalised, values) = match &mut self.source {
            Source::Raw(events) => events.send(family, group, picked, records, output)?,
            Source::Clean => (clean::normalised(group, picked, records)?, Vec::new()),
        };
        let rows = normalised.kept.len();
        if rows == 0 {
            return Ok(());
        }
        let index_of = |row: usize| picked.record(group, normalised.kept[row]);
        let record_of = |row: usize| &records[index_of(row) as usize];
        let place = |row: usize| {
            let Timed { time, watermark } = picked.times[normalised.kept[row] as usize];
            Place { at: index_of(row), time, watermark }
        };
        let began = self.stages.begin();
        self.rules.judge().rows(family, &normalised.batch, place).map_err(fatal)?;
        self.fleet_rows(state, &normalised.batch, records, output)?;
        self.stages.end(Step::Rules, rows, began);
        let (times, heard) = of_kept(picked, &normalised.kept);
        let agent = |number| Arc::clone(&state.tracker.agent(number).id);
        let began = self.stages.begin();
        let late = state.windows.add(family, &normalised.batch, &times, &heard, agent).map_err(fatal)?;
        self.stages.end(Step::Windows, rows, began);
        for late in late {
            let record = record_of(late.row);
            // The row as the windows would have had it; what is clean is that already.
            let value = values.get(late.row).or(record.value.as_ref()).cloned();
            let watermark = times[late.row].watermark;
            self.late(record.key.clone(), value, late, watermark, output)?;
        }
        Ok(())
    }

    fn late(
        &self,
        key: Option<Bytes>,
        value: Option<Bytes>,
        late: Late,
        watermark: i64,
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        metrics::counter!("varta_processors_late_rows_total").increment(1);
        let Late { start, end, .. } = late;
        let header = |name: &str, value: i64| (name.to_owned(), Bytes::from(value.to_string()));
        output.send(NewRecord {
            topic: Arc::clone(&self.names.late),
            partition: None,
            key,
            value,
            headers: vec![
                (headers::OPERATOR.to_owned(), Bytes::from_static(FEATURES.as_bytes())),
                header(headers::WINDOW_START, start),
                header(headers::WINDOW_END, end),
                header(headers::WATERMARK, watermark),
            ],
        })?;
        Ok(())
    }

    /// Takes what rules over the fleet got of the last batch, and sends it.
    fn fleet_rows(
        &mut self,
        state: &CoreState,
        batch: &RecordBatch,
        records: &[Record],
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        let judge = self.rules.judge();
        if let (Some(fleet), Some(first)) = (&self.fleet, records.first()) {
            let of = (first.partition, &state.rules);
            return fleet.send(judge, batch, of, &mut self.encoders, output);
        }
        judge.leave_fleet();
        Ok(())
    }

    /// Settles which rules hold for these records; answers what ends with rules that are gone.
    fn rules_in_force(
        &mut self,
        state: &mut CoreState,
        records: &[Record],
        output: &mut Output<'_>,
    ) -> Result<Vec<Alert>, JobError> {
        let Some(first) = records.first() else {
            return Ok(Vec::new());
        };
        if self.rules.is_change_due(&state.rules) {
            // Windows that ended before are judged by the rules that held then.
            self.settle(state, Share::All, output)?;
        }
        let change = self.rules.open(&mut state.rules, first.offset, state.tracker.now()).map_err(fatal)?;
        let Some(change) = change else {
            return Ok(Vec::new());
        };
        let (partition, offset) = (first.partition, first.offset);
        tracing::info!(rule_set = change.held.rule_set, partition, offset, "rules taken over");
        Ok(change.alerts)
    }

    fn send_features(&mut self, emission: Emission, output: &mut Output<'_>) -> Result<(), JobError> {
        let Emission { kind, level, rows, .. } = emission;
        let size = FEATURE_SIZES[level];
        metrics::counter!("varta_processors_features_total", "size" => size)
            .increment(rows.num_rows() as u64);
        let agents = text(&rows, "agent_id").map_err(fatal)?;
        let by_user = kind == RecordKind::USER_FEATURES[level];
        let names = if by_user { &self.names.user_features } else { &self.names.features };
        let topic = Arc::clone(&names[level]);
        for (row, value) in self.encoders.encode(kind, &rows)?.into_iter().enumerate() {
            let key = Bytes::copy_from_slice(agents.value(row).as_bytes());
            output.send(NewRecord::keyed(Arc::clone(&topic), key, value))?;
        }
        Ok(())
    }

    fn send_alerts(&mut self, alerts: &[Alert], output: &mut Output<'_>) -> Result<(), JobError> {
        self.alerts.send(alerts, &mut self.encoders, output)
    }

    /// What dead letters name as their stage.
    fn name(&self) -> &'static str {
        match self.source {
            Source::Raw(_) => "core",
            Source::Clean => "detect",
        }
    }
}

impl Job for CoreJob {
    type State = CoreState;

    fn open(&mut self, partition: i32) -> Result<CoreState, JobError> {
        Ok(CoreState {
            tracker: Tracker::new(self.setup.lateness, self.setup.hold),
            windows: FeatureWindows::new(&self.features),
            owed: Owed::default(),
            rules: RuleState::new(partition),
            gauges: Gauges::new(partition),
        })
    }

    fn process(
        &mut self,
        state: &mut CoreState,
        records: &[Record],
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        let records = match self.source {
            Source::Raw(_) => Cow::Borrowed(records),
            Source::Clean => clean::with_raw_times(records),
        };
        let records = &*records;
        let began = self.stages.begin();
        let decoded = self.decoder.decode(records).map_err(|error| registry_trouble(&error))?;
        self.stages.end(Step::Decode, records.len(), began);
        dead_letters(self.name(), &self.names.dlq, decoded.poison, records, output)?;
        let scan = Scan::new(records, &decoded.groups).map_err(fatal)?;
        let mut alerts = self.rules_in_force(state, records, output)?;
        let mut from = 0;
        while from < records.len() {
            let began = self.stages.begin();
            let segment = scan.segment(&mut state.tracker, from, state.rules.wants_ticks());
            self.stages.end(Step::Scan, segment.end - from, began);
            from = segment.end;
            metrics::counter!("varta_processors_duplicates_total").increment(segment.duplicates);
            for (group, picked) in decoded.groups.iter().zip(&segment.picked) {
                if let RecordKind::Family(family) = group.kind
                    && !picked.rows.is_empty()
                {
                    self.segment(state, group, family, picked, records, output)?;
                }
            }
            let (judge, seen) = (self.rules.judge(), &segment.seen);
            alerts.extend(judge.settle(&mut state.rules, &state.tracker, seen).map_err(fatal)?);
            note_lost(state);
            if seen.at_minute || !seen.silent.is_empty() {
                // What is swept and told at this record comes after what ended before it.
                if seen.at_minute {
                    self.close(state, Share::All, output)?;
                } else {
                    self.close_of(state, &seen.silent, output)?;
                }
                self.peek(state, &seen.silent, output)?;
                if let (Some(fleet), true) = (&self.fleet, seen.at_minute) {
                    let of = (records[0].partition, &mut state.rules);
                    fleet.announce(self.rules.judge(), &state.tracker, of, &mut self.encoders, output)?;
                }
            }
            let judge = self.rules.judge();
            alerts.extend(judge.clock(&mut state.rules, &state.tracker, seen).map_err(fatal)?);
            self.send_alerts(&std::mem::take(&mut alerts), output)?;
            self.expired(state, output)?;
            metrics::counter!("varta_processors_refused_claims_total")
                .increment(state.tracker.take_refused());
        }
        state.gauges.show(&state.tracker, || state.windows.open());
        Ok(())
    }

    fn settle(
        &mut self,
        state: &mut CoreState,
        share: Share,
        output: &mut Output<'_>,
    ) -> Result<bool, JobError> {
        if !self.rules.hold(&state.rules).map_err(fatal)? {
            return Ok(false);
        }
        self.close(state, share, output)?;
        Ok(!state.owed.is_empty())
    }
}

/// Lost numbers are told with the window in which the agent's time stood while it waited for them.
fn note_lost(state: &mut CoreState) {
    for lost in state.tracker.take_lost() {
        metrics::counter!("varta_processors_lost_total").increment(lost.count as u64);
        if lost.watermark > i64::MIN {
            let agent = &state.tracker.agent(lost.agent).id;
            state.windows.lost(agent, lost.watermark, lost.count);
        }
    }
}

/// What the scan said of the rows that normalisation kept.
fn of_kept(picked: &Picked, kept: &[u32]) -> (Vec<Timed>, Vec<Heard>) {
    let of = |row: &u32| (picked.times[*row as usize], picked.heard[*row as usize]);
    kept.iter().map(of).unzip()
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;

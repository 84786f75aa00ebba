//! The job `core`: raw events in; events by family, features, alerts, late rows and dead letters out.
//!
//! ```text
//! decode ─▶ scan (dedup, event time; row by row) ─▶ normalise ─┬─▶ events.<family>
//!   └▶ dlq    └─ silence ─▶ rules                              ├─ rules on rows and sequences ─────┐
//!                                                              └─ windows ─▶ features.<size>       ├─▶ alerts
//!                                                                   └▶ late   └ thresholds on 1m ──┘
//! ```
//!
//! Windows are closed once a commit ([`Job::settle`]): whether a row is late was decided when it came, so it does not
//! matter when anybody looks.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashMap;
use arrow::array::RecordBatch;
use bytes::Bytes;
use eventlog::batches::{BatchDecoder, BatchEncoder, Group};
use eventlog::dead_letter::DeadLetter;
use eventlog::registry::{RegistryError, SchemaIds, SchemaRegistry};
use eventlog::{NewRecord, Record};
use runtime::fate::Fate;
use schemas::family::Family;
use schemas::headers::late as headers;
use schemas::record::RecordKind;
use schemas::topics::{FEATURE_SIZES, Topics};

use super::features::{Emission, FeaturePlans, FeatureWindows, Heard};
use super::gauges::Gauges;
use super::scan::{Picked, Scan, micros, text};
use crate::alerts::{Alert, to_batch, to_ocsf};
use crate::engine::operator::Operator;
use crate::engine::{Job, JobError, Output, PartitionState};
use crate::event_time::{Hold, Lateness, Tracker};
use crate::functions::Functions;
use crate::normalise::Normaliser;
use crate::rules::{Offer, Place, RuleState, Rulebook};
use crate::windows::{Closing, Late, Timed};

/// What late rows name as the operator that was past them.
const FEATURES: &str = "features";

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
    decoder: BatchDecoder,
    encoders: BTreeMap<RecordKind, BatchEncoder>,
    normaliser: Normaliser,
    rules: Rulebook,
    features: FeaturePlans,
    names: Names,
}

struct Names {
    events: Vec<Arc<str>>,
    /// By size.
    features: [Arc<str>; FEATURE_SIZES.len()],
    user_features: [Arc<str>; FEATURE_SIZES.len()],
    alerts: Arc<str>,
    ocsf: Arc<str>,
    late: Arc<str>,
    dlq: Arc<str>,
}

/// State of one partition.
pub struct CoreState {
    tracker: Tracker,
    windows: FeatureWindows,
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

fn fatal(error: impl std::fmt::Display) -> JobError {
    JobError::Fatal(error.to_string())
}

impl CoreJob {
    /// Plans everything once.
    pub fn new(setup: CoreSetup) -> Result<Self, JobError> {
        let topics = &setup.topics;
        let names = Names {
            events: Family::ALL.iter().map(|family| topics.events(*family)).collect(),
            features: FEATURE_SIZES.map(|size| topics.features(size)),
            user_features: FEATURE_SIZES.map(|size| topics.user_features(size)),
            alerts: topics.alerts(),
            ocsf: topics.alerts_ocsf(),
            late: topics.late(),
            dlq: topics.dlq(),
        };
        Ok(Self {
            decoder: BatchDecoder::new(Arc::clone(&setup.registry)),
            encoders: BTreeMap::new(),
            normaliser: Normaliser::new(&Functions::new()).map_err(fatal)?,
            rules: Rulebook::new(setup.rules.clone()).map_err(fatal)?,
            features: FeaturePlans::new(&Functions::new()).map_err(fatal)?,
            names,
            setup,
        })
    }

    /// Rows as framed Avro.
    fn encode(&mut self, kind: RecordKind, rows: &RecordBatch) -> Result<Vec<Bytes>, JobError> {
        let id = self.setup.ids.id(kind);
        let encoder = self.encoders.entry(kind).or_insert_with(|| BatchEncoder::new(kind, id));
        encoder.encode(rows).map_err(fatal)
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
        let batch = picked.batch(&group.batch).map_err(fatal)?;
        let normalised = self.normaliser.apply(family, batch).map_err(fatal)?;
        for (rule, rows) in &normalised.dropped {
            metrics::counter!("varta_processors_dropped_rows_total", "family" => family.name(), "rule" => rule.clone())
                .increment(*rows);
        }
        let rows = normalised.batch.num_rows();
        metrics::counter!("varta_processors_events_total", "family" => family.name()).increment(rows as u64);
        if rows == 0 {
            return Ok(());
        }
        let index_of = |row: usize| group.rows[picked.rows[normalised.kept[row] as usize] as usize];
        let record_of = |row: usize| &records[index_of(row) as usize];
        let values = self.encode(RecordKind::Family(family), &normalised.batch)?;
        let topic = &self.names.events[family as usize];
        for (row, value) in values.into_iter().enumerate() {
            output.send(NewRecord {
                topic: Arc::clone(topic),
                partition: None,
                key: record_of(row).key.clone(),
                value: Some(value),
                headers: Vec::new(),
            })?;
        }
        let place = |row: usize| {
            let Timed { time, watermark } = picked.times[normalised.kept[row] as usize];
            Place { at: index_of(row), time, watermark }
        };
        self.rules.judge().rows(family, &normalised.batch, place).map_err(fatal)?;
        let (times, heard) = of_kept(picked, &normalised.kept);
        let agent = |number| Arc::clone(&state.tracker.agent(number).id);
        let late = state.windows.add(family, &normalised.batch, &times, &heard, agent).map_err(fatal)?;
        for late in late {
            self.late(record_of(late.row), late, times[late.row].watermark, output)?;
        }
        Ok(())
    }

    fn late(
        &self,
        record: &Record,
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
            key: record.key.clone(),
            value: record.value.clone(),
            headers: vec![
                (headers::OPERATOR.to_owned(), Bytes::from_static(FEATURES.as_bytes())),
                header(headers::WINDOW_START, start),
                header(headers::WINDOW_END, end),
                header(headers::WATERMARK, watermark),
            ],
        })?;
        Ok(())
    }

    /// Closes what the watermarks have passed, and judges it.
    fn close(&mut self, state: &mut CoreState, output: &mut Output<'_>) -> Result<(), JobError> {
        let mut closings = Vec::new();
        for (number, before) in state.tracker.take_advanced() {
            let agent = state.tracker.agent(number);
            if FeatureWindows::closes(before, agent.watermark) {
                let (agent, watermark) = (Arc::clone(&agent.id), agent.watermark);
                closings.push(Closing { agent, before, watermark });
            }
        }
        self.close_all(state, &closings, output)?;
        Ok(())
    }

    /// Closes windows of some agents, sends what they come to and judges it; answers the latest end by agent, µs.
    fn close_all(
        &mut self,
        state: &mut CoreState,
        closings: &[Closing],
        output: &mut Output<'_>,
    ) -> Result<AHashMap<Arc<str>, i64>, JobError> {
        let mut alerts = Vec::new();
        let mut until = AHashMap::new();
        for emission in state.windows.close(&mut self.features, closings).map_err(fatal)? {
            if emission.kind == RecordKind::Feature1m {
                let judge = self.rules.judge();
                alerts
                    .extend(judge.features(emission.kind, &emission.rows, &mut state.rules).map_err(fatal)?);
            }
            let agents = text(&emission.rows, "agent_id").map_err(fatal)?;
            for (row, end) in micros(&emission.rows, "window_end").map_err(fatal)?.iter().enumerate() {
                let latest = until.entry(Arc::from(agents.value(row))).or_insert(*end);
                *latest = (*latest).max(*end);
            }
            self.send_features(emission, output)?;
        }
        self.send_alerts(&alerts, output)?;
        Ok(until)
    }

    /// Emits the windows of agents that fell silent as they stand; they stay open.
    fn peek(
        &mut self,
        state: &mut CoreState,
        silent: &[u32],
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        let agents: Vec<Closing> = silent
            .iter()
            .map(|number| {
                let agent = state.tracker.agent(*number);
                Closing { agent: Arc::clone(&agent.id), before: agent.watermark, watermark: agent.watermark }
            })
            .collect();
        for emission in state.windows.peek(&mut self.features, &agents).map_err(fatal)? {
            self.send_features(emission, output)?;
        }
        Ok(())
    }

    /// Closes all windows of agents that nobody heard of for the whole hold, and drops the agents.
    fn expired(&mut self, state: &mut CoreState, output: &mut Output<'_>) -> Result<(), JobError> {
        if !state.tracker.has_expired() {
            return Ok(());
        }
        self.close(state, output)?;
        let expired = state.tracker.take_expired();
        let closing = |number: &u32| {
            let agent = state.tracker.agent(*number);
            Closing { agent: Arc::clone(&agent.id), before: agent.watermark, watermark: i64::MAX }
        };
        let closings: Vec<Closing> = expired.iter().map(closing).collect();
        let until = self.close_all(state, &closings, output)?;
        let mut excess = 0;
        for (number, closing) in expired.iter().zip(&closings) {
            let until = until.get(&closing.agent).copied();
            state.rules.forget(*number);
            excess += state.tracker.forget(*number, until.unwrap_or(i64::MIN));
        }
        metrics::counter!("varta_processors_expired_agents_total").increment(expired.len() as u64);
        metrics::counter!("varta_processors_dropped_floors_total").increment(excess);
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
            self.settle(state, output)?;
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
        for (row, value) in self.encode(kind, &rows)?.into_iter().enumerate() {
            let key = Bytes::copy_from_slice(agents.value(row).as_bytes());
            output.send(NewRecord::keyed(Arc::clone(&topic), key, value))?;
        }
        Ok(())
    }

    fn send_alerts(&mut self, alerts: &[Alert], output: &mut Output<'_>) -> Result<(), JobError> {
        if alerts.is_empty() {
            return Ok(());
        }
        let values = self.encode(RecordKind::Alert, &to_batch(alerts).map_err(fatal)?)?;
        for (alert, value) in alerts.iter().zip(values) {
            metrics::counter!("varta_processors_alerts_total", "rule" => alert.rule.id.clone()).increment(1);
            let key = Bytes::copy_from_slice(alert.agent_id.as_bytes());
            output.send(NewRecord::keyed(Arc::clone(&self.names.alerts), key.clone(), value))?;
            let json = serde_json::to_vec(&to_ocsf(alert)).map_err(fatal)?;
            output.send(NewRecord::keyed(Arc::clone(&self.names.ocsf), key, json))?;
        }
        output.hurry();
        Ok(())
    }

    fn dead_letters(
        &self,
        poison: Vec<(u32, String)>,
        records: &[Record],
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        for (index, reason) in poison {
            let record = &records[index as usize];
            tracing::warn!(origin = record.origin(), reason, "record cannot be read");
            metrics::counter!("varta_processors_poison_total").increment(1);
            // The append time of the record stands for "now": the same log gives the same letters.
            let at = record.timestamp.saturating_mul(1_000);
            let letter = DeadLetter::of_record("core", reason, record);
            output.send(letter.into_record(Arc::clone(&self.names.dlq), at))?;
        }
        Ok(())
    }
}

impl Job for CoreJob {
    type State = CoreState;

    fn open(&mut self, partition: i32) -> Result<CoreState, JobError> {
        Ok(CoreState {
            tracker: Tracker::new(self.setup.lateness, self.setup.hold),
            windows: FeatureWindows::new(&self.features),
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
        let decoded = self.decoder.decode(records).map_err(|error| registry_trouble(&error))?;
        self.dead_letters(decoded.poison, records, output)?;
        let scan = Scan::new(records, &decoded.groups).map_err(fatal)?;
        let mut alerts = self.rules_in_force(state, records, output)?;
        let mut from = 0;
        while from < records.len() {
            let segment = scan.segment(&mut state.tracker, from, state.rules.wants_ticks());
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
            if !seen.silent.is_empty() {
                self.close(state, output)?;
                self.peek(state, &seen.silent, output)?;
            }
            let judge = self.rules.judge();
            alerts.extend(judge.clock(&mut state.rules, &state.tracker, seen).map_err(fatal)?);
            self.send_alerts(&std::mem::take(&mut alerts), output)?;
            self.expired(state, output)?;
            metrics::counter!("varta_processors_refused_claims_total")
                .increment(state.tracker.take_refused());
        }
        state.gauges.show(&state.tracker);
        Ok(())
    }

    fn settle(&mut self, state: &mut CoreState, output: &mut Output<'_>) -> Result<(), JobError> {
        if self.rules.hold(&state.rules).map_err(fatal)? {
            self.close(state, output)?;
        }
        Ok(())
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

fn registry_trouble(error: &RegistryError) -> JobError {
    match error.fate() {
        Fate::Fatal => JobError::Fatal(error.to_string()),
        Fate::Transient | Fate::Poison => JobError::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;

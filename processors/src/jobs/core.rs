//! The job `core`: raw events in; events by family, features, alerts, late rows and dead letters out.
//!
//! ```text
//! decode ─▶ scan (dedup, event time; row by row) ─▶ normalise ─┬─▶ events.<family>
//!   └▶ dlq    └─ silence ─▶ rules                              ├─ rules on rows and sequences ─┐
//!                                                              └─ windows ─▶ features.1m       ├─▶ alerts
//!                                                                   └▶ late   └ thresholds ────┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashSet;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use eventlog::batches::{BatchDecoder, BatchEncoder, Group};
use eventlog::dead_letter::DeadLetter;
use eventlog::registry::{RegistryError, SchemaIds, SchemaRegistry};
use eventlog::{NewRecord, Record};
use runtime::fate::Fate;
use schemas::columns::arrow_schema;
use schemas::family::Family;
use schemas::headers::late;
use schemas::record::RecordKind;
use schemas::topics::Topics;

use super::features::{self, MINUTE};
use super::scan::{Picked, Scan, text};
use crate::alerts::{Alert, to_batch, to_ocsf};
use crate::engine::operator::Operator;
use crate::engine::{Job, JobError, Output, PartitionState};
use crate::event_time::{Lateness, Tracker};
use crate::functions::Functions;
use crate::normalise::Normaliser;
use crate::rules::{Offer, Place, RuleState, Rulebook};
use crate::windows::{Closing, Tumbling};

/// The family whose rows the one-minute features are made of.
const MEASURED: Family = Family::HostMetrics;
const FEATURES: &str = "features_1m";

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
}

/// The job; see the module.
pub struct CoreJob {
    setup: CoreSetup,
    decoder: BatchDecoder,
    encoders: BTreeMap<RecordKind, BatchEncoder>,
    normaliser: Normaliser,
    rules: Rulebook,
    feature_schema: SchemaRef,
    names: Names,
}

struct Names {
    events: Vec<Arc<str>>,
    features: Arc<str>,
    alerts: Arc<str>,
    ocsf: Arc<str>,
    late: Arc<str>,
    dlq: Arc<str>,
}

/// State of one partition.
pub struct CoreState {
    tracker: Tracker,
    windows: Tumbling,
    rules: RuleState,
}

impl PartitionState for CoreState {
    fn operators(&mut self) -> Vec<&mut dyn Operator> {
        let mut operators: Vec<&mut dyn Operator> = self.tracker.operators().into();
        operators.push(&mut self.windows);
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
            features: topics.features("1m"),
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
            feature_schema: arrow_schema(RecordKind::Feature1m),
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
            let (time, watermark) = picked.times[normalised.kept[row] as usize];
            Place { at: index_of(row), time, watermark }
        };
        self.rules.judge().rows(family, &normalised.batch, place).map_err(fatal)?;
        if family == MEASURED {
            let mut starts = Vec::with_capacity(rows);
            let mut in_time = Vec::with_capacity(rows);
            for row in 0..rows {
                let (time, watermark) = picked.times[normalised.kept[row] as usize];
                let is_late = state.windows.is_late(time, watermark);
                in_time.push(!is_late);
                let start = state.windows.start_of(time);
                if is_late {
                    self.late(record_of(row), start, watermark, output)?;
                } else {
                    starts.push(start);
                }
            }
            if starts.len() == rows {
                state.windows.add(&normalised.batch, starts).map_err(fatal)?;
            } else if !starts.is_empty() {
                let mask = BooleanArray::from(in_time);
                let kept = filter_record_batch(&normalised.batch, &mask).map_err(|error| fatal(&error))?;
                state.windows.add(&kept, starts).map_err(fatal)?;
            }
        }
        Ok(())
    }

    fn late(
        &self,
        record: &Record,
        start: i64,
        watermark: i64,
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        metrics::counter!("varta_processors_late_rows_total").increment(1);
        let header = |name: &str, value: i64| (name.to_owned(), Bytes::from(value.to_string()));
        output.send(NewRecord {
            topic: Arc::clone(&self.names.late),
            partition: None,
            key: record.key.clone(),
            value: record.value.clone(),
            headers: vec![
                (late::OPERATOR.to_owned(), Bytes::from_static(FEATURES.as_bytes())),
                header(late::WINDOW_START, start),
                header(late::WINDOW_END, start + MINUTE),
                header(late::WATERMARK, watermark),
            ],
        })?;
        Ok(())
    }

    /// Closes what the watermarks have passed, then emits the windows of agents that fell silent as they stand.
    fn windows(
        &mut self,
        state: &mut CoreState,
        silent: &[u32],
        alerts: &mut Vec<Alert>,
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        let mut closings = Vec::new();
        for (number, before) in state.tracker.take_advanced() {
            let agent = state.tracker.agent(number);
            if state.windows.closes(before, agent.watermark) {
                closings.push(Closing { agent: Arc::clone(&agent.id), watermark: agent.watermark });
            }
        }
        if !closings.is_empty()
            && let Some(results) = state.windows.close(&closings).map_err(fatal)?
        {
            let rows =
                features::rows(&results, &self.feature_schema, &mut state.tracker, false).map_err(fatal)?;
            self.send_features(&rows, output)?;
            let found = self.rules.judge().features(RecordKind::Feature1m, &rows, &mut state.rules);
            alerts.extend(found.map_err(fatal)?);
        }
        if silent.is_empty() {
            return Ok(());
        }
        let agents: AHashSet<Arc<str>> =
            silent.iter().map(|number| Arc::clone(&state.tracker.agent(*number).id)).collect();
        if let Some(results) = state.windows.peek(&agents).map_err(fatal)? {
            let rows =
                features::rows(&results, &self.feature_schema, &mut state.tracker, true).map_err(fatal)?;
            self.send_features(&rows, output)?;
        }
        Ok(())
    }

    /// Settles which rules hold for these records; answers what ends with rules that are gone.
    fn rules_in_force(&mut self, state: &mut CoreState, records: &[Record]) -> Result<Vec<Alert>, JobError> {
        let Some(first) = records.first() else {
            return Ok(Vec::new());
        };
        let change = self.rules.open(&mut state.rules, first.offset, state.tracker.now()).map_err(fatal)?;
        let Some(change) = change else {
            return Ok(Vec::new());
        };
        let (partition, offset) = (first.partition, first.offset);
        tracing::info!(rule_set = change.held.rule_set, partition, offset, "rules taken over");
        Ok(change.alerts)
    }

    fn send_features(&mut self, rows: &RecordBatch, output: &mut Output<'_>) -> Result<(), JobError> {
        metrics::counter!("varta_processors_features_total", "size" => "1m")
            .increment(rows.num_rows() as u64);
        let agents = text(rows, "agent_id").map_err(fatal)?;
        for (row, value) in self.encode(RecordKind::Feature1m, rows)?.into_iter().enumerate() {
            let key = Bytes::copy_from_slice(agents.value(row).as_bytes());
            output.send(NewRecord::keyed(Arc::clone(&self.names.features), key, value))?;
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
        let windows = Tumbling::new(
            FEATURES,
            MINUTE,
            include_str!("../../sql/features_1m.sql"),
            "events",
            &arrow_schema(RecordKind::Family(MEASURED)),
            &Functions::new(),
        );
        Ok(CoreState {
            tracker: Tracker::new(self.setup.lateness),
            windows: windows.map_err(fatal)?,
            rules: RuleState::new(partition),
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
        let mut alerts = self.rules_in_force(state, records)?;
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
            self.windows(state, &segment.seen.silent, &mut alerts, output)?;
            let judge = self.rules.judge();
            alerts.extend(judge.clock(&mut state.rules, &state.tracker, seen).map_err(fatal)?);
            self.send_alerts(&std::mem::take(&mut alerts), output)?;
            metrics::counter!("varta_processors_lost_total").increment(state.tracker.take_lost() as u64);
        }
        metrics::gauge!("varta_processors_agents").set(state.tracker.agents() as f64);
        Ok(())
    }
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

//! What jobs share on their way out: rows as Avro, normalised events, dead letters.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use eventlog::batches::{BatchEncoder, Group};
use eventlog::dead_letter::DeadLetter;
use eventlog::registry::{RegistryError, SchemaIds};
use eventlog::{NewRecord, Record};
use runtime::fate::Fate;
use schemas::family::Family;
use schemas::record::RecordKind;
use schemas::topics::Topics;

use super::scan::Picked;
use super::stages::{Stages, Step};
use crate::alerts::{Alert, to_batch, to_ocsf};
use crate::engine::{JobError, Output};
use crate::functions::Functions;
use crate::normalise::{Normalised, Normaliser};

pub(super) fn fatal(error: impl std::fmt::Display) -> JobError {
    JobError::Fatal(error.to_string())
}

pub(super) fn registry_trouble(error: &RegistryError) -> JobError {
    match error.fate() {
        Fate::Fatal => JobError::Fatal(error.to_string()),
        Fate::Transient | Fate::Poison => JobError::Unavailable(error.to_string()),
    }
}

/// Rows to framed Avro, with the present schema of each kind.
pub(super) struct Encoders {
    ids: SchemaIds,
    of: BTreeMap<RecordKind, BatchEncoder>,
}

impl Encoders {
    pub(super) fn new(ids: SchemaIds) -> Self {
        Self { ids, of: BTreeMap::new() }
    }

    /// Each row as a value.
    pub(super) fn encode(&mut self, kind: RecordKind, rows: &RecordBatch) -> Result<Vec<Bytes>, JobError> {
        let id = self.ids.id(kind);
        let encoder = self.of.entry(kind).or_insert_with(|| BatchEncoder::new(kind, id));
        encoder.encode(rows).map_err(fatal)
    }
}

/// Where alerts go.
pub(super) struct AlertsOut {
    alerts: Arc<str>,
    ocsf: Arc<str>,
}

impl AlertsOut {
    pub(super) fn new(topics: &Topics) -> Self {
        Self { alerts: topics.alerts(), ocsf: topics.alerts_ocsf() }
    }

    /// Sends alerts in both forms, and asks for an early commit.
    pub(super) fn send(
        &self,
        alerts: &[Alert],
        encoders: &mut Encoders,
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        if alerts.is_empty() {
            return Ok(());
        }
        let values = encoders.encode(RecordKind::Alert, &to_batch(alerts).map_err(fatal)?)?;
        for (alert, value) in alerts.iter().zip(values) {
            metrics::counter!("varta_processors_alerts_total", "rule" => alert.rule.id.clone()).increment(1);
            let key = Bytes::copy_from_slice(alert.agent_id.as_bytes());
            output.send(NewRecord::keyed(Arc::clone(&self.alerts), key.clone(), value))?;
            let json = serde_json::to_vec(&to_ocsf(alert)).map_err(fatal)?;
            output.send(NewRecord::keyed(Arc::clone(&self.ocsf), key, json))?;
        }
        output.hurry();
        Ok(())
    }
}

/// Picked rows to events of their family.
pub(super) struct Events {
    normaliser: Normaliser,
    encoders: Encoders,
    topics: Vec<Arc<str>>,
    stages: Stages,
}

impl Events {
    pub(super) fn new(ids: SchemaIds, topics: &Topics) -> Result<Self, JobError> {
        Ok(Self {
            normaliser: Normaliser::new(&Functions::new()).map_err(fatal)?,
            encoders: Encoders::new(ids),
            topics: Family::ALL.iter().map(|family| topics.events(*family)).collect(),
            stages: Stages::new(),
        })
    }

    /// Normalises rows that were picked of a group and sends them; answers what was kept and the value of each.
    pub(super) fn send(
        &mut self,
        family: Family,
        group: &Group,
        picked: &Picked,
        records: &[Record],
        output: &mut Output<'_>,
    ) -> Result<(Normalised, Vec<Bytes>), JobError> {
        let batch = picked.batch(&group.batch).map_err(fatal)?;
        let began = self.stages.begin();
        let normalised = self.normaliser.apply(family, batch).map_err(fatal)?;
        self.stages.end(Step::Normalise, picked.rows.len(), began);
        for (rule, rows) in &normalised.dropped {
            metrics::counter!("varta_processors_dropped_rows_total", "family" => family.name(), "rule" => rule.clone())
                .increment(*rows);
        }
        let rows = normalised.batch.num_rows();
        metrics::counter!("varta_processors_events_total", "family" => family.name()).increment(rows as u64);
        if rows == 0 {
            return Ok((normalised, Vec::new()));
        }
        let began = self.stages.begin();
        let values = self.encoders.encode(RecordKind::Family(family), &normalised.batch)?;
        let topic = &self.topics[family as usize];
        for (kept, value) in normalised.kept.iter().zip(&values) {
            let record = &records[picked.record(group, *kept) as usize];
            output.send(NewRecord {
                topic: Arc::clone(topic),
                partition: None,
                key: record.key.clone(),
                value: Some(value.clone()),
                headers: Vec::new(),
            })?;
        }
        self.stages.end(Step::Encode, rows, began);
        Ok((normalised, values))
    }
}

/// What cannot be read, to the dead letters.
pub(super) fn dead_letters(
    job: &'static str,
    topic: &Arc<str>,
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
        let letter = DeadLetter::of_record(job, reason, record);
        output.send(letter.into_record(Arc::clone(topic), at))?;
    }
    Ok(())
}

//! Confluent-framed Avro read generically, with the writer's schema fetched from the registry over HTTP.

use std::collections::HashMap;

use anyhow::{Context as _, bail};
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use serde::Deserialize;

use super::Id;

/// Schemas by id, fetched once each.
pub struct SchemaCache {
    registry: String,
    http: reqwest::Client,
    known: HashMap<u32, Schema>,
}

#[derive(Deserialize)]
struct Answer {
    schema: String,
}

impl SchemaCache {
    /// A cache over the registry at this base URL.
    pub fn new(registry: &str) -> Self {
        Self {
            registry: registry.trim_end_matches('/').to_owned(),
            http: reqwest::Client::new(),
            known: HashMap::new(),
        }
    }

    /// The full name of the record and its fields.
    pub async fn decode(&mut self, framed: &[u8]) -> anyhow::Result<(String, Vec<(String, Value)>)> {
        let (id, datum) = schemas::wire::unframe(framed)?;
        if !self.known.contains_key(&id) {
            let answer: Answer = self
                .http
                .get(format!("{}/schemas/ids/{id}", self.registry))
                .send()
                .await?
                .error_for_status()?
                .json()
                .await?;
            self.known.insert(id, Schema::parse_str(&answer.schema)?);
        }
        let schema = self.known.get(&id).context("fetched just now")?;
        let Schema::Record(record) = schema else { bail!("schema {id} is not a record") };
        let name = record.name.to_string();
        let mut bytes = datum;
        let value = GenericDatumReader::builder(schema).build()?.read_value(&mut bytes)?;
        if !bytes.is_empty() {
            bail!("{} bytes after a {name}", bytes.len());
        }
        match value {
            Value::Record(fields) => Ok((name, fields)),
            other => bail!("{other:?} instead of a record"),
        }
    }
}

/// The identity in an event's fields; `None` for records that are no events.
pub(super) fn identity(fields: &[(String, Value)]) -> Option<Id> {
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
    let agent_id = text(field("agent_id")?)?;
    let seq = long(field("seq")?)?;
    if seq < 0 {
        return Some(Id::Foreign { agent_id, event_id: text(field("event_id")?)? });
    }
    Some(Id::Own { agent_id, session: long(field("session")?)?, lane: text(field("lane")?)?, seq })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Union(_, inner) => text(inner),
        _ => None,
    }
}

fn long(value: &Value) -> Option<i64> {
    match value {
        Value::Long(number) => Some(*number),
        _ => None,
    }
}

//! Records to batches.

use std::collections::HashMap;
use std::sync::{Arc, Once};

use apache_avro::Schema as ApacheSchema;
use apache_avro::reader::datum::GenericDatumReader;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use schemas::columns::arrow_schema;
use schemas::record::RecordKind;
use schemas::wire::unframe;

use crate::record::Record;
use crate::registry::{RegistryError, SchemaRegistry};

/// More rows than a poll ever brings: a decoder that is never full never asks to be emptied half-way.
const NEVER_FULL: usize = 1 << 30;
/// No field of an event is longer; bounds what a garbled length can make the checker allocate.
const MAX_FIELD: usize = 16 << 20;

/// Records of one kind that were written with one version of its schema.
#[derive(Debug, Clone)]
pub struct Group {
    /// Their kind. A kind that comes in several versions has several groups.
    pub kind: RecordKind,
    /// One row for each record, in the columns of [`arrow_schema`] whatever the version; behind them, if the decoder
    /// is a [growing](BatchDecoder::growing) one, those that only a newer version has.
    pub batch: RecordBatch,
    /// For each row the index of its record, ascending.
    pub rows: Vec<u32>,
}

/// What became of some records: each is either in exactly one group or poison.
#[derive(Debug, Clone, Default)]
pub struct Decoded {
    /// In the order of their first records.
    pub groups: Vec<Group>,
    /// Index of each record that cannot be decoded, ascending, and why.
    pub poison: Vec<(u32, String)>,
}

/// Decodes records of any kinds and versions.
pub struct BatchDecoder {
    registry: Arc<dyn SchemaRegistry>,
    versions: HashMap<u32, Version>,
    is_growing: bool,
}

/// One schema id, that is, one version of one kind.
struct Version {
    id: u32,
    kind: RecordKind,
    text: Arc<str>,
    schema: ApacheSchema,
    /// What is read: the schema of this program, and behind it what only the version has.
    reader: Arc<str>,
    columns: SchemaRef,
    decoder: Decoder,
}

impl BatchDecoder {
    /// Asks `registry` for each schema id once.
    pub fn new(registry: Arc<dyn SchemaRegistry>) -> Self {
        static LIMIT: Once = Once::new();
        LIMIT.call_once(|| {
            apache_avro::util::max_allocation_bytes(MAX_FIELD);
        });
        Self { registry, versions: HashMap::new(), is_growing: false }
    }

    /// The same for who keeps what it does not understand: fields that a newer version of a record has added become
    /// columns, if they are text, numbers, booleans or times. Other new fields are left out, as by [`Self::new`].
    pub fn growing(registry: Arc<dyn SchemaRegistry>) -> Self {
        Self { is_growing: true, ..Self::new(registry) }
    }

    /// Decodes what can be decoded and names the rest.
    ///
    /// # Errors
    /// Only what is not the records' fault: a registry that is away or refuses to answer. Nothing is lost; decode
    /// the same records again.
    pub fn decode(&mut self, records: &[Record]) -> Result<Decoded, RegistryError> {
        let mut decoded = Decoded::default();
        for (id, rows) in by_schema(records, &mut decoded.poison) {
            match self.version(id)? {
                Ok(version) => version.decode(records, rows, &mut decoded),
                Err(reason) => decoded.poison.extend(rows.into_iter().map(|row| (row, reason.clone()))),
            }
        }
        decoded.groups.sort_by_key(|group| group.rows[0]);
        decoded.poison.sort_by_key(|(row, _)| *row);
        Ok(decoded)
    }

    /// The inner error says why no record with this id can be decoded.
    fn version(&mut self, id: u32) -> Result<Result<&mut Version, String>, RegistryError> {
        if !self.versions.contains_key(&id) {
            let text = match self.registry.schema(id) {
                Ok(text) => text,
                Err(error @ RegistryError::NotFound { .. }) => return Ok(Err(error.to_string())),
                Err(error) => return Err(error),
            };
            match Version::new(id, text, self.is_growing) {
                Ok(version) => self.versions.insert(id, version),
                Err(reason) => return Ok(Err(reason)),
            };
        }
        Ok(self.versions.get_mut(&id).ok_or_else(|| format!("schema {id} vanished")))
    }
}

/// Indices of records by schema id; what has none is poison.
fn by_schema(records: &[Record], poison: &mut Vec<(u32, String)>) -> Vec<(u32, Vec<u32>)> {
    let mut buckets: Vec<(u32, Vec<u32>)> = Vec::new();
    let mut last = 0;
    for (row, record) in (0..).zip(records) {
        let Some(value) = &record.value else {
            poison.push((row, "no value".to_owned()));
            continue;
        };
        let id = match unframe(value) {
            Ok((id, _)) => id,
            Err(error) => {
                poison.push((row, error.to_string()));
                continue;
            }
        };
        if buckets.get(last).is_none_or(|(of, _)| *of != id) {
            last = buckets.iter().position(|(of, _)| *of == id).unwrap_or_else(|| {
                buckets.push((id, Vec::new()));
                buckets.len() - 1
            });
        }
        buckets[last].1.push(row);
    }
    buckets
}

impl Version {
    fn new(id: u32, text: Arc<str>, is_growing: bool) -> Result<Self, String> {
        let schema =
            ApacheSchema::parse_str(&text).map_err(|error| format!("schema {id} is not Avro: {error}"))?;
        let name = match &schema {
            ApacheSchema::Record(record) => record.name.to_string(),
            _ => return Err(format!("schema {id} is not of a record")),
        };
        let kind = RecordKind::from_full_name(&name)
            .ok_or_else(|| format!("schema {id} is of `{name}`, which is not known here"))?;
        let wrong = |error: String| format!("schema {id} of `{name}`: {error}");
        let grown = if is_growing { grown(kind, &text) } else { None };
        let reader: Arc<str> = grown.as_deref().unwrap_or_else(|| kind.avsc()).into();
        let decoder = decoder(id, &text, &reader).map_err(wrong)?;
        let columns = if grown.is_some() { columns(kind, &decoder) } else { arrow_schema(kind) };
        Ok(Self { id, kind, text, schema, reader, columns, decoder })
    }

    fn decode(&mut self, records: &[Record], mut rows: Vec<u32>, decoded: &mut Decoded) {
        let poison = &mut decoded.poison;
        if let Ok(batch) = self.at_once(records, &rows) {
            decoded.groups.push(Group { kind: self.kind, batch, rows });
            return;
        }
        self.keep_readable(records, &mut rows, poison);
        let mut batch = self.at_once(records, &rows);
        if batch.is_err() {
            // apache-avro accepts what arrow-avro does not: a boolean missing at the end counts as null there.
            rows.retain(|row| match self.at_once(records, &[*row]) {
                Ok(_) => true,
                Err(reason) => {
                    poison.push((*row, reason));
                    false
                }
            });
            batch = self.at_once(records, &rows);
        }
        match batch {
            _ if rows.is_empty() => {}
            Ok(batch) => decoded.groups.push(Group { kind: self.kind, batch, rows }),
            // Each alone is readable, together they are not: no such case is known.
            Err(reason) => poison.extend(rows.into_iter().map(|row| (row, reason.clone()))),
        }
    }

    /// All these records as one batch, or nothing; then the decoder is a new one.
    fn at_once(&mut self, records: &[Record], rows: &[u32]) -> Result<RecordBatch, String> {
        let tried = feed(&mut self.decoder, records, rows)
            .and_then(|()| finish(&mut self.decoder, &self.columns, rows));
        if tried.is_err()
            && let Ok(fresh) = decoder(self.id, &self.text, &self.reader)
        {
            self.decoder = fresh;
        }
        tried
    }

    /// Leaves only rows whose datum apache-avro can read to its last byte.
    fn keep_readable(&self, records: &[Record], rows: &mut Vec<u32>, poison: &mut Vec<(u32, String)>) {
        let Ok(reader) = GenericDatumReader::builder(&self.schema).build() else {
            return;
        };
        rows.retain(|row| {
            let value = records[*row as usize].value.as_deref().unwrap_or_default();
            let mut datum = value.get(schemas::wire::PREFIX..).unwrap_or_default();
            let reason = match reader.read_value(&mut datum) {
                Ok(_) if datum.is_empty() => return true,
                Ok(_) => format!("{} bytes are left over behind the record", datum.len()),
                Err(error) => format!("not a {}: {error}", self.kind.full_name()),
            };
            poison.push((*row, reason));
            false
        });
    }
}

/// The schema of this program with the fields that only `text`, a newer version, has; `None` if there are none.
fn grown(kind: RecordKind, text: &str) -> Option<String> {
    let mut ours: serde_json::Value = serde_json::from_str(kind.avsc()).ok()?;
    let theirs: serde_json::Value = serde_json::from_str(text).ok()?;
    let known = arrow_schema(kind);
    let is_new = |field: &&serde_json::Value| {
        field["name"].as_str().is_some_and(|name| known.index_of(name).is_err()) && is_plain(&field["type"])
    };
    let added: Vec<_> = theirs["fields"].as_array()?.iter().filter(is_new).cloned().collect();
    if added.is_empty() {
        return None;
    }
    ours["fields"].as_array_mut()?.extend(added);
    Some(ours.to_string())
}

/// Text, a number, a boolean or a time in µs; or null instead of it.
fn is_plain(kind: &serde_json::Value) -> bool {
    match kind {
        serde_json::Value::String(name) => {
            ["string", "long", "int", "double", "boolean"].contains(&name.as_str())
        }
        serde_json::Value::Object(kind) => {
            kind.get("type").is_some_and(|of| of == "long")
                && kind.get("logicalType").is_some_and(|logical| logical == "timestamp-micros")
        }
        serde_json::Value::Array(either) => {
            let others: Vec<_> = either.iter().filter(|of| *of != "null").collect();
            either.len() == 2 && matches!(others[..], [of] if !of.is_array() && is_plain(of))
        }
        _ => false,
    }
}

/// The canonical columns of the record, and behind them the others that the decoder gives.
fn columns(kind: RecordKind, decoder: &Decoder) -> SchemaRef {
    let canonical = arrow_schema(kind);
    let fields = decoder.schema();
    let others = fields.fields().iter().skip(canonical.fields().len());
    let others = others.map(|field| Arc::new(field.as_ref().clone().with_metadata(HashMap::new())));
    Arc::new(Schema::new(canonical.fields().iter().cloned().chain(others).collect::<Vec<_>>()))
}

fn decoder(id: u32, text: &str, reader: &str) -> Result<Decoder, String> {
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    store.set(Fingerprint::Id(id), AvroSchema::new(text.to_owned())).map_err(|error| error.to_string())?;
    ReaderBuilder::new()
        .with_batch_size(NEVER_FULL)
        .with_writer_schema_store(store)
        .with_active_fingerprint(Fingerprint::Id(id))
        .with_reader_schema(AvroSchema::new(reader.to_owned()))
        .build_decoder()
        .map_err(|error| error.to_string())
}

/// Each value must be exactly one row: a truncated one is reported only by how much was consumed, one that is
/// nothing but a prefix not even by that.
fn feed(decoder: &mut Decoder, records: &[Record], rows: &[u32]) -> Result<(), String> {
    for row in rows {
        let value = records[*row as usize].value.as_deref().unwrap_or_default();
        let room = decoder.capacity();
        let consumed = decoder.decode(value).map_err(|error| error.to_string())?;
        if consumed != value.len() || decoder.capacity() + 1 != room {
            return Err(format!("cut short: only {consumed} of {} bytes could be read", value.len()));
        }
    }
    Ok(())
}

/// Batches of different versions have different metadata; all get the same schema.
fn finish(decoder: &mut Decoder, columns: &SchemaRef, rows: &[u32]) -> Result<RecordBatch, String> {
    let flushed = decoder.flush().map_err(|error| error.to_string())?;
    let batch = match flushed {
        Some(batch) if batch.num_rows() == rows.len() => batch,
        Some(batch) => {
            return Err(format!("{} rows came of {} records", batch.num_rows(), rows.len()));
        }
        None if rows.is_empty() => return Ok(RecordBatch::new_empty(Arc::clone(columns))),
        None => return Err("no rows came".to_owned()),
    };
    RecordBatch::try_new(Arc::clone(columns), batch.columns().to_vec()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;

//! The columns of each table, and how a batch becomes rows of it.
//!
//! Every column of a table may be null, so that a later version of a record can add columns to a table
//! that exists; times are µs, UTC. The partition column `dt` is in the log only, as Delta has it.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, AsArray, BinaryBuilder, Int32Array, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType},
};
use deltalake_core::kernel::{DataType as DeltaType, StructField};
use eventlog::Record;
use schemas::{columns::arrow_schema, family::Family, record::RecordKind};

use crate::{
    SinkError,
    batch::{Place, Rows},
    row_json,
};

/// Set where a row's partition was decided by its arrival, null elsewhere.
pub(super) const BY_ARRIVAL: &str = "dt_by_arrival";
/// The partition column.
pub(super) const PARTITION: &str = "dt";
/// Last column of the envelope that all families share.
const ENVELOPE_END: &str = "extra";

/// What a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// All families as received, payload as JSON.
    Raw,
    /// One kind of record, column by column.
    Kind(RecordKind),
    /// Records of the log as they are.
    Records,
}

/// A table's columns and the order of its rows.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) content: Content,
    /// Columns of a batch, without [`BY_ARRIVAL`] and [`PARTITION`].
    pub(super) schema: SchemaRef,
    /// Rows are sorted by these: text, time, number.
    pub(super) agent: usize,
    pub(super) time: usize,
    pub(super) tie: usize,
    /// When the row arrived; without it the record's time in the log counts.
    pub(super) arrival: Option<usize>,
}

impl Shape {
    pub(super) fn new(content: Content) -> Result<Self, SinkError> {
        let (fields, agent, time, tie) = match content {
            Content::Raw => {
                let schema = arrow_schema(RecordKind::Family(Family::CustomEvent));
                let mut fields: Vec<Field> = schema
                    .fields()
                    .iter()
                    .take(envelope_len(&schema)?)
                    .map(|field| nullable(field))
                    .collect();
                fields.push(Field::new("family", DataType::Utf8, true));
                fields.push(Field::new("body", DataType::Utf8, true));
                (fields, "agent_id", "event_time", "seq")
            }
            Content::Kind(kind) => {
                let schema = arrow_schema(kind);
                let fields: Vec<Field> = schema.fields().iter().map(|field| nullable(field)).collect();
                match kind {
                    RecordKind::Feature1m
                    | RecordKind::Feature5m
                    | RecordKind::Feature1h
                    | RecordKind::UserFeature1m
                    | RecordKind::UserFeature5m
                    | RecordKind::UserFeature1h => (fields, "agent_id", "window_start", "revision"),
                    _ => (fields, "agent_id", "event_time", "seq"),
                }
            }
            Content::Records => (record_fields(), "key", "timestamp", "offset"),
        };
        let schema = Schema::new(fields);
        let index = |name: &str| {
            schema.index_of(name).map_err(|_| SinkError::Fatal(format!("no column `{name}` to sort by")))
        };
        Ok(Self {
            content,
            agent: index(agent)?,
            time: index(time)?,
            tie: index(tie)?,
            arrival: schema.index_of("received_at").ok(),
            schema: Arc::new(schema),
        })
    }

    /// Columns of a Parquet file.
    pub(super) fn file_schema(&self) -> SchemaRef {
        let mut fields: Vec<Arc<Field>> = self.schema.fields().to_vec();
        fields.push(Arc::new(Field::new(BY_ARRIVAL, DataType::Boolean, true)));
        Arc::new(Schema::new(fields))
    }

    /// Columns of the table as Delta names them.
    pub(super) fn delta_columns(&self) -> Result<Vec<StructField>, SinkError> {
        let schema = self.file_schema();
        let mut columns = Vec::with_capacity(schema.fields().len() + 1);
        for field in schema.fields() {
            let delta = match field.data_type() {
                DataType::Utf8 => DeltaType::STRING,
                DataType::Int64 => DeltaType::LONG,
                DataType::Int32 => DeltaType::INTEGER,
                DataType::Float64 => DeltaType::DOUBLE,
                DataType::Boolean => DeltaType::BOOLEAN,
                DataType::Binary => DeltaType::BINARY,
                DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => DeltaType::TIMESTAMP,
                other => return Err(SinkError::Fatal(format!("no Delta type for {other}"))),
            };
            columns.push(StructField::new(field.name().clone(), delta, true));
        }
        columns.push(StructField::new(PARTITION.to_owned(), DeltaType::DATE, true));
        Ok(columns)
    }

    /// Rows of the table; `None` when these records are not kept here.
    pub(super) fn shape(&self, rows: Rows) -> Result<Option<Rows>, SinkError> {
        let columns = match (self.content, rows.kind) {
            (Content::Raw, Some(RecordKind::Family(family))) => {
                let end = envelope_len(&rows.batch.schema())?;
                let mut columns: Vec<ArrayRef> = rows.batch.columns()[..end].iter().map(to_utc).collect();
                columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(
                    family.name(),
                    rows.batch.num_rows(),
                ))));
                columns.push(Arc::new(row_json::bodies(&rows.batch, end)?));
                columns
            }
            (Content::Kind(kind), Some(found)) if kind == found => {
                rows.batch.columns().iter().map(to_utc).collect()
            }
            _ => return Ok(None),
        };
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| SinkError::Fatal(format!("rows do not fit their table: {error}")))?;
        Ok(Some(Rows { batch, ..rows }))
    }

    /// Rows of a table of records.
    pub(super) fn shape_records(&self, records: &[Record]) -> Result<Rows, SinkError> {
        let mut values = BinaryBuilder::new();
        for record in records {
            values.append_option(record.value.as_ref());
        }
        let text = |bytes: &bytes::Bytes| String::from_utf8_lossy(bytes).into_owned();
        let headers = |record: &Record| {
            let pairs: Vec<(&str, String)> =
                record.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
            serde_json::to_string(&pairs).unwrap_or_default()
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(records.iter().map(|r| &r.topic))),
            Arc::new(Int32Array::from_iter_values(records.iter().map(|r| r.partition))),
            Arc::new(Int64Array::from_iter_values(records.iter().map(|r| r.offset))),
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(
                    records.iter().map(|r| r.timestamp.saturating_mul(1000)),
                )
                .with_timezone("UTC"),
            ),
            Arc::new(records.iter().map(|r| r.key.as_ref().map(text)).collect::<StringArray>()),
            Arc::new(values.finish()),
            Arc::new(StringArray::from_iter_values(records.iter().map(headers))),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| SinkError::Fatal(format!("records do not fit their table: {error}")))?;
        let place = |r: &Record| Place { partition: r.partition, offset: r.offset, timestamp: r.timestamp };
        Ok(Rows { kind: None, batch, places: records.iter().map(place).collect() })
    }
}

fn envelope_len(schema: &Schema) -> Result<usize, SinkError> {
    let end = schema.index_of(ENVELOPE_END);
    end.map(|end| end + 1).map_err(|_| SinkError::Fatal(format!("no column `{ENVELOPE_END}` in an event")))
}

fn nullable(field: &Field) -> Field {
    let kind = match field.data_type() {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some("UTC".into())),
        other => other.clone(),
    };
    Field::new(field.name(), kind, true)
}

fn to_utc(column: &ArrayRef) -> ArrayRef {
    match column.as_primitive_opt::<TimestampMicrosecondType>() {
        Some(times) => Arc::new(times.clone().with_timezone("UTC")),
        None => Arc::clone(column),
    }
}

fn record_fields() -> Vec<Field> {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    vec![
        Field::new("topic", DataType::Utf8, true),
        Field::new("partition", DataType::Int32, true),
        Field::new("offset", DataType::Int64, true),
        Field::new("timestamp", utc, true),
        Field::new("key", DataType::Utf8, true),
        Field::new("value", DataType::Binary, true),
        Field::new("headers", DataType::Utf8, true),
    ]
}

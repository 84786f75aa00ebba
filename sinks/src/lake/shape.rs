//! The columns of each table, and how a batch becomes rows of it.
//!
//! Every column of a table may be null, so that a later version of a record can add columns to a table
//! that exists; times are µs, UTC. The partition column `dt` is in the log only, as Delta has it.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, AsArray, BinaryBuilder, Int32Array, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray, new_null_array,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType},
};
use deltalake_core::kernel::{DataType as DeltaType, StructField};
use eventlog::Record;
use schemas::{
    columns::arrow_schema,
    family::Family,
    headers::{dead_letter, late},
    record::RecordKind,
};

use crate::{
    SinkError,
    batch::{Place, Rows},
    row_json,
};

/// Set where a row's partition was decided by its arrival, null elsewhere.
pub(super) const BY_ARRIVAL: &str = "dt_by_arrival";
/// The partition column.
pub(super) const PARTITION: &str = "dt";
/// Columns that name what is measured, where a table has them.
const SERIES: [&str; 4] = ["event_type", "disk", "net_interface", "sensor"];
/// Last column of the envelope that all families share.
const ENVELOPE_END: &str = "extra";

/// What a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// All families as received, payload as JSON.
    Raw,
    /// One kind of record, column by column.
    Kind(RecordKind),
    /// Records of the log as they are, with what the headers of late rows say.
    Late,
    /// Records of the log as they are, with what the headers of dead letters say.
    DeadLetters,
}

impl Content {
    /// Records are taken as they are, not decoded.
    pub(super) fn is_plain(self) -> bool {
        matches!(self, Self::Late | Self::DeadLetters)
    }

    /// Headers that become columns: header, column, and whether it is a time in µs.
    fn headers(self) -> &'static [(&'static str, &'static str, bool)] {
        match self {
            Self::Raw | Self::Kind(_) => &[],
            Self::Late => &[
                (late::OPERATOR, "operator", false),
                (late::WINDOW_START, "window_start", true),
                (late::WINDOW_END, "window_end", true),
                (late::WATERMARK, "watermark", true),
            ],
            Self::DeadLetters => &[
                (dead_letter::STAGE, "stage", false),
                (dead_letter::REASON, "reason", false),
                (dead_letter::ORIGIN, "origin", false),
                (dead_letter::AT, "at", true),
            ],
        }
    }
}

/// Columns of files and those that rows are sorted by: text, series where there are any, time, number.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) schema: SchemaRef,
    pub(super) agent: usize,
    /// These name what is measured. What is said of it again and again stands together: its times then grow by an
    /// interval, and columns that it does not have are one long null.
    pub(super) series: Vec<usize>,
    pub(super) time: usize,
    pub(super) tie: usize,
}

/// A table's columns and the order of its rows.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) content: Content,
    /// Columns of a batch, without [`BY_ARRIVAL`] and [`PARTITION`].
    pub(super) schema: SchemaRef,
    /// Rows are sorted by these: text, series, time, number.
    pub(super) agent: usize,
    pub(super) series: Vec<usize>,
    pub(super) time: usize,
    pub(super) tie: usize,
    /// When the row arrived; without it the record's time in the log counts.
    pub(super) arrival: Option<usize>,
}

impl Shape {
    pub(super) fn new(content: Content) -> Result<Self, SinkError> {
        let fields = match content {
            Content::Raw => {
                let schema = arrow_schema(RecordKind::Family(Family::CustomEvent));
                let envelope = schema.fields().iter().take(envelope_len(&schema)?);
                let mut fields: Vec<Field> = envelope.map(|field| nullable(field)).collect();
                fields.push(Field::new("family", DataType::Utf8, true));
                fields.push(Field::new("body", DataType::Utf8, true));
                fields
            }
            Content::Kind(kind) => arrow_schema(kind).fields().iter().map(|field| nullable(field)).collect(),
            Content::Late | Content::DeadLetters => {
                let header = |(_, column, is_time): &(&str, &str, bool)| {
                    Field::new(*column, if *is_time { utc() } else { DataType::Utf8 }, true)
                };
                record_fields().into_iter().chain(content.headers().iter().map(header)).collect()
            }
        };
        let schema = Schema::new(fields);
        let Layout { agent, series, time, tie, .. } = layout(&Arc::new(schema.clone()))?;
        let arrival = schema.index_of("received_at").ok();
        Ok(Self { content, schema: Arc::new(schema), agent, series, time, tie, arrival })
    }

    /// Columns of a Parquet file.
    pub(super) fn file_schema(&self) -> SchemaRef {
        let mut fields: Vec<Arc<Field>> = self.schema.fields().to_vec();
        fields.push(Arc::new(Field::new(BY_ARRIVAL, DataType::Boolean, true)));
        Arc::new(Schema::new(fields))
    }

    pub(super) fn layout(&self) -> Layout {
        let Self { agent, time, tie, .. } = *self;
        Layout { schema: self.file_schema(), agent, series: self.series.clone(), time, tie }
    }

    /// Columns that rows bring and this table does not know yet: a newer version of the record has come.
    pub(super) fn unknown(&self, rows: &Rows) -> Vec<Field> {
        if !matches!((self.content, rows.kind), (Content::Kind(kind), Some(found)) if kind == found) {
            return Vec::new();
        }
        let schema = rows.batch.schema();
        let fields = schema.fields().iter().filter(|field| self.schema.index_of(field.name()).is_err());
        fields.map(|field| nullable(field)).collect()
    }

    /// Takes more columns, behind those that are there.
    pub(super) fn grow(&mut self, more: Vec<Field>) {
        let known = self.schema.fields().iter().cloned();
        self.schema = Arc::new(Schema::new(known.chain(more.into_iter().map(Arc::new)).collect::<Vec<_>>()));
    }

    /// A batch that was shaped before the table grew, with the columns of now.
    pub(super) fn widened(&self, batch: &RecordBatch) -> Result<RecordBatch, SinkError> {
        if batch.num_columns() == self.schema.fields().len() {
            return Ok(batch.clone());
        }
        let missing = self.schema.fields().iter().skip(batch.num_columns());
        let nulls = missing.map(|field| new_null_array(field.data_type(), batch.num_rows()));
        let columns = batch.columns().iter().cloned().chain(nulls).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|error| misfit(&error))
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
                let found = rows.batch.schema();
                let column = |field: &Arc<Field>| match found.index_of(field.name()) {
                    Ok(index) => to_utc(rows.batch.column(index)),
                    Err(_) => new_null_array(field.data_type(), rows.batch.num_rows()),
                };
                self.schema.fields().iter().map(column).collect()
            }
            _ => return Ok(None),
        };
        let batch =
            RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|error| misfit(&error))?;
        Ok(Some(Rows { batch, ..rows }))
    }

    /// Rows of a table of records.
    pub(super) fn shape_records(&self, records: &[Record]) -> Result<Rows, SinkError> {
        let bytes = records.iter().filter_map(|record| record.value.as_ref()).map(bytes::Bytes::len).sum();
        let mut values = BinaryBuilder::with_capacity(records.len(), bytes);
        for record in records {
            values.append_option(record.value.as_ref());
        }
        let text = |bytes: &bytes::Bytes| String::from_utf8_lossy(bytes).into_owned();
        let headers = |record: &Record| {
            let pairs: Vec<(&str, String)> =
                record.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
            serde_json::to_string(&pairs).unwrap_or_default()
        };
        let mut columns: Vec<ArrayRef> = vec![
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
        for (header, _, is_time) in self.content.headers() {
            let values = records.iter().map(|record| record.header(header).map(text));
            columns.push(if *is_time {
                let micros = values.map(|value| value.and_then(|value| value.parse::<i64>().ok()));
                Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
            } else {
                Arc::new(values.collect::<StringArray>())
            });
        }
        let batch =
            RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|error| misfit(&error))?;
        let place = |r: &Record| Place { partition: r.partition, offset: r.offset, timestamp: r.timestamp };
        Ok(Rows { kind: None, batch, places: records.iter().map(place).collect() })
    }
}

fn misfit(error: &dyn std::fmt::Display) -> SinkError {
    SinkError::Fatal(format!("rows do not fit their table: {error}"))
}

/// The columns that rows of any table are sorted by. A record that has none of the usual ones is sorted by its first
/// text and its first time.
pub(super) fn layout(schema: &SchemaRef) -> Result<Layout, SinkError> {
    let named = |names: &[&str]| names.iter().find_map(|name| schema.index_of(name).ok());
    let first =
        |wanted: fn(&DataType) -> bool| schema.fields().iter().position(|field| wanted(field.data_type()));
    let agent = named(&["agent_id", "key"]).or_else(|| first(|kind| *kind == DataType::Utf8));
    // a record of the log is sorted by its own time, though it may tell of a window
    let time = named(&["timestamp", "event_time", "window_start"])
        .or_else(|| first(|kind| matches!(kind, DataType::Timestamp(..))));
    let tie = named(&["seq", "revision", "offset"]).or(time);
    let is_text = |column: &usize| *schema.field(*column).data_type() == DataType::Utf8;
    let series = SERIES.iter().filter_map(|name| schema.index_of(name).ok()).filter(is_text).collect();
    match (agent, time, tie) {
        (Some(agent), Some(time), Some(tie)) => {
            Ok(Layout { schema: Arc::clone(schema), agent, series, time, tie })
        }
        _ => Err(SinkError::Fatal("a table without text or time cannot be sorted".to_owned())),
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

fn utc() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn record_fields() -> Vec<Field> {
    vec![
        Field::new("topic", DataType::Utf8, true),
        Field::new("partition", DataType::Int32, true),
        Field::new("offset", DataType::Int64, true),
        Field::new("timestamp", utc(), true),
        Field::new("key", DataType::Utf8, true),
        Field::new("value", DataType::Binary, true),
        Field::new("headers", DataType::Utf8, true),
    ]
}

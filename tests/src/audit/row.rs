//! Rows with their names and values, the same from a topic and from the lake, so that payloads can be compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use apache_avro::types::Value;
use arrow::array::{Array, AsArray as _};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};

use super::{Id, SchemaCache, read_lake, read_topic};
use crate::servers::Servers;

/// A value that is not null.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Text.
    Text(String),
    /// A whole number, or a time in µs since 1970.
    Long(i64),
    /// A number.
    Double(f64),
    /// Yes or no.
    Boolean(bool),
}

/// A row: its record's full name, and the columns that are not null.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// `varta.HostMetrics`; empty for rows of the lake.
    pub record: String,
    /// Columns by name.
    pub cells: BTreeMap<String, Cell>,
}

impl Row {
    /// A text column.
    pub fn text(&self, column: &str) -> Option<&str> {
        match self.cells.get(column)? {
            Cell::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A column of whole numbers or times.
    pub fn long(&self, column: &str) -> Option<i64> {
        match self.cells.get(column)? {
            Cell::Long(number) => Some(*number),
            _ => None,
        }
    }

    /// Who the event is; `None` for rows that are no events.
    pub fn id(&self) -> Option<Id> {
        let (agent_id, seq) = (self.text("agent_id")?.to_owned(), self.long("seq")?);
        if seq < 0 {
            return Some(Id::Foreign { agent_id, event_id: self.text("event_id")?.to_owned() });
        }
        Some(Id::Own { agent_id, session: self.long("session")?, lane: self.text("lane")?.to_owned(), seq })
    }

    /// All columns but these, in one line: equal rows give equal lines.
    pub fn line_without(&self, left_out: &[&str]) -> String {
        let mut line = String::new();
        for (name, cell) in self.cells.iter().filter(|(name, _)| !left_out.contains(&name.as_str())) {
            let _ = match cell {
                Cell::Text(text) => write!(line, "{name}={text:?} "),
                Cell::Long(number) => write!(line, "{name}={number} "),
                Cell::Double(number) => write!(line, "{name}={number:?} "),
                Cell::Boolean(yes) => write!(line, "{name}={yes} "),
            };
        }
        line
    }
}

/// Shows every committed record of a topic; returns how many there were.
pub async fn visit_topic(
    servers: &Servers,
    topic: &str,
    schemas: &mut SchemaCache,
    mut visit: impl FnMut(Row),
) -> anyhow::Result<usize> {
    let (kafka, name) = (servers.kafka.clone(), topic.to_owned());
    let records = tokio::task::spawn_blocking(move || read_topic(&kafka, &name)).await??;
    for record in &records {
        let (name, fields) = schemas
            .decode(&record.value)
            .await
            .with_context(|| format!("{topic}-{}-{}", record.partition, record.offset))?;
        let cells = fields.into_iter().filter_map(|(name, value)| Some((name, cell(value)?)));
        visit(Row { record: name, cells: cells.collect() });
    }
    Ok(records.len())
}

fn cell(value: Value) -> Option<Cell> {
    match value {
        Value::Union(_, inner) => cell(*inner),
        Value::String(text) => Some(Cell::Text(text)),
        Value::Long(number) | Value::TimestampMicros(number) => Some(Cell::Long(number)),
        Value::Int(number) => Some(Cell::Long(number.into())),
        Value::Double(number) => Some(Cell::Double(number)),
        Value::Boolean(yes) => Some(Cell::Boolean(yes)),
        _ => None,
    }
}

/// Shows every row of a table of the lake; none for a table that does not exist yet.
pub async fn visit_lake(table: &Path, mut visit: impl FnMut(Row)) -> anyhow::Result<usize> {
    if !table.join("_delta_log").exists() {
        return Ok(0);
    }
    let stored = read_lake(table).await?;
    for batch in &stored.batches {
        let mut rows = vec![Row { record: String::new(), cells: BTreeMap::new() }; batch.num_rows()];
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let read = reader(column.as_ref()).with_context(|| format!("column {}", field.name()))?;
            for (at, row) in rows.iter_mut().enumerate().filter(|(at, _)| column.is_valid(*at)) {
                row.cells.insert(field.name().clone(), read(at));
            }
        }
        rows.into_iter().for_each(&mut visit);
    }
    Ok(stored.rows())
}

fn reader(column: &dyn Array) -> anyhow::Result<Box<dyn Fn(usize) -> Cell + '_>> {
    Ok(match column.data_type() {
        DataType::Utf8 => Box::new(|at| Cell::Text(column.as_string::<i32>().value(at).to_owned())),
        DataType::Int64 => Box::new(|at| Cell::Long(column.as_primitive::<Int64Type>().value(at))),
        DataType::Int32 => Box::new(|at| Cell::Long(column.as_primitive::<Int32Type>().value(at).into())),
        DataType::Float64 => Box::new(|at| Cell::Double(column.as_primitive::<Float64Type>().value(at))),
        DataType::Boolean => Box::new(|at| Cell::Boolean(column.as_boolean().value(at))),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Box::new(|at| Cell::Long(column.as_primitive::<TimestampMicrosecondType>().value(at)))
        }
        other => bail!("{other} is not read"),
    })
}

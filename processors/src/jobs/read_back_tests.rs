//! Outputs read back as rows, to be compared for what they mean: integers and texts equal, floats nearly.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};

use super::*;

/// Floats that differ by no more than this, relative to the larger, are the same.
const NEARLY: f64 = 1e-9;

/// One value.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    Null,
    Whole(i64),
    Real(f64),
    Text(String),
}

impl PartialEq for Cell {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Whole(one), Self::Whole(two)) => one == two,
            (Self::Text(one), Self::Text(two)) => one == two,
            (Self::Real(one), Self::Real(two)) => (one - two).abs() <= NEARLY * one.abs().max(two.abs()),
            _ => false,
        }
    }
}

/// One row by column.
pub(super) type Line = BTreeMap<String, Cell>;

pub(super) fn whole(line: &Line, column: &str) -> i64 {
    match &line[column] {
        Cell::Whole(value) => *value,
        other => panic!("{column} is {other:?}"),
    }
}

pub(super) fn words(line: &Line, column: &str) -> String {
    match line.get(column) {
        Some(Cell::Text(text)) => text.clone(),
        _ => String::new(),
    }
}

fn cell(array: &dyn Array, row: usize) -> Cell {
    if array.is_null(row) {
        return Cell::Null;
    }
    match array.data_type() {
        DataType::Utf8 => Cell::Text(array.as_string::<i32>().value(row).to_owned()),
        DataType::Boolean => Cell::Whole(i64::from(array.as_boolean().value(row))),
        DataType::Int32 => Cell::Whole(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Cell::Whole(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Cell::Real(array.as_primitive::<Float64Type>().value(row)),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Cell::Whole(array.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        other => panic!("no output has a column of {other}"),
    }
}

/// All rows of a topic.
pub(super) fn lines(log: &MemoryLog, topic: &str) -> Vec<Line> {
    let records = log.records(topic);
    let job = shared();
    let decoded = job.0.lock().decoder.decode(&records).unwrap();
    assert!(decoded.poison.is_empty());
    let of_batch = |batch: &RecordBatch| -> Vec<Line> {
        let schema = batch.schema();
        let line = |row: usize| {
            let columns = schema.fields().iter().zip(batch.columns());
            columns.map(|(field, column)| (field.name().clone(), cell(column, row))).collect()
        };
        (0..batch.num_rows()).map(line).collect()
    };
    decoded.groups.iter().flat_map(|group| of_batch(&group.batch)).collect()
}

/// Agent, start of the window, user.
pub(super) type Window = (String, i64, String);

/// What was said last of each window.
pub(super) fn last_revisions(log: &MemoryLog, topic: &str) -> BTreeMap<Window, Line> {
    let mut last: BTreeMap<Window, Line> = BTreeMap::new();
    for line in lines(log, topic) {
        let window = (words(&line, "agent_id"), whole(&line, "window_start"), words(&line, "user"));
        let revision = whole(&line, "revision");
        match last.get(&window).map(|known| whole(known, "revision")) {
            Some(known) if known == revision => panic!("{topic}: {window:?} came twice as {revision}"),
            Some(known) if known > revision => {}
            _ => {
                last.insert(window, line);
            }
        }
    }
    last
}

/// The columns in which two rows differ, beside some.
pub(super) fn differences(one: &Line, other: &Line, beside: &[&str]) -> Vec<String> {
    let names = one.keys().chain(other.keys()).collect::<std::collections::BTreeSet<_>>();
    let names = names.into_iter().filter(|name| !beside.contains(&name.as_str()));
    names
        .filter(|name| one.get(*name) != other.get(*name))
        .map(|name| format!("{name}: {:?} and {:?}", one.get(name), other.get(name)))
        .collect()
}

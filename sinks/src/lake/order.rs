//! The order of rows: by day, agent, time and number.

use std::{collections::HashMap, ops::Range};

use arrow::array::{Array as _, AsArray as _, Int64Array, RecordBatch, StringArray};

use super::{dates::Believable, shape::Shape};
use crate::{SinkError, batch::Rows, column};

/// Bytes that ordering costs a row.
pub(super) const ROW: usize = size_of::<Key>();

/// A row's place in the order of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) day: i32,
    /// Rank of the agent among all agents.
    pub(super) agent: u32,
    pub(super) time: i64,
    pub(super) tie: i64,
    pub(super) batch: u32,
    pub(super) row: u32,
    pub(super) by_arrival: bool,
}

/// Batches of one schema with the order of all their rows.
#[derive(Debug)]
pub(super) struct Ordered {
    pub(super) batches: Vec<RecordBatch>,
    pub(super) keys: Vec<Key>,
}

impl Ordered {
    /// Orders all rows; batches that came before a column was known get it, empty.
    pub(super) fn new(shape: &Shape, rows: &[Rows], believable: Believable) -> Result<Self, SinkError> {
        let batches: Vec<RecordBatch> =
            rows.iter().map(|rows| shape.widened(&rows.batch)).collect::<Result<_, _>>()?;
        Ok(Self { batches, keys: order(shape, rows, believable)? })
    }

    /// The keys of each day, oldest day first.
    pub(super) fn days(&self) -> Vec<Range<usize>> {
        let mut days = Vec::new();
        let mut from = 0;
        for day in self.keys.chunk_by(|a, b| a.day == b.day) {
            days.push(from..from + day.len());
            from += day.len();
        }
        days
    }
}

/// The keys of all rows in their order.
fn order(shape: &Shape, rows: &[Rows], believable: Believable) -> Result<Vec<Key>, SinkError> {
    let mut names: HashMap<&str, u32> = HashMap::new();
    let mut keys = Vec::with_capacity(rows.iter().map(|rows| rows.places.len()).sum());
    for (number, rows) in rows.iter().enumerate() {
        let agents: &StringArray = rows.batch.column(shape.agent).as_string();
        let times = numbers(rows, shape.time)?;
        let ties = numbers(rows, shape.tie)?;
        let arrivals = shape.arrival.map(|column| numbers(rows, column)).transpose()?;
        let mut last: Option<(&str, u32)> = None;
        for (row, place) in rows.places.iter().enumerate() {
            let agent = if agents.is_null(row) { "" } else { agents.value(row) };
            let agent = match last {
                Some((name, id)) if name == agent => id,
                _ => {
                    let fresh = names.len() as u32;
                    let id = *names.entry(agent).or_insert(fresh);
                    last = Some((agent, id));
                    id
                }
            };
            let logged = place.timestamp.saturating_mul(1000);
            let arrival = arrivals.as_ref().and_then(|a| column::number(a, row)).unwrap_or(logged);
            let time = column::number(&times, row).unwrap_or(arrival);
            let (day, by_arrival) = believable.day(time, arrival);
            keys.push(Key {
                day,
                agent,
                time,
                tie: column::number(&ties, row).unwrap_or(0),
                batch: number as u32,
                row: row as u32,
                by_arrival,
            });
        }
    }
    let mut by_name: Vec<(&str, u32)> = names.into_iter().collect();
    by_name.sort_unstable();
    let mut rank = vec![0; by_name.len()];
    for (place, (_, id)) in by_name.iter().enumerate() {
        rank[*id as usize] = place as u32;
    }
    for key in &mut keys {
        key.agent = rank[key.agent as usize];
    }
    keys.sort_unstable();
    Ok(keys)
}

/// The whole numbers of a column.
pub(super) fn numbers(rows: &Rows, index: usize) -> Result<Int64Array, SinkError> {
    column::as_whole(rows.batch.column(index))
        .ok_or_else(|| SinkError::Fatal(format!("column {index} is not a number")))
}

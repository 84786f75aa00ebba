//! The order of rows: by day, agent, series, time and number.

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
    /// Rank of the series among all series.
    pub(super) series: u32,
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

/// Texts, numbered as they come.
#[derive(Default)]
struct Names<'a> {
    numbers: HashMap<&'a str, u32>,
    last: Option<(&'a str, u32)>,
}

impl<'a> Names<'a> {
    fn number(&mut self, texts: &'a StringArray, row: usize) -> u32 {
        let name = if texts.is_null(row) { "" } else { texts.value(row) };
        match self.last {
            Some((last, number)) if last == name => number,
            _ => {
                let fresh = self.numbers.len() as u32;
                let number = *self.numbers.entry(name).or_insert(fresh);
                self.last = Some((name, number));
                number
            }
        }
    }

    /// The rank of each number among all texts.
    fn ranks(self) -> Vec<u32> {
        let mut by_name: Vec<(&str, u32)> = self.numbers.into_iter().collect();
        by_name.sort_unstable();
        let mut ranks = vec![0; by_name.len()];
        for (rank, (_, number)) in by_name.iter().enumerate() {
            ranks[*number as usize] = rank as u32;
        }
        ranks
    }
}

/// Tuples of texts, numbered as they come.
#[derive(Default)]
struct Series<'a> {
    names: Vec<Names<'a>>,
    numbers: HashMap<Vec<u32>, u32>,
    now: Vec<u32>,
}

impl<'a> Series<'a> {
    fn number(&mut self, columns: &[&'a StringArray], row: usize) -> u32 {
        self.names.resize_with(columns.len(), Names::default);
        self.now.clear();
        self.now.extend(self.names.iter_mut().zip(columns).map(|(names, texts)| names.number(texts, row)));
        if let Some(number) = self.numbers.get(&self.now) {
            return *number;
        }
        let fresh = self.numbers.len() as u32;
        self.numbers.insert(self.now.clone(), fresh);
        fresh
    }

    /// The rank of each number among all tuples.
    fn ranks(self) -> Vec<u32> {
        let names: Vec<Vec<u32>> = self.names.into_iter().map(Names::ranks).collect();
        let ranked = |tuple: &[u32]| -> Vec<u32> {
            tuple.iter().zip(&names).map(|(number, ranks)| ranks[*number as usize]).collect()
        };
        let mut by_name: Vec<(Vec<u32>, u32)> =
            self.numbers.iter().map(|(tuple, number)| (ranked(tuple), *number)).collect();
        by_name.sort_unstable();
        let mut ranks = vec![0; by_name.len()];
        for (rank, (_, number)) in by_name.iter().enumerate() {
            ranks[*number as usize] = rank as u32;
        }
        ranks
    }
}

/// The keys of all rows in their order.
fn order(shape: &Shape, rows: &[Rows], believable: Believable) -> Result<Vec<Key>, SinkError> {
    let (mut names, mut series) = (Names::default(), Series::default());
    let mut keys = Vec::with_capacity(rows.iter().map(|rows| rows.places.len()).sum());
    for (number, rows) in rows.iter().enumerate() {
        let agents: &StringArray = rows.batch.column(shape.agent).as_string();
        let columns: Vec<&StringArray> =
            shape.series.iter().map(|column| rows.batch.column(*column).as_string()).collect();
        let times = numbers(rows, shape.time)?;
        let ties = numbers(rows, shape.tie)?;
        let arrivals = shape.arrival.map(|column| numbers(rows, column)).transpose()?;
        for (row, place) in rows.places.iter().enumerate() {
            let logged = place.timestamp.saturating_mul(1000);
            let arrival = arrivals.as_ref().and_then(|a| column::number(a, row)).unwrap_or(logged);
            let time = column::number(&times, row).unwrap_or(arrival);
            let (day, by_arrival) = believable.day(time, arrival);
            keys.push(Key {
                day,
                agent: names.number(agents, row),
                series: series.number(&columns, row),
                time,
                tie: column::number(&ties, row).unwrap_or(0),
                batch: number as u32,
                row: row as u32,
                by_arrival,
            });
        }
    }
    let (names, series) = (names.ranks(), series.ranks());
    for key in &mut keys {
        key.agent = names[key.agent as usize];
        key.series = series[key.series as usize];
    }
    keys.sort_unstable();
    Ok(keys)
}

/// The whole numbers of a column.
pub(super) fn numbers(rows: &Rows, index: usize) -> Result<Int64Array, SinkError> {
    column::as_whole(rows.batch.column(index))
        .ok_or_else(|| SinkError::Fatal(format!("column {index} is not a number")))
}

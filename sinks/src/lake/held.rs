//! What one table holds in memory until it is committed, and how it is cut by what the table has already.

use std::{collections::BTreeMap, ops::Range, time::Instant};

use arrow::error::ArrowError;
use eventlog::dead_letter::DeadLetter;

use crate::batch::{Place, Rows, Span};

/// Rows of one topic with the half-open offset ranges that they cover.
#[derive(Debug, Default)]
pub(super) struct Held {
    spans: BTreeMap<i32, Range<i64>>,
    rows: Vec<Rows>,
    /// Poison within the spans; delivered before the commit that covers it.
    letters: Vec<(i32, i64, DeadLetter)>,
    /// Records within the spans that this table does not keep, by kind.
    apart: Vec<(i32, i64, &'static str)>,
    since: Option<Instant>,
    bytes: usize,
    count: usize,
    /// Offsets that never arrived: everything must be read again.
    gap: Option<String>,
    /// Changes whenever the content does.
    edition: u64,
}

/// What a batch brings.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    pub(super) spans: Vec<Span>,
    pub(super) rows: Vec<Rows>,
    pub(super) letters: Vec<(i32, i64, DeadLetter)>,
    pub(super) apart: Vec<(i32, i64, &'static str)>,
}

/// The table has less than this process was told: offsets between are in nobody's hands.
#[derive(Debug, thiserror::Error)]
pub(super) enum CutError {
    #[error("offsets {from}..{to} of partition {partition} are neither in the table nor held")]
    Gap { partition: i32, from: i64, to: i64 },
    #[error("{0}")]
    Broken(String),
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

impl Held {
    /// Takes what arrived. A range that overlaps what is held is cut; one that does not touch it is a gap,
    /// which the next [`Held::cut`] reports.
    pub(super) fn push(&mut self, mut arrival: Arrival) -> Result<(), ArrowError> {
        let mut begin: BTreeMap<i32, i64> = BTreeMap::new();
        for span in &arrival.spans {
            let held = self.spans.entry(span.partition).or_insert(span.from..span.from);
            if span.from > held.end {
                self.gap =
                    Some(format!("partition {} went on at {} after {}", span.partition, span.from, held.end));
                return Ok(());
            }
            begin.insert(span.partition, held.end);
            held.end = held.end.max(span.to);
        }
        let fresh = |partition: i32, offset: i64| begin.get(&partition).is_some_and(|from| offset >= *from);
        for rows in arrival.rows {
            let rows = rows.keep(|place: &Place| fresh(place.partition, place.offset))?;
            if !rows.places.is_empty() {
                self.bytes += rows.memory();
                self.count += rows.places.len();
                self.rows.push(rows);
            }
        }
        arrival.letters.retain(|(partition, offset, _)| fresh(*partition, *offset));
        arrival.apart.retain(|(partition, offset, _)| fresh(*partition, *offset));
        self.bytes += arrival.letters.iter().map(|(_, _, letter)| letter.original.len()).sum::<usize>();
        self.letters.append(&mut arrival.letters);
        self.apart.append(&mut arrival.apart);
        self.since.get_or_insert_with(Instant::now);
        self.edition += 1;
        Ok(())
    }

    /// Drops what the table has. `stored` gives the offset up to which (exclusively) it has a partition.
    /// Afterwards each range begins exactly where the table ends.
    pub(super) fn cut(&mut self, stored: impl Fn(i32) -> Option<i64>) -> Result<(), CutError> {
        if let Some(gap) = &self.gap {
            return Err(CutError::Broken(gap.clone()));
        }
        let mut changed = false;
        for (partition, range) in &mut self.spans {
            let Some(end) = stored(*partition) else { continue };
            if end < range.start {
                return Err(CutError::Gap { partition: *partition, from: end, to: range.start });
            }
            if end > range.start {
                changed = true;
                range.start = end.min(range.end);
            }
        }
        if !changed {
            return Ok(());
        }
        self.spans.retain(|_, range| !range.is_empty());
        self.keep_spans()
    }

    /// Forgets these partitions.
    pub(super) fn discard(&mut self, partitions: &[i32]) -> Result<(), CutError> {
        self.gap = None;
        self.spans.retain(|partition, _| !partitions.contains(partition));
        self.keep_spans()
    }

    fn keep_spans(&mut self) -> Result<(), CutError> {
        let spans = &self.spans;
        let inside =
            |partition: i32, offset: i64| spans.get(&partition).is_some_and(|range| range.contains(&offset));
        let mut kept = Vec::with_capacity(self.rows.len());
        for rows in std::mem::take(&mut self.rows) {
            let rows = rows.keep(|place| inside(place.partition, place.offset))?;
            if !rows.places.is_empty() {
                kept.push(rows);
            }
        }
        self.letters.retain(|(partition, offset, _)| inside(*partition, *offset));
        self.apart.retain(|(partition, offset, _)| inside(*partition, *offset));
        self.bytes = kept.iter().map(Rows::memory).sum::<usize>()
            + self.letters.iter().map(|(_, _, letter)| letter.original.len()).sum::<usize>();
        self.count = kept.iter().map(|rows| rows.places.len()).sum();
        self.rows = kept;
        if self.spans.is_empty() {
            self.since = None;
        }
        self.edition += 1;
        Ok(())
    }

    /// Everything held is in the table.
    pub(super) fn clear(&mut self) {
        *self = Self { edition: self.edition + 1, ..Self::default() };
    }

    /// Poison that was not delivered yet.
    pub(super) fn letters(&self) -> Vec<DeadLetter> {
        self.letters.iter().map(|(_, _, letter)| letter.clone()).collect()
    }

    /// The poison was delivered; it still counts among what the commit covers.
    pub(super) fn letters_delivered(&mut self) {
        for (partition, offset, _) in self.letters.drain(..) {
            self.apart.push((partition, offset, "dead_letter"));
        }
    }

    /// How many records of each kind the ranges cover beside the rows.
    pub(super) fn apart(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for (_, _, what) in &self.apart {
            *counts.entry(*what).or_default() += 1;
        }
        counts
    }

    pub(super) fn rows(&self) -> &[Rows] {
        &self.rows
    }

    pub(super) fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        self.spans.iter().map(|(p, range)| Span { partition: *p, from: range.start, to: range.end })
    }

    /// Rows of one partition.
    pub(super) fn rows_of(&self, partition: i32) -> usize {
        let of = |rows: &Rows| rows.places.iter().filter(|place| place.partition == partition).count();
        self.rows.iter().map(of).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty() && self.gap.is_none()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.gap.is_some()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    pub(super) fn edition(&self) -> u64 {
        self.edition
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{Int64Array, RecordBatch},
        datatypes::{DataType, Field, Schema},
    };
    use proptest::prelude::*;

    use super::*;

    fn arrival(partition: i32, from: i64, to: i64) -> Arrival {
        let places: Vec<Place> = (from..to).map(|offset| Place { partition, offset, timestamp: 0 }).collect();
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let column = Arc::new(Int64Array::from_iter_values(from..to));
        let batch = RecordBatch::try_new(schema, vec![column]).unwrap();
        Arrival {
            spans: vec![Span { partition, from, to }],
            rows: vec![Rows { kind: None, batch, places: places.into() }],
            ..Arrival::default()
        }
    }

    fn offsets(held: &Held, partition: i32) -> Vec<i64> {
        let of = |rows: &Rows| -> Vec<i64> {
            rows.places.iter().filter(|p| p.partition == partition).map(|p| p.offset).collect()
        };
        held.rows().iter().flat_map(of).collect()
    }

    #[test]
    fn a_gap_between_table_and_memory_is_an_error() {
        let mut held = Held::default();
        held.push(arrival(0, 10, 20)).unwrap();
        assert!(matches!(held.cut(|_| Some(5)), Err(CutError::Gap { from: 5, to: 10, .. })));
        assert!(held.cut(|_| Some(10)).is_ok());
        held.push(arrival(0, 25, 30)).unwrap();
        assert!(matches!(held.cut(|_| Some(10)), Err(CutError::Broken(_))));
    }

    proptest! {
        /// Whatever is pushed and however far others got: exactly the rows from there on stay.
        #[test]
        fn a_cut_leaves_what_the_table_does_not_have(
            steps in prop::collection::vec((0..3i32, 1..20i64, 0..5i64), 1..20),
            stored in prop::collection::vec(prop::option::of(0..80i64), 3),
        ) {
            let mut held = Held::default();
            let mut ends = [0i64; 3];
            for (partition, length, overlap) in steps {
                let end = &mut ends[partition as usize];
                let from = (*end - overlap).max(0);
                held.push(arrival(partition, from, *end + length)).unwrap();
                *end += length;
            }
            held.cut(|partition| stored[partition as usize]).unwrap();
            for partition in 0..3i32 {
                let from = stored[partition as usize].unwrap_or(0);
                let expected: Vec<i64> = (from..ends[partition as usize]).collect();
                prop_assert_eq!(offsets(&held, partition), expected);
            }
            for span in held.spans() {
                prop_assert_eq!(held.rows_of(span.partition) as i64, span.to - span.from);
            }
        }

        #[test]
        fn discarding_a_partition_leaves_the_others(first in 1..30i64, second in 1..30i64) {
            let mut held = Held::default();
            held.push(arrival(0, 0, first)).unwrap();
            held.push(arrival(1, 0, second)).unwrap();
            held.discard(&[0]).unwrap();
            prop_assert!(offsets(&held, 0).is_empty());
            prop_assert_eq!(offsets(&held, 1).len() as i64, second);
            prop_assert_eq!(held.count() as i64, second);
        }
    }
}

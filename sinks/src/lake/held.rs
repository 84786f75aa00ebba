//! What one table holds in memory until it is committed, and how it is cut by what the table has already.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Instant};

use arrow::{compute::concat_batches, error::ArrowError};
use bytes::Bytes;
use eventlog::dead_letter::DeadLetter;

use super::order;
use crate::batch::{Place, Rows, Span};

/// What a record that is not kept as a row costs here.
const APART: usize = size_of::<(i32, i64, &'static str)>();

/// Small batches become one when they have so many rows …
const WHOLE: usize = 8192;
/// … or so many bytes. What a batch costs beside its rows is not counted, and blocks of few sizes leave no holes.
const WHOLE_BYTES: usize = 4 << 20;

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
    /// Takes what arrived. A range that overlaps what is held, or what the table has as far as `stored` knows, is
    /// cut; one that does not touch what is held is a gap, which the next [`Held::cut`] reports.
    pub(super) fn push(
        &mut self,
        mut arrival: Arrival,
        stored: impl Fn(i32) -> Option<i64>,
    ) -> Result<(), ArrowError> {
        let mut begin: BTreeMap<i32, i64> = BTreeMap::new();
        for span in &arrival.spans {
            let floor = stored(span.partition).unwrap_or(span.from).max(span.from);
            let held = self.spans.entry(span.partition).or_insert(floor..floor);
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
                let rows = rows.compact()?;
                self.count += rows.places.len();
                self.bytes += cost(&rows);
                self.rows.push(rows);
                self.gather()?;
            }
        }
        arrival.letters.retain(|(partition, offset, _)| fresh(*partition, *offset));
        arrival.apart.retain(|(partition, offset, _)| fresh(*partition, *offset));
        for (partition, offset, letter) in arrival.letters {
            self.bytes += weight(&letter);
            self.letters.push((partition, offset, own(letter)));
        }
        self.bytes += arrival.apart.len() * APART;
        self.apart.append(&mut arrival.apart);
        self.spans.retain(|_, range| !range.is_empty());
        self.edited();
        Ok(())
    }

    /// Makes one batch of the newest small ones when they are enough.
    fn gather(&mut self) -> Result<(), ArrowError> {
        let Some(newest) = self.rows.last() else { return Ok(()) };
        let is_small = |rows: &&Rows| {
            rows.places.len() < WHOLE
                && rows.memory() < WHOLE_BYTES
                && rows.kind == newest.kind
                && Arc::ptr_eq(rows.batch.schema_ref(), newest.batch.schema_ref())
        };
        let (mut many, mut count, mut bytes) = (0, 0, 0);
        for rows in self.rows.iter().rev().take_while(is_small) {
            (many, count, bytes) = (many + 1, count + rows.places.len(), bytes + rows.memory());
        }
        if many < 2 || (count < WHOLE && bytes < WHOLE_BYTES) {
            return Ok(());
        }
        let small = self.rows.split_off(self.rows.len() - many);
        let batch = concat_batches(small[0].batch.schema_ref(), small.iter().map(|rows| &rows.batch))?;
        let places = small.iter().flat_map(|rows| rows.places.iter().copied()).collect();
        let rows = Rows { kind: small[0].kind, batch, places }.compact()?;
        self.bytes = self.bytes - small.iter().map(cost).sum::<usize>() + cost(&rows);
        self.rows.push(rows);
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
        if changed { self.keep_spans() } else { Ok(()) }
    }

    /// Forgets these partitions.
    pub(super) fn discard(&mut self, partitions: &[i32]) -> Result<(), CutError> {
        self.gap = None;
        self.spans.retain(|partition, _| !partitions.contains(partition));
        self.keep_spans()
    }

    fn keep_spans(&mut self) -> Result<(), CutError> {
        self.spans.retain(|_, range| !range.is_empty());
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
        self.rows = kept;
        self.count_again();
        Ok(())
    }

    /// Counts anew.
    fn count_again(&mut self) {
        self.count = self.rows.iter().map(|rows| rows.places.len()).sum();
        self.bytes = self.rows.iter().map(cost).sum::<usize>()
            + self.letters.iter().map(|(_, _, letter)| weight(letter)).sum::<usize>()
            + self.apart.len() * APART;
        self.edited();
    }

    fn edited(&mut self) {
        if self.spans.is_empty() {
            self.since = None;
        } else {
            self.since.get_or_insert_with(Instant::now);
        }
        self.edition += 1;
    }

    /// Everything held is in the table.
    pub(super) fn clear(&mut self) {
        *self = Self { edition: self.edition + 1, ..Self::default() };
    }

    /// For each partition the range before its first row, which the table may count as covered without any file.
    pub(super) fn empty_fronts(&self) -> Vec<Span> {
        let mut first: BTreeMap<i32, i64> = self.spans.iter().map(|(p, range)| (*p, range.end)).collect();
        for place in self.rows.iter().flat_map(|rows| rows.places.iter()) {
            if let Some(at) = first.get_mut(&place.partition) {
                *at = place.offset.min(*at);
            }
        }
        let front = |(partition, to): (i32, i64)| Span { partition, from: self.spans[&partition].start, to };
        first.into_iter().map(front).collect()
    }

    /// The table covers these ranges now, which begin where the held ones do and hold no rows.
    pub(super) fn advance(&mut self, fronts: &[Span]) {
        for front in fronts {
            if let Some(range) = self.spans.get_mut(&front.partition) {
                range.start = range.start.max(front.to);
            }
        }
        self.spans.retain(|_, range| !range.is_empty());
        if self.spans.is_empty() {
            self.clear();
        }
        self.edition += 1;
    }

    /// Poison that was not delivered yet.
    pub(super) fn letters(&self) -> Vec<DeadLetter> {
        self.letters.iter().map(|(_, _, letter)| letter.clone()).collect()
    }

    /// The poison was delivered; it still counts among what the commit covers.
    pub(super) fn letters_delivered(&mut self) {
        for (partition, offset, letter) in self.letters.drain(..) {
            self.bytes = self.bytes.saturating_sub(weight(&letter)) + APART;
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

/// What rows cost: their columns and places now, and their place in the order when they are written.
fn cost(rows: &Rows) -> usize {
    rows.memory() + rows.places.len() * order::ROW
}

/// The letter with bytes of its own: those of the log are slices that keep a whole poll alive.
fn own(letter: DeadLetter) -> DeadLetter {
    let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
    DeadLetter {
        key: letter.key.as_ref().map(copy),
        original: copy(&letter.original),
        headers: letter.headers.iter().map(|(name, value)| (name.clone(), copy(value))).collect(),
        ..letter
    }
}

fn weight(letter: &DeadLetter) -> usize {
    let headers: usize = letter.headers.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
    size_of::<(i32, i64, DeadLetter)>()
        + letter.reason.len()
        + letter.origin.len()
        + letter.key.as_ref().map_or(0, Bytes::len)
        + letter.original.len()
        + headers
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{AsArray as _, Int64Array, RecordBatch},
        datatypes::{DataType, Field, Int64Type, Schema},
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
        held.push(arrival(0, 10, 20), |_| None).unwrap();
        assert!(matches!(held.cut(|_| Some(5)), Err(CutError::Gap { from: 5, to: 10, .. })));
        assert!(held.cut(|_| Some(10)).is_ok());
        held.push(arrival(0, 25, 30), |_| None).unwrap();
        assert!(matches!(held.cut(|_| Some(10)), Err(CutError::Broken(_))));
    }

    #[test]
    fn what_the_table_has_is_not_held_at_all() {
        let mut held = Held::default();
        held.push(arrival(0, 0, 20), |_| Some(15)).unwrap();
        assert_eq!(offsets(&held, 0), (15..20).collect::<Vec<_>>());
        held.push(arrival(1, 0, 20), |_| Some(30)).unwrap();
        assert_eq!(held.spans().count(), 1);
        held.push(arrival(1, 20, 40), |_| Some(30)).unwrap();
        assert_eq!(offsets(&held, 1), (30..40).collect::<Vec<_>>());
        assert!(held.cut(|partition| Some(if partition == 0 { 15 } else { 30 })).is_ok());
    }

    #[test]
    fn the_front_without_rows_goes_ahead() {
        let mut held = Held::default();
        let mut late = arrival(0, 0, 20);
        late.rows = arrival(0, 12, 13).rows;
        held.push(late, |_| None).unwrap();
        let fronts = held.empty_fronts();
        assert_eq!(fronts, [Span { partition: 0, from: 0, to: 12 }]);
        held.advance(&fronts);
        assert_eq!(held.spans().collect::<Vec<_>>(), [Span { partition: 0, from: 12, to: 20 }]);
        assert_eq!(held.count(), 1);
        let mut none = arrival(1, 0, 7);
        none.rows.clear();
        let mut held = Held::default();
        held.push(none, |_| None).unwrap();
        held.advance(&held.empty_fronts());
        assert!(held.is_empty() && held.since().is_none());
    }

    /// A poison record is a slice of everything that came with it.
    #[test]
    fn a_letter_keeps_only_its_own_bytes() {
        let poll = Bytes::from(vec![7; 4 << 20]);
        let letter = DeadLetter {
            stage: "lake",
            reason: "why".to_owned(),
            origin: "t-0-0".to_owned(),
            key: Some(poll.slice(..4)),
            original: poll.slice(10..20),
            headers: vec![("h".to_owned(), poll.slice(30..40))],
        };
        let mut none = arrival(0, 0, 1);
        none.rows.clear();
        let mut held = Held::default();
        held.push(Arrival { letters: vec![(0, 0, letter)], ..none }, |_| None).unwrap();
        let kept = held.letters().remove(0);
        assert_eq!(kept.original, poll.slice(10..20));
        drop(poll.try_into_mut().unwrap());
        assert!(held.bytes() < 1000);
    }

    /// Polls of a quiet topic bring few rows each, and a batch costs some hundred bytes a column beside its rows.
    #[test]
    fn small_batches_become_large_ones() {
        let mut held = Held::default();
        let schema = arrival(0, 0, 1).rows[0].batch.schema();
        for from in (0..100_000).step_by(100) {
            let mut few = arrival(0, from, from + 100);
            few.rows[0].batch =
                RecordBatch::try_new(Arc::clone(&schema), few.rows[0].batch.columns().to_vec()).unwrap();
            held.push(few, |_| None).unwrap();
        }
        assert!(held.rows().len() < 100, "{} batches", held.rows().len());
        assert_eq!(offsets(&held, 0), (0..100_000).collect::<Vec<_>>());
        let numbers = held
            .rows()
            .iter()
            .flat_map(|rows| rows.batch.column(0).as_primitive::<Int64Type>().values().to_vec());
        assert!(numbers.eq(0..100_000));
        let counted = held.bytes();
        held.count_again();
        assert_eq!((held.bytes(), held.count()), (counted, 100_000));
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
                held.push(arrival(partition, from, *end + length), |_| None).unwrap();
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
            held.push(arrival(0, 0, first), |_| None).unwrap();
            held.push(arrival(1, 0, second), |_| None).unwrap();
            held.discard(&[0]).unwrap();
            prop_assert!(offsets(&held, 0).is_empty());
            prop_assert_eq!(offsets(&held, 1).len() as i64, second);
            prop_assert_eq!(held.count() as i64, second);
        }
    }
}

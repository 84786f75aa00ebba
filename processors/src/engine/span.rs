//! A bounded stretch of a job's input: where each partition begins, where it is done, how far it is.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use eventlog::Record;
use serde::{Deserialize, Serialize};

/// Offsets of one partition, half open; never backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// The first offset.
    pub from: i64,
    /// One more than the last offset: of a record that is there, unless the stretch is empty.
    pub to: i64,
}

/// What a job shall read of its input, and how much of that is committed.
#[derive(Debug)]
pub struct Span {
    partitions: BTreeMap<i32, Part>,
}

#[derive(Debug)]
struct Part {
    stretch: Stretch,
    reached: AtomicI64,
    /// Where a worker of this process found it at first.
    found: OnceLock<i64>,
}

impl Part {
    fn reached(&self) -> i64 {
        self.reached.load(Ordering::Relaxed)
    }
}

impl Span {
    /// Nothing is done yet.
    pub fn new(stretches: &BTreeMap<i32, Stretch>) -> Self {
        let fresh = |(partition, stretch): (&i32, &Stretch)| {
            let reached = AtomicI64::new(stretch.from);
            (*partition, Part { stretch: *stretch, reached, found: OnceLock::new() })
        };
        Self { partitions: stretches.iter().map(fresh).collect() }
    }

    /// The stretch of a partition. One that is not named has nothing to read.
    pub fn stretch(&self, partition: i32) -> Stretch {
        self.partitions.get(&partition).map_or(Stretch { from: 0, to: 0 }, |part| part.stretch)
    }

    /// Every partition with its stretch.
    pub fn stretches(&self) -> impl Iterator<Item = (i32, Stretch)> {
        self.partitions.iter().map(|(partition, part)| (*partition, part.stretch))
    }

    /// Whether nothing of the partition is left behind this offset.
    pub(crate) fn ends(&self, partition: i32, next: i64) -> bool {
        next >= self.stretch(partition).to
    }

    /// The records that belong to the span, of those that were read of one partition.
    pub(crate) fn cut<'a>(&self, partition: i32, records: &'a [Record]) -> &'a [Record] {
        let to = self.stretch(partition).to;
        &records[..records.partition_point(|record| record.offset < to)]
    }

    /// A worker of this process goes on from `next`.
    pub(crate) fn found(&self, partition: i32, next: i64) {
        if let Some(part) = self.partitions.get(&partition) {
            part.found.get_or_init(|| next);
        }
        self.reached(partition, next);
    }

    /// `next` is the next offset to read, and what is below it is committed. An older notice changes nothing.
    pub(crate) fn reached(&self, partition: i32, next: i64) {
        if let Some(part) = self.partitions.get(&partition) {
            part.reached.fetch_max(next.min(part.stretch.to), Ordering::Relaxed);
        }
    }

    /// Offsets that are committed.
    pub fn done(&self) -> i64 {
        self.partitions.values().map(|part| part.reached() - part.stretch.from).sum()
    }

    /// Offsets that were committed since this process found their partitions.
    pub fn handled(&self) -> i64 {
        let handled = |part: &Part| part.found.get().map_or(0, |found| (part.reached() - found).max(0));
        self.partitions.values().map(handled).sum()
    }

    /// Offsets in all.
    pub fn total(&self) -> i64 {
        self.partitions.values().map(|part| part.stretch.to - part.stretch.from).sum()
    }

    /// Whether every partition is committed to its end.
    pub fn is_done(&self) -> bool {
        self.partitions.values().all(|part| part.reached() >= part.stretch.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_never_goes_back_nor_beyond_the_end() {
        let stretches = [(0, Stretch { from: 10, to: 30 }), (1, Stretch { from: 5, to: 5 })];
        let span = Span::new(&stretches.into());
        assert_eq!((span.done(), span.total(), span.is_done()), (0, 20, false));
        span.found(0, 12);
        span.reached(0, 20);
        span.found(0, 15);
        span.reached(7, 99);
        assert_eq!((span.done(), span.handled(), span.is_done()), (10, 8, false));
        assert!(!span.ends(0, 29) && span.ends(0, 30) && span.ends(1, 5) && span.ends(7, 0));
        span.reached(0, 40);
        assert_eq!((span.done(), span.is_done()), (20, true));
    }
}

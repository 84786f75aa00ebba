//! Numbers seen above a hole: runs without a gap, in ascending order, packed.
//!
//! ```text
//!  seen           ■ ■ ■ · · ■ · ■ ■ ■ · · · ■ ■ ■ ■
//!                 └─run─┘   ▲   └─run─┘     └─last─┘   grows with each number, so it is kept open
//!                 └──────── chunk ─────┘               bytes: each run as the difference to the one below it
//! ```
//!
//! A run in a chunk takes about six bytes, in memory and in the changelog alike. A change unpacks the chunks that it
//! touches, and the list of chunks is searched by halving: filling a hole costs the same among ten and ten thousand.

use schemas::translate::MAX_NUMBER;

use super::codec::{put, put_unsigned, take, take_unsigned};

/// Most runs that are packed together.
const CHUNK: u32 = 64;

/// Numbers seen, without a gap between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First number.
    pub(super) from: i64,
    /// Last number.
    pub(super) to: i64,
    /// Event time (µs) that the lane has reached once it has passed this run.
    pub(super) time: i64,
    /// Quiet clock (µs) when the hole below it opened.
    pub(super) since: i64,
}

const NO_RUN: Run = Run { from: 0, to: -1, time: i64::MIN, since: 0 };

/// All runs above the contiguous numbers of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Runs {
    packed: Vec<Chunk>,
    /// Nothing if `count` is 0.
    last: Run,
    count: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chunk {
    first: Run,
    end: Run,
    count: u32,
    rest: Vec<u8>,
}

impl Chunk {
    fn start(first: Run) -> Self {
        Self { first, end: first, count: 1, rest: Vec::new() }
    }

    /// One or more runs.
    fn of(runs: &[Run]) -> Option<Self> {
        let (first, more) = runs.split_first()?;
        let mut chunk = Self::start(*first);
        for run in more {
            chunk.push(*run);
        }
        chunk.rest.shrink_to_fit();
        Some(chunk)
    }

    fn push(&mut self, run: Run) {
        let below = self.end;
        // Time passes the runs from below, so none counts for less than what lies under it.
        let time = run.time.max(below.time);
        put_unsigned(&mut self.rest, (run.from - below.to - 2) as u64);
        put_unsigned(&mut self.rest, (run.to - run.from) as u64);
        put_unsigned(&mut self.rest, time.wrapping_sub(below.time) as u64);
        put_unsigned(&mut self.rest, run.since.wrapping_sub(below.since) as u64);
        self.end = Run { time, ..run };
        self.count += 1;
    }

    fn runs(&self) -> Unpacked<'_> {
        Unpacked { next: Some(self.first), rest: &self.rest }
    }
}

struct Unpacked<'a> {
    next: Option<Run>,
    rest: &'a [u8],
}

impl Iterator for Unpacked<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        worked(1);
        let run = self.next?;
        self.next = take_run(&mut self.rest, run);
        Some(run)
    }
}

/// Reads one run from the front of `rest`; `below` is the one before it.
fn take_run(rest: &mut &[u8], below: Run) -> Option<Run> {
    let gap = i64::try_from(take_unsigned(rest)?).ok()?;
    let more = i64::try_from(take_unsigned(rest)?).ok()?;
    let from = below.to.checked_add(gap)?.checked_add(2)?;
    let to = from.checked_add(more).filter(|to| *to <= MAX_NUMBER)?;
    let time = below.time.wrapping_add(take_unsigned(rest)? as i64);
    let since = below.since.wrapping_add(take_unsigned(rest)? as i64);
    Some(Run { from, to, time, since })
}

impl Runs {
    /// One run.
    pub(super) fn of(run: Run) -> Self {
        Self { packed: Vec::new(), last: run, count: 1 }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The lowest.
    pub(super) fn first(&self) -> Option<Run> {
        match self.packed.first() {
            Some(chunk) => Some(chunk.first),
            None => (self.count > 0).then_some(self.last),
        }
    }

    /// The highest.
    pub(super) fn last(&self) -> Option<Run> {
        (self.count > 0).then_some(self.last)
    }

    /// Runs that end above `seq`, ascending.
    pub(super) fn above(&self, seq: i64) -> impl Iterator<Item = Run> {
        let at = self.packed.partition_point(|chunk| chunk.end.to <= seq);
        let packed = self.packed[at..].iter().flat_map(Chunk::runs);
        packed.chain(self.last()).skip_while(move |run| run.to <= seq)
    }

    /// Whether `seq` is in one of them.
    pub(super) fn contains(&self, seq: i64) -> bool {
        self.above(seq - 1).next().is_some_and(|run| run.from <= seq)
    }

    /// Takes the lowest out.
    pub(super) fn pop_first(&mut self) -> Option<Run> {
        let Some(chunk) = self.packed.first_mut() else {
            let only = self.last()?;
            (self.last, self.count) = (NO_RUN, 0);
            return Some(only);
        };
        let first = chunk.first;
        let mut rest = chunk.rest.as_slice();
        if let Some(next) = take_run(&mut rest, first) {
            let used = chunk.rest.len() - rest.len();
            chunk.rest.drain(..used);
            chunk.first = next;
            chunk.count -= 1;
            worked(1);
        } else {
            worked(self.packed.len());
            self.packed.remove(0);
        }
        self.count -= 1;
        Some(first)
    }

    /// Makes the numbers of `new` part of the runs, joining those that it meets. `missing` hears of each range of
    /// them that was not there. A hole that is split is as old as it was; one above everything opens at `new.since`.
    pub(super) fn cover(&mut self, new: Run, missing: &mut dyn FnMut(i64, i64)) {
        let Run { from, to, .. } = new;
        if self.count == 0 {
            missing(from, to);
            *self = Self::of(new);
        } else if from > self.last.to + 1 {
            missing(from, to);
            let below = std::mem::replace(&mut self.last, new);
            self.append(below);
            self.count += 1;
        } else if from >= self.last.from {
            if to > self.last.to {
                missing(from.max(self.last.to + 1), to);
                self.last.to = to;
                self.last.time = self.last.time.max(new.time);
            }
        } else {
            self.cover_below(new, missing);
        }
    }

    /// The same for what begins below the last run.
    fn cover_below(&mut self, new: Run, missing: &mut dyn FnMut(i64, i64)) {
        let Run { from, to, .. } = new;
        let mut low = self.packed.partition_point(|chunk| chunk.end.to + 1 < from);
        let mut high = self.packed.partition_point(|chunk| chunk.first.from <= to + 1);
        let meets_last = to + 1 >= self.last.from;
        if low == high && !meets_last {
            // Between chunks: it goes into the one above, else into the one below.
            if high < self.packed.len() {
                high += 1;
            } else {
                low = low.saturating_sub(1);
            }
        }
        let mut runs: Vec<Run> = self.packed[low..high].iter().flat_map(Chunk::runs).collect();
        if meets_last {
            runs.push(self.last);
        }
        let before = runs.len();
        let start = runs.partition_point(|run| run.to + 1 < from);
        let end = runs.partition_point(|run| run.from <= to + 1);
        let joined = if let Some((lowest, _)) = runs[start..end].split_first() {
            let mut all = Run { from: from.min(lowest.from), ..*lowest };
            let mut next = from;
            for met in &runs[start..end] {
                if met.from > next {
                    missing(next, met.from - 1);
                    all.time = all.time.max(new.time);
                }
                next = next.max(met.to + 1);
                all.to = all.to.max(met.to);
                all.time = all.time.max(met.time);
            }
            if next <= to {
                missing(next, to);
                all = Run { to, time: all.time.max(new.time), ..all };
            }
            all
        } else {
            missing(from, to);
            let above = runs.get(end).copied();
            let above = above.unwrap_or_else(|| self.packed.get(high).map_or(self.last, |chunk| chunk.first));
            Run { since: above.since, ..new }
        };
        runs.splice(start..end, [joined]);
        self.count = self.count + runs.len() as u32 - before as u32;
        if meets_last && let Some(last) = runs.pop() {
            self.last = last;
        }
        self.replace(low, high, &runs);
    }

    /// Puts `runs` where the chunks `low..high` were.
    fn replace(&mut self, low: usize, high: usize, runs: &[Run]) {
        let pieces = runs.len().div_ceil(CHUNK as usize).max(1);
        let mut chunks = runs.chunks(runs.len().div_ceil(pieces).max(1)).filter_map(Chunk::of);
        if pieces == 1
            && high == low + 1
            && let Some(chunk) = chunks.next()
        {
            self.packed[low] = chunk;
            return;
        }
        worked(self.packed.len() - low);
        self.packed.splice(low..high, chunks);
    }

    fn append(&mut self, run: Run) {
        match self.packed.last_mut() {
            Some(chunk) if chunk.count < CHUNK => chunk.push(run),
            _ => {
                if self.packed.len() == self.packed.capacity() {
                    // Most lanes never need a second chunk.
                    self.packed.reserve_exact((self.packed.len() / 2).max(1));
                }
                self.packed.push(Chunk::start(run));
            }
        }
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let rests: usize = self.packed.iter().map(|chunk| chunk.rest.capacity()).sum();
        self.packed.capacity() * size_of::<Chunk>() + rests
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_unsigned(out, self.packed.len() as u64);
        for chunk in &self.packed {
            put_single(out, chunk.first);
            put_unsigned(out, chunk.rest.len() as u64);
            out.extend_from_slice(&chunk.rest);
        }
        put_single(out, self.last);
    }

    /// Reads what [`Runs::write`] wrote; `None` unless the runs ascend from above `contiguous`.
    pub(super) fn read(bytes: &mut &[u8], contiguous: i64) -> Option<Self> {
        let mut runs = Self { packed: Vec::new(), last: NO_RUN, count: 0 };
        let mut highest = contiguous;
        for _ in 0..take_unsigned(bytes)? {
            let mut chunk = Chunk::start(take_single(bytes, highest)?);
            let length = usize::try_from(take_unsigned(bytes)?).ok()?;
            let (mut rest, after) = bytes.split_at_checked(length)?;
            *bytes = after;
            chunk.rest = rest.to_vec();
            while !rest.is_empty() {
                chunk.end = take_run(&mut rest, chunk.end)?;
                chunk.count += 1;
            }
            highest = chunk.end.to;
            runs.count = runs.count.checked_add(chunk.count)?;
            runs.packed.push(chunk);
        }
        runs.packed.shrink_to_fit();
        runs.last = take_single(bytes, highest)?;
        runs.count += 1;
        Some(runs)
    }
}

fn put_single(out: &mut Vec<u8>, run: Run) {
    put(out, run.from);
    put_unsigned(out, (run.to - run.from) as u64);
    put(out, run.time);
    put(out, run.since);
}

/// A run that stands above `below`.
fn take_single(bytes: &mut &[u8], below: i64) -> Option<Run> {
    let from = take(bytes).filter(|from| (below.saturating_add(2)..=MAX_NUMBER).contains(from))?;
    let to = from.checked_add(i64::try_from(take_unsigned(bytes)?).ok()?).filter(|to| *to <= MAX_NUMBER)?;
    Some(Run { from, to, time: take(bytes)?, since: take(bytes)? })
}

/// Tests count runs unpacked and chunks moved.
#[cfg(test)]
fn worked(steps: usize) {
    tests::WORK.with(|work| work.set(work.get() + steps));
}

#[cfg(not(test))]
fn worked(_: usize) {}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    thread_local! {
        pub(super) static WORK: Cell<usize> = const { Cell::new(0) };
    }

    fn single(seq: i64) -> Run {
        Run { from: seq, to: seq, time: seq, since: 0 }
    }

    fn all(runs: &Runs) -> Vec<Run> {
        runs.above(-1).collect()
    }

    fn round_trip(runs: &Runs) -> Runs {
        let mut out = Vec::new();
        runs.write(&mut out);
        let mut rest = out.as_slice();
        let read = Runs::read(&mut rest, -2).unwrap();
        assert!(rest.is_empty());
        read
    }

    /// The plainest model: each number with its time, runs found by walking.
    fn model(numbers: &BTreeMap<i64, i64>) -> Vec<(i64, i64, i64)> {
        let mut runs: Vec<(i64, i64, i64)> = Vec::new();
        let mut highest = i64::MIN;
        for (seq, time) in numbers {
            highest = highest.max(*time);
            match runs.last_mut() {
                Some(last) if last.1 + 1 == *seq => (last.1, last.2) = (*seq, highest),
                _ => runs.push((*seq, *seq, highest)),
            }
        }
        runs
    }

    fn reached(runs: &Runs) -> Vec<(i64, i64, i64)> {
        let mut highest = i64::MIN;
        let pass = |run: Run| {
            highest = highest.max(run.time);
            (run.from, run.to, highest)
        };
        all(runs).into_iter().map(pass).collect()
    }

    proptest! {
        #[test]
        fn covering_and_popping_agree_with_a_map(
            steps in proptest::collection::vec((0_i64..1_500, 0_i64..4, 0_i64..99, 0_u8..40), 1..500),
        ) {
            let mut runs = Runs { packed: Vec::new(), last: NO_RUN, count: 0 };
            let mut numbers: BTreeMap<i64, i64> = BTreeMap::new();
            for (from, more, time, what) in steps {
                if what == 0 {
                    let first = model(&numbers).first().map(|run| (run.0, run.1));
                    prop_assert_eq!(runs.pop_first().map(|run| (run.from, run.to)), first);
                    let kept = numbers.split_off(&first.map_or(0, |(_, to)| to + 1));
                    // What is gone no longer counts for those above it: their own times may say less now.
                    numbers = reached(&runs).iter().flat_map(|(from, to, time)| (*from..=*to).map(move |seq| (seq, *time))).collect();
                    prop_assert_eq!(numbers.len(), kept.len());
                    continue;
                }
                // Every second number, so that there are many runs; sometimes a long range over them.
                let (from, to) = if what == 1 { (from, from + 200) } else { (2 * from, 2 * from + more / 2) };
                let mut missing = Vec::new();
                runs.cover(Run { from, to, time, since: 0 }, &mut |low, high| missing.extend(low..=high));
                let expected: Vec<i64> = (from..=to).filter(|seq| !numbers.contains_key(seq)).collect();
                prop_assert_eq!(&missing, &expected);
                for seq in expected {
                    numbers.insert(seq, time);
                }
                prop_assert_eq!(reached(&runs), model(&numbers));
                prop_assert_eq!(runs.len(), model(&numbers).len());
                for seq in [from - 1, from, to, to + 1] {
                    prop_assert_eq!(runs.contains(seq), numbers.contains_key(&seq));
                }
                prop_assert_eq!(all(&round_trip(&runs)), all(&runs));
                prop_assert!(runs.packed.iter().all(|chunk| chunk.count <= CHUNK && chunk.runs().count() == chunk.count as usize));
            }
        }
    }

    /// The most steps that one of these changes took.
    fn most_work(runs: &mut Runs, numbers: impl Iterator<Item = i64>) -> usize {
        numbers.fold(0, |most, seq| {
            WORK.with(|work| work.set(0));
            runs.cover(single(seq), &mut |_, _| {});
            if seq % 4 == 1 {
                runs.contains(seq);
            }
            most.max(WORK.with(Cell::get))
        })
    }

    #[test]
    fn work_does_not_grow_with_the_number_of_holes() {
        const HOLES: i64 = 16_384;
        let two_chunks = 4 * CHUNK as usize + HOLES as usize / 16;
        let every_second = || {
            let mut runs = Runs::of(single(1));
            let most = most_work(&mut runs, (1..HOLES).map(|at| 2 * at + 1));
            assert!(most <= 2 * CHUNK as usize, "appending took {most} steps");
            assert_eq!(runs.len(), HOLES as usize);
            runs
        };
        // From the front, each joins the first two; then the first is taken out, as a lane does.
        let mut runs = every_second();
        let mut total = 0;
        for at in 0..HOLES {
            WORK.with(|work| work.set(0));
            runs.cover(single(2 * at), &mut |_, _| {});
            runs.pop_first();
            total += WORK.with(Cell::get);
        }
        assert!(runs.is_empty());
        assert!(total <= HOLES as usize * 2 * CHUNK as usize, "front to back took {total} steps");
        // From the back, and from both ends to the middle.
        let mut runs = every_second();
        let most = most_work(&mut runs, (0..HOLES).rev().map(|at| 2 * at));
        assert!(most <= two_chunks, "back to front took {most} steps");
        assert_eq!(runs.len(), 1);
        let mut runs = every_second();
        let jumping = (0..HOLES).map(|at| 2 * ((at * 7_919) % HOLES));
        let most = most_work(&mut runs, jumping);
        assert!(most <= two_chunks, "all over took {most} steps");
        assert_eq!(runs.len(), 1);
        // New holes in the middle.
        let mut runs = Runs::of(single(1 << 40));
        let jumping = (0..HOLES).map(|at| 2 * ((at * 7_919) % HOLES) + 1);
        let most = most_work(&mut runs, jumping);
        assert!(most <= two_chunks, "inserting took {most} steps");
        assert_eq!(runs.len(), HOLES as usize + 1);
    }

    #[test]
    fn a_run_takes_few_bytes() {
        let mut runs = Runs::of(single(0));
        for at in 1..10_000 {
            let run = Run { from: 20 * at, to: 20 * at + 18, time: at * 20_000_000, since: at / 100 };
            runs.cover(run, &mut |_, _| {});
        }
        assert!(runs.heap_bytes() < 10_000 * 16, "{}", runs.heap_bytes());
        let mut out = Vec::new();
        runs.write(&mut out);
        assert!(out.len() < 10_000 * 8, "{}", out.len());
    }

    #[test]
    fn what_is_not_ascending_or_cut_is_refused() {
        let mut runs = Runs::of(single(3));
        for seq in [5, 9, 70, 90] {
            runs.cover(single(seq), &mut |_, _| {});
        }
        let mut out = Vec::new();
        runs.write(&mut out);
        assert!(Runs::read(&mut out.as_slice(), 1).is_some());
        assert!(Runs::read(&mut out.as_slice(), 2).is_none());
        for end in 0..out.len() {
            assert!(Runs::read(&mut &out[..end], -1).is_none(), "cut at {end}");
        }
    }
}

//! One lane of one session: which sequence numbers were seen, and up to when its time is complete.
//!
//! ```text
//!  seq   1 2 3 4 5 6 7 8 9        contiguous = 4, one interval 7–8, one hole 5–6
//!        ■ ■ ■ ■ · · ■ ■ ·        lane time = event time at 4; at 8 once the hole is filled, explained,
//!                └─hole─┘         or 30 s of clock old (then `frontier` = 8 while `contiguous` stays 4)
//! ```

use schemas::translate::MAX_NUMBER;

use super::codec::{put, take};

/// More intervals than this are not kept: the lowest holes are given up, and what falls into them later
/// passes as [`Seen::Uncertain`]. While one of two bridges is away every second event of a lane may be missing, and
/// an agent sends up to 20,000 before the first is confirmed, so 10,000 holes are an ordinary outage.
pub const MAX_INTERVALS: usize = 16_384;

/// "No time yet".
const NEVER: i64 = i64::MIN;
/// "No mark is waiting".
const NO_MARK: i64 = -2;
/// More ranges that were explained and not seen are not remembered.
const MAX_GONE: usize = 16;

/// What a sequence number turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Never seen before.
    Fresh,
    /// Seen before, or explained as gone.
    Duplicate,
    /// The record of what was seen was given up for this number; it may be a repeat.
    Uncertain,
}

/// Numbers seen above a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    from: i64,
    to: i64,
    /// Latest event time in it.
    time: i64,
    /// Quiet clock (µs) when the hole below it opened.
    since: i64,
}

/// State of one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    contiguous: i64,
    frontier: i64,
    time: i64,
    uncertain: i64,
    mark_seq: i64,
    mark_time: i64,
    moved: i64,
    intervals: Vec<Interval>,
    /// Numbers that were given up by their sender and never seen. What was shed may have been sent before, so
    /// one of them may still come, once.
    #[expect(clippy::box_collection, reason = "nearly always none: 8 bytes instead of 24 in every lane")]
    gone: Option<Box<Vec<(i64, i64)>>>,
    /// Sequences start at 0; senders that start at 1 are served as well, so 0 is noted apart.
    zero: bool,
}

impl Sequence {
    /// An empty lane, first heard of at `quiet` (µs of the quiet clock).
    pub fn new(quiet: i64) -> Self {
        Self {
            contiguous: 0,
            frontier: 0,
            time: NEVER,
            uncertain: -1,
            mark_seq: NO_MARK,
            mark_time: NEVER,
            moved: quiet,
            intervals: Vec::new(),
            gone: None,
            zero: false,
        }
    }

    /// Notes one event. `quiet` is the quiet clock in µs.
    pub fn see(&mut self, seq: i64, event_time: i64, quiet: i64) -> Seen {
        if !(0..=MAX_NUMBER).contains(&seq) {
            return Seen::Uncertain;
        }
        if seq == self.contiguous.saturating_add(1) && self.intervals.is_empty() {
            self.contiguous = seq;
            self.frontier = self.frontier.max(seq);
            self.time = self.time.max(event_time);
            self.moved = quiet;
            self.apply_mark();
            return Seen::Fresh;
        }
        if seq == 0 {
            if std::mem::replace(&mut self.zero, true) {
                return if self.was_gone(0) { Seen::Fresh } else { Seen::Duplicate };
            }
            self.time = self.time.max(event_time);
            self.moved = quiet;
            self.apply_mark();
            return Seen::Fresh;
        }
        if self.contains(seq) {
            if self.was_gone(seq) {
                return Seen::Fresh;
            }
            return if seq <= self.uncertain { Seen::Uncertain } else { Seen::Duplicate };
        }
        self.insert(seq, seq, event_time, quiet);
        Seen::Fresh
    }

    /// Notes that nobody waits for the numbers `from..=to`: shed, or rejected by the bridge. `may_come`: one
    /// of them may have been sent before it was given up. Numbers that no event can have are passed over.
    pub fn explain(&mut self, from: i64, to: i64, may_come: bool, quiet: i64) {
        let (from, to) = (from.max(0), to.min(MAX_NUMBER));
        if from > to {
            return;
        }
        if from == 0 && !std::mem::replace(&mut self.zero, true) && may_come {
            self.note_gone(0, 0);
        }
        let mut at = from;
        // Only what is missing is inserted, so that times already known stay.
        loop {
            at = at.max(self.contiguous.saturating_add(1));
            if at > to {
                return;
            }
            match self.intervals.iter().find(|interval| interval.to >= at) {
                Some(interval) if interval.from <= at => at = interval.to.saturating_add(1),
                Some(interval) => {
                    let end = to.min(interval.from - 1);
                    if may_come {
                        self.note_gone(at, end);
                    }
                    self.insert(at, end, NEVER, quiet);
                    at = end + 1;
                }
                None => {
                    if may_come {
                        self.note_gone(at, to);
                    }
                    self.insert(at, to, NEVER, quiet);
                    at = to + 1;
                }
            }
        }
    }

    /// The agent says: complete up to `time` at `seq`. Counts once everything up to `seq` is here.
    /// A number that no event can have says nothing.
    pub fn mark(&mut self, seq: i64, time: i64, quiet: i64) {
        if !(-1..=MAX_NUMBER).contains(&seq) {
            return;
        }
        self.mark_seq = seq;
        self.mark_time = time;
        self.moved = quiet;
        self.apply_mark();
    }

    /// Lets lane time pass holes that opened at or before `before`; returns how many numbers are missing in them.
    pub fn release(&mut self, before: i64) -> i64 {
        let mut missing = 0;
        let start = self.intervals.partition_point(|interval| interval.to <= self.frontier);
        for index in start..self.intervals.len() {
            let interval = self.intervals[index];
            if interval.from > self.frontier.saturating_add(1) {
                if interval.since > before {
                    break;
                }
                missing =
                    interval.from.saturating_sub(self.frontier).saturating_sub(1).saturating_add(missing);
            }
            self.frontier = interval.to;
            self.time = self.time.max(interval.time);
        }
        self.apply_mark();
        missing
    }

    /// Whether lane time waits for a hole.
    pub fn is_held(&self) -> bool {
        self.intervals.last().is_some_and(|interval| interval.to > self.frontier)
    }

    /// Whether the next hole that lane time waits for opened at or before `before`.
    pub fn is_due(&self, before: i64) -> bool {
        let next = self.intervals.partition_point(|interval| interval.to <= self.frontier);
        self.intervals.get(next).is_some_and(|interval| interval.since <= before)
    }

    /// Event time up to which the lane is complete; `i64::MIN` before the first.
    pub fn time(&self) -> i64 {
        self.time
    }

    /// Everything up to here is seen or explained.
    pub fn contiguous(&self) -> i64 {
        self.contiguous
    }

    /// Everything up to here is seen, explained or given up for lane time.
    pub fn frontier(&self) -> i64 {
        self.frontier
    }

    /// Quiet clock of the last progress.
    pub fn moved(&self) -> i64 {
        self.moved
    }

    /// Whether nothing is known above the contiguous part.
    pub fn has_no_holes(&self) -> bool {
        self.intervals.is_empty()
    }

    /// Whether everything up to `seq` is here or was given up; -1 stands for "nothing was sent".
    pub fn has_reached(&self, seq: i64) -> bool {
        match seq {
            0 => self.zero || self.frontier > 0,
            seq => self.frontier >= seq,
        }
    }

    fn note_gone(&mut self, from: i64, to: i64) {
        let gone = self.gone.get_or_insert_default();
        gone.push((from, to));
        if gone.len() > MAX_GONE {
            gone.remove(0);
        }
    }

    /// Whether `seq` was given up and now comes all the same; it counts as seen from then on.
    fn was_gone(&mut self, seq: i64) -> bool {
        let Some(gone) = &mut self.gone else { return false };
        let Some(at) = gone.iter().position(|(from, to)| (*from..=*to).contains(&seq)) else { return false };
        let (from, to) = gone.remove(at);
        gone.extend([(from, seq - 1), (seq + 1, to)].into_iter().filter(|(from, to)| from <= to));
        true
    }

    fn contains(&self, seq: i64) -> bool {
        if seq <= self.contiguous {
            return true;
        }
        let at = self.intervals.partition_point(|interval| interval.to < seq);
        self.intervals.get(at).is_some_and(|interval| interval.from <= seq)
    }

    /// Inserts numbers none of which is contained.
    fn insert(&mut self, from: i64, to: i64, time: i64, quiet: i64) {
        self.moved = quiet;
        let at = self.intervals.partition_point(|interval| interval.to < from);
        let joins_next = self.intervals.get(at).is_some_and(|next| next.from == to.saturating_add(1));
        let joins_last = at > 0 && self.intervals[at - 1].to.saturating_add(1) == from;
        match (joins_last, joins_next) {
            (true, true) => {
                let next = self.intervals.remove(at);
                let last = &mut self.intervals[at - 1];
                last.to = next.to;
                last.time = last.time.max(next.time).max(time);
            }
            (true, false) => {
                let last = &mut self.intervals[at - 1];
                last.to = to;
                last.time = last.time.max(time);
            }
            (false, true) => {
                let next = &mut self.intervals[at];
                next.from = from;
                next.time = next.time.max(time);
            }
            (false, false) => {
                // A hole that is split is as old as it was; a hole above everything opens now.
                let since = self.intervals.get(at).map_or(quiet, |next| next.since);
                self.intervals.insert(at, Interval { from, to, time, since });
            }
        }
        self.absorb();
    }

    fn absorb(&mut self) {
        while self.intervals.first().is_some_and(|first| first.from <= self.contiguous.saturating_add(1)) {
            let first = self.intervals.remove(0);
            self.contiguous = first.to;
            self.time = self.time.max(first.time);
        }
        if self.intervals.len() > MAX_INTERVALS {
            let first = self.intervals.remove(0);
            self.uncertain = first.from - 1;
            self.contiguous = first.to;
            self.time = self.time.max(first.time);
        }
        self.frontier = self.frontier.max(self.contiguous);
        for interval in &self.intervals {
            if interval.from > self.frontier.saturating_add(1) {
                break;
            }
            self.frontier = self.frontier.max(interval.to);
            self.time = self.time.max(interval.time);
        }
        self.apply_mark();
    }

    fn apply_mark(&mut self) {
        if self.mark_seq != NO_MARK && self.has_reached(self.mark_seq) {
            self.time = self.time.max(self.mark_time);
            self.mark_seq = NO_MARK;
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put(out, self.contiguous);
        put(out, self.frontier - self.contiguous);
        put(out, self.time);
        put(out, self.uncertain);
        put(out, self.mark_seq);
        if self.mark_seq != NO_MARK {
            put(out, self.mark_time);
        }
        put(out, self.moved);
        put(out, (self.intervals.len() as i64) << 1 | i64::from(self.zero));
        let mut last = self.contiguous;
        for interval in &self.intervals {
            put(out, interval.from - last);
            put(out, interval.to - interval.from);
            put(out, interval.time);
            put(out, interval.since);
            last = interval.to;
        }
        let gone = self.gone.as_deref().map_or(&[][..], Vec::as_slice);
        put(out, gone.len() as i64);
        for (from, to) in gone {
            put(out, *from);
            put(out, to - from);
        }
    }

    pub(super) fn read(bytes: &mut &[u8]) -> Option<Self> {
        let contiguous = take(bytes)?;
        let frontier = contiguous + take(bytes)?;
        let time = take(bytes)?;
        let uncertain = take(bytes)?;
        let mark_seq = take(bytes)?;
        let mark_time = if mark_seq == NO_MARK { NEVER } else { take(bytes)? };
        let moved = take(bytes)?;
        let counted = take(bytes)?;
        let mut intervals = Vec::with_capacity(((counted >> 1) as usize).min(MAX_INTERVALS + 1));
        let mut last = contiguous;
        for _ in 0..counted >> 1 {
            let from = last + take(bytes)?;
            let to = from + take(bytes)?;
            intervals.push(Interval { from, to, time: take(bytes)?, since: take(bytes)? });
            last = to;
        }
        let zero = counted & 1 == 1;
        let mut ranges = Vec::new();
        for _ in 0..take(bytes)? {
            let from = take(bytes)?;
            ranges.push((from, from + take(bytes)?));
        }
        let gone = (!ranges.is_empty()).then(|| Box::new(ranges));
        Some(Self {
            contiguous,
            frontier,
            time,
            uncertain,
            mark_seq,
            mark_time,
            moved,
            intervals,
            gone,
            zero,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn round_trip(sequence: &Sequence) -> Sequence {
        let mut out = Vec::new();
        sequence.write(&mut out);
        let mut rest = out.as_slice();
        let read = Sequence::read(&mut rest).unwrap();
        assert!(rest.is_empty());
        read
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(seqs in proptest::collection::vec(0_i64..60, 1..200)) {
            let mut sequence = Sequence::new(0);
            let mut set = BTreeSet::new();
            for (at, seq) in seqs.into_iter().enumerate() {
                let expected = if set.insert(seq) { Seen::Fresh } else { Seen::Duplicate };
                prop_assert_eq!(sequence.see(seq, seq * 10, at as i64), expected);
                let contiguous = (1..100).take_while(|seq| set.contains(seq)).last().unwrap_or(0);
                prop_assert_eq!(sequence.contiguous(), contiguous);
                let time = if contiguous > 0 || set.contains(&0) { contiguous * 10 } else { NEVER };
                prop_assert_eq!(sequence.time(), time);
                sequence = round_trip(&sequence);
            }
        }

        #[test]
        fn beyond_the_cap_nothing_fresh_is_called_a_duplicate(
            seqs in proptest::collection::vec(1_i64..2_000, 1..600),
        ) {
            let mut sequence = Sequence::new(0);
            let mut set = BTreeSet::new();
            // every second number of a long outage first, so that the cap is reached
            for seq in (0..=MAX_INTERVALS as i64).map(|hole| 3_000 + 2 * hole) {
                sequence.see(seq, 0, 0);
            }
            for seq in seqs {
                let fresh = set.insert(seq);
                let seen = sequence.see(seq, 0, 0);
                prop_assert!(sequence.intervals.len() <= MAX_INTERVALS);
                if fresh {
                    prop_assert_ne!(seen, Seen::Duplicate);
                }
            }
        }

        #[test]
        fn explaining_agrees_with_a_set(
            steps in proptest::collection::vec((0_i64..40, 0_i64..6, any::<bool>()), 1..60),
        ) {
            let mut sequence = Sequence::new(0);
            let mut set = BTreeSet::new();
            for (from, more, is_explained) in steps {
                if is_explained {
                    sequence.explain(from, from + more, false, 0);
                    set.extend(from..=from + more);
                } else {
                    let expected = if set.insert(from) { Seen::Fresh } else { Seen::Duplicate };
                    prop_assert_eq!(sequence.see(from, from, 0), expected);
                }
                let contiguous = (1..100).take_while(|seq| set.contains(seq)).last().unwrap_or(0);
                prop_assert_eq!(sequence.contiguous(), contiguous);
                sequence = round_trip(&sequence);
            }
        }

        #[test]
        fn explained_numbers_are_as_good_as_seen(gone in proptest::collection::btree_set(1_i64..50, 0..30)) {
            let mut sequence = Sequence::new(0);
            for seq in (1..50).filter(|seq| !gone.contains(seq)) {
                sequence.see(seq, seq, 0);
            }
            for seq in &gone {
                sequence.explain(*seq, *seq, false, 0);
            }
            prop_assert_eq!(sequence.contiguous(), 49);
            prop_assert!(sequence.has_no_holes());
            sequence.explain(1, 80, false, 0);
            prop_assert_eq!(sequence.contiguous(), 80);
        }
    }

    #[test]
    fn a_hole_stops_lane_time_until_it_is_old_enough() {
        let mut sequence = Sequence::new(0);
        sequence.see(1, 100, 0);
        sequence.see(3, 300, 5);
        sequence.see(5, 500, 9);
        assert_eq!((sequence.time(), sequence.is_held()), (100, true));
        assert_eq!(sequence.release(4), 0);
        assert_eq!(sequence.time(), 100);
        assert_eq!(sequence.release(5), 1);
        assert_eq!((sequence.time(), sequence.frontier(), sequence.contiguous()), (300, 3, 1));
        // Released is not seen: the late row is still fresh, and once only.
        assert_eq!(sequence.see(2, 200, 20), Seen::Fresh);
        assert_eq!(sequence.see(2, 200, 20), Seen::Duplicate);
        assert_eq!((sequence.time(), sequence.contiguous()), (300, 3));
    }

    #[test]
    fn what_was_shed_and_comes_all_the_same_passes_once() {
        let mut sequence = Sequence::new(0);
        sequence.see(0, 1, 0);
        sequence.see(1, 10, 0);
        sequence.explain(2, 6, true, 0);
        assert_eq!(sequence.contiguous(), 6);
        sequence = round_trip(&sequence);
        assert_eq!(sequence.see(4, 40, 0), Seen::Fresh);
        assert_eq!(sequence.see(4, 40, 0), Seen::Duplicate);
        assert_eq!(sequence.see(1, 10, 0), Seen::Duplicate);
        sequence = round_trip(&sequence);
        assert_eq!(sequence.see(6, 60, 0), Seen::Fresh);
        assert_eq!(sequence.see(7, 70, 0), Seen::Fresh);
        assert_eq!(sequence.time(), 70);
    }

    #[test]
    fn numbers_at_the_end_of_the_range_end_nothing() {
        let mut sequence = Sequence::new(0);
        sequence.see(0, 1, 0);
        for seq in [i64::MAX, MAX_NUMBER + 1, -1, i64::MIN] {
            assert_eq!(sequence.see(seq, 9, 0), Seen::Uncertain);
            sequence.explain(seq, seq, true, 0);
            sequence.mark(seq.wrapping_sub(1), 9, 0);
        }
        sequence.explain(5, 2, true, 0);
        assert_eq!((sequence.contiguous(), sequence.time(), sequence.is_held()), (0, 1, false));
        assert_eq!(sequence.see(MAX_NUMBER, 2, 0), Seen::Fresh);
        assert_eq!(sequence.release(0), MAX_NUMBER - 1);
        sequence.explain(i64::MIN, i64::MAX, true, 0);
        assert_eq!((sequence.contiguous(), sequence.has_no_holes()), (MAX_NUMBER, true));
        sequence = round_trip(&sequence);
        sequence.explain(0, i64::MAX, true, 0);
        assert_eq!(sequence.see(7, 7, 0), Seen::Fresh);
        assert_eq!(sequence.see(MAX_NUMBER, 8, 0), Seen::Duplicate);
    }

    #[test]
    fn a_state_of_before_the_bound_ends_nothing_either() {
        let end = Interval { from: i64::MAX, to: i64::MAX, time: 3, since: 0 };
        let mut sequence = Sequence { intervals: vec![end], ..Sequence::new(0) };
        assert_eq!(sequence.release(0), i64::MAX - 1);
        sequence.explain(1, i64::MAX, false, 0);
        sequence.see(3, 4, 0);
        sequence = Sequence { contiguous: i64::MAX, frontier: i64::MAX, ..Sequence::new(0) };
        sequence.explain(1, i64::MAX, true, 0);
        assert_eq!(sequence.see(MAX_NUMBER, 1, 0), Seen::Duplicate);
    }

    #[test]
    fn an_empty_lane_is_marked_with_minus_one() {
        let mut sequence = Sequence::new(0);
        sequence.mark(-1, 500, 0);
        assert_eq!(sequence.time(), 500);
        sequence.mark(0, 900, 0);
        assert_eq!(sequence.time(), 500);
        sequence.see(0, 600, 0);
        assert_eq!(sequence.time(), 900);
    }

    #[test]
    fn a_mark_counts_once_its_number_is_reached() {
        let mut sequence = Sequence::new(0);
        sequence.mark(2, 900, 0);
        sequence.see(1, 100, 0);
        assert_eq!(sequence.time(), 100);
        sequence.see(2, 200, 0);
        assert_eq!(sequence.time(), 900);
    }

    #[test]
    fn a_lane_without_holes_is_small() {
        assert!(size_of::<Sequence>() <= 104, "{}", size_of::<Sequence>());
    }
}

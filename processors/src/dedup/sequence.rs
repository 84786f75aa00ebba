//! One lane of one session: which sequence numbers were seen, and up to when its time is complete.
//!
//! ```text
//!  seq   0 1 2 3 4 5 6 7 8        contiguous = 3, one run 6–7, one hole 4–5
//!        ■ ■ ■ ■ · · ■ ■ ·        lane time = event time at 3; at 7 once the hole is filled, explained,
//!                └─hole─┘         or 30 s of clock old (then `frontier` = 7 while `contiguous` stays 3)
//! ```
//!
//! A hole that lane time waits for is known by the runs above it, with their times. Of one that it has passed only its
//! numbers are kept ([`Holes`]), and the lane goes on above it as if it were whole (`settled` = 7).
//!
//! Numbers begin with 0. How many runs an agent may have is bounded in [`super::Agent`].

use schemas::translate::MAX_NUMBER;

use super::codec::{put, put_unsigned, take, take_unsigned};
use super::holes::Holes;
use super::runs::{Run, Runs};

/// Nothing is believed of numbers further above the highest one known: no agent can have given out so many since.
/// At 1,000 events a second it would take 49 days.
pub const MAX_AHEAD: i64 = 1 << 32;

/// "No time yet".
const NEVER: i64 = i64::MIN;
/// More ranges that were explained and not seen are not told from what was seen.
const MAX_GONE: usize = 16;

/// What a sequence number turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Never seen before.
    Fresh,
    /// Seen before, or explained as gone.
    Duplicate,
    /// The record of what was seen was given up for this number, or nobody can have given it out: it may be a repeat.
    Uncertain,
}

/// State of one lane: 48 bytes while nothing is missing and nothing is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Everything up to here is seen or explained, or is in one of the `holes`; this number itself is in none.
    settled: i64,
    time: i64,
    moved: i64,
    /// Passed by lane time, all below `settled`.
    holes: Holes,
    /// Never without either.
    more: Option<Box<More>>,
}

/// What a lane seldom has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct More {
    /// Never without runs.
    above: Option<Box<Above>>,
    notes: Option<Box<Notes>>,
}

/// What is known above the lowest hole that is not among the passed ones.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Above {
    /// At least `settled`.
    frontier: i64,
    runs: Runs,
}

/// What few lanes have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Notes {
    /// Numbers up to here may have been seen or not.
    uncertain: i64,
    /// Complete up to this time once this number is reached.
    mark: Option<(i64, i64)>,
    /// Ranges that were given up by their sender and never seen, ascending. What was shed may have been sent before,
    /// so one of them may still come, once.
    gone: Vec<(i64, i64)>,
}

impl Default for Notes {
    fn default() -> Self {
        Self { uncertain: -1, mark: None, gone: Vec::new() }
    }
}

impl Sequence {
    /// An empty lane, first heard of at `quiet` (µs of the quiet clock).
    pub fn new(quiet: i64) -> Self {
        Self { settled: -1, time: NEVER, moved: quiet, holes: Holes::default(), more: None }
    }

    /// A lane of which nobody remembers what came before `seq`: no hole is below it, and whatever comes of that is
    /// uncertain.
    pub fn starting_at(seq: i64, quiet: i64) -> Self {
        let before = seq.clamp(0, MAX_NUMBER) - 1;
        let mut lane = Self { settled: before, ..Self::new(quiet) };
        lane.raise_uncertain(before);
        lane
    }

    /// Notes one event. `quiet` is the quiet clock in µs.
    pub fn see(&mut self, seq: i64, event_time: i64, quiet: i64) -> Seen {
        if seq == self.settled + 1 && self.more.is_none() && seq <= MAX_NUMBER {
            self.settled = seq;
            self.time = self.time.max(event_time);
            self.moved = quiet;
            return Seen::Fresh;
        }
        if !(0..=self.limit()).contains(&seq) {
            return Seen::Uncertain;
        }
        if self.contains(seq) {
            if self.was_gone(seq) {
                return Seen::Fresh;
            }
            let uncertain = self.notes().is_some_and(|notes| seq <= notes.uncertain);
            return if uncertain { Seen::Uncertain } else { Seen::Duplicate };
        }
        let run = Run { from: seq, to: seq, time: event_time, since: quiet };
        self.cover(run, &mut |_, _| {});
        #[cfg(test)]
        if crate::planted::is_planted(crate::planted::Planted::LaneTimeOfTheLargest) {
            self.time = self.time.max(event_time);
        }
        Seen::Fresh
    }

    /// Notes that nobody waits for the numbers `from..=to`: shed, or rejected by the bridge. `may_come`: one
    /// of them may have been sent before it was given up. Numbers that no event can have are passed over; the
    /// answer is whether all were believed.
    pub fn explain(&mut self, from: i64, to: i64, may_come: bool, quiet: i64) -> bool {
        let limit = self.limit();
        let run = Run { from: from.max(0), to: to.min(limit), time: NEVER, since: quiet };
        let mut gone = Vec::new();
        self.cover(run, &mut |from, to| {
            if may_come {
                gone.push((from, to));
            }
        });
        for (from, to) in gone {
            self.note_gone(from, to);
        }
        from >= 0 && to <= limit
    }

    /// The agent says: complete up to `time` at `seq`. Counts once everything up to `seq` is here; until then it is
    /// no progress. A number that no event can have says nothing; the answer is whether it was believed.
    pub fn mark(&mut self, seq: i64, time: i64, quiet: i64) -> bool {
        if !(-1..=self.limit()).contains(&seq) {
            return false;
        }
        if self.has_reached(seq) {
            self.moved = quiet;
            self.time = self.time.max(time);
            if let Some(notes) = self.notes_mut() {
                notes.mark = None;
            }
            self.tidy();
        } else {
            self.note().mark = Some((seq, time));
        }
        true
    }

    /// Lets lane time pass holes that opened at or before `before`; returns how many numbers are missing in them.
    pub fn release(&mut self, before: i64) -> i64 {
        let Some(above) = self.more.as_mut().and_then(|more| more.above.as_mut()) else { return 0 };
        let (mut missing, mut frontier) = (0_i64, above.frontier);
        for run in above.runs.above(above.frontier) {
            if run.from > frontier + 1 {
                if run.since > before {
                    break;
                }
                missing = missing.saturating_add(run.from - frontier - 1);
            }
            frontier = run.to;
            self.time = self.time.max(run.time);
        }
        above.frontier = frontier;
        self.pass();
        self.apply_mark();
        missing
    }

    /// Quiet clock when the next hole opened that lane time waits for.
    pub fn held_since(&self) -> Option<i64> {
        let above = self.above()?;
        above.runs.above(above.frontier).next().map(|run| run.since)
    }

    /// Event time up to which the lane is complete; `i64::MIN` before the first.
    pub fn time(&self) -> i64 {
        self.time
    }

    /// Everything up to here is seen or explained; -1 before the first.
    pub fn contiguous(&self) -> i64 {
        self.holes.first().map_or(self.settled, |(from, _)| from - 1)
    }

    /// Everything up to here is seen, explained or given up for lane time.
    pub fn frontier(&self) -> i64 {
        self.above().map_or(self.settled, |above| above.frontier)
    }

    /// The highest number seen or explained.
    pub fn highest(&self) -> i64 {
        self.above().and_then(|above| above.runs.last()).map_or(self.settled, |run| run.to)
    }

    /// Quiet clock of the last progress.
    pub fn moved(&self) -> i64 {
        self.moved
    }

    /// How much there is to remember: runs of numbers above a hole that is waited for, and holes that were passed (one
    /// longer than a number counts twice).
    pub fn intervals(&self) -> usize {
        self.holes.len() + self.above().map_or(0, |above| above.runs.len())
    }

    /// Whether nothing is missing below the highest number.
    pub fn has_no_holes(&self) -> bool {
        self.holes.is_empty() && self.above().is_none()
    }

    /// Whether it is known of each number whether it was seen.
    pub fn is_exact(&self) -> bool {
        self.notes().is_none_or(|notes| notes.uncertain < 0)
    }

    /// Whether everything up to `seq` is here or was given up; -1 stands for "nothing was sent".
    pub fn has_reached(&self, seq: i64) -> bool {
        self.frontier() >= seq
    }

    /// The highest number that is believed.
    pub fn limit(&self) -> i64 {
        self.highest().saturating_add(MAX_AHEAD).min(MAX_NUMBER)
    }

    /// Forgets the lowest hole: what falls into it later is uncertain.
    pub(super) fn give_up(&mut self) {
        if let Some((_, to)) = self.holes.pop_first() {
            self.raise_uncertain(to);
            return;
        }
        let above = self.more.as_mut().and_then(|more| more.above.as_mut());
        let Some(first) = above.and_then(|above| above.runs.pop_first()) else { return };
        self.raise_uncertain(first.from - 1);
        self.settled = first.to;
        self.time = self.time.max(first.time);
        self.settle();
    }

    /// Bytes on the heap, without what the allocator adds.
    pub fn heap_bytes(&self) -> usize {
        let above = self.above().map_or(0, |above| size_of::<Above>() + above.runs.heap_bytes());
        let of_notes = |notes: &Notes| size_of::<Notes>() + notes.gone.capacity() * size_of::<(i64, i64)>();
        let more = self.more.as_ref().map_or(0, |_| size_of::<More>());
        self.holes.heap_bytes() + more + above + self.notes().map_or(0, of_notes)
    }

    fn above(&self) -> Option<&Above> {
        self.more.as_ref()?.above.as_deref()
    }

    fn notes(&self) -> Option<&Notes> {
        self.more.as_ref()?.notes.as_deref()
    }

    fn notes_mut(&mut self) -> Option<&mut Notes> {
        self.more.as_mut()?.notes.as_deref_mut()
    }

    /// The notes, made if there are none.
    fn note(&mut self) -> &mut Notes {
        self.more.get_or_insert_default().notes.get_or_insert_default()
    }

    fn contains(&self, seq: i64) -> bool {
        if seq <= self.settled {
            return !self.holes.contains(seq);
        }
        self.above().is_some_and(|above| above.runs.contains(seq))
    }

    /// Takes over what is missing of a run; `missing` hears of each range of it.
    fn cover(&mut self, run: Run, missing: &mut dyn FnMut(i64, i64)) {
        if run.from <= self.settled && self.holes.fill(run.from, run.to.min(self.settled), missing) {
            // As if it had come when it was waited for.
            self.time = self.time.max(run.time);
            self.moved = run.since;
        }
        let run = Run { from: run.from.max(self.settled + 1), ..run };
        if run.from > run.to {
            return;
        }
        let is_next = run.from == self.settled + 1;
        let Some(above) = self.more.as_mut().and_then(|more| more.above.as_mut()) else {
            missing(run.from, run.to);
            self.moved = run.since;
            if is_next {
                self.settled = run.to;
                self.time = self.time.max(run.time);
                self.apply_mark();
            } else {
                let above = Above { frontier: self.settled, runs: Runs::of(run) };
                self.more.get_or_insert_default().above = Some(Box::new(above));
            }
            return;
        };
        if is_next && above.runs.first().is_some_and(|first| run.to < first.from) {
            missing(run.from, run.to);
            self.settled = run.to;
            self.time = self.time.max(run.time);
        } else {
            let mut any = false;
            above.runs.cover(run, &mut |from, to| {
                any = true;
                missing(from, to);
            });
            if !any {
                return;
            }
        }
        self.moved = run.since;
        self.settle();
    }

    /// Lane time follows what now joins on below it.
    fn settle(&mut self) {
        let Some(above) = self.more.as_mut().and_then(|more| more.above.as_mut()) else { return };
        while above.runs.first().is_some_and(|first| first.from <= self.settled + 1) {
            let Some(first) = above.runs.pop_first() else { break };
            self.settled = first.to;
            self.time = self.time.max(first.time);
        }
        above.frontier = above.frontier.max(self.settled);
        let next = above.runs.above(above.frontier).next();
        if let Some(run) = next.filter(|run| run.from <= above.frontier + 1) {
            above.frontier = run.to;
            self.time = self.time.max(run.time);
        }
        self.pass();
        self.apply_mark();
    }

    /// Keeps of runs that lane time has passed only the holes below them, as far as there is room for these.
    fn pass(&mut self) {
        let Some(above) = self.more.as_mut().and_then(|more| more.above.as_mut()) else { return };
        if above.frontier > self.settled && self.holes.has_room() {
            let (settled, frontier) = (&mut self.settled, above.frontier);
            self.holes.extend(|| {
                above.runs.first().filter(|first| first.to <= frontier)?;
                let first = above.runs.pop_first()?;
                let below = std::mem::replace(settled, first.to);
                Some((below + 1, first.from - 1))
            });
        }
        if above.runs.is_empty() {
            self.drop_above();
        }
    }

    fn drop_above(&mut self) {
        if let Some(more) = &mut self.more {
            more.above = None;
        }
        self.tidy();
    }

    fn apply_mark(&mut self) {
        let frontier = self.frontier();
        if let Some(notes) = self.notes_mut()
            && let Some((_, time)) = notes.mark.take_if(|(seq, _)| *seq <= frontier)
        {
            self.time = self.time.max(time);
            self.tidy();
        }
    }

    fn tidy(&mut self) {
        if let Some(more) = &mut self.more {
            more.notes.take_if(|notes| **notes == Notes::default());
        }
        self.more.take_if(|more| **more == More::default());
    }

    fn raise_uncertain(&mut self, seq: i64) {
        if seq >= 0 {
            let notes = self.note();
            notes.uncertain = notes.uncertain.max(seq);
        }
    }

    fn note_gone(&mut self, from: i64, to: i64) {
        let gone = &mut self.note().gone;
        let at = gone.partition_point(|(_, end)| *end < from);
        gone.insert(at, (from, to));
        if gone.get(at + 1).is_some_and(|next| next.0 == to + 1) {
            gone[at].1 = gone.remove(at + 1).1;
        }
        if at > 0 && gone[at - 1].1 + 1 == from {
            gone[at - 1].1 = gone.remove(at).1;
        }
        self.bound_gone();
    }

    /// Whether `seq` was given up and now comes all the same; it counts as seen from then on.
    fn was_gone(&mut self, seq: i64) -> bool {
        let Some(notes) = self.notes_mut() else { return false };
        let at = notes.gone.partition_point(|(_, end)| *end < seq);
        let Some((from, to)) = notes.gone.get(at).copied().filter(|(from, _)| *from <= seq) else {
            return false;
        };
        let left = [(from, seq - 1), (seq + 1, to)].into_iter().filter(|(from, to)| from <= to);
        notes.gone.splice(at..=at, left);
        self.bound_gone();
        self.tidy();
        true
    }

    fn bound_gone(&mut self) {
        while let Some(notes) = self.notes_mut()
            && notes.gone.len() > MAX_GONE
        {
            let (_, end) = notes.gone.remove(0);
            self.raise_uncertain(end);
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put(out, self.settled);
        put(out, self.time);
        put(out, self.moved);
        let (above, notes) = (self.above(), self.notes());
        let parts = [above.is_some(), notes.is_some(), !self.holes.is_empty()];
        put_unsigned(out, parts.iter().enumerate().map(|(bit, is_there)| u64::from(*is_there) << bit).sum());
        if !self.holes.is_empty() {
            self.holes.write(out);
        }
        if let Some(above) = above {
            put_unsigned(out, (above.frontier - self.settled) as u64);
            above.runs.write(out);
        }
        if let Some(notes) = notes {
            put(out, notes.uncertain);
            put_unsigned(out, (notes.gone.len() as u64) << 1 | u64::from(notes.mark.is_some()));
            if let Some((seq, time)) = notes.mark {
                put(out, seq);
                put(out, time);
            }
            for (from, to) in &notes.gone {
                put(out, *from);
                put_unsigned(out, (to - from) as u64);
            }
        }
    }

    pub(super) fn read(bytes: &mut &[u8]) -> Option<Self> {
        let number = |value: i64| (-1..=MAX_NUMBER).contains(&value).then_some(value);
        let settled = number(take(bytes)?)?;
        let (time, moved) = (take(bytes)?, take(bytes)?);
        let mut lane = Self { settled, time, moved, ..Self::new(0) };
        let parts = take_unsigned(bytes)?;
        if parts & 4 != 0 {
            lane.holes = Holes::read(bytes, settled)?;
        }
        if parts & 1 != 0 {
            let ahead = i64::try_from(take_unsigned(bytes)?).ok()?;
            let frontier = number(settled.checked_add(ahead)?)?;
            let above = Above { frontier, runs: Runs::read(bytes, settled)? };
            lane.more.get_or_insert_default().above = Some(Box::new(above));
        }
        if parts & 2 != 0 {
            let mut notes = Notes { uncertain: number(take(bytes)?)?, ..Notes::default() };
            let counted = take_unsigned(bytes)?;
            if counted & 1 != 0 {
                notes.mark = Some((number(take(bytes)?)?, take(bytes)?));
            }
            for _ in 0..counted >> 1 {
                let from = number(take(bytes)?)?;
                let to = from.checked_add(i64::try_from(take_unsigned(bytes)?).ok()?)?;
                notes.gone.push((from, number(to)?));
            }
            lane.more.get_or_insert_default().notes = Some(Box::new(notes));
        }
        (parts < 8).then_some(lane)
    }
}

#[cfg(test)]
#[path = "sequence_tests.rs"]
mod tests;

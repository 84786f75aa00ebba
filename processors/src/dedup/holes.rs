//! Numbers that nobody waits for any more and that may still come: the holes that lane time has passed.
//!
//! ```text
//!  seen   ■ ■ ■ · ■ ■ ■ ■ ■ · · ■ ■ ■      3; 9–10          of a passed hole nothing matters but where it is:
//!               │           └─┘            0x06  0x09 0x00  where it begins, by the end of the one below, and whether
//!               └─ one byte each                            it is longer than one number (then how much)
//! ```
//!
//! Looking one up reads all of them, so they are few ([`Holes::has_room`]); what is more stays among the runs.

use super::codec::{put_unsigned, take_unsigned};

/// No hole is added to so many bytes.
const MOST: usize = 1024;
/// The end of the hole below the first: a hole begins two numbers above the one below it, or later.
const BEFORE: i64 = -2;

/// Holes of a lane, ascending, with at least one number seen between two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holes(Box<[u8]>);

/// Holes in their order, first and last number of each.
struct Unpacked<'a> {
    rest: &'a [u8],
    below: i64,
}

impl Iterator for Unpacked<'_> {
    type Item = (i64, i64);

    fn next(&mut self) -> Option<(i64, i64)> {
        let token = take_unsigned(&mut self.rest)?;
        let more = if token & 1 == 0 {
            0
        } else {
            i64::try_from(take_unsigned(&mut self.rest)?).ok()?.checked_add(1)?
        };
        let from = self.below.checked_add((token >> 1) as i64)?.checked_add(2)?;
        self.below = from.checked_add(more)?;
        Some((from, self.below))
    }
}

/// Puts holes after others.
struct Packing {
    bytes: Vec<u8>,
    below: i64,
}

impl Packing {
    /// Adds a hole above all that are there.
    fn put(&mut self, from: i64, to: i64) {
        let is_long = to > from;
        put_unsigned(&mut self.bytes, ((from - self.below - 2) as u64) << 1 | u64::from(is_long));
        if is_long {
            put_unsigned(&mut self.bytes, (to - from - 1) as u64);
        }
        self.below = to;
    }
}

impl Holes {
    fn unpacked(&self) -> Unpacked<'_> {
        Unpacked { rest: &self.0, below: BEFORE }
    }

    fn of(holes: impl Iterator<Item = (i64, i64)>) -> Self {
        let mut packing = Packing { bytes: Vec::new(), below: BEFORE };
        holes.for_each(|(from, to)| packing.put(from, to));
        Self(packing.bytes.into_boxed_slice())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lowest.
    pub(super) fn first(&self) -> Option<(i64, i64)> {
        self.unpacked().next()
    }

    /// Numbers in the packed form: one a hole, one more for each that is longer than one number. It falls by as many as
    /// the lowest hole has when that one goes.
    pub(super) fn len(&self) -> usize {
        self.0.iter().filter(|byte| **byte < 0x80).count()
    }

    /// Whether more of them may be added.
    pub(super) fn has_room(&self) -> bool {
        self.0.len() < MOST
    }

    /// Whether `seq` is in one of them.
    pub(super) fn contains(&self, seq: i64) -> bool {
        self.unpacked().find(|(_, to)| *to >= seq).is_some_and(|(from, _)| from <= seq)
    }

    /// Adds what `next` gives, each above the one before, while there is room.
    pub(super) fn extend(&mut self, mut next: impl FnMut() -> Option<(i64, i64)>) {
        let below = self.unpacked().last().map_or(BEFORE, |(_, to)| to);
        let mut packing = Packing { bytes: std::mem::take(&mut self.0).into_vec(), below };
        while packing.bytes.len() < MOST
            && let Some((from, to)) = next()
        {
            packing.put(from, to);
        }
        self.0 = packing.bytes.into_boxed_slice();
    }

    /// Takes the numbers `from..=to` out of them; `missing` hears of each range that was in one. Answers whether any was.
    pub(super) fn fill(&mut self, from: i64, to: i64, missing: &mut dyn FnMut(i64, i64)) -> bool {
        let mut any = false;
        for (low, high) in self.unpacked().take_while(|(low, _)| *low <= to).filter(|(_, high)| *high >= from)
        {
            missing(low.max(from), high.min(to));
            any = true;
        }
        if any {
            let left = |(low, high): (i64, i64)| [(low, high.min(from - 1)), (low.max(to + 1), high)];
            *self = Self::of(self.unpacked().flat_map(left).filter(|(low, high)| low <= high));
        }
        any
    }

    /// Takes the lowest out.
    pub(super) fn pop_first(&mut self) -> Option<(i64, i64)> {
        let first = self.first()?;
        *self = Self::of(self.unpacked().skip(1));
        Some(first)
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.0.len()
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_unsigned(out, self.0.len() as u64);
        out.extend_from_slice(&self.0);
    }

    /// Reads what [`Holes::write`] wrote; `None` unless all of them lie below `highest`, which was seen.
    pub(super) fn read(bytes: &mut &[u8], highest: i64) -> Option<Self> {
        let length = usize::try_from(take_unsigned(bytes)?).ok()?;
        let (own, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        let mut unpacked = Unpacked { rest: own, below: BEFORE };
        while !unpacked.rest.is_empty() {
            unpacked.next().filter(|(from, to)| *from >= 0 && from <= to && *to < highest)?;
        }
        Some(Self(own.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is left of holes after some of their numbers came, against a set.
        #[test]
        fn agree_with_a_set(
            found in proptest::collection::vec((0_i64..200, 0_i64..4), 0..60),
            fills in proptest::collection::vec((-3_i64..20_000, 0_i64..300, 0_u8..8), 0..60),
        ) {
            let mut above = -1;
            let mut given: Vec<(i64, i64)> = Vec::new();
            for (gap, more) in found {
                let from = if above < 0 { gap } else { above + 2 + gap };
                above = from + more;
                given.push((from, above));
            }
            let mut set: BTreeSet<i64> = given.iter().flat_map(|(from, to)| *from..=*to).collect();
            let mut holes = Holes::default();
            // In two halves, as they are passed.
            let (first, second) = given.split_at(given.len() / 2);
            for half in [first, second] {
                let mut half = half.iter().copied();
                holes.extend(|| half.next());
            }
            for (from, more, what) in fills {
                if what == 0 {
                    let lowest = holes.pop_first();
                    prop_assert_eq!(lowest.map(|(from, _)| from), set.first().copied());
                    for seq in lowest.iter().flat_map(|(from, to)| *from..=*to) {
                        set.remove(&seq);
                    }
                } else {
                    let to = if what < 5 { from } else { from + more };
                    let before: Vec<i64> = set.extract_if(from..=to, |_| true).collect();
                    let mut missing = Vec::new();
                    let any = holes.fill(from, to, &mut |from, to| missing.extend(from..=to));
                    prop_assert_eq!(any, !before.is_empty());
                    prop_assert_eq!(missing, before);
                }
                for seq in [from - 1, from, from + 1] {
                    prop_assert_eq!(holes.contains(seq), set.contains(&seq));
                }
                prop_assert_eq!(holes.unpacked().flat_map(|(from, to)| from..=to).collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
                let long = holes.unpacked().filter(|(from, to)| to > from).count();
                prop_assert_eq!(holes.len(), holes.unpacked().count() + long);
                let mut out = Vec::new();
                holes.write(&mut out);
                prop_assert_eq!(Holes::read(&mut out.as_slice(), 1 << 40), Some(holes.clone()));
            }
        }

        /// Whatever the bytes: no panic, and what is read is ascending and below what was seen.
        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..40), highest in any::<i64>()) {
            if let Some(holes) = Holes::read(&mut bytes.as_slice(), highest) {
                let all: Vec<(i64, i64)> = holes.unpacked().collect();
                prop_assert!(all.iter().all(|(from, to)| 0 <= *from && from <= to && *to < highest));
                prop_assert!(all.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            }
        }
    }

    #[test]
    fn no_more_are_taken_than_there_is_room_for() {
        let mut holes = Holes::default();
        let mut given = (0..100_000).map(|at| (20 * at, 20 * at));
        holes.extend(|| given.next());
        assert_eq!((holes.len(), holes.heap_bytes(), holes.has_room()), (MOST, MOST, false));
        assert_eq!(given.next(), Some((20 * MOST as i64, 20 * MOST as i64)), "the next is still there");
        for cut in 1..12 {
            let mut out = Vec::new();
            holes.write(&mut out);
            assert!(Holes::read(&mut &out[..out.len() - cut], i64::MAX).is_none());
        }
        let highest = 20 * (MOST as i64 - 1);
        let mut out = Vec::new();
        holes.write(&mut out);
        assert!(Holes::read(&mut out.as_slice(), highest).is_none(), "the last number was seen");
        assert!(Holes::read(&mut out.as_slice(), highest + 1).is_some());
    }
}

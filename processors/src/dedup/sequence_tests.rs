use std::collections::{BTreeMap, BTreeSet};

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

/// The last number before the first one that is missing.
fn contiguous(set: &BTreeSet<i64>) -> i64 {
    (0..=set.len() as i64).find(|seq| !set.contains(seq)).unwrap() - 1
}

proptest! {
    #[test]
    fn agrees_with_a_set(seqs in proptest::collection::vec(0_i64..60, 1..200)) {
        let mut sequence = Sequence::new(0);
        let mut set = BTreeSet::new();
        for (at, seq) in seqs.into_iter().enumerate() {
            let expected = if set.insert(seq) { Seen::Fresh } else { Seen::Duplicate };
            prop_assert_eq!(sequence.see(seq, seq * 10, at as i64), expected);
            let reached = contiguous(&set);
            prop_assert_eq!(sequence.contiguous(), reached);
            prop_assert_eq!(sequence.time(), if reached < 0 { NEVER } else { reached * 10 });
            prop_assert_eq!(sequence.highest(), *set.last().unwrap());
            sequence = round_trip(&sequence);
        }
    }

    /// Times in any order, holes passed at any moment: what a list of numbers with their times says.
    #[test]
    fn time_and_releases_agree_with_a_list(
        steps in proptest::collection::vec((0_i64..200, 0_i64..1_000, 0_u8..12), 1..300),
    ) {
        let mut sequence = Sequence::new(0);
        let mut times: BTreeMap<i64, i64> = BTreeMap::new();
        // Quiet clock when each number that is missing below the highest began to be.
        let mut missing: BTreeMap<i64, i64> = BTreeMap::new();
        let (mut frontier, mut time) = (-1, NEVER);
        for (at, (seq, event_time, what)) in steps.into_iter().enumerate() {
            let quiet = at as i64;
            let highest = times.last_key_value().map_or(-1, |(seq, _)| *seq);
            if what == 0 {
                let mut lost = 0;
                while frontier < highest {
                    match missing.get(&(frontier + 1)) {
                        Some(since) if *since > quiet - 20 => break,
                        Some(_) => lost += 1,
                        None => time = time.max(times[&(frontier + 1)]),
                    }
                    frontier += 1;
                }
                prop_assert_eq!(sequence.release(quiet - 20), lost);
            } else {
                let fresh = !times.contains_key(&seq);
                prop_assert_eq!(sequence.see(seq, event_time, quiet) == Seen::Fresh, fresh);
                if fresh {
                    times.insert(seq, event_time);
                    missing.remove(&seq);
                    missing.extend((highest + 1..seq).map(|seq| (seq, quiet)));
                }
            }
            while let Some(passed) = times.get(&(frontier + 1)) {
                time = time.max(*passed);
                frontier += 1;
            }
            // What came late into a hole that was passed counts once everything below it is there.
            let whole = contiguous(&times.keys().copied().collect());
            time = times.range(..=whole).map(|(_, time)| *time).fold(time, i64::max);
            prop_assert_eq!((sequence.frontier(), sequence.contiguous()), (frontier, whole));
            let latest = times.range(..=frontier).map(|(_, time)| *time).fold(NEVER, i64::max);
            prop_assert!((time..=latest).contains(&sequence.time()), "{} of {time} to {latest}", sequence.time());
            let held = missing.range(frontier + 1..).next().map(|(_, since)| *since);
            prop_assert_eq!(sequence.held_since(), held);
            prop_assert_eq!(round_trip(&sequence), sequence.clone());
        }
    }

    #[test]
    fn what_is_given_up_is_never_called_a_duplicate(
        seqs in proptest::collection::vec(1_i64..2_000, 1..600),
    ) {
        let mut sequence = Sequence::new(0);
        let mut set = BTreeSet::new();
        for seq in seqs {
            let fresh = set.insert(seq);
            let seen = sequence.see(seq, 0, 0);
            if sequence.intervals() > 20 {
                sequence.give_up();
            }
            prop_assert!(sequence.intervals() <= 20);
            if fresh {
                prop_assert_ne!(seen, Seen::Duplicate);
            }
            sequence = round_trip(&sequence);
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
                prop_assert!(sequence.explain(from, from + more, false, 0));
                set.extend(from..=from + more);
            } else {
                let expected = if set.insert(from) { Seen::Fresh } else { Seen::Duplicate };
                prop_assert_eq!(sequence.see(from, from, 0), expected);
            }
            prop_assert_eq!(sequence.contiguous(), contiguous(&set));
            sequence = round_trip(&sequence);
        }
    }

    /// What was shed may come once; what the list of it has no room for passes flagged, and nothing is dropped.
    #[test]
    fn what_was_shed_is_dropped_only_when_it_comes_again(
        steps in proptest::collection::vec((0_i64..400, 0_i64..30, any::<bool>()), 1..300),
    ) {
        let mut sequence = Sequence::new(0);
        let mut seen = BTreeSet::new();
        for (from, more, is_shed) in steps {
            if is_shed {
                sequence.explain(from, from + more, true, 0);
            } else if sequence.see(from, from, 0) == Seen::Duplicate {
                prop_assert!(seen.contains(&from), "{from} was dropped and never seen");
            } else {
                seen.insert(from);
            }
            prop_assert!(sequence.notes().is_none_or(|notes| notes.gone.len() <= MAX_GONE));
            sequence = round_trip(&sequence);
        }
    }

    #[test]
    fn explained_numbers_are_as_good_as_seen(gone in proptest::collection::btree_set(0_i64..50, 0..30)) {
        let mut sequence = Sequence::new(0);
        for seq in (0..50).filter(|seq| !gone.contains(seq)) {
            sequence.see(seq, seq, 0);
        }
        for seq in &gone {
            sequence.explain(*seq, *seq, false, 0);
        }
        prop_assert_eq!(sequence.contiguous(), 49);
        prop_assert!(sequence.has_no_holes() && sequence.is_exact());
        sequence.explain(1, 80, false, 0);
        prop_assert_eq!(sequence.contiguous(), 80);
    }

    /// Whatever anybody claims: no panic, few intervals, nothing above the bound.
    #[test]
    fn absurd_claims_stay_small(
        steps in proptest::collection::vec((any::<i64>(), any::<i64>(), 0_u32..63, 0_u8..4), 1..200),
    ) {
        let mut sequence = Sequence::new(0);
        for (from, to, shift, what) in steps {
            let before = sequence.highest();
            let (from, to) = (from >> shift, to >> shift);
            match what {
                0 => { sequence.explain(from, to, true, 0); }
                1 => { sequence.explain(from.min(to), from.max(to), false, 0); }
                2 => { sequence.mark(from, to, 0); }
                _ => { sequence.see(from, to, 0); }
            }
            prop_assert!(sequence.highest() <= before.saturating_add(MAX_AHEAD).min(MAX_NUMBER));
            prop_assert!(sequence.intervals() <= 200 && sequence.heap_bytes() < 20_000);
            prop_assert_eq!(round_trip(&sequence), sequence.clone());
        }
        sequence.release(i64::MAX);
        prop_assert_eq!(sequence.held_since(), None);
    }
}

#[test]
fn number_zero_that_never_comes_is_missed() {
    let mut sequence = Sequence::new(0);
    assert_eq!(sequence.see(1, 100, 5), Seen::Fresh);
    assert_eq!((sequence.time(), sequence.contiguous(), sequence.held_since()), (NEVER, -1, Some(5)));
    assert_eq!(sequence.release(5), 1);
    assert_eq!((sequence.time(), sequence.frontier()), (100, 1));
    assert_eq!(sequence.see(0, 50, 6), Seen::Fresh);
    assert_eq!(sequence.see(0, 50, 6), Seen::Duplicate);
    assert!(sequence.has_no_holes() && sequence.is_exact());
}

#[test]
fn a_hole_stops_lane_time_until_it_is_old_enough() {
    let mut sequence = Sequence::new(0);
    sequence.see(0, 100, 0);
    sequence.see(2, 300, 5);
    sequence.see(4, 500, 9);
    assert_eq!((sequence.time(), sequence.held_since()), (100, Some(5)));
    assert_eq!(sequence.release(4), 0);
    assert_eq!(sequence.time(), 100);
    assert_eq!(sequence.release(5), 1);
    assert_eq!((sequence.time(), sequence.frontier(), sequence.contiguous()), (300, 2, 0));
    // Released is not seen: the late row is still fresh, and once only.
    assert_eq!(sequence.see(1, 200, 20), Seen::Fresh);
    assert_eq!(sequence.see(1, 200, 20), Seen::Duplicate);
    assert_eq!((sequence.time(), sequence.contiguous()), (300, 2));
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
fn ranges_that_were_shed_one_after_the_other_are_one() {
    let mut sequence = Sequence::new(0);
    for at in 0..1_000 {
        sequence.explain(10 * at, 10 * at + 9, true, 0);
    }
    assert_eq!(sequence.notes().unwrap().gone, [(0, 9_999)]);
    assert_eq!(sequence.see(3, 0, 0), Seen::Fresh);
    assert_eq!(sequence.see(3, 0, 0), Seen::Duplicate);
}

#[test]
fn nothing_is_believed_too_far_ahead() {
    let mut sequence = Sequence::new(0);
    sequence.see(0, 1, 0);
    for seq in [i64::MAX, MAX_NUMBER + 1, MAX_AHEAD + 1, -1, i64::MIN] {
        assert_eq!(sequence.see(seq, 9, 0), Seen::Uncertain);
        assert!(!sequence.explain(seq, seq, true, 0));
        assert_eq!(sequence.mark(seq, 0, 0), seq == -1);
    }
    assert!(sequence.explain(5, 2, true, 0));
    assert_eq!((sequence.contiguous(), sequence.time(), sequence.held_since()), (0, 1, None));
    assert!(!sequence.explain(0, MAX_NUMBER, true, 0));
    assert_eq!((sequence.contiguous(), sequence.limit()), (MAX_AHEAD, 2 * MAX_AHEAD));
    assert_eq!(sequence.see(2 * MAX_AHEAD, 2, 0), Seen::Fresh);
    assert_eq!(sequence.release(0), MAX_AHEAD - 1);
    sequence = round_trip(&sequence);
    sequence.explain(i64::MIN, i64::MAX, true, 0);
    assert_eq!(sequence.see(7, 7, 0), Seen::Fresh);
    assert_eq!(sequence.see(7, 7, 0), Seen::Duplicate);
    // At the end of all numbers nothing ends.
    let mut sequence = Sequence::starting_at(MAX_NUMBER, 0);
    assert_eq!(sequence.see(MAX_NUMBER, 8, 0), Seen::Fresh);
    assert_eq!(sequence.see(MAX_NUMBER + 1, 8, 0), Seen::Uncertain);
    assert!(!sequence.explain(0, i64::MAX, false, 0));
    assert_eq!((sequence.contiguous(), round_trip(&sequence).limit()), (MAX_NUMBER, MAX_NUMBER));
}

#[test]
fn a_state_beyond_the_bound_is_refused() {
    for settled in [-2, MAX_NUMBER + 1, i64::MAX] {
        let mut out = Vec::new();
        Sequence { settled, ..Sequence::new(0) }.write(&mut out);
        assert!(Sequence::read(&mut out.as_slice()).is_none());
    }
}

#[test]
fn a_lane_whose_beginning_is_forgotten_has_no_hole_below_it() {
    let mut sequence = Sequence::starting_at(7, 0);
    assert_eq!(sequence.see(7, 70, 0), Seen::Fresh);
    assert_eq!((sequence.time(), sequence.intervals()), (70, 0));
    assert_eq!(sequence.see(3, 30, 0), Seen::Uncertain);
    assert_eq!(sequence.see(7, 70, 0), Seen::Duplicate);
    assert!(!sequence.is_exact());
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
    sequence.mark(1, 900, 3);
    assert_eq!(sequence.moved(), 0, "what waits is no progress");
    sequence.see(0, 100, 4);
    assert_eq!(sequence.time(), 100);
    sequence.see(1, 200, 5);
    assert_eq!(sequence.time(), 900);
    sequence.mark(1, 950, 6);
    assert_eq!((sequence.time(), sequence.moved()), (950, 6));
    sequence.mark(5, 990, 7);
    sequence.see(5, 500, 8);
    assert_eq!(sequence.release(8), 3);
    assert_eq!(sequence.time(), 990);
}

#[test]
fn a_lane_is_small() {
    let mut sequence = Sequence::new(0);
    for seq in 0..1_000 {
        sequence.see(seq, seq * 1_000_000, seq);
    }
    assert_eq!((size_of::<Sequence>(), sequence.heap_bytes()), (48, 0));
    // A hole costs while it is open, and nothing once it is filled.
    sequence.see(1_001, 0, 0);
    assert!(sequence.heap_bytes() <= 88, "{}", sequence.heap_bytes());
    sequence.see(1_000, 0, 0);
    assert_eq!(sequence.heap_bytes(), 0);
    // One number in twenty comes eight numbers late: an average of all moments.
    let mut sequence = Sequence::new(0);
    let (mut bytes, mut moments) = (0, 0);
    for seq in 0..10_000_i64 {
        for seq in [(seq % 20 != 0).then_some(seq), (seq % 20 == 8).then_some(seq - 8)].into_iter().flatten()
        {
            assert_eq!(sequence.see(seq, seq * 1_000_000, seq), Seen::Fresh);
            bytes += size_of::<Sequence>() + sequence.heap_bytes();
            moments += 1;
        }
    }
    assert!(bytes / moments <= 100, "{} bytes", bytes / moments);
}

/// Of a thousand numbers fifty never come, one in twenty or by chance; holes are passed when they are 30 s old, as the
/// tracker does. Goal: 100 bytes a lane.
#[test]
fn holes_that_stay_take_a_byte_each() {
    let chance = |seq: i64| {
        let mixed = (seq as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9)) >> 33
    };
    let regular = |seq: i64| seq % 20 == 5;
    let random = |seq: i64| chance(seq).is_multiple_of(20) && seq < 999;
    for (what, most) in [("one in twenty", 100), ("by chance", 108)] {
        let is_hole = |seq: &i64| if what == "by chance" { random(*seq) } else { regular(*seq) };
        let mut sequence = Sequence::new(0);
        let (mut bytes, mut lost) = (0, 0);
        for seq in 0..1_000_i64 {
            if !is_hole(&seq) {
                sequence.see(seq, seq * 1_000_000, seq);
            }
            if seq % 10 == 0 {
                lost += sequence.release(seq - 30);
            }
            bytes += size_of::<Sequence>() + sequence.heap_bytes();
        }
        lost += sequence.release(1_000);
        let holes = (0..1_000).filter(is_hole).count();
        assert_eq!(lost, holes as i64);
        let kept = size_of::<Sequence>() + sequence.heap_bytes();
        let mut written = Vec::new();
        sequence.write(&mut written);
        assert!(kept <= most, "{what}: {holes} holes, {kept} bytes");
        assert!(written.len() <= 75 && bytes / 1_000 <= 270, "{} bytes, {}", written.len(), bytes / 1_000);
        assert!(sequence.more.is_none(), "the next number takes the short way");
        // Each that comes all the same is fresh, once.
        for seq in (0..1_000).filter(is_hole) {
            assert_eq!((sequence.see(seq, 0, 0), sequence.see(seq, 0, 0)), (Seen::Fresh, Seen::Duplicate));
        }
        assert_eq!((sequence.heap_bytes(), sequence.contiguous(), sequence.has_no_holes()), (0, 999, true));
    }
}

/// More holes than there is room for: what was passed and what was not are one lane.
#[test]
fn holes_without_number_are_still_known_one_by_one() {
    let mut sequence = Sequence::new(0);
    for at in 0..3_000 {
        assert_eq!(sequence.see(2 * at + 1, at, at), Seen::Fresh);
        if at % 100 == 99 {
            sequence.release(at);
        }
    }
    assert_eq!((sequence.frontier(), sequence.contiguous(), sequence.held_since()), (5_999, -1, None));
    assert_eq!(sequence.intervals(), 3_000);
    sequence = round_trip(&sequence);
    for seq in [0, 2, 1_000, 2_046, 2_048, 2_050, 4_000, 5_998] {
        assert_eq!(
            (sequence.see(seq, 0, 0), sequence.see(seq, 0, 0)),
            (Seen::Fresh, Seen::Duplicate),
            "{seq}"
        );
        assert_eq!(sequence.see(seq + 1, 0, 0), Seen::Duplicate);
    }
    assert_eq!(sequence.contiguous(), 3);
    // Room that became free is used when the next hole is passed.
    assert!(sequence.explain(0, 1_500, false, 3_000));
    assert_eq!(sequence.contiguous(), 1_501);
    sequence.see(6_001, 0, 3_001);
    assert_eq!(sequence.release(3_001), 1);
    assert_eq!((sequence.frontier(), sequence.highest()), (6_001, 6_001));
    sequence.give_up();
    assert_eq!((sequence.see(1_502, 0, 0), sequence.see(1_504, 0, 0)), (Seen::Uncertain, Seen::Fresh));
    assert!(sequence.explain(0, 6_002, false, 0));
    assert!(sequence.has_no_holes() && sequence.contiguous() == 6_002 && !sequence.is_exact());
}

use proptest::prelude::*;

use super::*;
use crate::engine::pieces::small;

const TWO: Shape<'static> = Shape { waits: &[true, true], within: 60 };
const THREE: Shape<'static> = Shape { waits: &[true, true, true], within: 60 };

fn row(step: usize, time: i64) -> Waiting {
    Waiting::new(step, time, format!("{step}@{time}"), serde_json::from_str("{}").unwrap())
}

fn key() -> Key {
    Key::new("r", "")
}

/// Times of the chains that rows in this order of arrival give; the watermark trails the latest by `lateness`.
fn told(shape: Shape<'_>, rows: &[(usize, i64)], lateness: i64) -> Vec<Vec<i64>> {
    let mut sequences = Sequences::default();
    let mut watermark = i64::MIN;
    let mut told = Vec::new();
    for (step, time) in rows {
        let chain = sequences.see("a", &key(), shape, row(*step, *time), watermark);
        told.extend(chain.map(|chain| chain.iter().map(|row| row.time).collect()));
        watermark = watermark.max(time.saturating_sub(lateness));
    }
    told
}

#[test]
fn one_after_the_other_within_the_time_is_told_once() {
    assert_eq!(told(TWO, &[(0, 10), (1, 70)], 2), [[10, 70]]);
    assert!(told(TWO, &[(0, 10), (1, 71)], 2).is_empty(), "too late");
    assert!(told(TWO, &[(1, 10), (0, 11)], 2).is_empty(), "the wrong way round");
    assert_eq!(told(TWO, &[(0, 10), (1, 20), (1, 21), (0, 30), (1, 31)], 2), [[10, 20], [30, 31]]);
    assert_eq!(
        told(TWO, &[(0, 10), (0, 15), (1, 20), (1, 21)], 2),
        [[15, 20]],
        "what waited is gone with it"
    );
}

#[test]
fn rows_out_of_order_are_chained_until_the_watermark_has_passed() {
    assert_eq!(told(TWO, &[(1, 20), (0, 10)], 30), [[10, 20]]);
    assert!(told(TWO, &[(1, 20), (0, 70), (0, 10)], 30).is_empty(), "nobody waits that long");
    assert_eq!(told(THREE, &[(2, 30), (0, 10), (1, 20)], 50), [[10, 20, 30]]);
    assert_eq!(told(THREE, &[(1, 20), (2, 30), (0, 10)], 50), [[10, 20, 30]]);
    let waitless = Shape { waits: &[true, false], within: 60 };
    assert!(told(waitless, &[(1, 20), (0, 10)], 30).is_empty());
    assert_eq!(told(waitless, &[(0, 10), (1, 20)], 30), [[10, 20]]);
}

#[test]
fn an_earlier_row_stays_if_a_chain_needs_it() {
    assert_eq!(told(THREE, &[(0, 3), (1, 5), (0, 7), (0, 20), (2, 25)], 0), [[3, 5, 25]]);
}

#[test]
fn a_row_that_fits_two_steps_is_no_successor_of_itself() {
    let mut sequences = Sequences::default();
    let same = |step, time: i64| Waiting { id: format!("x@{time}"), ..row(step, time) };
    for (time, expected) in [(1, 0), (2, 2)] {
        let second = sequences.see("a", &key(), TWO, same(1, time), 0);
        let first = sequences.see("a", &key(), TWO, same(0, time), 0);
        assert_eq!(second.or(first).map_or(0, |chain| chain.len()), expected, "{time}");
    }
}

#[test]
fn a_step_that_always_holds_keeps_little() {
    let mut sequences = Sequences::default();
    for time in 0..1_000 {
        sequences.see("a", &key(), THREE, row(0, time), time - 2);
        let waiting = sequences.rows.get("a", &key()).unwrap();
        assert!(waiting.len() <= 4, "{}", waiting.len());
    }
}

#[test]
fn keys_and_rows_are_capped() {
    let mut sequences = Sequences::default();
    for time in 0..100_i64 {
        sequences.see("a", &key(), TWO, row(0, time), i64::MIN);
        sequences.see("a", &Key::new("s", &time.to_string()), TWO, row(0, time), i64::MIN);
    }
    assert_eq!(sequences.rows.get("a", &key()).unwrap().len(), MOST_WAITING);
    assert_eq!(sequences.rows.get("a", &key()).unwrap()[0].time, 100 - MOST_WAITING as i64);
    assert_eq!(sequences.rows.of("a").count(), 1 + MOST_KEYS);
    assert!(sequences.rows.get("a", &Key::new("s", "0")).is_none());
    assert!(sequences.rows.get("a", &Key::new("s", "99")).is_some());
    // all but the last are over: they make room
    sequences.see("a", &Key::new("s", "new"), TWO, row(0, 1_000), 159);
    assert_eq!(sequences.rows.of("a").count(), 1 + 2);
}

/// A chain without the numbers of its rows, which nobody is told.
fn said(chain: Vec<Waiting>) -> Vec<(usize, i64, String)> {
    chain.into_iter().map(|row| (row.step, row.time, row.id)).collect()
}

/// Whether some chain of the rows is complete, by trying all.
fn exists(rows: &[(usize, i64)], steps: usize, within: i64) -> bool {
    fn go(rows: &[(usize, i64)], step: usize, steps: usize, first: i64, last: i64, within: i64) -> bool {
        step == steps
            || rows.iter().any(|(of, time)| {
                let first = if step == 0 { *time } else { first };
                let fits = *of == step && *time >= last && *time - first <= within;
                fits && go(rows, step + 1, steps, first, *time, within)
            })
    }
    go(rows, 0, steps, 0, i64::MIN, within)
}

proptest! {
    /// Without a watermark nothing is forgotten: the first chain is told exactly when there is one.
    #[test]
    fn agrees_with_trying_all(rows in proptest::collection::vec((0_usize..3, 0_i64..150), 1..14)) {
        let mut sequences = Sequences::default();
        let mut seen: Vec<(usize, i64)> = Vec::new();
        for (at, (step, time)) in rows.into_iter().enumerate() {
            seen.push((step, time));
            let new = Waiting { id: at.to_string(), ..row(step, time) };
            let chain = sequences.see("a", &key(), THREE, new, i64::MIN);
            prop_assert_eq!(chain.is_some(), exists(&seen, 3, 60), "{:?}", seen);
            if let Some(chain) = chain {
                prop_assert!(chain.windows(2).all(|pair| pair[0].time <= pair[1].time));
                break;
            }
        }
    }

    /// When a sweep happens changes nothing: what is over is not chained, swept or not.
    #[test]
    fn sweeping_changes_nothing(
        rows in proptest::collection::vec((0_usize..3, 0_i64..300), 1..30),
        sweeps in proptest::collection::vec(any::<bool>(), 30),
    ) {
        let (mut swept, mut lazy) = (Sequences::default(), Sequences::default());
        let mut watermark = i64::MIN;
        for (at, (step, time)) in rows.into_iter().enumerate() {
            if sweeps[at] && let Some(waiting) = swept.rows.get("a", &key()).cloned() {
                let left: Vec<_> = waiting.into_iter().filter(|row| !THREE.is_over(row, watermark)).collect();
                swept.rows.put("a", key(), left);
            }
            let new = Waiting { id: at.to_string(), ..row(step, time) };
            let told = lazy.see("a", &key(), THREE, new.clone(), watermark);
            prop_assert_eq!(swept.see("a", &key(), THREE, new, watermark).map(said), told.map(said));
            watermark = watermark.max(time - 20);
        }
    }
}

#[test]
fn what_was_swept_is_numbered_anew_and_told_the_same() {
    let (mut swept, mut lazy) = (Sequences::default(), Sequences::default());
    let mut watermark = i64::MIN;
    for (at, (step, time)) in
        [(0, 90), (1, 95), (2, 77), (2, 100), (0, 85), (1, 90), (2, 95)].into_iter().enumerate()
    {
        if at == 4 {
            let waiting = swept.rows.get("a", &key()).cloned().unwrap_or_default();
            let left: Vec<_> = waiting.into_iter().filter(|row| !THREE.is_over(row, watermark)).collect();
            swept.rows.put("a", key(), left);
        }
        let new = Waiting { id: at.to_string(), ..row(step, time) };
        let told = lazy.see("a", &key(), THREE, new.clone(), watermark);
        assert_eq!(swept.see("a", &key(), THREE, new, watermark).map(said), told.map(said), "{at}");
        watermark = watermark.max(time - 20);
    }
}

proptest! {
    /// Whatever comes, and wherever it is cut into commits, what is restored is what was there, and goes on alike.
    #[test]
    fn what_is_restored_is_what_was_there(
        rows in proptest::collection::vec((0_usize..3, 0_i64..200, 0_usize..3), 1..60),
        commits in proptest::collection::vec(any::<bool>(), 60),
    ) {
        let (mut sequences, mut restored) = (Sequences::default(), Sequences::default());
        let mut watermark = i64::MIN;
        let kept = |sequences: &Sequences| -> Vec<(Key, Vec<Waiting>)> {
            sequences.rows.of("a").map(|(key, rows)| (key.clone(), rows.clone())).collect()
        };
        for (at, (step, time, rule)) in rows.into_iter().enumerate() {
            let key = Key::new(&rule.to_string(), "");
            let new = Waiting { id: at.to_string(), ..row(step, time) };
            sequences.see("a", &key, THREE, new, watermark);
            watermark = watermark.max(time - 20);
            if commits[at] {
                if let Some(changes) = sequences.rows.drain_changes().unwrap() {
                    restored.rows.restore(&changes).unwrap();
                }
                let mut anew = Sequences::default();
                anew.rows.restore(&sequences.rows.snapshot().unwrap()).unwrap();
                for other in [&restored, &anew] {
                    prop_assert_eq!(kept(other), kept(&sequences));
                    prop_assert_eq!(other.rows.bytes(), sequences.rows.bytes());
                    prop_assert_eq!(other.rows.live_rows(), sequences.rows.live_rows());
                    prop_assert_eq!(other.rows.len(), sequences.rows.len());
                }
            }
        }
    }
}

/// Fields full of characters that take six bytes each as JSON, in every key and from an id that is no shorter.
#[test]
fn whoever_sends_huge_fields_fills_neither_memory_nor_changelog() {
    let row = |number: i64, id: usize| {
        let mut fields = serde_json::Map::new();
        fields.insert("name".into(), "\u{1}".repeat(16_000).into());
        let (step, time) = (usize::from(number % 3 == 0), 1_000 - number);
        let row = serde_json::from_str(&serde_json::Value::Object(fields).to_string()).unwrap();
        Waiting::new(step, time, format!("{number}{}", "\u{2}".repeat(id)), row)
    };
    let shape = Shape { waits: &[true, true, true], within: 60_000 };
    let mut sequences = Sequences::default();
    let mut restored = Sequences::default();
    let see = |sequences: &mut Sequences, number: i64| {
        let key = Key::new(&format!("r{}", number % 4), &(number % 7).to_string());
        assert!(sequences.see("loud", &key, shape, row(number, (number % 5 * 5_000) as usize), 0).is_none());
        sequences.rows.bytes()
    };
    let kept = |sequences: &Sequences| -> Vec<(Key, Vec<Waiting>)> {
        sequences.rows.of("loud").map(|(key, rows)| (key.clone(), rows.clone())).collect()
    };
    sequences.see("calm", &key(), shape, self::row(0, 10), 0);
    for number in 0..400 {
        let bytes = see(&mut sequences, number);
        assert!(bytes <= (1 << 20) + 1_000, "{bytes}");
        if number == 200 {
            let pieces = small(sequences.operator().all(), MOST_OF_ROW);
            for piece in &pieces {
                restored.operator().restore(piece).unwrap();
            }
            assert_eq!((restored.rows.bytes(), kept(&restored)), (bytes, kept(&sequences)));
        } else if number > 200 {
            assert_eq!(see(&mut restored, number), bytes, "as if nothing had happened");
        }
    }
    assert_eq!(kept(&restored), kept(&sequences));
    assert!(kept(&sequences).iter().any(|(_, rows)| !rows.is_empty()), "the last are there");
    assert!(sequences.has_agent("calm"));
}

/// Each row is written once and deleted once, however many wait beside it; what is restored goes on in the same way.
#[test]
fn a_row_that_waits_is_written_once() {
    let shape = Shape { waits: &[true, true], within: 1_000 };
    let (mut sequences, mut restored) = (Sequences::default(), Sequences::default());
    let mut written = 0;
    for time in 0..200 {
        sequences.see("a", &key(), shape, row(0, time), time - 10);
        let changes = sequences.rows.drain_changes().unwrap().unwrap();
        written += changes.num_rows();
        restored.rows.restore(&changes).unwrap();
        assert_eq!(restored.rows.get("a", &key()), sequences.rows.get("a", &key()));
    }
    assert!(sequences.rows.get("a", &key()).unwrap().len() > 10);
    assert!(written < 400, "{written} rows for 200 that came and those of them that went");
    let end = |sequences: &mut Sequences| sequences.see("a", &key(), shape, row(1, 210), 190);
    assert_eq!(end(&mut restored), end(&mut sequences));
}

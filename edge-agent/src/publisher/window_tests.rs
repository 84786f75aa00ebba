use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const SESSION: i64 = 100;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn limits() -> Limits {
    Limits {
        rows: 50,
        messages: 10,
        bytes: 10_000,
        array_rows: 8,
        array_above: 4,
        confirm_within: s(10),
        confirm_within_max: s(60),
        gather: [Duration::ZERO, Duration::ZERO, s(1)],
    }
}

fn window() -> Window {
    Window::new(limits(), SESSION, [-1; 3])
}

fn range(lane: Lane, from: i64, to: i64) -> LaneRange {
    LaneRange { lane, session: SESSION, from, to }
}

/// Past the rows of earlier sessions, of which there are none.
fn caught_up() -> Window {
    let mut window = window();
    while let Some(Ask::Fresh { lane, up_to, .. }) = window.next(Duration::ZERO) {
        window.exhausted(lane, up_to);
    }
    window
}

#[test]
fn earlier_sessions_are_read_before_anything_else() {
    let mut window = window();
    let ask = window.next(Duration::ZERO);
    assert!(
        matches!(ask, Some(Ask::Fresh { lane: Lane::Critical, after: Place::START, array: true, .. })),
        "{ask:?}"
    );
}

#[test]
fn critical_goes_first_few_rows_go_one_by_one_and_many_as_an_array() {
    let mut window = caught_up();
    window.stored([0, 1, -1], s(1));
    assert!(matches!(window.next(s(1)), Some(Ask::Fresh { lane: Lane::Critical, array: false, .. })));
    window.sent(range(Lane::Critical, 0, 0), 100, s(1));
    assert!(matches!(window.next(s(1)), Some(Ask::Fresh { lane: Lane::Normal, array: false, .. })));
    window.stored([0, 20, -1], s(1));
    assert!(matches!(
        window.next(s(1)),
        Some(Ask::Fresh { lane: Lane::Normal, array: true, max_rows: 8, .. })
    ));
}

#[test]
fn bulk_gathers_and_then_goes() {
    let mut window = caught_up();
    window.stored([-1, -1, 2], s(5));
    assert_eq!(window.next(s(5)), None);
    assert_eq!(window.next_wake(s(5)), Some(s(6)));
    assert!(matches!(window.next(s(6)), Some(Ask::Fresh { lane: Lane::Bulk, array: true, .. })));
    let mut stopping = caught_up();
    stopping.stored([-1, -1, 2], s(5));
    stopping.gather_no_longer();
    assert!(stopping.next(s(5)).is_some());
}

#[test]
fn what_is_not_confirmed_goes_again_later_and_later() {
    let mut window = caught_up();
    window.stored([-1, 3, -1], s(0));
    let asked = range(Lane::Normal, 0, 3);
    let mut message = window.sent(asked, 100, s(0));
    window.acknowledged(message);
    assert_eq!(window.next(s(9)), None);
    let mut at = s(10);
    for (attempt, wait) in [(0, 20), (1, 40), (2, 60), (3, 60)] {
        assert_eq!(window.next(at), Some(Ask::Again { range: asked, attempt }));
        message = window.sent_again(asked, asked, 100, at);
        window.acknowledged(message);
        assert_eq!(window.next_wake(at), Some(at + s(wait)), "{attempt}");
        at += s(wait);
    }
    assert_eq!(window.confirmed(asked, at), Some(asked));
    assert!(window.is_settled());
}

#[test]
fn a_message_still_on_its_way_to_the_broker_is_not_sent_twice() {
    let mut window = caught_up();
    window.stored([-1, 0, -1], s(0));
    let message = window.sent(range(Lane::Normal, 0, 0), 100, s(0));
    assert_eq!(window.next(s(10)), None);
    assert_eq!(window.next_wake(s(10)), Some(s(20)));
    window.acknowledged(message);
    assert!(window.next(s(20)).is_some());
}

#[test]
fn after_a_lost_connection_only_what_the_broker_had_not_goes_at_once() {
    let mut window = caught_up();
    window.stored([-1, 1, -1], s(0));
    let first = window.sent(range(Lane::Normal, 0, 0), 100, s(0));
    window.sent(range(Lane::Normal, 1, 1), 100, s(0));
    window.acknowledged(first);
    window.disconnected(s(2));
    let again = range(Lane::Normal, 1, 1);
    assert_eq!(window.next(s(2)), Some(Ask::Again { range: again, attempt: 0 }));
    let message = window.sent_again(again, again, 100, s(2));
    window.acknowledged(message);
    assert_eq!(window.next(s(2)), None);
    assert!(matches!(window.next(s(10)), Some(Ask::Again { range: LaneRange { from: 0, .. }, .. })));
}

#[test]
fn limits_stop_it_and_acknowledgements_and_confirmations_free_it() {
    let mut window = caught_up();
    window.stored([-1, 1_000, -1], s(0));
    let message = window.sent(range(Lane::Normal, 0, 1), 10_000, s(0));
    assert_eq!(window.next(s(0)), None, "bytes");
    assert_eq!(window.next_wake(s(0)), Some(s(10)), "it must not spin meanwhile");
    window.acknowledged(message);
    assert!(window.next(s(0)).is_some());
    let message = window.sent(range(Lane::Normal, 2, 49), 100, s(0));
    window.acknowledged(message);
    assert_eq!(window.next(s(0)), None, "rows");
    window.confirmed(range(Lane::Normal, 0, 9), s(0));
    assert!(matches!(window.next(s(0)), Some(Ask::Fresh { max_rows: 8, .. })));
}

#[test]
fn only_plausible_confirmations_reach_the_outbox() {
    let mut window = caught_up();
    window.stored([-1, 9, -1], s(0));
    assert_eq!(window.confirmed(range(Lane::Normal, 0, 9), s(0)), None, "nothing was sent");
    window.sent(range(Lane::Normal, 0, 4), 100, s(0));
    let cut = window.confirmed(range(Lane::Normal, i64::MIN, i64::MAX), s(0));
    assert_eq!(cut, Some(range(Lane::Normal, 0, 4)), "not beyond what was sent");
    assert_eq!(window.confirmed(range(Lane::Normal, 3, 2), s(0)), None);
    assert_eq!(window.confirmed(range(Lane::Foreign, 0, 1), s(0)), None);
    let later = LaneRange { session: SESSION + 1, ..range(Lane::Normal, 0, 1) };
    assert_eq!(window.confirmed(later, s(0)), None);
    let earlier = LaneRange { session: SESSION - 1, ..range(Lane::Normal, 0, 1) };
    assert_eq!(window.confirmed(earlier, s(0)), Some(earlier), "sent before a restart");
}

#[test]
fn when_the_bridge_is_back_nobody_waits_for_minutes() {
    let mut window = caught_up();
    window.stored([-1, 1, -1], s(0));
    let slow = range(Lane::Normal, 0, 0);
    let mut message = window.sent(slow, 1, s(0));
    for at in [10, 30, 70] {
        window.acknowledged(message);
        message = window.sent_again(slow, slow, 1, s(at));
    }
    window.acknowledged(message);
    window.sent(range(Lane::Normal, 1, 1), 1, s(80));
    window.confirmed(range(Lane::Normal, 1, 1), s(81));
    assert_eq!(window.next_wake(s(81)), Some(s(91)));
}

#[test]
fn a_span_with_rows_gone_or_too_large_is_sent_in_parts() {
    let mut window = caught_up();
    window.stored([-1, 9, -1], s(0));
    let asked = range(Lane::Normal, 0, 9);
    let message = window.sent(asked, 100, s(0));
    window.acknowledged(message);
    window.sent_again(asked, range(Lane::Normal, 2, 6), 100, s(10));
    assert_eq!(window.next(s(10)), Some(Ask::Again { range: range(Lane::Normal, 7, 9), attempt: 0 }));
    window.gone(range(Lane::Normal, 7, 9));
    assert_eq!(window.open_rows(), 5);
    window.confirmed(range(Lane::Normal, 0, 9), s(11));
    assert!(window.is_settled());
}

/// A broker and a bridge that lose things: at the end every row was confirmed, first copies were in
/// order, and no limit was exceeded on the way.
#[derive(Debug, Clone)]
enum Luck {
    Store(i64),
    AckAll,
    LoseConnection,
    Confirm { skip: usize, take: i64 },
    Wait(u64),
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![
        3 => (1_i64..12).prop_map(Luck::Store),
        3 => Just(Luck::AckAll),
        1 => Just(Luck::LoseConnection),
        3 => (0_usize..5, 1_i64..9).prop_map(|(skip, take)| Luck::Confirm { skip, take }),
        2 => (1_u64..25).prop_map(Luck::Wait),
    ]
}

struct Outside {
    window: Window,
    now: Duration,
    tail: i64,
    stored: BTreeSet<i64>,
    sent: Vec<(i64, i64)>,
    highest: i64,
    unacknowledged: Vec<MessageId>,
}

impl Outside {
    fn pump(&mut self) {
        while let Some(ask) = self.window.next(self.now) {
            match ask {
                Ask::Fresh { lane, after, up_to, max_rows, .. } => {
                    let first = if after.session == SESSION { after.seq + 1 } else { 0 };
                    let rows: Vec<i64> = self
                        .stored
                        .iter()
                        .copied()
                        .filter(|seq| (first..=up_to.seq).contains(seq))
                        .take(max_rows)
                        .collect();
                    if lane != Lane::Normal || rows.is_empty() {
                        self.window.exhausted(lane, up_to);
                        continue;
                    }
                    assert!(rows[0] > self.highest, "first copies are in order");
                    self.highest = rows[rows.len() - 1];
                    self.send(range(lane, rows[0], self.highest), None);
                }
                Ask::Again { range: asked, .. } => {
                    let rows: Vec<i64> = self.stored.range(asked.from..=asked.to).copied().take(3).collect();
                    match (rows.first(), rows.last()) {
                        (Some(first), Some(last)) => self.send(range(asked.lane, *first, *last), Some(asked)),
                        _ => self.window.gone(asked),
                    }
                }
            }
            assert!(self.unacknowledged.len() <= limits().messages);
            assert!(self.window.open_rows() <= limits().rows);
        }
    }

    fn send(&mut self, range: LaneRange, asked: Option<LaneRange>) {
        let message = match asked {
            Some(asked) => self.window.sent_again(asked, range, 10, self.now),
            None => self.window.sent(range, 10, self.now),
        };
        self.unacknowledged.push(message);
        self.sent.push((range.from, range.to));
    }

    fn confirm(&mut self, from: i64, to: i64) {
        if let Some(kept) = self.window.confirmed(range(Lane::Normal, from, to), self.now) {
            assert!(kept.to <= self.highest);
            self.stored =
                self.stored.iter().copied().filter(|seq| *seq < kept.from || *seq > kept.to).collect();
        }
    }
}

proptest! {
    #[test]
    fn everything_is_confirmed_in_the_end(lucks in proptest::collection::vec(luck(), 1..60)) {
        let mut outside = Outside {
            window: window(),
            now: Duration::ZERO,
            tail: -1,
            stored: BTreeSet::new(),
            sent: Vec::new(),
            highest: -1,
            unacknowledged: Vec::new(),
        };
        for luck in lucks {
            match luck {
                Luck::Store(rows) => {
                    outside.stored.extend(outside.tail + 1..=outside.tail + rows);
                    outside.tail += rows;
                    outside.window.stored([-1, outside.tail, -1], outside.now);
                }
                Luck::AckAll => {
                    for message in std::mem::take(&mut outside.unacknowledged) {
                        outside.window.acknowledged(message);
                    }
                }
                Luck::LoseConnection => {
                    outside.unacknowledged.clear();
                    outside.window.disconnected(outside.now);
                }
                Luck::Confirm { skip, take } => {
                    let from = outside.sent.get(skip).map_or(-5, |(from, _)| *from);
                    outside.confirm(from, from + take);
                }
                Luck::Wait(seconds) => outside.now += s(seconds),
            }
            outside.pump();
        }
        for _ in 0..500 {
            for message in std::mem::take(&mut outside.unacknowledged) {
                outside.window.acknowledged(message);
            }
            for (from, to) in std::mem::take(&mut outside.sent) {
                outside.confirm(from, to);
            }
            outside.now += s(60);
            outside.pump();
        }
        prop_assert!(outside.stored.is_empty(), "left: {:?}", outside.stored);
        prop_assert!(outside.window.is_settled());
    }
}

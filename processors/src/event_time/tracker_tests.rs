use super::*;

const START: i64 = 1_000_000 * SECOND;

struct Log {
    tracker: Tracker,
    clock: i64,
}

impl Log {
    fn new() -> Self {
        let mut log = Self { tracker: Tracker::new(Lateness(2 * SECOND)), clock: START };
        log.clock(0);
        log
    }

    fn clock(&mut self, seconds: i64) -> Vec<String> {
        self.clock += seconds * SECOND;
        let silent = self.tracker.tick("b", self.clock, true, false);
        silent.into_iter().map(|number| self.tracker.agent(number).id.to_string()).collect()
    }

    fn row(&mut self, agent: &str, session: i64, lane: Lane, seq: i64, at: i64) -> Decision {
        let row = Row {
            agent: self.tracker.intern(agent),
            session: START + session * SECOND,
            lane,
            seq,
            event_id: None,
            event_time: START + at * SECOND,
            received_at: START + at * SECOND,
            replayed: false,
        };
        self.tracker.event(&row)
    }

    fn status(&mut self, agent: &str, session: i64, at: i64, status: &Status) {
        let number = self.tracker.intern(agent);
        let at = START + at * SECOND;
        self.tracker.status(number, START + session * SECOND, at, at, status);
    }

    /// Seconds after the start; `None` before the first.
    fn watermark(&mut self, agent: &str) -> Option<i64> {
        let number = self.tracker.intern(agent);
        let watermark = self.tracker.agent(number).watermark;
        (watermark > i64::MIN).then(|| (watermark - START) / SECOND)
    }
}

#[test]
fn a_hole_holds_the_watermark_for_thirty_quiet_seconds() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 1, 10);
    log.row("a", 0, Lane::Normal, 3, 30);
    assert_eq!(log.watermark("a"), Some(8));
    for _ in 0..5 {
        log.clock(5);
    }
    assert_eq!(log.watermark("a"), Some(8));
    log.clock(5);
    assert_eq!(log.watermark("a"), Some(28));
    let lost: Vec<_> = log.tracker.take_lost().iter().map(|lost| (lost.count, lost.watermark)).collect();
    assert_eq!(lost, [(1, START + 8 * SECOND)]);
    assert_eq!(log.row("a", 0, Lane::Normal, 2, 20).verdict, Verdict::Fresh);
    assert_eq!(log.watermark("a"), Some(28));
}

#[test]
fn an_outage_of_ours_does_not_age_holes_or_agents() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 1, 10);
    log.row("a", 0, Lane::Normal, 3, 30);
    // The bridge was away for an hour.
    assert!(log.clock(3_600).is_empty());
    assert_eq!(log.watermark("a"), Some(8));
}

#[test]
fn the_slowest_lane_in_use_decides_and_marks_move_empty_ones() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Critical, 1, 10);
    let all = Status { lanes: Some(vec![Lane::Critical, Lane::Normal]), ..Status::default() };
    log.status("a", 0, 10, &all);
    log.row("a", 0, Lane::Critical, 2, 50);
    // The first row alone could not know of the other lane.
    assert_eq!(log.watermark("a"), Some(8));
    let mark = Status { marks: vec![(Lane::Normal, -1, START + 40 * SECOND)], ..Status::default() };
    log.status("a", 0, 50, &mark);
    assert_eq!(log.watermark("a"), Some(38));
    log.row("a", 0, Lane::Normal, 1, 45);
    assert_eq!(log.watermark("a"), Some(43));
}

#[test]
fn explained_numbers_are_no_holes() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Bulk, 1, 10);
    log.row("a", 0, Lane::Bulk, 5, 50);
    let number = log.tracker.intern("a");
    log.tracker.rejected(number, START, Lane::Bulk, 3);
    assert_eq!(log.watermark("a"), Some(8));
    let shed = Status { shed: Some((START, Lane::Bulk, 2, 4)), ..Status::default() };
    log.status("a", 0, 50, &shed);
    assert_eq!(log.watermark("a"), Some(48));
    // What was shed may have been sent before; what was rejected cannot come.
    assert_eq!(log.row("a", 0, Lane::Bulk, 4, 40).verdict, Verdict::Fresh);
    assert_eq!(log.row("a", 0, Lane::Bulk, 4, 40).verdict, Verdict::Duplicate);
    assert_eq!(log.row("a", 0, Lane::Bulk, 3, 30).verdict, Verdict::Duplicate);
}

#[test]
fn an_older_session_is_waited_for_until_its_tail_is_here_and_then_forgotten() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 1, 10);
    log.row("a", 100, Lane::Normal, 1, 110);
    let tails = Status { tails: Some((START, vec![(Lane::Normal, 3)])), ..Status::default() };
    log.status("a", 100, 110, &tails);
    assert_eq!(log.watermark("a"), Some(8));
    log.row("a", 0, Lane::Normal, 2, 20);
    assert_eq!(log.watermark("a"), Some(18));
    assert!(log.row("a", 0, Lane::Normal, 3, 30).watermark < START + 30 * SECOND);
    assert_eq!(log.watermark("a"), Some(108));
    let oldest = Status { oldest: Some(START + 115 * SECOND), ..Status::default() };
    log.status("a", 100, 116, &oldest);
    let number = log.tracker.intern("a");
    assert_eq!(log.tracker.agent(number).sessions.len(), 1);
    assert_eq!(log.row("a", 0, Lane::Normal, 2, 20).verdict, Verdict::Duplicate);
}

#[test]
fn a_declared_backlog_holds_the_watermark() {
    let mut log = Log::new();
    let backlog = Status { oldest: Some(START + 5 * SECOND), ..Status::default() };
    log.row("a", 200, Lane::Critical, 1, 200);
    let before = log.watermark("a");
    let mut other = Log::new();
    other.status("a", 200, 200, &backlog);
    other.row("a", 200, Lane::Critical, 1, 200);
    assert_eq!((before, other.watermark("a")), (Some(198), Some(3)));
}

#[test]
fn silence_is_told_once_and_ends_with_the_next_row() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 1, 10);
    log.row("b", 0, Lane::Normal, 1, 10);
    let mut silent = Vec::new();
    for second in 0..20 {
        if second < 19 {
            log.row("b", 0, Lane::Normal, second + 2, 10 + second);
        }
        silent.extend(log.clock(5));
    }
    assert_eq!(silent, ["a"]);
    log.row("a", 0, Lane::Normal, 2, 20);
    let silent: Vec<String> = (0..14).flat_map(|_| log.clock(5)).collect();
    assert_eq!(silent, ["b", "a"]);
}

#[test]
fn two_living_sessions_are_a_clone_and_a_drained_outbox_is_not() {
    let mut log = Log::new();
    // Rows of before the restart arrive after it: no clone.
    for seq in 1..10 {
        log.row("a", 100, Lane::Normal, seq, 100 + seq);
        log.row("a", 0, Lane::Normal, seq, seq);
    }
    assert!(log.tracker.take_noticed().is_empty());
    for seq in 10..20 {
        log.row("a", 100, Lane::Normal, seq, 110 + seq);
        log.row("a", 0, Lane::Normal, seq, 110 + seq);
    }
    let noticed = log.tracker.take_noticed();
    let [Noticed::Clone(clone)] = noticed.as_slice() else { panic!("{noticed:?}") };
    assert_eq!((clone.older, clone.newer), (START, START + 100 * SECOND));
}

#[test]
fn gaps_and_returns_are_noticed_once() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 1, 10);
    log.row("a", 0, Lane::Normal, 4, 40);
    for _ in 0..7 {
        log.clock(5);
    }
    let now = log.clock;
    assert_eq!(log.tracker.take_noticed(), [Noticed::Gap { agent: 0, missing: 2, now: now - 5 * SECOND }]);
    let silent: Vec<_> = (0..7).flat_map(|_| log.clock(5)).collect();
    assert_eq!(silent, ["a"]);
    assert!(log.tracker.take_noticed().is_empty());
    log.row("a", 0, Lane::Normal, 5, 70);
    log.row("a", 0, Lane::Normal, 6, 71);
    assert_eq!(log.tracker.take_noticed(), [Noticed::Back { agent: 0, now: log.clock }]);
}

#[test]
fn a_mark_is_believed_as_far_ahead_as_an_event() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 1, 10);
    let mark = Status { marks: vec![(Lane::Normal, -1, i64::MAX - 1)], ..Status::default() };
    log.status("a", 0, 20, &mark);
    assert_eq!(log.watermark("a"), Some(20 + 600 - 2));
}

#[test]
fn absurd_numbers_end_nothing_and_leave_the_others_alone() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 1, 10);
    let number = log.tracker.intern("a");
    let row = |session, seq| Row {
        agent: number,
        session,
        lane: Lane::Normal,
        seq,
        event_id: None,
        event_time: START + 20 * SECOND,
        received_at: START + 20 * SECOND,
        replayed: false,
    };
    for (session, seq) in [(i64::MAX, 1), (MAX_NUMBER + 1, 1), (0, 1), (START, i64::MAX), (START, -7)] {
        assert_eq!(log.tracker.event(&row(session, seq)).verdict, Verdict::Uncertain);
        log.tracker.rejected(number, session, Lane::Normal, seq);
    }
    for session in [i64::MIN, -1, START + 1, i64::MAX] {
        let absurd = Status {
            tails: Some((session, vec![(Lane::Normal, i64::MAX)])),
            marks: vec![(Lane::Normal, i64::MAX, 0)],
            interval: Some(i64::MAX),
            shed: Some((session, Lane::Normal, 1, i64::MAX)),
            ..Status::default()
        };
        log.tracker.status(number, START, START + 20 * SECOND, START + 20 * SECOND, &absurd);
        log.tracker.status(number, i64::MAX, START, START, &absurd);
    }
    assert_eq!(log.tracker.agent(number).sessions.len(), 1);
    for _ in 0..20 {
        log.clock(5);
    }
    assert!(log.tracker.take_lost().is_empty());
    assert_eq!(log.row("a", 0, Lane::Normal, 2, 30).verdict, Verdict::Fresh);
    assert_eq!(log.watermark("a"), Some(28));
}

#[test]
fn an_event_from_the_future_is_judged_by_its_arrival() {
    let mut log = Log::new();
    let agent = log.tracker.intern("a");
    let row = Row {
        agent,
        session: START,
        lane: Lane::Normal,
        seq: 1,
        event_id: None,
        event_time: START + 86_400 * SECOND,
        received_at: START + 10 * SECOND,
        replayed: false,
    };
    let decision = log.tracker.event(&row);
    assert!(decision.in_future);
    assert_eq!(log.watermark("a"), Some(8));
}

use super::*;
use crate::dedup::{MAX_AHEAD, MAX_FORGOTTEN, MAX_INTERVALS, MAX_SESSIONS};
use crate::event_time::Census;

const START: i64 = 1_000_000 * SECOND;
const HOLD: Hold = Hold(1_000 * SECOND);

struct Log {
    tracker: Tracker,
    clock: i64,
}

impl Log {
    fn new() -> Self {
        let mut log = Self { tracker: Tracker::new(Lateness(2 * SECOND), HOLD).eager(), clock: START };
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
            hearsay: false,
            speaks: false,
        };
        self.tracker.event(&row)
    }

    /// A row that arrives at `arrives`, of session 0.
    fn kept(&mut self, lane: Lane, seq: i64, at: i64, arrives: i64) -> Verdict {
        let row = Row {
            agent: self.tracker.intern("a"),
            session: START,
            lane,
            seq,
            event_id: None,
            event_time: START + at * SECOND,
            received_at: START + arrives * SECOND,
            replayed: false,
            hearsay: false,
            speaks: false,
        };
        self.tracker.event(&row).verdict
    }

    /// Lets time pass in steps of 5 s.
    fn pass(&mut self, seconds: i64) {
        for _ in 0..seconds / 5 {
            self.clock(5);
        }
    }

    /// What was lost since the last call.
    fn lost(&mut self) -> i64 {
        self.tracker.take_lost().iter().map(|lost| lost.count).sum()
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
fn what_is_told_about_an_agent_moves_neither_its_time_nor_its_silence() {
    let mut log = Log::new();
    let number = log.tracker.intern("a");
    let will = |at: i64| Row {
        agent: number,
        session: 0,
        lane: Lane::Foreign,
        seq: -1,
        event_id: None,
        event_time: START + at * SECOND,
        received_at: START + at * SECOND,
        replayed: false,
        hearsay: true,
        speaks: false,
    };
    // a machine that was away for a day: the broker speaks of it before its outbox does
    assert_eq!(log.tracker.event(&will(86_400)).verdict, Verdict::Fresh);
    assert_eq!(log.watermark("a"), None);
    log.row("a", 0, Lane::Normal, 0, 10);
    assert_eq!(log.watermark("a"), Some(8));
    for _ in 0..13 {
        log.clock(5);
    }
    assert!(log.tracker.agent(number).silent);
    log.tracker.event(&will(90_000));
    assert!(log.tracker.agent(number).silent);
    assert_eq!(log.watermark("a"), Some(8));
}

#[test]
fn the_first_word_of_an_agent_does_not_outrun_its_outbox() {
    let mut log = Log { tracker: Tracker::new(Lateness(2 * SECOND), HOLD), clock: START };
    log.clock(0);
    // it was away for a day and started anew since; of two bridges the one that has the new session is faster
    let number = log.tracker.intern("a");
    let (session, at) = (START + 86_000 * SECOND, START + 86_000 * SECOND);
    let started = Row {
        agent: number,
        session,
        lane: Lane::Critical,
        seq: 0,
        event_id: None,
        event_time: at,
        received_at: at,
        replayed: false,
        hearsay: false,
        speaks: true,
    };
    log.tracker.event(&started);
    assert_eq!(log.watermark("a"), None, "its time counts only beside what it says");
    let said = Status {
        tails: Some((START, vec![(Lane::Normal, 1), (Lane::Bulk, 0)])),
        lanes: Some(vec![Lane::Critical]),
        ..Status::default()
    };
    log.tracker.status(number, session, at, at, &said);
    assert_eq!(log.watermark("a"), None);
    log.row("a", 0, Lane::Normal, 0, 10);
    log.row("a", 0, Lane::Normal, 1, 20);
    assert_eq!(log.watermark("a"), None, "the other lane of the session before has not come");
    log.row("a", 0, Lane::Bulk, 0, 15);
    assert_eq!(log.watermark("a"), Some(86_000 - 2));

    // an agent of which one lane comes first
    log.row("b", 0, Lane::Normal, 0, 5_000);
    for _ in 0..6 {
        log.clock(5);
    }
    assert_eq!(log.watermark("b"), None);
    log.row("b", 0, Lane::Bulk, 0, 10);
    log.clock(5);
    assert_eq!(log.watermark("b"), Some(8), "what it never speaks of is waited for no longer");
}

#[test]
fn a_hole_holds_the_watermark_for_thirty_quiet_seconds() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 0, 10);
    log.row("a", 0, Lane::Normal, 2, 30);
    assert_eq!(log.watermark("a"), Some(8));
    for _ in 0..5 {
        log.clock(5);
    }
    assert_eq!(log.watermark("a"), Some(8));
    log.clock(5);
    assert_eq!(log.watermark("a"), Some(28));
    let lost: Vec<_> = log.tracker.take_lost().iter().map(|lost| (lost.count, lost.watermark)).collect();
    assert_eq!(lost, [(1, START + 8 * SECOND)]);
    assert_eq!(log.row("a", 0, Lane::Normal, 1, 20).verdict, Verdict::Fresh);
    assert_eq!(log.watermark("a"), Some(28));
}

#[test]
fn an_outage_of_ours_does_not_age_holes_or_agents() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 0, 10);
    log.row("a", 0, Lane::Normal, 2, 30);
    // The bridge was away for an hour.
    assert!(log.clock(3_600).is_empty());
    assert_eq!(log.watermark("a"), Some(8));
}

#[test]
fn the_slowest_lane_in_use_decides_and_marks_move_empty_ones() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Critical, 0, 10);
    let all = Status { lanes: Some(vec![Lane::Critical, Lane::Normal]), ..Status::default() };
    log.status("a", 0, 10, &all);
    log.row("a", 0, Lane::Critical, 1, 50);
    // The first row alone could not know of the other lane.
    assert_eq!(log.watermark("a"), Some(8));
    let mark = Status { marks: vec![(Lane::Normal, -1, START + 40 * SECOND)], ..Status::default() };
    log.status("a", 0, 50, &mark);
    assert_eq!(log.watermark("a"), Some(38));
    log.row("a", 0, Lane::Normal, 0, 45);
    assert_eq!(log.watermark("a"), Some(43));
}

#[test]
fn explained_numbers_are_no_holes() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Bulk, 0, 10);
    log.row("a", 0, Lane::Bulk, 4, 50);
    let number = log.tracker.intern("a");
    log.tracker.rejected(number, START, Lane::Bulk, 2);
    assert_eq!(log.watermark("a"), Some(8));
    let shed = Status { shed: Some((START, Lane::Bulk, 1, 3)), ..Status::default() };
    log.status("a", 0, 50, &shed);
    assert_eq!(log.watermark("a"), Some(48));
    // What was shed may have been sent before; what was rejected cannot come.
    assert_eq!(log.row("a", 0, Lane::Bulk, 3, 40).verdict, Verdict::Fresh);
    assert_eq!(log.row("a", 0, Lane::Bulk, 3, 40).verdict, Verdict::Duplicate);
    assert_eq!(log.row("a", 0, Lane::Bulk, 2, 30).verdict, Verdict::Duplicate);
}

#[test]
fn an_older_session_is_waited_for_until_its_tail_is_here_and_then_forgotten() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 0, 10);
    log.row("a", 100, Lane::Normal, 0, 110);
    let tails = Status { tails: Some((START, vec![(Lane::Normal, 2)])), ..Status::default() };
    log.status("a", 100, 110, &tails);
    assert_eq!(log.watermark("a"), Some(8));
    log.row("a", 0, Lane::Normal, 1, 20);
    assert_eq!(log.watermark("a"), Some(18));
    assert!(log.row("a", 0, Lane::Normal, 2, 30).watermark < START + 30 * SECOND);
    assert_eq!(log.watermark("a"), Some(108));
    let oldest = Status { oldest: Some(START + 115 * SECOND), is_health: true, ..Status::default() };
    log.status("a", 100, 116, &oldest);
    let number = log.tracker.intern("a");
    assert_eq!(log.tracker.agent(number).sessions.len(), 1);
    assert_eq!(log.row("a", 0, Lane::Normal, 1, 20).verdict, Verdict::Duplicate);
}

#[test]
fn a_declared_backlog_holds_the_watermark() {
    let mut log = Log::new();
    let backlog = Status { oldest: Some(START + 5 * SECOND), is_health: true, ..Status::default() };
    log.row("a", 200, Lane::Critical, 0, 200);
    let before = log.watermark("a");
    let mut other = Log::new();
    other.status("a", 200, 200, &backlog);
    other.row("a", 200, Lane::Critical, 1, 200);
    assert_eq!((before, other.watermark("a")), (Some(198), Some(3)));
}

const ALL: [Lane; 3] = [Lane::Critical, Lane::Normal, Lane::Bulk];

#[test]
fn lanes_that_an_outage_kept_are_waited_for_whatever_comes_first() {
    let mut log = Log::new();
    for lane in ALL {
        log.kept(lane, 0, 10, 10);
    }
    log.pass(900);
    // Its network is back; what is urgent comes first, then lane by lane what is old.
    log.kept(Lane::Critical, 1, 905, 910);
    assert_eq!(log.watermark("a"), Some(8));
    for minute in 1..15 {
        log.pass(40);
        log.kept(Lane::Normal, minute, 60 * minute, 910 + 40 * minute);
        assert_eq!(log.watermark("a"), Some(8), "{minute}");
    }
    for minute in 1..15 {
        log.kept(Lane::Bulk, minute, 60 * minute, 1_480);
        assert_eq!(log.watermark("a"), Some(60 * minute - 2));
    }
    // All of it is here and the agent is there: a lane that stays idle holds for five minutes.
    for at in 1..=10 {
        log.pass(30);
        log.kept(Lane::Critical, 1 + at, 1_500 + 30 * at, 1_500 + 30 * at);
        log.kept(Lane::Normal, 14 + at, 1_500 + 30 * at, 1_500 + 30 * at);
    }
    assert_eq!(log.watermark("a"), Some(838));
    log.pass(5);
    assert_eq!(log.watermark("a"), Some(1_798));
}

#[test]
fn a_lane_that_never_comes_does_not_hold_for_ever() {
    for (interval, idle) in [(None, 300), (Some(120 * SECOND), 720)] {
        let mut log = Log::new();
        let lanes = Some(vec![Lane::Critical, Lane::Normal]);
        log.row("a", 0, Lane::Normal, 0, 0);
        log.status("a", 0, 0, &Status { lanes, interval, ..Status::default() });
        for at in 1..=idle / 30 {
            log.pass(30);
            log.row("a", 0, Lane::Normal, at, 30 * at);
        }
        // The first row could not know of the other lane.
        assert_eq!(log.watermark("a"), Some(-2));
        log.pass(5);
        assert_eq!(log.watermark("a"), Some(idle - 2));
    }
}

#[test]
fn only_a_report_of_health_says_how_old_the_outbox_is() {
    let mut log = Log::new();
    log.row("a", 200, Lane::Critical, 0, 200);
    let backlog = Status { oldest: Some(START + 300 * SECOND), is_health: true, ..Status::default() };
    log.status("a", 200, 1_000, &backlog);
    log.row("a", 200, Lane::Critical, 1, 1_000);
    let shed = Status { shed: Some((START + 200 * SECOND, Lane::Bulk, 0, 5)), ..Status::default() };
    log.status("a", 200, 1_001, &shed);
    log.status("a", 200, 1_001, &Status { oldest: Some(START), ..Status::default() });
    log.row("a", 200, Lane::Critical, 2, 1_002);
    let mark = Status { marks: vec![(Lane::Bulk, 5, START + 1_002 * SECOND)], ..Status::default() };
    log.status("a", 200, 1_002, &mark);
    assert_eq!(log.watermark("a"), Some(298));
    log.status("a", 200, 1_002, &Status { is_health: true, ..Status::default() });
    assert_eq!(log.watermark("a"), Some(1_000));
}

#[test]
fn whatever_an_agent_says_its_open_windows_lie_within_a_span() {
    const DAY: i64 = 86_400;
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 0, 0);
    let holds = Status { oldest: Some(START), is_health: true, ..Status::default() };
    log.status("a", 0, 100, &holds);
    log.row("a", 0, Lane::Normal, 1, 59 * DAY);
    assert_eq!(log.watermark("a"), Some(-2));
    log.row("a", 0, Lane::Normal, 2, 62 * DAY);
    assert_eq!(log.watermark("a"), Some(2 * DAY));
    assert_eq!(log.row("a", 0, Lane::Bulk, 0, DAY).watermark, START + 2 * DAY * SECOND);

    // Also if it does not let its time begin, and goes backwards.
    let mut log = Log { tracker: Tracker::new(Lateness(2 * SECOND), HOLD), clock: START };
    log.clock(0);
    log.row("a", 0, Lane::Normal, 0, 100 * DAY);
    log.row("a", 0, Lane::Normal, 1, 41 * DAY);
    assert_eq!(log.watermark("a"), None);
    assert_eq!(log.row("a", 0, Lane::Normal, 2, 39 * DAY).watermark, START + 40 * DAY * SECOND);
}

#[test]
fn an_end_that_never_comes_is_lost_and_told_once() {
    let mut log = Log::new();
    for seq in 0..=94 {
        log.row("a", 0, Lane::Normal, seq, seq);
    }
    log.row("a", 100, Lane::Critical, 0, 100);
    let tails = vec![(Lane::Normal, 99), (Lane::Bulk, 2)];
    let tails = Status { tails: Some((START, tails)), ..Status::default() };
    log.status("a", 100, 100, &tails);
    log.pass(30);
    assert_eq!(log.lost(), 0);
    log.pass(5);
    // Numbers 95 to 99, and a lane of which nothing came.
    assert_eq!(log.lost(), 5 + 3);
    let noticed = log.tracker.take_noticed();
    assert!(matches!(noticed[..], [Noticed::Gap { missing: 8, .. }]), "{noticed:?}");
    log.status("a", 100, 140, &tails);
    log.pass(50);
    assert_eq!(log.lost(), 0);
    assert_eq!(log.row("a", 0, Lane::Normal, 97, 97).verdict, Verdict::Fresh);
    // What is told only when nothing was waited for any more is waited for again.
    log.row("b", 0, Lane::Normal, 0, 0);
    log.row("b", 100, Lane::Normal, 0, 100);
    log.pass(50);
    log.status("b", 100, 150, &Status { tails: Some((START, vec![(Lane::Normal, 3)])), ..Status::default() });
    assert_eq!(log.lost(), 0);
    log.pass(35);
    assert_eq!(log.lost(), 3);
}

#[test]
fn what_is_still_in_the_outbox_is_not_lost() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 0, 10);
    log.row("a", 100, Lane::Critical, 0, 100);
    let said = Status {
        tails: Some((START, vec![(Lane::Normal, 1), (Lane::Bulk, 1)])),
        lanes: Some(vec![Lane::Critical]),
        oldest: Some(START + 20 * SECOND),
        is_health: true,
        ..Status::default()
    };
    log.status("a", 100, 100, &said);
    log.pass(55);
    assert_eq!(log.row("a", 0, Lane::Normal, 1, 20).verdict, Verdict::Fresh);
    log.pass(55);
    log.row("a", 100, Lane::Critical, 1, 210);
    assert_eq!((log.lost(), log.watermark("a")), (0, Some(8)));
    log.status("a", 100, 210, &Status { is_health: true, ..Status::default() });
    log.pass(5);
    assert_eq!(log.lost(), 2);
    assert_eq!(log.watermark("a"), Some(208));
}

#[test]
fn complete_sessions_of_a_healthy_agent_are_forgotten_and_stay_known() {
    let mut log = Log::new();
    let said = |session: i64| Status {
        tails: (session > 0).then(|| (START + (session - 1) * SECOND, vec![(Lane::Normal, 0)])),
        is_health: true,
        ..Status::default()
    };
    for session in 0..10 {
        log.row("a", session, Lane::Normal, 0, 100);
        log.status("a", session, 100, &said(session));
    }
    let number = log.tracker.intern("a");
    assert_eq!(log.tracker.agent(number).sessions.len(), 1);
    // Without reports of health they are kept for as long as there is room.
    for session in 10..40 {
        log.row("a", session, Lane::Normal, 0, 100);
        log.status("a", session, 100, &Status { is_health: false, ..said(session) });
    }
    for session in [0, 9, 10, 20, 39] {
        assert_eq!(log.row("a", session, Lane::Normal, 0, 100).verdict, Verdict::Duplicate, "{session}");
    }
    // No more of them than can be told are remembered; then it is uncertain.
    for session in 40..100 {
        log.row("a", session, Lane::Normal, 0, 100);
        log.status("a", session, 100, &said(session));
    }
    let agent = log.tracker.agent(number);
    assert_eq!(agent.forgotten.len(), MAX_FORGOTTEN);
    assert_eq!(log.row("a", 0, Lane::Normal, 0, 100).verdict, Verdict::Uncertain);
    assert_eq!(log.row("a", 98, Lane::Normal, 0, 100).verdict, Verdict::Duplicate);
}

#[test]
fn a_session_that_was_never_seen_is_no_repeat_and_betrays_a_clone() {
    let mut log = Log::new();
    for (session, before) in [(100, None), (300, Some(100)), (400, Some(300))] {
        log.row("a", session, Lane::Normal, 0, 500);
        let tails = before.map(|before| (START + before * SECOND, vec![(Lane::Normal, 0)]));
        log.status("a", session, 500, &Status { tails, is_health: true, ..Status::default() });
    }
    let number = log.tracker.intern("a");
    assert_eq!(log.tracker.agent(number).forgotten, [START + 100 * SECOND, START + 300 * SECOND]);
    // Another machine of that name was offline, or its clock was ahead when it was installed.
    for seq in 0..6 {
        assert_eq!(log.row("a", 200, Lane::Normal, seq, 510 + seq).verdict, Verdict::Fresh);
        assert_eq!(log.row("a", 400, Lane::Normal, 1 + seq, 510 + seq).verdict, Verdict::Fresh);
    }
    assert_eq!(log.row("a", 200, Lane::Normal, 3, 513).verdict, Verdict::Duplicate);
    let clones = |log: &mut Log| log.tracker.take_noticed().len();
    assert_eq!(clones(&mut log), 1);
    // It is told again of another pair, and also where nothing is known of the older any more.
    log.row("a", 500, Lane::Normal, 0, 600);
    log.tracker.agent_mut(number).uncertain = START + 100 * SECOND;
    for seq in 1..6 {
        assert_eq!(log.row("a", 50, Lane::Normal, seq, 610 + seq).verdict, Verdict::Uncertain);
        log.row("a", 500, Lane::Normal, seq, 610 + seq);
    }
    assert_eq!(clones(&mut log), 1);
}

#[test]
fn silence_is_told_once_and_ends_with_the_next_row() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 0, 10);
    log.row("b", 0, Lane::Normal, 0, 10);
    let mut silent = Vec::new();
    for second in 0..20 {
        if second < 19 {
            log.row("b", 0, Lane::Normal, second + 1, 10 + second);
        }
        silent.extend(log.clock(5));
    }
    assert_eq!(silent, ["a"]);
    log.row("a", 0, Lane::Normal, 1, 20);
    let silent: Vec<String> = (0..14).flat_map(|_| log.clock(5)).collect();
    assert_eq!(silent, ["b", "a"]);
}

#[test]
fn two_living_sessions_are_a_clone_and_a_drained_outbox_is_not() {
    let mut log = Log::new();
    // Rows of before the restart arrive after it: no clone.
    for seq in 0..10 {
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
    log.row("a", 0, Lane::Normal, 0, 10);
    log.row("a", 0, Lane::Normal, 3, 40);
    for _ in 0..7 {
        log.clock(5);
    }
    let now = log.clock;
    assert_eq!(log.tracker.take_noticed(), [Noticed::Gap { agent: 0, missing: 2, now: now - 5 * SECOND }]);
    let silent: Vec<_> = (0..7).flat_map(|_| log.clock(5)).collect();
    assert_eq!(silent, ["a"]);
    assert!(log.tracker.take_noticed().is_empty());
    log.row("a", 0, Lane::Normal, 4, 70);
    log.row("a", 0, Lane::Normal, 5, 71);
    assert_eq!(log.tracker.take_noticed(), [Noticed::Back { agent: 0, now: log.clock }]);
}

#[test]
fn a_mark_is_believed_as_far_ahead_as_an_event() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 0, 10);
    let mark = Status { marks: vec![(Lane::Normal, -1, i64::MAX - 1)], ..Status::default() };
    log.status("a", 0, 20, &mark);
    assert_eq!(log.watermark("a"), Some(20 + 600 - 2));
}

#[test]
fn absurd_numbers_end_nothing_and_leave_the_others_alone() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 0, 10);
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
        hearsay: false,
        speaks: false,
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
    assert_eq!(log.row("a", 0, Lane::Normal, 1, 30).verdict, Verdict::Fresh);
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
        seq: 0,
        event_id: None,
        event_time: START + 86_400 * SECOND,
        received_at: START + 10 * SECOND,
        replayed: false,
        hearsay: false,
        speaks: false,
    };
    let decision = log.tracker.event(&row);
    assert!(decision.in_future);
    assert_eq!(log.watermark("a"), Some(8));
}

#[test]
fn a_first_event_that_never_arrives_is_missed() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 1, 10);
    assert_eq!(log.watermark("a"), None);
    for _ in 0..6 {
        log.clock(5);
    }
    let lost: i64 = log.tracker.take_lost().iter().map(|lost| lost.count).sum();
    assert_eq!((log.watermark("a"), lost), (Some(8), 1));
    assert_eq!(log.row("a", 0, Lane::Normal, 0, 5).verdict, Verdict::Fresh);
    assert_eq!(log.row("a", 0, Lane::Normal, 0, 5).verdict, Verdict::Duplicate);
}

#[test]
fn a_mark_that_is_never_reached_does_not_hold_the_watermark_for_ever() {
    let mut log = Log::new();
    let all = Status { lanes: Some(vec![Lane::Critical, Lane::Normal]), ..Status::default() };
    log.row("a", 0, Lane::Normal, 0, 10);
    log.status("a", 0, 10, &all);
    for at in 1..80 {
        log.row("a", 0, Lane::Normal, at, 10 + 5 * at);
        let mark =
            Status { marks: vec![(Lane::Critical, 0, START + (10 + 5 * at) * SECOND)], ..Status::default() };
        log.status("a", 0, 10 + 5 * at, &mark);
        log.clock(5);
    }
    // What the lane's only event said is lost; after five minutes it holds nothing back.
    assert_eq!(log.watermark("a"), Some(10 + 5 * 79 - 2));
}

#[test]
fn claims_beyond_reason_are_counted_and_ignored() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Bulk, 0, 10);
    let claim = |from, to| Status {
        shed: Some((START, Lane::Bulk, from, to)),
        marks: vec![(Lane::Bulk, to, START + 20 * SECOND)],
        ..Status::default()
    };
    log.status("a", 0, 10, &claim(1, MAX_NUMBER));
    assert_eq!(log.tracker.take_refused(), 2);
    let number = log.tracker.intern("a");
    let lane = |log: &Log| log.tracker.agent(number).sessions[0].lanes[2].clone().unwrap();
    assert_eq!(lane(&log).highest(), MAX_AHEAD);
    // Negative, overlapping, repeated, descending, huge: nothing grows, nothing ends.
    for at in 0..20_000_i64 {
        let (from, to) = match at % 5 {
            0 => (i64::MIN, at),
            1 => (at, MAX_NUMBER),
            2 => (MAX_NUMBER - at, MAX_NUMBER),
            3 => (-at, -1),
            _ => ((1 << 40) - 3 * at, (1 << 40) - 3 * at),
        };
        log.status("a", 0, 10, &claim(from, to));
        log.tracker.rejected(number, START, Lane::Bulk, from);
    }
    assert!(lane(&log).intervals() <= MAX_INTERVALS);
    assert!(lane(&log).heap_bytes() < 512 * 1024, "{}", lane(&log).heap_bytes());
    assert!(log.tracker.take_refused() > 20_000);
    assert_eq!(log.row("a", 0, Lane::Bulk, 1, 20).verdict, Verdict::Fresh);
    assert_eq!(log.row("a", 0, Lane::Bulk, 1, 20).verdict, Verdict::Duplicate);
    assert_eq!(log.row("b", 0, Lane::Bulk, 0, 20).verdict, Verdict::Fresh);
}

#[test]
fn sessions_in_descending_order_are_bounded() {
    let mut log = Log::new();
    for session in (0..1_000).rev() {
        let verdict = log.row("a", session, Lane::Normal, 0, 2_000).verdict;
        assert_eq!(verdict == Verdict::Fresh, session >= 1_000 - MAX_SESSIONS as i64, "{session}");
        assert_ne!(verdict, Verdict::Duplicate);
    }
    let number = log.tracker.intern("a");
    assert_eq!(log.tracker.agent(number).sessions.len(), MAX_SESSIONS);
}

#[test]
fn what_was_given_up_stays_uncertain_when_later_sessions_are_forgotten() {
    let mut log = Log::new();
    for session in 0..=MAX_SESSIONS as i64 {
        log.row("a", session, Lane::Normal, 0, 100);
        let tails = Status {
            tails: Some((START + (session - 1) * SECOND, vec![(Lane::Normal, 0)])),
            ..Status::default()
        };
        if session > 1 {
            log.status("a", session, 100, &tails);
        }
    }
    let oldest = Status { oldest: Some(START + 90 * SECOND), is_health: true, ..Status::default() };
    log.status("a", MAX_SESSIONS as i64, 100, &oldest);
    let number = log.tracker.intern("a");
    assert_eq!(log.tracker.agent(number).sessions.len(), 1);
    assert_eq!(log.row("a", 3, Lane::Normal, 0, 100).verdict, Verdict::Duplicate);
    // The first session had to make room: what comes of it now may be new.
    assert_eq!(log.row("a", 0, Lane::Normal, 1, 100).verdict, Verdict::Uncertain);
}

/// What a later worker has, if the rows of these operators are there.
fn restored(tracker: &mut Tracker, names: &[&str]) -> Tracker {
    let mut fresh = Tracker::new(Lateness(2 * SECOND), HOLD).eager();
    for (from, to) in tracker.operators().into_iter().zip(fresh.operators()) {
        if names.contains(&from.name()) {
            to.restore(&from.snapshot().unwrap()).unwrap();
        }
    }
    fresh
}

#[test]
fn where_the_state_of_agents_was_dropped_what_they_go_on_with_is_uncertain() {
    let mut log = Log::new();
    log.clock(5);
    log.tracker = restored(&mut log.tracker, &["clock", "agents", "foreign"]);
    // That no agent was known is no loss of state.
    assert_eq!(log.row("a", 1, Lane::Normal, 0, 10).verdict, Verdict::Fresh);
    for _ in 0..2 {
        log.tracker = restored(&mut log.tracker, &["clock", "foreign"]);
        // It goes on at number 57: nothing below is missed, and nobody knows whether it is new.
        assert_eq!(log.row("a", 1, Lane::Normal, 57, 60).verdict, Verdict::Uncertain);
        assert_eq!(log.watermark("a"), Some(58));
        assert_eq!(log.row("a", 1, Lane::Normal, 57, 60).verdict, Verdict::Duplicate);
        assert_eq!(log.row("a", 1, Lane::Normal, 12, 20).verdict, Verdict::Uncertain);
        assert_eq!(log.row("a", 6, Lane::Normal, 0, 70).verdict, Verdict::Fresh);
    }
    log.tracker = restored(&mut log.tracker, &["clock", "agents", "foreign"]);
    assert_eq!(log.row("a", 6, Lane::Normal, 0, 70).verdict, Verdict::Duplicate);
    assert_eq!(log.row("b", 4, Lane::Normal, 0, 70).verdict, Verdict::Uncertain);
    assert_eq!(log.row("b", 6, Lane::Normal, 0, 70).verdict, Verdict::Fresh);
}

impl Log {
    /// Lets the hold pass; the names of those who were dropped, in their order.
    fn expire(&mut self) -> Vec<String> {
        let mut expired = Vec::new();
        for _ in 0..=HOLD.0 / (10 * SECOND) {
            self.clock(10);
            for number in self.tracker.take_expired() {
                expired.push(self.tracker.agent(number).id.to_string());
                self.tracker.forget(number, START + 60 * SECOND);
            }
        }
        expired
    }
}

#[test]
fn an_agent_unheard_of_is_dropped_and_comes_back_above_its_floor() {
    let mut log = Log::new();
    for id in ["b", "a"] {
        log.row(id, 100, Lane::Normal, 0, 10);
        log.row(id, 100, Lane::Normal, 1, 20);
    }
    assert_eq!(log.expire(), ["a", "b"]);
    assert_eq!(log.tracker.census(), Census { floors: 2, ..Census::default() });
    // The same session goes on: each passes once, flagged, and time goes on as well, but not below the floor.
    assert_eq!(log.watermark("a"), Some(60));
    for seq in [7, 8, 3] {
        assert_eq!(log.row("a", 100, Lane::Normal, seq, 100 + seq).verdict, Verdict::Uncertain);
    }
    assert_eq!(log.row("a", 100, Lane::Normal, 8, 108).verdict, Verdict::Duplicate);
    assert_eq!(log.watermark("a"), Some(106));
    assert_eq!(log.row("a", 50, Lane::Normal, 0, 60).verdict, Verdict::Uncertain);
    // A new session is new.
    assert_eq!(log.row("a", 200, Lane::Normal, 0, 200).verdict, Verdict::Fresh);
    assert_eq!(log.row("a", 200, Lane::Normal, 0, 200).verdict, Verdict::Duplicate);
    let number = log.tracker.intern("a");
    let tails = Status { tails: Some((START + 100 * SECOND, vec![(Lane::Normal, 8)])), ..Status::default() };
    log.status("a", 200, 200, &tails);
    assert_eq!(log.watermark("a"), Some(106), "the oldest session has not told its end");
    assert_eq!(log.tracker.agent(number).floor, START + 100 * SECOND);
    assert!(log.tracker.take_lost().is_empty());
    assert_eq!(log.tracker.census().floors, 1);
}

#[test]
fn marks_move_the_lanes_of_an_agent_that_came_back() {
    let mut log = Log::new();
    let all = Status { lanes: Some(vec![Lane::Critical, Lane::Normal]), ..Status::default() };
    log.row("a", 0, Lane::Critical, 0, 10);
    log.row("a", 0, Lane::Normal, 0, 10);
    log.expire();
    log.row("a", 0, Lane::Normal, 5, 100);
    log.status("a", 0, 100, &all);
    // Of the other lane nothing will come, and what there was is forgotten.
    let mark = Status { marks: vec![(Lane::Critical, 0, START + 110 * SECOND)], ..Status::default() };
    log.row("a", 0, Lane::Normal, 6, 110);
    log.status("a", 0, 110, &mark);
    assert_eq!(log.watermark("a"), Some(108));
}

#[test]
fn neither_an_outage_of_ours_nor_a_long_interval_drops_an_agent() {
    let mut log = Log::new();
    log.row("a", 0, Lane::Normal, 0, 10);
    log.clock(100 * HOLD.0 / SECOND);
    assert!(!log.tracker.has_expired());
    let slow = Status { interval: Some(HOLD.0), ..Status::default() };
    log.status("a", 0, 10, &slow);
    assert!(log.expire().is_empty());
    assert!(log.expire().is_empty());
    assert_eq!(log.expire(), ["a"]);
}

#[test]
fn a_partition_has_come_as_far_as_the_least_of_those_that_keep_up() {
    let mut log = Log::new();
    let partition = |log: &Log| (log.tracker.partition_watermark() - START) / SECOND;
    assert_eq!(partition(&log), -30, "nobody is there");
    log.clock(600);
    log.row("a", 0, Lane::Normal, 0, 595);
    assert_eq!(partition(&log), 570, "what is under way is waited for");
    log.row("behind", 0, Lane::Normal, 0, 100);
    assert_eq!(partition(&log), 570, "nobody waits for what is five minutes late");
    log.row("b", 0, Lane::Normal, 0, 500);
    assert_eq!((log.watermark("b"), partition(&log)), (Some(498), 498));
    log.pass(100);
    assert_eq!(partition(&log), 670, "all are silent");
}

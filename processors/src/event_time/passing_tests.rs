use proptest::prelude::*;
use schemas::identity::Lane;

use super::super::said::{Lost, Row, Status};
use super::super::tracker::{Hold, Lateness};
use super::*;

const START: i64 = 1_000_000 * SECOND;
const LANES: [Lane; 4] = [Lane::Critical, Lane::Normal, Lane::Bulk, Lane::Foreign];

fn tracker() -> Tracker {
    Tracker::new(Lateness(2 * SECOND), Hold(400 * SECOND))
}

/// As it was before there were deadlines: all agents are looked at with each clock record.
fn walk(tracker: &mut Tracker, bridge: &str, appended: i64, connected: bool, goodbye: bool) -> Vec<u32> {
    let Some(quiet) = tracker.pass_to(bridge, appended, connected, goodbye) else { return Vec::new() };
    let mut silent = Vec::new();
    let all: Vec<u32> = tracker.agents.iter().map(|(number, _)| number).collect();
    for number in all {
        tracker.pass(number, quiet, &mut silent);
    }
    silent
}

/// The same state in a new process.
fn restored(tracker: &mut Tracker) -> Tracker {
    let mut fresh = self::tracker();
    for (from, to) in tracker.operators().into_iter().zip(fresh.operators()) {
        to.restore(&from.snapshot().unwrap()).unwrap();
    }
    fresh
}

#[derive(Clone, Debug)]
struct Step {
    what: u8,
    agent: i64,
    session: i64,
    lane: usize,
    seq: i64,
    seconds: i64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0_u8..16, 0_i64..5, 0_i64..4, 0_usize..4, 0_i64..30, 0_i64..12);
    let step = step.prop_map(|(what, agent, session, lane, seq, seconds)| Step {
        what,
        agent,
        session,
        lane,
        seq,
        seconds,
    });
    proptest::collection::vec(step, 1..150)
}

/// One record of the log; what it made happen.
fn play(tracker: &mut Tracker, step: &Step, now: i64) {
    let number = tracker.intern(&format!("agent-{}", step.agent));
    let session = START + step.session * 100 * SECOND;
    let time = now + step.seconds * SECOND;
    match step.what {
        0 => tracker.rejected(number, session, LANES[step.lane], step.seq),
        1..=4 => {
            let lane = LANES[step.lane];
            let mut status = Status::default();
            match step.what {
                1 => status.marks = vec![(lane, step.seq - 1, time)],
                2 => status.shed = Some((session, lane, step.seq, step.seq + step.seconds)),
                3 => status.tails = Some((session - 100 * SECOND, vec![(lane, step.seq)])),
                _ if step.seq % 3 == 0 => status.lanes = Some(vec![lane, Lane::Normal]),
                _ if step.seq % 3 == 1 => status.interval = Some(step.seq * SECOND),
                _ => status.oldest = Some(now - 4 * step.seq * SECOND),
            }
            status.is_health = step.seconds % 2 == 0;
            tracker.status(number, session, time, time, &status);
        }
        _ => {
            let id = format!("{}", step.seq);
            let row = Row {
                agent: number,
                session,
                lane: LANES[step.lane],
                seq: step.seq,
                event_id: Some(&id),
                event_time: time - if step.seq % 7 == 6 { 40 * SECOND } else { 0 },
                received_at: time,
                replayed: step.seq % 2 == 0,
                hearsay: step.seq % 5 == 0,
                speaks: false,
            };
            tracker.event(&row);
        }
    }
}

fn names(tracker: &Tracker, numbers: &[u32]) -> Vec<String> {
    let mut names: Vec<String> = numbers.iter().map(|number| tracker.agent(*number).id.to_string()).collect();
    names.sort();
    names
}

fn states(tracker: &Tracker) -> Vec<String> {
    // Whether it is already written is no part of what it is.
    let text = |agent: &Agent| format!("{agent:?}").replace("dirty: true", "dirty: false");
    let mut all: Vec<String> = tracker.agents.iter().map(|(_, agent)| text(agent)).collect();
    all.sort();
    all
}

type Outcome = (Vec<String>, Vec<(String, i64)>, Vec<String>, Vec<(String, i64, i64)>, usize);

/// What a clock record brought; the windows of those who were dropped are closed.
fn outcome(tracker: &mut Tracker, silent: &[u32]) -> Outcome {
    let mut advanced: Vec<(String, i64)> = tracker
        .take_advanced()
        .into_iter()
        .map(|(number, before)| (tracker.agent(number).id.to_string(), before))
        .collect();
    advanced.sort();
    let silent = names(tracker, silent);
    let taken = tracker.take_lost();
    let named = |lost: Lost| (tracker.agent(lost.agent).id.to_string(), lost.count, lost.watermark);
    let mut lost: Vec<_> = taken.into_iter().map(named).collect();
    lost.sort();
    let expired = tracker.take_expired();
    let gone = names(tracker, &expired);
    for number in expired {
        let closed = tracker.agent(number).watermark.saturating_add(60 * SECOND);
        tracker.forget(number, closed);
    }
    (silent, advanced, gone, lost, tracker.take_noticed().len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Deadlines change nothing but the work, restarts change nothing at all.
    #[test]
    fn looking_at_what_is_due_equals_looking_at_all(steps in steps()) {
        let (mut walking, mut due) = (tracker(), tracker());
        let mut now = START;
        for step in &steps {
            if step.what < 12 {
                play(&mut walking, step, now);
                play(&mut due, step, now);
                continue;
            }
            if step.what == 12 {
                prop_assert_eq!(outcome(&mut due, &[]), outcome(&mut walking, &[]));
                due = restored(&mut due);
            }
            let bridge = if step.agent == 0 { "b" } else { "a" };
            let (connected, goodbye) = (step.lane > 0 || step.agent > 0, bridge == "b" && step.seq % 2 == 0);
            // Now and then a long time passes at once.
            let times = if step.session == 0 { 3 * step.seq } else { 1 };
            for _ in 0..=times {
                now += step.seconds * SECOND;
                let expected = walk(&mut walking, bridge, now, connected, goodbye);
                let found = due.tick(bridge, now, connected, goodbye);
                prop_assert!(found.is_sorted_by(|a, b| a < b));
                prop_assert_eq!(outcome(&mut due, &found), outcome(&mut walking, &expected));
            }
            prop_assert_eq!(states(&due), states(&walking));
            prop_assert_eq!(due.census(), walking.census());
        }
    }
}

#[test]
fn who_speaks_is_seldom_looked_at() {
    const AGENTS: i64 = 500;
    let mut tracker = tracker();
    let mut looked = 0;
    for tick in 0..240 {
        let now = START + tick * 5 * SECOND;
        for agent in 0..AGENTS {
            let step = Step { what: 9, agent, session: 0, lane: 1, seq: tick, seconds: 0 };
            play(&mut tracker, &step, now);
        }
        if let Some(quiet) = tracker.pass_to("a", now, true, false) {
            for number in tracker.deadlines.take_due(quiet) {
                looked += 1;
                tracker.pass(number, quiet, &mut Vec::new());
                tracker.watch(number);
            }
        }
    }
    // Twenty minutes: once a minute each, not with each of the 240 clock records.
    assert!(looked <= AGENTS * 21, "{looked}");
    assert!(looked >= AGENTS * 15, "{looked}");
    assert_eq!(tracker.census().silent, 0);
}

#[test]
fn a_census_counts_what_is_there() {
    let mut tracker = tracker().eager();
    tracker.tick("a", START, true, false);
    for agent in 0..3 {
        for seq in [0, 1, 3, 5] {
            let step = Step { what: 9, agent, session: 0, lane: 1, seq, seconds: 10 * agent };
            play(&mut tracker, &step, START);
        }
    }
    let census = tracker.census();
    assert_eq!((census.agents, census.silent, census.sessions, census.intervals), (3, 0, 3, 6));
    // The watermark is the time of the contiguous part less the lateness.
    assert_eq!(census.lag, Some((-18 * SECOND, 2 * SECOND)));
    for tick in 1..20 {
        tracker.tick("a", START + tick * 10 * SECOND, true, false);
    }
    assert_eq!((tracker.census().silent, tracker.census().lag), (3, None));
}

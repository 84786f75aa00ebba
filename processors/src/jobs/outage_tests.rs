//! Two agents live the same hours. One is always online; the other is heard for some minutes, then its network is gone,
//! for 60 hours in which it restarts three times or for two in which it goes on, and its outbox drains through two
//! bridges.

use std::collections::{BTreeSet, VecDeque};

use super::read_back::{Cell, differences, last_revisions, lines, whole, words};
use super::*;

/// A full hour.
const BEGIN: i64 = 1_699_999_200 * SECOND;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
/// When the network goes.
const GONE: i64 = BEGIN + 25 * MINUTE;
/// How long both live after it is back.
const AFTER: i64 = 3 * HOUR;

/// What happens, by a chance.
struct Story {
    seed: u64,
    /// When the network is back.
    back: i64,
    /// Starts of the agent, minutes.
    starts: &'static [i64],
}

/// How often the agents report, s.
const INTERVAL: i64 = 600;
/// Restarts while it is away.
const LONG: Story =
    Story { seed: 0, back: BEGIN + 60 * HOUR, starts: &[0, 13 * 60 + 7, 29 * 60 + 31, 47 * 60 + 2] };

impl Story {
    /// An outage within one session.
    fn short(seed: u64) -> Self {
        Self { seed, back: BEGIN + 2 * HOUR, starts: &[0] }
    }

    fn end(&self) -> i64 {
        self.back + AFTER
    }

    fn chance(&self, of: u64) -> Chance {
        Chance::new(of + 100 * self.seed)
    }
}

const ONLINE: &str = "online";
const LATE: &str = "late";

/// An event as the outbox has it.
#[derive(Clone)]
struct Kept {
    lane: Lane,
    session: i64,
    seq: i64,
    time: i64,
    event_type: &'static str,
    user: &'static str,
    payload: serde_json::Value,
}

/// One life; `oldest` is what its reports of health say of the outbox while the network is gone.
fn life(story: &Story, oldest: Option<i64>) -> Vec<Kept> {
    let mut chance = story.chance(7);
    let critical = (20 + 13 * story.seed as i64) % 71;
    let mut kept: Vec<Kept> = Vec::new();
    let mut tails: [i64; 3] = [-1; 3];
    let mut session = 0;
    for minute in 0..(story.end() - BEGIN) / MINUTE {
        let mut facts: Vec<(Lane, i64, &'static str, serde_json::Value)> = Vec::new();
        if story.starts.contains(&minute) {
            let (before, told) = (session, tails);
            session = BEGIN + minute * MINUTE + SECOND;
            tails = [-1; 3];
            let mut started =
                json!({"lanes": r#"["critical","normal","bulk"]"#, "interval_s": INTERVAL as f64});
            if before > 0 {
                started["previous_session"] = json!(before);
                let [critical, normal, bulk] = told;
                started["tails"] =
                    json!(json!({"critical": critical, "normal": normal, "bulk": bulk}).to_string());
            }
            facts.push((Lane::Critical, 1, "agent_started", started));
        }
        let cpu = chance.below(1_000) as f64 / 10.0;
        if minute % 10 == 2 {
            facts.push((Lane::Normal, 5, "cpu_usage", json!({"cpu_percent": cpu, "mem_used_bytes": minute})));
        }
        if minute % 30 == 10 {
            let mark = |(lane, seq): (&str, i64)| json!({"lane": lane, "seq": seq, "time": BEGIN + minute * MINUTE + 20 * SECOND});
            let marks: Vec<_> = ["critical", "normal", "bulk"].into_iter().zip(tails).map(mark).collect();
            let mut health =
                json!({"interval_s": INTERVAL as f64, "marks": serde_json::Value::from(marks).to_string()});
            let at = BEGIN + minute * MINUTE;
            if let Some(oldest) = oldest
                && (GONE..story.back).contains(&at)
            {
                health["oldest_event_time"] = json!(oldest);
            }
            facts.push((Lane::Normal, 21, "agent_health", health));
        }
        if minute % 20 == 7 {
            for pid in 1..3 {
                let name = format!("p{}.exe", chance.below(4));
                let sample = json!({"pid": pid, "name": name, "cpu_percent": cpu / 3.0});
                facts.push((Lane::Bulk, 30 + pid, "process_sample", sample));
            }
        }
        if minute % 30 == 17 {
            let mouse = chance.one_in(2);
            let active = if mouse { 10.0 } else { 0.0 };
            let activity = json!({"mouse": mouse, "keyboard": false, "mouse_events": 3, "keyboard_events": 0,
                "active_s": active, "idle_s": 10.0 - active});
            facts.push((Lane::Bulk, 40, "user_activity", activity));
        }
        if minute % 71 == critical {
            let path = "C:\\Users\\eve\\AppData\\Local\\Temp\\x.exe";
            let started = json!({"pid": minute, "name": format!("x{}.exe", minute % 5), "path": path});
            facts.push((Lane::Critical, 50, "process_started", started));
        }
        for (lane, second, event_type, payload) in facts {
            let tail = &mut tails[lane as usize];
            *tail += 1;
            kept.push(Kept {
                lane,
                session,
                seq: *tail,
                time: BEGIN + minute * MINUTE + second * SECOND,
                event_type,
                user: if minute % 3 == 0 { "eve" } else { "adam" },
                payload,
            });
        }
    }
    kept
}

fn message(agent: &str, kept: &Kept, replayed: bool) -> serde_json::Value {
    let lane = ["critical", "normal", "bulk"][kept.lane as usize];
    json!({"agent_id": agent, "session": kept.session, "lane": lane, "seq": kept.seq, "event_time": kept.time,
        "event_type": kept.event_type, "source": "test", "host": "pc", "user": kept.user, "replayed": replayed,
        "payload": kept.payload})
}

/// The outbox drains as an agent's does: the lanes in the order of their importance, each over all sessions, a few rows
/// a message. Two bridges take the messages by turns of chance; one of them is slow, and some messages go through both.
fn drain(script: &mut Script, kept: &[Kept], story: &Story) -> i64 {
    let mut chance = story.chance(11);
    let mut lanes: [VecDeque<&Kept>; 3] = Default::default();
    for row in kept.iter().filter(|row| row.time >= GONE) {
        lanes[row.lane as usize].push_back(row);
    }
    let mut drained = story.back;
    for now in (story.back..story.end()).step_by(2 * SECOND as usize) {
        let ready = |lane: &&mut VecDeque<&Kept>| lane.front().is_some_and(|row| row.time <= now);
        let Some(lane) = lanes.iter_mut().find(ready) else { continue };
        let mut rows = Vec::new();
        while rows.len() < 4 && lane.front().is_some_and(|row| row.time <= now) {
            rows.extend(lane.pop_front());
        }
        let mut ways = vec![chance.below(2)];
        if chance.one_in(4) {
            ways.push(1 - ways[0]);
        }
        for (nth, bridge) in ways.into_iter().enumerate() {
            let slow =
                if bridge == 1 && now < story.back + HOUR { chance.below(20_000) } else { chance.below(900) };
            let again = nth as i64 * chance.below(60_000) as i64;
            for row in &rows {
                let replayed = row.time < now - 30 * SECOND;
                if replayed {
                    drained = drained.max(now);
                }
                script.event(now + (slow as i64 + again) * 1_000, &message(LATE, row, replayed));
            }
        }
    }
    assert!(lanes.iter().all(VecDeque::is_empty));
    drained
}

fn script(story: &Story) -> Vec<(i64, Option<i32>, String, Bytes)> {
    let mut script = Script::new(registry().1);
    let mut chance = story.chance(3);
    let online = life(story, None);
    for kept in &online {
        script.event(kept.time + chance.below(1_500) as i64 * 1_000, &message(ONLINE, kept, false));
    }
    let first_kept = online.iter().find(|kept| kept.time >= GONE).unwrap().time;
    let late = life(story, Some(first_kept));
    for kept in late.iter().filter(|kept| kept.time < GONE) {
        script.event(kept.time + chance.below(1_500) as i64 * 1_000, &message(LATE, kept, false));
    }
    let status = |at: i64, event_type: &str, id: &str| {
        json!({"agent_id": LATE, "event_id": id, "event_time": at, "event_type": event_type,
            "source": "agent/status", "host": "pc", "payload": {"previous_session": BEGIN + SECOND}})
    };
    // The broker speaks in its place when it vanishes, and it itself outside its sequences when it is back, before
    // the first row of its outbox.
    script.event(GONE + 90 * SECOND, &status(GONE + 90 * SECOND, "agent_offline", "late/offline/1"));
    let back = story.back - SECOND;
    script.event(back, &status(back, "agent_health", "late/online/2"));
    let drained = drain(&mut script, &late, story);
    if story.starts.len() > 1 {
        assert!(drained > story.back + 400 * SECOND, "longer than what is missing is waited for");
    }
    for at in (BEGIN - MINUTE..story.end()).step_by(10 * SECOND as usize) {
        for (bridge, after) in [("b1", 0), ("b2", 4 * SECOND)] {
            let clock = Clock {
                bridge_id: bridge.into(),
                bridge_time: at,
                sequence: at,
                mqtt_connected: true,
                goodbye: false,
            };
            let value = script.frame(RecordKind::Clock, &script.translator.clock(&clock));
            script.put(at + after, None, "", value);
        }
    }
    let rows = script.into_rows().into_iter();
    rows.map(|(at, _, key, value)| (at, Some(0), key, value)).collect()
}

#[test]
fn sixty_hours_that_arrive_late_give_the_features_of_a_twin_that_was_online() {
    same_as_its_twin(&LONG);
}

#[test]
fn an_outage_within_a_session_gives_the_features_of_a_twin_that_was_online() {
    for seed in 0..20 {
        println!("seed {seed}");
        same_as_its_twin(&Story::short(seed));
    }
}

fn same_as_its_twin(story: &Story) {
    let job = shared();
    let log = run_jobs(&script(story), &CALM, Box::new(move || job.clone()));
    let topics = Topics::default();
    assert_eq!(lines(&log, &topics.late()).len(), 0, "nothing of an outage is late");
    let last = story.end() - HOUR;
    let lived: Vec<Kept> = life(story, None).into_iter().filter(|kept| kept.time < last).collect();
    for (size, length) in FEATURE_SIZES.into_iter().zip([MINUTE, 5 * MINUTE, HOUR]) {
        let starts: BTreeSet<i64> = lived.iter().map(|kept| kept.time / length).collect();
        let mut events = [0, 0];
        for topic in [topics.features(size), topics.user_features(size)] {
            let mut windows = last_revisions(&log, &topic);
            windows.retain(|(_, start, _), _| *start < last);
            let of = |agent: &str| windows.iter().filter(move |((of, ..), _)| of == agent).count();
            assert_eq!(of(ONLINE), of(LATE), "{topic}");
            for ((agent, start, user), line) in &windows {
                assert_eq!(whole(line, "is_partial"), 0, "{topic} {agent} {start}");
                for column in ["late", "lost"] {
                    assert!(matches!(line.get(column), None | Some(Cell::Null | Cell::Whole(0))), "{line:?}");
                }
                if agent == LATE {
                    let twin = &windows[&(ONLINE.to_owned(), *start, user.clone())];
                    let differ = differences(line, twin, &["agent_id", "revision"]);
                    assert!(differ.is_empty(), "{topic} {start} {user}: {differ:?}");
                }
                if user.is_empty() {
                    events[usize::from(agent == LATE)] += whole(line, "events");
                }
            }
            if topic == topics.features(size) {
                assert_eq!(of(LATE), starts.len(), "{topic}");
                assert!(
                    windows.iter().any(|((agent, ..), line)| agent == LATE && whole(line, "revision") > 0),
                    "{topic}: it was silent"
                );
            }
        }
        assert_eq!(events, [lived.len() as i64; 2], "{size}");
    }
    let silent = lines(&log, &topics.alerts()).into_iter().filter(|alert| words(alert, "agent_id") == ONLINE);
    assert!(silent.into_iter().all(|alert| !words(&alert, "rule_id").contains("silent")));
}

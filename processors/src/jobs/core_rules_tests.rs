//! Rules that remember, in the whole job: any cut, any disturbance, rules that change meanwhile.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::*;
use crate::engine::{RowsReader, decode_chunk};
use crate::rules::Held;

pub(super) const RULES: &str = r#"
id: start
title: A program starts
severity: low
description: Told once a minute.
kind: match
family: process_event
where: event_type = 'process_started'
suppress: { by: [name], for: 1m }
message: "{name}"
---
id: calm-after-start
title: Load, a start, calm
severity: low
description: Rows of two families in their order.
kind: sequence
within: 90s
steps:
  - { family: host_metrics, where: cpu_percent >= 50 }
  - { family: process_event, where: "event_type = 'process_started'" }
  - { family: host_metrics, where: cpu_percent < 50, waits: false }
message: "{1.cpu_percent} {2.name} {cpu_percent}"
---
id: start-and-health
title: A start and a report
severity: low
description: Both wait for each other.
kind: sequence
within: 20s
steps:
  - { family: process_event, where: "event_type = 'process_started'" }
  - { family: agent_status, where: "event_type = 'agent_health'" }
suppress: { for: 30s }
message: "{1.name} {event_type}"
---
id: busy
title: Busy
severity: medium
description: Created, updated, closed.
kind: threshold
window: 1m
having: cpu_mean >= 38
update: 2m
message: "{cpu_mean}"
---
id: silent-agent
title: An agent is silent
severity: high
description: Created, updated, closed.
kind: absence
of: agent
where: host LIKE 'pc%'
for: 1m
update: 1m
message: "{agent_id} {host} since {since}"
---
id: silent-bridge
title: A bridge is silent
severity: high
description: Told by one partition only.
kind: absence
of: bridge
for: 1m
update: 1m
message: "{agent_id} since {since}"
---
id: noticed
title: Something was noticed
severity: medium
description: Gaps, clones, ends without goodbye.
kind: match
family: agent_fact
where: fact <> 'nothing'
suppress: { by: [fact], for: 2m }
message: "{fact} {agent_id} {host} {missing}"
"#;

pub(super) fn set(text: &str) -> RuleSet {
    RuleSet::parse([("rules.yaml", text)], []).unwrap()
}

/// Two bridges, one of which is away for a while; five agents with holes, a silence and a restart without goodbye.
pub(super) fn eventful(seed: u64) -> Vec<(i64, Option<i32>, String, Bytes)> {
    let mut script = Script::new(registry().1);
    let mut chance = Chance::new(seed);
    for number in 0..5_i64 {
        let agent = format!("agent-{number}");
        let mut seqs = [0_i64; 2];
        for at in (0..720).step_by(6) {
            let time = START + at * SECOND + number * 1_000;
            let restarted = number == 4 && at >= 300;
            let session = if restarted { START + 300 * SECOND } else { START };
            let seq = &mut seqs[usize::from(restarted)];
            *seq += 1;
            if chance.one_in(60) {
                continue;
            }
            let mut arrives = time + chance.below(9_000) as i64 * 1_000;
            if number == 3 && (150..420).contains(&at) {
                arrives = START + 420 * SECOND + at * 10_000;
            }
            let (event_type, payload) = match (*seq, chance.below(8)) {
                (1, _) => (
                    "agent_started",
                    json!({"previous_session": if restarted { START } else { START - SECOND }, "interval_s": 6.0}),
                ),
                (_, 0) => ("agent_health", json!({"interval_s": 6.0})),
                (_, 1) => ("process_started", json!({"pid": seq, "name": format!("p{}", chance.below(3))})),
                _ => ("cpu_usage", json!({"cpu_percent": chance.below(160) as f64 / 2.0})),
            };
            let value = script.event(arrives, &json!({
                "agent_id": agent, "session": session, "lane": "normal", "seq": seq, "event_time": time,
                "event_type": event_type, "source": "test", "host": format!("pc-{number}"), "payload": payload,
            }));
            if chance.one_in(6) {
                script.put(arrives + chance.below(20_000) as i64 * 1_000, None, &agent, value);
            }
        }
    }
    for at in (0..900).step_by(5) {
        script.clock("b", START + at * SECOND);
        if !(330..500).contains(&at) {
            script.clock("b2", START + at * SECOND + SECOND);
        }
    }
    script.into_rows()
}

/// How often each rule told what: `busy create`.
pub(super) fn told(outputs: &Outputs) -> BTreeMap<String, usize> {
    let topic = Topics::default().alerts_ocsf();
    let mut told = BTreeMap::new();
    for ((name, _, value, _), count) in outputs {
        if **name == *topic {
            let alert: Value = serde_json::from_slice(value).unwrap();
            let text = |pointer: &str| alert.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
            let what = format!("{} {}", text("/metadata/event_code"), text("/activity_name").to_lowercase());
            *told.entry(what).or_default() += count;
        }
    }
    told
}

#[test]
fn what_rules_remember_depends_on_the_log_alone() {
    let job = job(Offer::new(set(RULES), 1));
    let run = |rows: &Rows, run: &Run| {
        let job = job.clone();
        outputs(&run_jobs(rows, run, Box::new(move || job.clone())))
    };
    for seed in 0..3 {
        let rows = eventful(seed);
        let expected = run(&rows, &CALM);
        assert!(expected.values().all(|count| *count == 1), "an output came twice");
        let told = told(&expected);
        for what in [
            "start create",
            "calm-after-start create",
            "start-and-health create",
            "busy create",
            "busy close",
            "silent-agent create",
            "silent-agent update",
            "silent-agent close",
            "silent-bridge create",
            "silent-bridge update",
            "silent-bridge close",
            "noticed create",
        ] {
            assert!(told.contains_key(what), "seed {seed}: {what} is missing in {told:?}");
        }
        assert_eq!(told["silent-bridge create"], 1, "one partition speaks of bridges");
        for (batch, commit_ms) in [(1, 50), (13, 20)] {
            let found = run(&rows, &Run { batch, commit_ms, ..CALM });
            compare(&found, &expected, &format!("seed {seed}, batches of {batch}"));
        }
        let chaos = Run { workers: 2, batch: 40, commit_ms: 30, chaos: Some(seed), ..CALM };
        compare(&run(&rows, &chaos), &expected, &format!("seed {seed}, disturbed"));
    }
}

/// The sets that each partition's state names, with the offsets from which they hold.
fn histories(log: &MemoryLog) -> Vec<Vec<Held>> {
    let topic = Topics::default().state("core");
    (0..PARTITIONS)
        .map(|partition| {
            let (mut state, mut reader) = (RuleState::new(partition), RowsReader::default());
            for record in log.records(&topic).iter().filter(|record| record.partition == partition) {
                let Some(value) = &record.value else { continue };
                let (header, rows) = decode_chunk(value).unwrap();
                if header.operator == "rules" {
                    for batch in reader.read(&rows, header.without_schema).unwrap() {
                        state.operators()[0].restore(&batch).unwrap();
                    }
                }
            }
            state.operators()[0].restored().unwrap();
            state.history()
        })
        .collect()
}

/// What an undisturbed job puts out that takes over the sets exactly where the histories say.
fn replayed(rows: &Rows, sets: &[RuleSet], histories: &[Vec<Held>]) -> Outputs {
    let topics = Topics::default();
    let log = MemoryLog::new();
    log.create(&topics.raw(), PARTITIONS);
    let writer = log.handle().appender(Box::new(|_, _| {})).unwrap();
    arrive(&log, &writer, rows).unwrap();
    let mut found = Outputs::new();
    for (partition, history) in histories.iter().enumerate() {
        let records: Vec<Record> = log.records(&topics.raw());
        let records: Vec<_> =
            records.into_iter().filter(|record| record.partition == partition as i32).collect();
        let set_of = |held: &Held| sets.iter().find(|set| **set.hash() == *held.rule_set).unwrap().clone();
        let offer = Offer::new(set_of(&history[0]), 1);
        let mut job = job(offer.clone());
        let mut state = job.open(partition as i32).unwrap();
        for (number, held) in history.iter().enumerate() {
            offer.put(set_of(held), 1 + number as i64);
            let end = history.get(number + 1).map_or(i64::MAX, |next| next.from_offset);
            let batch: Vec<_> =
                records.iter().filter(|r| (held.from_offset..end).contains(&r.offset)).cloned().collect();
            let mut sink = |record: NewRecord| {
                let headers = format!("{:?}", record.headers);
                let row = (
                    record.topic.to_string(),
                    record.key.unwrap_or_default(),
                    record.value.unwrap_or_default(),
                    headers,
                );
                *found.entry(row).or_default() += 1;
                Ok(())
            };
            job.process(&mut state, &batch, &mut Output::new(&mut sink)).unwrap();
        }
    }
    found
}

#[test]
fn committed_alerts_are_those_of_the_rules_that_the_state_names() {
    let first = set(RULES);
    // another severity, a rule that is gone, one that is new, and the rest as it was
    let second = RULES.replace("title: Busy\nseverity: medium", "title: Busy\nseverity: high");
    let second = set(&second.replace("id: silent-agent", "id: silence-of-agents"));
    let sets = [first.clone(), second.clone()];
    let (mut changed, mut withdrawn) = (0, 0);
    for seed in 0..6 {
        let rows = eventful(seed);
        // two processes with different folders: each start takes the job of the other
        let jobs = [job(Offer::new(first.clone(), 1)), job(Offer::new(second.clone(), 2))];
        let starts = AtomicUsize::new(0);
        let make = move || jobs[starts.fetch_add(1, Ordering::Relaxed) % 2].clone();
        let chaos = Run { workers: 2, batch: 40, commit_ms: 30, chaos: Some(seed), ..CALM };
        let log = run_jobs(&rows, &chaos, Box::new(make));
        let histories = histories(&log);
        for history in &histories {
            assert!(!history.is_empty() && history[0].from_offset == 0, "{histories:?}");
            let versions: Vec<_> = history.iter().map(|held| held.version).collect();
            assert!(versions.is_sorted() && versions.len() <= 2, "nobody goes back: {versions:?}");
            changed += usize::from(history.len() == 2);
        }
        let found = outputs(&log);
        withdrawn += found.keys().filter(|key| String::from_utf8_lossy(&key.2).contains("withdrawn")).count();
        compare(&found, &replayed(&rows, &sets, &histories), &format!("seed {seed}"));
    }
    assert!(changed >= 3 && withdrawn >= 1, "{changed} partitions changed, {withdrawn} findings withdrawn");
}

#[test]
fn an_offer_is_taken_at_the_next_batch_and_the_state_goes_before_an_older_one() {
    let (old, new) = (set(RULES), set(&RULES.replace("severity: medium", "severity: high")));
    let rows = eventful(1);
    let offer = Offer::new(old.clone(), 10);
    let mut job = job(offer.clone());
    let mut state = job.open(0).unwrap();
    let topics = Topics::default();
    let log = MemoryLog::new();
    log.create(&topics.raw(), 1);
    let writer = log.handle().appender(Box::new(|_, _| {})).unwrap();
    for (_, _, key, value) in rows.iter().take(40) {
        let record = NewRecord::keyed(topics.raw(), key.clone(), value.clone()).to_partition(0);
        writer.append(record, 0).unwrap();
    }
    let records = log.records(&topics.raw());
    let mut process = |state: &mut CoreState, from: usize| {
        let mut sink = |_: NewRecord| Ok(());
        job.process(state, &records[from..from + 10], &mut Output::new(&mut sink)).unwrap();
        state.rules.history().iter().map(|held| (held.version, held.from_offset)).collect::<Vec<_>>()
    };
    assert_eq!(process(&mut state, 0), [(10, 0)]);
    offer.put(new.clone(), 20);
    assert_eq!(process(&mut state, 10), [(10, 0), (20, 10)]);
    // a process that loaded the old rules earlier gets the partition
    offer.put(old.clone(), 15);
    assert_eq!(process(&mut state, 20), [(10, 0), (20, 10)]);
    // somebody puts the old rules back
    offer.put(old, 30);
    assert_eq!(process(&mut state, 30), [(10, 0), (20, 10), (30, 30)]);
}

/// What a job with these rules tells of records of one partition; `cuts`: before which records it commits.
fn alerts_of(rules: &str, hold: Hold, rows: &Rows, cuts: &[usize]) -> Vec<Value> {
    let mut job = job_that_holds(hold, Offer::new(set(rules), 1));
    let mut state = job.open(0).unwrap();
    let topics = Topics::default();
    let log = MemoryLog::new();
    log.create(&topics.raw(), 1);
    let writer = log.handle().appender(Box::new(|_, _| {})).unwrap();
    for (at, _, key, value) in rows.iter().filter(|row| row.1.is_none_or(|partition| partition == 0)) {
        log.set_time(at / 1_000);
        let record = NewRecord::keyed(topics.raw(), key.clone(), value.clone()).to_partition(0);
        writer.append(record, 0).unwrap();
    }
    let records = log.records(&topics.raw());
    let mut alerts = Vec::new();
    let mut sink = |record: NewRecord| {
        if *record.topic == *topics.alerts_ocsf() {
            alerts.push(serde_json::from_slice(&record.value.unwrap()).unwrap());
        }
        Ok(())
    };
    let mut output = Output::new(&mut sink);
    let mut from = 0;
    for end in cuts.iter().copied().chain([records.len()]) {
        job.process(&mut state, &records[from..end], &mut output).unwrap();
        job.settle(&mut state, Share::All, &mut output).unwrap();
        from = end;
    }
    alerts
}

fn normal(seq: i64, at: i64, event_type: &str, payload: &Value) -> Value {
    json!({"agent_id": "agent-1", "session": START, "lane": "normal", "seq": seq, "event_time": START + at * SECOND,
        "event_type": event_type, "source": "test", "host": "pc-1", "payload": payload})
}

#[test]
fn what_is_swept_at_a_minute_comes_after_the_windows_that_ended_before_it() {
    let rules = RULES.replace("update: 2m\n", "suppress: { for: 3m }\n");
    let mut script = Script::new(registry().1);
    let lanes = json!({"lanes": r#"["normal"]"#});
    script.clock("b", START + 590 * SECOND);
    script.event(START + 591 * SECOND, &normal(0, 0, "agent_started", &lanes));
    // An outbox drains: busy in the first minute and in the third, and then for long enough that the first is over.
    for seq in 1..32 {
        let cpu = if [0, 2].contains(&(seq / 6)) { 90.0 } else { 1.0 };
        script.event(START + 592 * SECOND, &normal(seq, 10 * seq, "cpu_usage", &json!({"cpu_percent": cpu})));
    }
    script.clock("b", START + 600 * SECOND);
    script.event(START + 601 * SECOND, &normal(32, 320, "cpu_usage", &json!({"cpu_percent": 1.0})));
    let rows = script.into_rows();
    let hold = Hold(3_600 * SECOND);
    // the records of this partition: the clock, 32 events, the clock, an event
    let each: Vec<usize> = (1..35).collect();
    let expected = alerts_of(&rules, hold, &rows, &each);
    assert_eq!(expected.len(), 2, "created and closed once, then held back: {expected:?}");
    for cuts in [vec![], vec![9], vec![9, 20]] {
        assert_eq!(alerts_of(&rules, hold, &rows, &cuts), expected, "{cuts:?}");
    }
}

#[test]
fn the_silence_of_an_agent_that_was_dropped_is_over_even_if_it_returns_within_the_hour() {
    let mut script = Script::new(registry().1);
    let lanes = json!({"lanes": r#"["normal"]"#, "interval_s": 6.0});
    script.event(START, &normal(0, 0, "agent_started", &lanes));
    for at in (0..1_500).step_by(5) {
        script.clock("b", START + at * SECOND + 1_000);
        if at >= 900 && at % 30 == 0 {
            let load = json!({"cpu_percent": 1.0});
            script.event(START + at * SECOND, &normal(at / 30, at, "cpu_usage", &load));
        }
    }
    let alerts = alerts_of(RULES, Hold(400 * SECOND), &script.into_rows(), &[]);
    let of_silence = |alert: &&Value| alert["metadata"]["event_code"] == "silent-agent";
    let told: Vec<_> = alerts.iter().filter(of_silence).map(|alert| &alert["activity_name"]).collect();
    assert_eq!(told.iter().filter(|what| **what == "Create").count(), 1, "{told:?}");
    assert_eq!(told.last().unwrap().as_str(), Some("Close"), "{told:?}");
    assert!((4..9).contains(&told.len()), "{told:?}");
}

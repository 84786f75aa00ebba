//! The whole job over all families and all kinds of rules: however the log is cut, whenever transactions are committed,
//! and if the worker is killed in the middle, what comes out is the same.

use super::rules::{RULES, set, told};
use super::*;

/// A rule on each family that the other rules do not read.
const MORE_RULES: &str = r#"
---
id: two-windows
title: A window after a device
severity: low
description: Three families in their order.
kind: sequence
within: 3m
steps:
  - { family: device_event, where: "event_type = 'device_added'" }
  - { family: window_event, where: "event_type = 'window_open'" }
  - { family: file_event, where: "event_type = 'file_created'", waits: false }
message: "{1.product} {2.program} {path}"
---
id: sample
title: A program that works hard
severity: low
description: Each row.
kind: match
family: process_sample
where: cpu_percent > 60
message: "{name}"
---
id: connection
title: A connection
severity: low
description: Told now and then.
kind: match
family: network_event
where: remote_port = 443
suppress: { by: [process_name], for: 90s }
message: "{remote_address}"
---
id: idle
title: Nobody is there
severity: low
description: Each row.
kind: match
family: user_activity
where: NOT mouse
suppress: { for: 2m }
message: "{idle_s}"
---
id: custom
title: Something else
severity: low
description: Each row.
kind: match
family: custom_event
where: payload LIKE '%7%'
message: "{payload}"
"#;

/// What an agent may send, by chance; the lane and the rest.
fn anything(chance: &mut Chance, seq: i64) -> (&'static str, serde_json::Value) {
    let cpu = chance.below(200) as f64 / 2.0;
    let program = format!("p{}.exe", chance.below(4));
    match chance.below(11) {
        0 => (
            "process_started",
            json!({"pid": seq, "name": program, "path": "C:\\Users\\eve\\Downloads\\p.exe"}),
        ),
        1 => ("process_stopped", json!({"pid": seq, "name": program})),
        2 => ("process_sample", json!({"pid": seq, "name": program, "cpu_percent": cpu})),
        3 => {
            let mouse = chance.one_in(2);
            let active = if mouse { 10.0 } else { 0.0 };
            (
                "user_activity",
                json!({"mouse": mouse, "keyboard": false, "mouse_events": seq, "keyboard_events": 0,
                "active_s": active, "idle_s": 10.0 - active}),
            )
        }
        4 => ("window_open", json!({"program": program, "title": "a page", "window_id": seq.to_string()})),
        5 => ("file_created", json!({"path": format!("/tmp/{seq}"), "size_bytes": seq})),
        6 => (
            "connection",
            json!({"remote_address": "203.0.113.9", "remote_port": 440 + chance.below(6), "process_name": program}),
        ),
        7 => ("device_added", json!({"bus": "usb", "product": format!("stick {}", chance.below(3))})),
        8 => ("agent_health", json!({"interval_s": 9.0, "lanes": r#"["critical","normal","bulk"]"#})),
        9 => ("door_opened", json!({"door": seq})),
        _ => ("cpu_usage", json!({"cpu_percent": cpu, "mem_used_bytes": 1024 * seq, "load_1": cpu / 50.0})),
    }
}

/// Five agents, three lanes, ten families; holes, repeats, disorder, poison, an outage, two bridges.
fn mixed(seed: u64) -> Vec<(i64, Option<i32>, String, Bytes)> {
    let mut script = Script::new(registry().1);
    let mut chance = Chance::new(seed);
    for number in 0..5_i64 {
        let agent = format!("agent-{number}");
        let mut seqs = [-1_i64; 3];
        for at in (0..600).step_by(6) {
            let time = START + at * SECOND + number * 1_000;
            let lane = chance.below(3) as usize;
            seqs[lane] += 1;
            let seq = seqs[lane];
            let (event_type, payload) = anything(&mut chance, seq);
            let name = ["critical", "normal", "bulk"][lane];
            if chance.one_in(50) {
                continue;
            }
            let mut arrives = time + chance.below(8_000) as i64 * 1_000;
            if number == 3 && (150..380).contains(&at) {
                arrives = START + 390 * SECOND + at * 10_000;
            }
            let user = if chance.one_in(2) { "eve" } else { "adam" };
            let value = script.event(
                arrives,
                &json!({
                    "agent_id": agent, "session": START, "lane": name, "seq": seq, "event_time": time,
                    "event_type": event_type, "source": "test", "host": format!("pc-{number}"), "user": user,
                    "payload": payload,
                }),
            );
            if chance.one_in(6) {
                script.put(arrives + chance.below(20_000) as i64 * 1_000, None, &agent, value.clone());
            }
            if chance.one_in(40) {
                script.put(arrives, None, &agent, value.slice(..value.len() / 2));
            }
        }
    }
    for at in (0..780).step_by(5) {
        script.clock("b", START + at * SECOND);
        if !(300..470).contains(&at) {
            script.clock("b2", START + at * SECOND + SECOND);
        }
    }
    script.into_rows()
}

#[test]
fn cuts_commits_and_a_restart_change_nothing_in_any_family_or_kind_of_rule() {
    let job = job(Offer::new(set(&format!("{RULES}{MORE_RULES}")), 1));
    let run = |rows: &Rows, run: &Run| {
        let job = job.clone();
        outputs(&run_jobs(rows, run, Box::new(move || job.clone())))
    };
    let rows = mixed(5);
    let expected = run(&rows, &CALM);
    assert!(expected.values().all(|count| *count == 1), "an output came twice");
    let topics = Topics::default();
    for family in Family::ALL {
        assert!(count(&expected, &topics.events(family)) > 10, "{family}");
    }
    let told = told(&expected);
    for rule in [
        "start create",
        "calm-after-start create",
        "start-and-health create",
        "busy create",
        "busy close",
        "silent-agent create",
        "silent-agent close",
        "silent-bridge create",
        "silent-bridge close",
        "noticed create",
        "two-windows create",
        "sample create",
        "connection create",
        "idle create",
        "custom create",
    ] {
        assert!(told.contains_key(rule), "{rule} is missing in {told:?}");
    }
    for (batch, commit_ms, restart) in
        [(1, 50, false), (7, 20, false), (4_000, 500, false), (1, 300, true), (7, 130, true), (400, 20, true)]
    {
        let found = run(&rows, &Run { batch, commit_ms, restart, ..CALM });
        compare(&found, &expected, &format!("batches of {batch}, {commit_ms} ms, restart {restart}"));
    }
}

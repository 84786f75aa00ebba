use schemas::family::Family;
use serde_json::json;

use super::*;
use crate::rules::testing::rows_of;
use crate::rules::{Place, RuleSet, explain};

const RULE: &str = "id: everywhere
title: Everywhere
severity: high
description: D
kind: threshold
scope: fleet
family: process_event
where: event_type = 'process_started'
unless: [{ column: name, in: known }]
group_by: [name]
window: 10m
having: agents >= 2
message: '{name} on {agents}'
";

fn parse(text: &str) -> Result<RuleSet, Vec<String>> {
    let parsed = RuleSet::parse([("r.yaml", text)], [("known", "ls\n")]);
    parsed.map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn taken(judge: &mut Judge, rows: &[Value], watermark: Option<i64>) -> Taken {
    let batch = rows_of(RecordKind::Family(Family::ProcessEvent), rows).unwrap();
    let times = rows::times(&batch, "event_time").unwrap().clone();
    let place = |row: usize| Place { at: row as u32, time: times.value(row), watermark: i64::MIN };
    judge.rows(Family::ProcessEvent, &batch, place).unwrap();
    judge.take_fleet(&batch, Origin { source: 1, sources: 3, watermark }).unwrap()
}

fn start(agent: &str, name: &str, time: i64) -> Value {
    json!({"event_type": "process_started", "agent_id": agent, "name": name, "event_time": time, "user": "eve"})
}

#[test]
fn what_is_wrong_with_a_rule_over_the_fleet_is_told() {
    parse(RULE).unwrap();
    let cases = [
        ("group_by: [name]", "group_by: [agent_id]", "r.yaml:10:", "not kept by agent_id"),
        ("group_by: [name]", "group_by: [nosuch]", "r.yaml:10:", "column `nosuch`"),
        ("window: 10m", "window: 7m", "r.yaml:11:", "5m, 10m, 30m, 1h"),
        ("having: agents >= 2", "having: pid > 2", "r.yaml:12:", "No field named pid"),
        ("having: agents >= 2", "having: agents", "r.yaml:12:", "must be true or false"),
        ("where: event_type", "where: nosuch", "r.yaml:8:", "No field named nosuch"),
        ("family: process_event", "family: agent_fact", "r.yaml:7:", "made of events"),
        ("scope: fleet", "scope: world", "r.yaml:6:", "`world` is no scope"),
        ("{agents}", "{pid}", "r.yaml:13:", "names the column `pid`"),
        ("severity: high", "severity: high\nsuppress: { for: 5m }", "r.yaml:4:", "between the window"),
        ("severity: high", "severity: high\nfor: 3", "r.yaml:4:", "no key `for`"),
    ];
    for (from, to, line, says) in cases {
        assert!(RULE.contains(from), "{from}");
        let found = parse(&RULE.replace(from, to)).unwrap_err();
        assert!(found.iter().any(|one| one.starts_with(line) && one.contains(says)), "{to}: {found:?}");
    }
}

#[test]
fn a_rule_over_the_fleet_is_explained() {
    let text = explain(&parse(RULE).unwrap(), "everywhere", None).unwrap().unwrap().to_string();
    let says = [
        "threshold, reads process_event, then fleet_window",
        "once in 10m for each name",
        "in_list(\"name\"",
        "agents >= 2",
    ];
    for says in says {
        assert!(text.contains(says), "{says} in {text}");
    }
}

#[test]
fn rows_in_time_are_taken_and_those_behind_their_partition_are_counted() {
    let mut judge = Judge::new(&parse(RULE).unwrap()).unwrap();
    let minute = |minutes: i64| minutes * SLIDE;
    let rows = [
        start("a", "x", minute(9)),
        start("b", "x", minute(10) - 1),
        start("c", "ls", minute(10)),
        start("d", "x", minute(10)),
        json!({"event_type": "process_started", "event_time": minute(10)}),
    ];
    let found = taken(&mut judge, &rows, Some(minute(10)));
    assert_eq!(
        (found.rows.num_rows(), found.late),
        (1, 2),
        "an exception, and one without a name, are neither"
    );
    assert_eq!(rows::texts(&found.rows, "agent_id").unwrap().value(0), "d");
    assert_eq!(taken(&mut judge, &rows, Some(minute(10) - 1)).late, 0, "its minute is not over");
    assert_eq!(taken(&mut judge, &rows, None).rows.num_rows(), 3, "nothing was announced yet");
    // a megabyte in a field gets into no window
    let long = "y".repeat(1 << 20);
    let found = taken(&mut judge, &[start("a", &long, 0)], None);
    let size: usize = ["group_key", "group_values", "evidence"]
        .map(|name| rows::texts(&found.rows, name).unwrap().value(0).len())
        .iter()
        .sum();
    assert!(size < 4_096, "{size}");
}

#[test]
fn the_least_of_all_sources_decides_and_none_goes_back() {
    let mut state = RuleState::new(0);
    assert_eq!(state.fleet_watermark(), None);
    assert_eq!(state.advance_source(0, 2, 100), 100);
    assert_eq!(state.fleet_watermark(), None, "one has said nothing");
    state.advance_source(1, 2, 70);
    assert_eq!(state.fleet_watermark(), Some(70));
    assert_eq!(state.advance_source(1, 2, 60), 70);
    state.advance_source(1, 3, 200);
    assert_eq!(state.fleet_watermark(), None, "there are three now");
    let mut restored = RuleState::new(0);
    let rows = state.sources.operator().drain_changes().unwrap().unwrap();
    restored.sources.operator().restore(&rows).unwrap();
    restored.advance_source(2, 3, 150);
    assert_eq!(restored.fleet_watermark(), Some(100));
    assert!(restored.source_watermark(1) == Some(200) && restored.source_watermark(7).is_none());
}

#[test]
fn rows_of_another_definition_are_counted_apart_and_told_by_nobody() {
    let mut old = Judge::new(&parse(RULE).unwrap()).unwrap();
    let mut new =
        Judge::new(&parse(&RULE.replace("'process_started'", "'process_stopped'")).unwrap()).unwrap();
    let keys = |judge: &mut Judge, kind: &str| {
        let mut row = start("a", "x", 0);
        row["event_type"] = kind.into();
        rows::texts(&taken(judge, &[row], None).rows, "group_key").unwrap().value(0).to_owned()
    };
    assert_ne!(keys(&mut old, "process_started"), keys(&mut new, "process_stopped"));
    // only the words change: the rows are the same
    let mut said = Judge::new(&parse(&RULE.replace("severity: high", "severity: low")).unwrap()).unwrap();
    assert_eq!(keys(&mut old, "process_started"), keys(&mut said, "process_started"));
}

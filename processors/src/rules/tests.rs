use std::collections::BTreeSet;
use std::path::Path;

use schemas::family::Family;
use schemas::record::RecordKind;
use serde_json::json;

use super::testing::{TestReport, rows_of, run};
use super::*;

const GOOD: &str = r"
id: one
title: One
severity: low
description: First.
kind: match
family: process_event
where: name = 'x'
message: '{name}'
";

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/rules"))
}

fn problems(text: &str) -> Vec<String> {
    let lists = [("known", "a.exe\n"), ("places", "/usr\n")];
    match RuleSet::parse([("r.yaml", text)], lists) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

fn with(from: &str, to: &str) -> Vec<String> {
    assert!(GOOD.contains(from), "{from}");
    problems(&GOOD.replace(from, to))
}

#[test]
fn the_pack_that_ships_does_what_its_tests_say() {
    let set = RuleSet::shipped().unwrap();
    let mut report = TestReport::default();
    let mut files = 0;
    for entry in std::fs::read_dir(folder().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        run(&set, &path.display().to_string(), &std::fs::read_to_string(&path).unwrap(), &mut report);
        files += 1;
    }
    let failures: Vec<_> = report.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(files >= 5 && report.quiet >= 40, "{files} files, {} quiet events", report.quiet);
    let tested: BTreeSet<_> = report.fired.keys().map(String::as_str).collect();
    let rules: BTreeSet<_> = set.rules().iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(tested, rules, "each rule has an event that it must fire for");
}

#[test]
fn what_ships_is_what_lies_in_the_folder() {
    let loaded = RuleSet::load(folder()).unwrap();
    assert_eq!(loaded.hash(), RuleSet::shipped().unwrap().hash());
}

#[test]
fn a_test_that_expects_otherwise_fails() {
    let set = RuleSet::shipped().unwrap();
    let text = "
- name: wrong
  family: process_event
  events:
    - { event_type: process_started, path: /tmp/x }
    - { event_type: process_started, path: /usr/bin/x, alerts: [suspicious-path] }
- name: unreadable
  family: nosuch
  events: []
- name: misspelled
  family: process_event
  events:
    - { event_type: process_started, pahth: /tmp/x }
";
    let mut report = TestReport::default();
    run(&set, "t.yaml", text, &mut report);
    assert_eq!((report.tests, report.failures.len()), (3, 4), "{:?}", report.failures);
    run(&set, "t.yaml", "name: [", &mut report);
    assert_eq!(report.failures.len(), 5);
}

#[test]
fn every_problem_is_told_with_its_line() {
    let text = r"
id: Bad Id
title: ''
severity: awful
description: D
attack: { version: '16.1', techniques: [T12, T1036] }
kind: match
family: process_event
where: nosuch = 1
unless:
  - { column: name, in: absent }
  - { column: nosuch, in: known }
suppress: { by: [agent_id], for: 10m }
message: '{nosuch} {'
colour: red
---
# a comment
id: two
title: Two
severity: low
description: D
kind: sequence
message: m
";
    let found = problems(text);
    let expect = [
        ("r.yaml:2:", "small letters"),
        ("r.yaml:3:", "`title` is empty"),
        ("r.yaml:4:", "`awful` is no severity"),
        ("r.yaml:6:", "`T12` is no technique"),
        ("r.yaml:10:", "no list `absent`"),
        ("r.yaml:10:", "column `nosuch`"),
        ("r.yaml:13:", "`suppress` is not applied yet"),
        ("r.yaml:14:", "nothing closes"),
        ("r.yaml:15:", "no key `colour`"),
        ("r.yaml:22:", "`sequence` is no kind"),
    ];
    for (line, says) in expect {
        let told = found.iter().any(|problem| problem.starts_with(line) && problem.contains(says));
        assert!(told, "{line} {says} in {found:#?}");
    }
    assert_eq!(found.len(), expect.len(), "{found:#?}");
}

#[test]
fn predicates_are_checked_when_they_are_read() {
    let cases = [
        ("where: nosuch = 'x'", "No field named nosuch"),
        ("where: name = ", "`where`:"),
        ("where: name", "must be true or false"),
        ("where: in_list(name, 'absent')", "no list 'absent'"),
        ("where: count(name) > 1", "an aggregate"),
        ("where: name = 'x' FROM events --", "`where`:"),
        ("where: name IN (SELECT name FROM events)", "`where`:"),
        ("where: started_at > now()", "not decided by its arguments"),
        ("where: path > 5 AND pid LIKE 'x' + 1", "`where`:"),
    ];
    for (predicate, says) in cases {
        let found = with("where: name = 'x'", predicate);
        assert_eq!(found.len(), 1, "{predicate}: {found:?}");
        assert!(found[0].starts_with("r.yaml:8:") && found[0].contains(says), "{predicate}: {found:?}");
    }
    assert!(
        with("where: name = 'x'", "where: |\n  name = 'x' -- why").is_empty(),
        "a comment ends with its line"
    );
}

#[test]
fn other_problems_of_single_keys() {
    let cases = [
        ("family: process_event", "family: nosuch", "no family"),
        ("kind: match", "kind: threshold", "`window` is missing"),
        ("title: One", "title: [a]", "must be text"),
        ("message: '{name}'", "message: '{name'", "nothing closes"),
        ("message: '{name}'", "message: '{cpu_mean}'", "which process_event has not"),
        ("severity: low", "severity: low\nlabels: [a]", "must be a mapping"),
        ("severity: low", "severity: low\nreferences: x", "must be a list"),
        ("severity: low", "severity: low\nunless: [{ column: name }]", "either `in` or `under`"),
        ("severity: low", "severity: low\nattack: { techniques: [T1036] }", "needs `version`"),
        ("severity: low", "severity: low\nattack: { version: 1, tactics: [] }", "no key `tactics`"),
        ("id: one", "id: [", "r.yaml:"),
    ];
    for (from, to, says) in cases {
        let found = with(from, to);
        assert!(found.iter().any(|problem| problem.contains(says)), "{to}: {found:?}");
    }
    assert_eq!(problems("- a\n- b\n"), ["r.yaml:1: a rule is a mapping of keys to values"]);
    let threshold = "kind: threshold\nwindow: 5m\nhaving: cpu_mean > 1\nfor: 0\ngroup_by: [host]";
    let found = with("kind: match\nfamily: process_event\nwhere: name = 'x'", threshold);
    for says in ["no windows of `5m`", "at least 1", "by agent_id only"] {
        assert!(found.iter().any(|problem| problem.contains(says)), "{says}: {found:?}");
    }
}

#[test]
fn an_id_is_taken_once() {
    let found = problems(&format!("{GOOD}---{GOOD}"));
    assert_eq!(found, ["r.yaml:11: the id `one` is taken by r.yaml:2"]);
}

#[test]
fn a_list_entry_that_is_no_directory_is_a_problem_of_the_rule() {
    let found = with("severity: low", "severity: low\nunless: [{ column: path, under: known }]");
    assert!(found[0].contains("not an absolute directory"), "{found:?}");
}

#[test]
fn the_hash_covers_what_rules_mean_and_nothing_else() {
    let hash = |text: &str, list: &str| {
        RuleSet::parse([("r.yaml", text)], [("known", list)]).unwrap().hash().clone()
    };
    let before = hash(GOOD, "a.exe\nb.exe");
    let reordered = GOOD.replace("title: One\nseverity: low", "# why\nseverity: low\ntitle: One");
    assert_eq!(before, hash(&reordered, "# all\nb.exe\n\na.exe"));
    assert_ne!(before, hash(&GOOD.replace("'x'", "'y'"), "a.exe\nb.exe"));
    assert_ne!(before, hash(&GOOD.replace("low", "high"), "a.exe\nb.exe"));
    assert_ne!(before, hash(GOOD, "a.exe"));
    assert_eq!(before.len(), 64);
}

#[test]
fn exceptions_take_nulls_for_no_exception() {
    let text = GOOD.replace("where: name = 'x'", "where: pid = 1").replace(
        "severity: low",
        "severity: low\nunless: [{ column: name, in: known }, { column: path, under: places }]",
    );
    let set = RuleSet::parse([("r.yaml", text.as_str())], [("known", "a.exe"), ("places", "/usr")]).unwrap();
    let rows = [
        json!({"pid": 1}),
        json!({"pid": 1, "name": "A.EXE"}),
        json!({"pid": 1, "name": "b.exe", "path": "/usr/bin/b"}),
        json!({"pid": 1, "name": "b.exe", "path": "/opt/b"}),
        json!({"name": "b.exe"}),
    ];
    let batch = rows_of(RecordKind::Family(Family::ProcessEvent), &rows).unwrap();
    let alerts = MatchRules::new(&set).unwrap().evaluate(Family::ProcessEvent, &batch).unwrap();
    let messages: Vec<_> = alerts.iter().map(|alert| alert.message.as_str()).collect();
    assert_eq!(messages, ["-", "b.exe"]);
}

#[test]
fn alerts_come_in_the_order_of_rows_however_they_are_cut() {
    let second = GOOD.replace("id: one", "id: another").replace("name = 'x'", "pid > 0");
    let set = RuleSet::parse([("r.yaml", format!("{GOOD}---{second}").as_str())], []).unwrap();
    let rows: Vec<_> = (0..6).map(|seq| json!({"seq": seq, "name": "x", "pid": seq % 2})).collect();
    let batch = rows_of(RecordKind::Family(Family::ProcessEvent), &rows).unwrap();
    let mut rules = MatchRules::new(&set).unwrap();
    let mut judge = |cuts: &[(usize, usize)]| -> Vec<(i64, String)> {
        let mut found = Vec::new();
        for &(from, length) in cuts {
            let alerts = rules.evaluate(Family::ProcessEvent, &batch.slice(from, length)).unwrap();
            found.extend(alerts.into_iter().map(|alert| (alert.seq, alert.rule.id.clone())));
        }
        found
    };
    let whole = judge(&[(0, 6)]);
    assert_eq!(whole.len(), 9);
    assert_eq!(whole, judge(&[(0, 1), (1, 1), (2, 0), (2, 3), (5, 1)]));
    assert_eq!(whole[1..3], [(1, "another".to_owned()), (1, "one".to_owned())]);
}

#[test]
fn runs_survive_a_restore() {
    let set = RuleSet::shipped().unwrap();
    let mut rules = ThresholdRules::new(&set).unwrap();
    let mut window = |minute: i64, cpu: f64, state: &mut ConsecutiveState| {
        let start = minute * 60_000_000;
        let row = json!({"window_start": start, "window_end": start + 60_000_000, "cpu_mean": cpu});
        let batch = rows_of(RecordKind::Feature1m, &[row]).unwrap();
        rules.evaluate_features(&batch, state).unwrap().len()
    };
    let mut state = ConsecutiveState::new();
    assert_eq!(window(0, 95.0, &mut state) + window(1, 95.0, &mut state), 0);
    let changes = state.take_changes();
    assert_eq!(changes.len(), 1, "one row, however often it changed");
    assert!(state.take_changes().is_empty());

    let mut restored = ConsecutiveState::new();
    for (key, run) in changes {
        restored.put(key, run);
    }
    assert!(restored.rows().eq(state.rows()));
    assert!(restored.take_changes().is_empty(), "restoring changes nothing");
    assert_eq!(window(2, 95.0, &mut restored), 1);
    assert_eq!(window(2, 95.0, &mut restored), 0, "the same window again");
    assert_eq!(window(3, 10.0, &mut restored), 0);
    assert!(restored.is_empty());
    let gone = restored.take_changes();
    assert_eq!((gone.len(), gone[0].1), (1, None));
}

#[test]
fn a_folder_that_is_not_there_is_a_problem() {
    let problems = RuleSet::load(Path::new("/nonexistent/rules")).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].file.contains("nonexistent"));
}

use std::collections::BTreeSet;
use std::path::Path;

use schemas::family::Family;
use schemas::record::RecordKind;
use serde_json::json;

use super::testing::{self, TestReport, rows_of};
use super::*;
use crate::alerts::Alert;
use crate::event_time::{Hold, Lateness, Tracker};
use crate::functions::Functions;

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
    let files = testing::load(folder()).unwrap();
    let report = testing::run_all(&set, &files);
    let failures: Vec<_> = report.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(files.len() >= 5 && report.quiet >= 40, "{} files, {} quiet events", files.len(), report.quiet);
    let tested: BTreeSet<_> = report.fired.keys().map(String::as_str).collect();
    let rules: BTreeSet<_> = set.rules().iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(tested, rules, "each rule has an event that it must fire for");
}

#[test]
fn what_ships_is_what_lies_in_the_folder() {
    let loaded = RuleSet::load(folder()).unwrap();
    assert_eq!(loaded.hash(), RuleSet::shipped().unwrap().hash());
    let texts = |files: testing::TestFiles| files.into_iter().map(|(_, text)| text).collect::<Vec<_>>();
    assert_eq!(texts(testing::load(folder()).unwrap()), texts(testing::shipped()));
}

#[test]
fn a_rule_is_explained_with_all_that_it_uses() {
    let set = RuleSet::shipped().unwrap();
    let text = explain(&set, "masquerading-windows", None).unwrap().unwrap().to_string();
    for says in [
        "masquerading-windows: System program of Windows outside its directory (high)",
        "masquerading.yaml:1",
        "match, reads process_event",
        "T1036.005 (version 16.1)",
        "list        system_programs_windows, ",
        "list        windows_program_directories, 8 entries",
        "list        windows_stores, ",
        "in_list(name, 'system_programs_windows')",
        "ProjectionExec",
        "is a part of Windows",
    ] {
        assert!(text.contains(says), "{says} in {text}");
    }
    let trusted = explain(&set, "suspicious-path", Some("an example".to_owned())).unwrap().unwrap();
    assert_eq!(trusted.lists[0].0, "trusted_directories", "exceptions ask lists, too");
    assert!(trusted.to_string().contains("an example"));
    assert!(explain(&set, "nosuch", None).unwrap().is_none());
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
    let run = |text: &str| testing::run_all(&set, &vec![("t.yaml".to_owned(), text.to_owned())]);
    let TestReport { tests, failures, .. } = run(text);
    assert_eq!((tests, failures.len()), (3, 4), "{failures:?}");
    assert_eq!(run("name: [").failures.len(), 1);
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
suppress: { by: [agent_id, nosuch], for: 10m, per: 1 }
message: '{nosuch} {'
colour: red
---
# a comment
id: two
title: Two
severity: low
description: D
kind: nosuch
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
        ("r.yaml:13:", "`suppress` names the column `nosuch`"),
        ("r.yaml:13:", "`suppress` has no key `per`"),
        ("r.yaml:14:", "nothing closes"),
        ("r.yaml:15:", "no key `colour`"),
        ("r.yaml:22:", "`nosuch` is no kind"),
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
    let kinds: [(&str, &[&str]); 4] = [
        (
            "kind: threshold\nwindow: 5s\nhaving: cpu_mean > 1\nfor: 0\ngroup_by: [host]\nupdate: 1s",
            &["no windows of `5s`", "at least 1", "by agent_id only", "`update` must be between"],
        ),
        (
            "kind: absence\nof: dog\nfor: 2s",
            &["`dog` cannot be silent", "`for` must be between 1m and 7days"],
        ),
        ("kind: absence\nof: agent\nfor: 2m\nwhere: silence > 1", &["`where`: ", "No field named silence"]),
        (
            "kind: sequence\nby: [nosuch]\nwithin: 8d\nsteps:\n  - { family: nosuch, where: 'true' }\n  \
             - { family: process_event, where: pid, waits: 3 }\n  - { family: process_event }",
            &["no family", "`waits` is", "needs `where`", "`within` must be between"],
        ),
    ];
    for (kind, problems) in kinds {
        let found = with("kind: match\nfamily: process_event\nwhere: name = 'x'", kind);
        for says in problems {
            assert!(found.iter().any(|problem| problem.contains(says)), "{says}: {found:?}");
        }
    }
}

const SEQUENCE: &str = "kind: sequence\nby: [pid]\nwithin: 1m\nsteps:\n\
                        - { family: process_event, where: first_seen }\n\
                        - { family: network_event, where: remote_port = 1, waits: false }";

fn sequence(from: &str, to: &str, message: &str) -> Vec<String> {
    let text =
        GOOD.replace("kind: match\nfamily: process_event\nwhere: name = 'x'", &SEQUENCE.replace(from, to));
    problems(&text.replace("'{name}'", message))
}

#[test]
fn a_sequence_is_checked_step_by_step() {
    assert_eq!(sequence("", "", "'{1.name} {remote_address} {2.pid}'"), [] as [&str; 0]);
    let cases = [
        ("remote_port = 1", "nosuch = 1", "m", "step 2: "),
        ("first_seen", "name", "m", "step 1: must be true or false"),
        ("waits: false", "waits: maybe", "m", "`waits` is true or false"),
        ("first_seen }", "first_seen, waits: false }", "m", "the first step always waits"),
        ("[pid]", "[path, remote_port]", "m", "`remote_port`, which process_event has not"),
        ("", "", "'{1.remote_port}'", "`remote_port`, which process_event has not"),
        ("", "", "'{name}'", "`name`, which network_event has not"),
        ("", "", "'{3.name}'", "there is no step 3"),
    ];
    for (from, to, message, says) in cases {
        let found = sequence(from, to, message);
        assert!(found.iter().any(|problem| problem.contains(says)), "{to} {message}: {found:?}");
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

/// Alerts of some rows of process_event, in batches cut as given; each row's place is its number.
fn judged(set: &RuleSet, rows: &[serde_json::Value], cuts: &[usize]) -> Vec<Alert> {
    let batch = rows_of(RecordKind::Family(Family::ProcessEvent), rows).unwrap();
    let (mut judge, mut state) = (Judge::new(set).unwrap(), RuleState::new(0));
    let tracker = Tracker::new(Lateness(0), Hold(i64::MAX));
    let (mut alerts, mut from) = (Vec::new(), 0);
    for length in cuts {
        let place = |row: usize| Place { at: row as u32, time: 0, watermark: 0 };
        judge.rows(Family::ProcessEvent, &batch.slice(from, *length), place).unwrap();
        alerts.extend(judge.settle(&mut state, &tracker, &Seen::default()).unwrap());
        from += length;
    }
    alerts
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
    let alerts = judged(&set, &rows, &[5]);
    let messages: Vec<_> = alerts.iter().map(|alert| alert.message.as_str()).collect();
    assert_eq!(messages, ["-", "b.exe"]);
}

#[test]
fn alerts_come_in_the_order_of_rows_however_they_are_cut() {
    let second = GOOD.replace("id: one", "id: another").replace("name = 'x'", "pid > 0");
    let third =
        GOOD.replace("id: one", "id: typed").replace("name = 'x'", "event_type IN ('a', 'b') AND pid > 0");
    let text = format!("{GOOD}---{second}---{third}");
    let set = RuleSet::parse([("r.yaml", text.as_str())], []).unwrap();
    let row = |seq: i64| {
        let event_type = ["a", "b", "c"][seq as usize % 3];
        json!({"seq": seq, "name": "x", "pid": seq % 2, "event_type": event_type})
    };
    let rows: Vec<_> = (0..6).map(row).collect();
    let told = |cuts: &[usize]| -> Vec<(i64, String)> {
        judged(&set, &rows, cuts).into_iter().map(|alert| (alert.seq, alert.rule.id.clone())).collect()
    };
    let whole = told(&[6]);
    let of = |rule: &str| whole.iter().filter(|(_, id)| id == rule).map(|(seq, _)| *seq).collect::<Vec<_>>();
    assert_eq!((of("one").len(), of("another"), of("typed")), (6, vec![1, 3, 5], vec![1, 3]));
    assert_eq!(whole, told(&[1, 1, 0, 3, 1]));
    assert_eq!(
        whole[1..4].iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>(),
        ["another", "one", "typed"]
    );
}

#[test]
fn predicates_are_asked_of_their_event_types_and_columns_only() {
    let functions = Functions::new();
    let needs = |sql: &str| compile::needs(sql, Reads::Family(Family::ProcessEvent), &functions).unwrap();
    let types =
        |sql: &str| needs(sql).event_types.map(|types| types.into_iter().collect::<Vec<_>>().join(" "));
    assert_eq!(types("event_type = 'a' AND pid > 1").as_deref(), Some("a"));
    assert_eq!(types("pid > 1 AND ('a' = event_type OR event_type = 'b')").as_deref(), Some("a b"));
    assert_eq!(types("event_type IN ('a', 'b') AND event_type <> 'c'").as_deref(), Some("a b"));
    assert_eq!(types("event_type = 'a' AND event_type = 'b'").as_deref(), Some(""));
    for any in [
        "pid > 1",
        "event_type = 'a' OR pid > 1",
        "event_type NOT IN ('a')",
        "NOT event_type = 'a'",
        "event_type = name",
    ] {
        assert_eq!(types(any), None, "{any}");
    }
    let columns: Vec<_> = needs("event_type = 'a' AND name = path").columns.into_iter().collect();
    assert_eq!(columns, ["event_type", "name", "path"]);
}

#[test]
fn a_folder_that_is_not_there_is_a_problem() {
    let problems = RuleSet::load(Path::new("/nonexistent/rules")).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].file.contains("nonexistent"));
}

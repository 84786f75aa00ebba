use arrow::array::{Array, AsArray};
use schemas::columns::arrow_schema;
use schemas::family::Family;
use schemas::record::RecordKind;
use serde_json::{Value, json};

use super::*;
use crate::event_time::{Hold, Lateness, Tracker};
use crate::rules::testing::rows_of;
use crate::rules::{Judge, Place, RuleSet, RuleState, Seen};

const RULES: &str = r#"
id: any-start
title: A program started
severity: high
description: All of them.
references: [https://example.org/why]
attack: { version: "16.1", techniques: [T1036.005, T1059] }
kind: match
family: process_event
where: event_type = 'process_started'
message: "{user} started {name} ({pid}) from {path}; {command_line}"
labels: { tactic: execution }
---
id: any-connection
title: A connection
severity: informational
description: All of them.
kind: match
family: network_event
where: event_type = 'connection'
message: "{remote_address}"
---
id: busy
title: Busy
severity: medium
description: Two windows.
kind: threshold
window: 1m
having: cpu_mean >= 90
for: 2
update: 1m
message: "{host} at {cpu_mean} percent"
"#;

fn set() -> RuleSet {
    RuleSet::parse([("rules.yaml", RULES)], []).unwrap()
}

fn found(family: Family, rows: &[Value]) -> Vec<Alert> {
    let batch = rows_of(RecordKind::Family(family), rows).unwrap();
    let (mut judge, tracker) = (Judge::new(&set()).unwrap(), Tracker::new(Lateness(0), Hold(i64::MAX)));
    let place = |row: usize| Place { at: row as u32, time: 0, watermark: 0 };
    judge.rows(family, &batch, place).unwrap();
    judge.settle(&mut RuleState::new(0), &tracker, &Seen::default()).unwrap()
}

fn started() -> Vec<Alert> {
    found(
        Family::ProcessEvent,
        &[
            json!({"event_type": "process_started", "seq": 7, "name": "x.exe", "pid": 4, "parent_pid": 1,
               "parent_name": "cmd.exe", "path": r"C:\Temp\x.exe", "user": "anna", "command_line": "x.exe /q"}),
            json!({"event_type": "process_started", "session": 0, "lane": "foreign", "seq": -1, "event_id": "e-1"}),
        ],
    )
}

/// Four minutes: busy, busy (told), busy (told again), idle (over).
fn busy() -> Vec<Alert> {
    let rows = [95.25, 91.0, 92.0, 5.0].into_iter().enumerate().map(|(minute, cpu_mean)| {
        let start = minute as i64 * 60_000_000;
        json!({"cpu_mean": cpu_mean, "window_start": start, "window_end": start + 60_000_000})
    });
    let batch = rows_of(RecordKind::Feature1m, &rows.collect::<Vec<_>>()).unwrap();
    Judge::new(&set()).unwrap().features(RecordKind::Feature1m, &batch, &mut RuleState::new(0)).unwrap()
}

fn all() -> Vec<Alert> {
    let mut alerts = started();
    alerts.extend(busy());
    alerts.extend(found(Family::NetworkEvent, &[
        json!({"event_type": "connection", "remote_address": "10.1.2.3", "remote_port": 443, "local_address": "pc1",
               "pid": 9, "process_name": "curl", "path": "/usr/bin/curl"}),
    ]));
    assert_eq!(alerts.len(), 6);
    alerts
}

#[test]
fn an_alert_tells_what_its_event_tells() {
    let alerts = started();
    let alert = &alerts[0];
    assert_eq!(alert.message, r"anna started x.exe (4) from C:\Temp\x.exe; x.exe /q");
    assert_eq!(alerts[1].message, "- started - (-) from -; -");
    assert_eq!((alert.session, alert.seq, alert.lane.as_str()), (1, 7, "normal"));
    assert_eq!(alert.user.as_deref(), Some("anna"));
    assert_eq!(alert.evidence[0]["path"], r"C:\Temp\x.exe");
    assert!(!alert.evidence[0].contains_key("hash"), "what the row does not have is not in the evidence");
}

#[test]
fn a_finding_has_one_id_and_another_finding_another() {
    let (first, again) = (all(), all());
    for (a, b) in first.iter().zip(&again) {
        assert_eq!(a.finding_uid, b.finding_uid);
        assert!(uuid::Uuid::parse_str(&a.finding_uid).is_ok());
    }
    let told: std::collections::BTreeSet<_> =
        first.iter().map(|alert| (&alert.finding_uid, alert.revision)).collect();
    assert_eq!(told.len(), first.len());
    let ids: std::collections::BTreeSet<_> = first.iter().map(|alert| &alert.finding_uid).collect();
    assert_eq!(ids.len(), first.len() - 2, "one finding was created, updated and closed");
}

#[test]
fn windows_make_one_finding() {
    let alerts = busy();
    let alert = &alerts[0];
    assert_eq!((alerts.len(), alert.count), (3, 2));
    assert_eq!(alert.window, Some((0, 120_000_000)));
    assert_eq!((alert.first_seen, alert.last_seen, alert.event_time), (0, 120_000_000, 120_000_000));
    assert_eq!(alert.message, "host-1 at 91.0 percent");
    assert_eq!((alert.session, alert.lane.as_str(), alert.seq), (0, "foreign", -1));
}

#[test]
fn a_finding_that_lasts_is_told_created_updated_and_closed() {
    let alerts = busy();
    let uids: Vec<_> = alerts.iter().map(|alert| &alert.finding_uid).collect();
    assert!(uids.iter().all(|uid| *uid == uids[0]));
    let minute = 60_000_000;
    let told: Vec<_> =
        alerts.iter().map(|a| (a.activity.id(), a.revision, a.count, a.last_seen / minute)).collect();
    assert_eq!(told, [(1, 0, 2, 2), (2, 1, 3, 3), (3, 2, 3, 4)]);
    assert!(alerts.iter().all(|alert| alert.created_at == 2 * minute && alert.first_seen == 0));
    assert_eq!(alerts.iter().map(|alert| alert.status().id()).collect::<Vec<_>>(), [1, 1, 4]);
    assert_eq!(alerts[2].message, "Over: host-1 at 91.0 percent");
    assert_eq!(alerts[2].status_detail.as_deref(), Some("the condition no longer holds"));
    assert_eq!(alerts[2].window, Some((0, 3 * minute)));

    let findings: Vec<_> = alerts.iter().map(to_ocsf).collect();
    let of = |pointer: &str| findings.iter().map(|f| f.pointer(pointer).cloned()).collect::<Vec<_>>();
    assert_eq!(of("/type_uid"), [Some(json!(200_401)), Some(json!(200_402)), Some(json!(200_403))]);
    assert_eq!(of("/is_alert"), [Some(json!(true)), Some(json!(true)), Some(json!(false))]);
    assert_eq!(of("/finding_info/created_time"), vec![Some(json!(120_000)); 3]);
    assert_eq!(of("/finding_info/modified_time"), [None, Some(json!(180_000)), Some(json!(240_000))]);
    let names: std::collections::BTreeSet<_> =
        of("/metadata/uid").into_iter().flatten().map(|v| v.to_string()).collect();
    assert_eq!(names.len(), 3, "each message has a name of its own");
}

#[test]
fn alerts_become_rows_of_the_record() {
    let batch = to_batch(&all()).unwrap();
    assert_eq!(batch.schema(), arrow_schema(RecordKind::Alert));
    assert_eq!(batch.num_rows(), 6);
    let text = |name: &str, row: usize| {
        let column = batch.column_by_name(name).unwrap().as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    assert_eq!(text("rule_id", 0).unwrap(), "any-start");
    assert_eq!(text("kind", 2).unwrap(), "threshold");
    assert_eq!(text("severity", 0).unwrap(), "High");
    assert_eq!(text("labels", 0).unwrap(), r#"{"tactic":"execution"}"#);
    assert_eq!(text("labels", 2), None);
    assert_eq!(text("event_id", 1).unwrap(), "e-1");
    let attacks: Value = serde_json::from_str(&text("attacks", 0).unwrap()).unwrap();
    assert_eq!(attacks, json!({"version": "16.1", "techniques": ["T1036.005", "T1059"]}));
    let evidence: Value = serde_json::from_str(&text("evidence", 0).unwrap()).unwrap();
    assert_eq!(evidence[0]["pid"], 4);
    assert!(batch.column_by_name("window_start").unwrap().is_null(0));
    assert!(batch.column_by_name("window_start").unwrap().is_valid(2));
    assert_eq!(to_batch(&[]).unwrap().num_rows(), 0);
}

fn validator() -> jsonschema::Validator {
    let schema = include_str!("../../schemas/ocsf_detection_finding.schema.json");
    jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap()
}

#[test]
fn every_alert_is_a_detection_finding_of_ocsf() {
    let validator = validator();
    for alert in all() {
        let finding = to_ocsf(&alert);
        let errors: Vec<_> = validator.iter_errors(&finding).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?} in {finding:#}");
    }
}

#[test]
fn the_finding_says_what_the_alert_says() {
    let finding = to_ocsf(&started()[0]);
    assert_eq!(finding["type_uid"], 200_401);
    assert_eq!(finding["severity_id"], 4);
    assert_eq!(finding["time"], 1_732_147_200_000_i64, "OCSF has milliseconds");
    assert_eq!(finding["finding_info"]["attacks"][0]["technique"]["uid"], "T1036");
    assert_eq!(finding["finding_info"]["attacks"][0]["sub_technique"]["uid"], "T1036.005");
    assert_eq!(finding["evidences"][0]["process"]["file"]["name"], "x.exe");
    assert_eq!(finding["evidences"][0]["process"]["parent_process"]["name"], "cmd.exe");
    assert_eq!(finding["evidences"][0]["data"]["user"], "anna");
    assert_eq!(finding["finding_info"]["analytic"]["version"], &**set().hash());
}

#[test]
fn the_schema_refuses_what_is_no_finding() {
    let validator = validator();
    let good = to_ocsf(&started()[0]);
    assert!(validator.is_valid(&good));
    let spoil: [(&str, Value); 11] = [
        ("/activity_name", json!("Close")),
        ("/status", json!("Resolved")),
        ("/severity", json!("Low")),
        ("/class_uid", json!(2001)),
        ("/type_uid", json!(200_499)),
        ("/severity_id", json!(7)),
        ("/time", json!("2024-11-21T00:00:00Z")),
        ("/finding_info/uid", Value::Null),
        ("/metadata/product", json!({})),
        ("/evidences/0", json!({})),
        ("/resources/0", json!({"hostname": "pc1"})),
    ];
    for (pointer, value) in spoil {
        let mut finding = good.clone();
        *finding.pointer_mut(pointer).unwrap() = value;
        assert!(!validator.is_valid(&finding), "{pointer}");
    }
    for required in
        ["metadata", "finding_info", "activity_id", "category_uid", "type_uid", "severity_id", "time"]
    {
        let mut finding = good.clone();
        finding.as_object_mut().unwrap().remove(required);
        assert!(!validator.is_valid(&finding), "without {required}");
    }
    let mut finding = good;
    finding["finding_inf"] = json!({});
    assert!(!validator.is_valid(&finding), "a misspelled field");
}

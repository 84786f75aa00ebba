//! Reports over a small set of rows, with numbers computed by hand.
//!
//! Machine `a`: Tuesday 2026-01-06, 09 h and 10 h (the latter told before it was complete); the Tuesday before 09 h.
//! Machine `b`: the Tuesday 10 h, nobody looks at input there. Machine `c`: only the Tuesday before.
//! alice works on `a` at 9 (1,800 s) and 10 (600 s), bob at 10 (300 s).

mod due;
mod forms;

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use runtime::config::Secret;
use runtime::health::Health;
use runtime::shutdown::Shutdown;
use serde_json::{Value, json};
use sinks::postgres::PostgresConfig;
use sinks::reports::{
    Cadence, Due, Kind, Period, Report, ReportsConfig, Subject, compute, due, html, run, store, text,
};
use sqlx::{Executor as _, PgConnection};

use crate::database::Database;
use crate::log::until;

const ROWS: &str = "
insert into agents (agent_id, seen_at, host) values ('a', '2026-01-06 12:00Z', 'pc-a'), ('b', '2026-01-06 12:00Z', 'pc-b');
insert into features_1h (agent_id, window_start, window_end, host, revision, is_partial, samples, events, coverage, late,
    lost, cpu_mean, cpu_max, cpu_over_share, mem_used_mean_bytes, mem_used_max_bytes, disk_used_max_percent,
    net_rx_mean_bytes_per_s, active_s, idle_runs, mouse_events, keyboard_events, first_seen_starts, suspicious_paths)
values
    ('a', '2026-01-06 09:00Z', '2026-01-06 10:00Z', 'pc-a', 0, false, 60, 100, 1,   0, 0, 10, 50, 0,    1000, 2000, 70, 2, 1800, 2, 30, 300, 1, 1),
    ('a', '2026-01-06 10:00Z', '2026-01-06 11:00Z', 'pc-a', 1, true,  60, 100, 0.5, 1, 2, 30, 90, 0.5,  3000, 4000, 71, 1, 900,  1, 10, 100, 0, 0),
    ('b', '2026-01-06 10:00Z', '2026-01-06 11:00Z', 'pc-b', 0, false, 60, 50,  1,   0, 0, 80, 99, 0.25, 500,  600,  20, 0, null, null, null, null, null, null),
    ('a', '2025-12-30 09:00Z', '2025-12-30 10:00Z', 'pc-a', 0, false, 60, 100, 1,   0, 0, 20, 50, 0,    1000, 2000, 60, 2, 1350, 1, 10, 10, 0, 0),
    ('c', '2025-12-30 09:00Z', '2025-12-30 10:00Z', 'pc-c', 0, false, 60, 100, 1,   0, 0, 40, 50, 0,    1000, 2000, 60, 2, 0,    0, 0, 0, 0, 0);
insert into user_features_1h (agent_id, username, window_start, window_end, revision, is_partial, active_s) values
    ('a', 'alice', '2026-01-06 09:00Z', '2026-01-06 10:00Z', 0, false, 1800),
    ('a', 'alice', '2026-01-06 10:00Z', '2026-01-06 11:00Z', 0, false, 600),
    ('a', 'bob',   '2026-01-06 10:00Z', '2026-01-06 11:00Z', 0, false, 300);
insert into program_starts (id, \"timestamp\", username, process_name, agent_id)
select gen_random_uuid(), at::timestamptz, username, name, 'a' from (values
    ('2026-01-06 09:10Z', 'alice', 'chrome'), ('2026-01-06 09:20Z', 'alice', 'chrome'),
    ('2026-01-06 10:10Z', 'bob', 'vim <b>'), ('2025-12-30 09:10Z', 'alice', 'chrome')) as t (at, username, name);
insert into programs (id, name, path, path_class, first_seen, last_seen) values
    (gen_random_uuid(), 'vim <b>', '/tmp/vim', 'temp', '2026-01-06 10:10Z', '2026-01-06 10:10Z'),
    (gen_random_uuid(), 'chrome', '/usr/bin/chrome', 'system', '2025-12-30 09:10Z', '2026-01-06 09:20Z');
insert into alerts (finding_uid, rule_id, rule_title, rule_set, kind, severity_id, severity, status_id, status, activity_id,
    class_uid, type_uid, agent_id, session, lane, seq, host, username, event_time, first_seen, last_seen, count, message,
    evidence)
select uid, rule, 'Title of ' || rule, 's', 'match', severity_id, severity, status_id, 'New', 1, 2004, 200401, 'a', 0,
    'normal', 0, 'pc-a', username, at::timestamptz, at::timestamptz, at::timestamptz, n, 'message of ' || uid, '[]'
from (values
    ('f1', 'suspicious-path', 2, 'Low', 1, 'bob', '2026-01-06 10:10Z', 3),
    ('f2', 'suspicious-path', 2, 'Low', 4, 'bob', '2026-01-06 10:20Z', 1),
    ('f3', 'forbidden-program', 4, 'High', 1, null, '2026-01-06 09:30Z', 1),
    ('f0', 'suspicious-path', 2, 'Low', 1, 'alice', '2025-12-30 09:10Z', 1)
) as t (uid, rule, severity_id, severity, status_id, username, at, n);
insert into alert_feedback (alert_id, author, verdict, given_at) values
    ('f1', 'ann', 'fp', '2026-01-06 11:00Z'), ('f1', 'ben', 'tp', '2026-01-06 12:00Z'),
    ('f2', 'ann', 'benign', '2026-01-06 11:00Z'), ('f0', 'ann', 'fp', '2026-01-06 11:00Z');
";

/// For one query.
const LIMIT: Duration = Duration::from_mins(1);

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn tuesday() -> Period {
    Period::holding(Kind::Day, day("2026-01-06"))
}

pub(crate) async fn filled() -> (Database, PgConnection) {
    let database = Database::migrated().await;
    let mut connection = database.connect().await;
    connection.execute(ROWS).await.unwrap();
    (database, connection)
}

async fn computed(connection: &mut PgConnection, period: Period, subject: &Subject) -> Report {
    compute(connection, period, subject, "UTC", LIMIT).await.unwrap()
}

/// The named members of an object.
fn members(object: &Value, names: &[&str]) -> Value {
    names
        .iter()
        .map(|name| ((*name).to_owned(), object[*name].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[tokio::test]
async fn the_day_of_the_fleet() {
    let (_database, mut connection) = filled().await;
    let json = computed(&mut connection, tuesday(), &Subject::Fleet).await.json;

    // 1800 + 900 s in the two hours of `a` with input, of three hours in all: 2700 / 7200
    let names = [
        "active_s",
        "active_hours",
        "hours",
        "work_load",
        "days",
        "first_hour",
        "last_hour",
        "idle_runs",
        "mouse_events",
        "keyboard_events",
    ];
    assert_eq!(
        members(&json["activity"], &names),
        json!({
            "active_s": 2700, "active_hours": 2, "hours": 3, "work_load": 0.375, "days": 1,
            "first_hour": "2026-01-06 09:00", "last_hour": "2026-01-06 10:00", "idle_runs": 3, "mouse_events": 40,
            "keyboard_events": 400,
        })
    );
    // alice 2400 of 7200 s, bob 300 of 3600 s
    let users = json["activity"]["users"].as_array().unwrap();
    assert_eq!(users.len(), 2);
    assert_eq!((users[0]["username"].as_str(), users[0]["active_s"].as_f64()), (Some("alice"), Some(2400.0)));
    assert!((users[0]["work_load"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-12);
    assert!((users[1]["work_load"].as_f64().unwrap() - 1.0 / 12.0).abs() < 1e-12);

    // (10 + 30 + 80) / 3; (1000 + 3000 + 500) / 3; (2 + 1 + 0) / 3 B/s
    let names = [
        "cpu_mean",
        "cpu_max",
        "cpu_over_share",
        "mem_used_mean_bytes",
        "mem_used_max_bytes",
        "disk_used_max_percent",
        "net_rx_mean_bytes_per_s",
        "net_tx_mean_bytes_per_s",
    ];
    assert_eq!(
        members(&json["load"], &names),
        json!({
            "cpu_mean": 40, "cpu_max": 99, "cpu_over_share": 0.25, "mem_used_mean_bytes": 1500,
            "mem_used_max_bytes": 4000, "disk_used_max_percent": 71, "net_rx_mean_bytes_per_s": 1,
            "net_tx_mean_bytes_per_s": null,
        })
    );
    let machines = json["load"]["machines"].as_array().unwrap();
    let named: Vec<_> =
        machines.iter().map(|one| (one["host"].as_str().unwrap(), one["cpu_mean"].as_f64())).collect();
    assert_eq!(named, [("pc-b", Some(80.0)), ("pc-a", Some(20.0))], "the busiest first");

    assert_eq!(
        members(&json["programs"], &["starts", "distinct", "first_seen_starts", "suspicious_paths", "top"]),
        json!({
            "starts": 3, "distinct": 2, "first_seen_starts": 1, "suspicious_paths": 1,
            "top": [
                { "name": "chrome", "starts": 2, "agents": 1, "users": 1 },
                { "name": "vim <b>", "starts": 1, "agents": 1, "users": 1 },
            ],
        })
    );
    let new = json["programs"]["new"].as_array().unwrap();
    assert_eq!(
        (new.len(), new[0]["name"].as_str()),
        (1, Some("vim <b>")),
        "chrome was known the week before"
    );

    assert_eq!(
        members(&json["alerts"], &["findings", "rows", "open", "by_severity", "verdicts"]),
        json!({
            "findings": 3, "rows": 5, "open": 2,
            "by_severity": [
                { "severity_id": 4, "severity": "High", "findings": 1 },
                { "severity_id": 2, "severity": "Low", "findings": 2 },
            ],
            // the newest verdict of each finding: ben's of f1, ann's of f2; f0 is of another week
            "verdicts": { "tp": 1, "fp": 0, "benign": 1 },
        })
    );
    let worst: Vec<_> =
        json["alerts"]["worst"].as_array().unwrap().iter().map(|one| one["finding_uid"].clone()).collect();
    assert_eq!(worst, ["f3", "f2", "f1"]);
    let rules: Vec<_> =
        json["alerts"]["by_rule"].as_array().unwrap().iter().map(|one| one["rule_id"].clone()).collect();
    assert_eq!(rules, ["forbidden-program", "suspicious-path"]);

    // three machines are known, for 24 h each; (1 + 0.5 + 1) of 72 hours were observed
    let names = [
        "agents_known",
        "agents_seen",
        "silent",
        "hours_expected",
        "hours_seen",
        "partial_hours",
        "events",
        "late",
        "lost",
    ];
    assert_eq!(
        members(&json["coverage"], &names),
        json!({
            "agents_known": 3, "agents_seen": 2, "silent": [{ "agent_id": "c", "host": "pc-c" }],
            "hours_expected": 72, "hours_seen": 3, "partial_hours": 1, "events": 250, "late": 1, "lost": 2,
        })
    );
    assert!((json["coverage"]["share"].as_f64().unwrap() - 2.5 / 72.0).abs() < 1e-12);
    assert!((json["coverage"]["coverage_mean"].as_f64().unwrap() - 2.5 / 3.0).abs() < 1e-12);
}

#[tokio::test]
async fn the_course_and_the_pattern() {
    let (_database, mut connection) = filled().await;
    let json = computed(&mut connection, tuesday(), &Subject::Fleet).await.json;
    let steps = json["series"].as_array().unwrap();
    assert_eq!(steps.len(), 24);
    let names = ["at", "active_s", "cpu_mean", "cpu_max", "hours", "starts", "alerts"];
    assert_eq!(
        members(&steps[10], &names),
        json!({ "at": "2026-01-06 10:00", "active_s": 900, "cpu_mean": 55, "cpu_max": 99, "hours": 2, "starts": 1, "alerts": 2 })
    );
    assert_eq!(
        members(&steps[11], &names),
        json!({ "at": "2026-01-06 11:00", "active_s": null, "cpu_mean": null, "cpu_max": null, "hours": 0, "starts": 0, "alerts": 0 })
    );
    // Tuesdays at 9: (1800 + 1350 + 0) s of three looked-at hours; at 10: 900 s of one, for nobody looked at `b`
    assert_eq!(
        json["pattern"],
        json!([
            { "weekday": 2, "hour": 9, "hours": 3, "active_share": 3150.0 / 10800.0, "cpu_mean": 70.0 / 3.0 },
            { "weekday": 2, "hour": 10, "hours": 2, "active_share": 0.25, "cpu_mean": 55 },
        ])
    );
    let week =
        computed(&mut connection, Period::holding(Kind::Week, day("2026-01-06")), &Subject::Fleet).await.json;
    let steps = week["series"].as_array().unwrap();
    assert_eq!((steps.len(), week["period_start"].as_str()), (7, Some("2026-01-05")));
    assert_eq!(
        members(&steps[1], &["at", "active_s", "hours"]),
        json!({ "at": "2026-01-06 00:00", "active_s": 2700, "hours": 3 })
    );
}

#[tokio::test]
async fn the_trend_against_the_week_before() {
    let (_database, mut connection) = filled().await;
    let trend = computed(&mut connection, tuesday(), &Subject::Fleet).await.json["trend"].clone();
    let expected = [
        ("active_s", json!({ "now": 2700, "before": 1350, "change_percent": 100.0 })),
        ("cpu_mean", json!({ "now": 40, "before": 30, "change_percent": 100.0 / 3.0 })),
        ("starts", json!({ "now": 3, "before": 1, "change_percent": 200.0 })),
        ("alerts", json!({ "now": 3, "before": 1, "change_percent": 200.0 })),
        ("hours", json!({ "now": 3, "before": 2, "change_percent": 50.0 })),
        // 2700 / 7200 now, 1350 / 3600 then
        ("work_load", json!({ "now": 0.375, "before": 0.375, "change_percent": 0.0 })),
    ];
    for (name, change) in expected {
        assert_eq!(trend[name], change, "{name}");
    }
    let before = Period::holding(Kind::Day, day("2025-12-30"));
    let trend = computed(&mut connection, before, &Subject::Fleet).await.json["trend"].clone();
    assert_eq!(trend["active_s"], json!({ "now": 1350, "before": null, "change_percent": null }));
}

#[tokio::test]
async fn one_machine_and_one_user() {
    let (_database, mut connection) = filled().await;
    let json = computed(&mut connection, tuesday(), &Subject::Agent("a".into())).await.json;
    assert_eq!(json["host"], "pc-a");
    assert_eq!(json["load"]["cpu_mean"], 20.0);
    assert_eq!(json["activity"]["active_s"], 2700.0);
    assert_eq!(
        members(&json["coverage"], &["agents_known", "hours_expected", "hours_seen"]),
        json!({ "agents_known": 1, "hours_expected": 24, "hours_seen": 2 })
    );

    // bob: 300 s in one hour on `a`, when its processor had 30 %; one start; the two findings that name him
    let json = computed(&mut connection, tuesday(), &Subject::User("bob".into())).await.json;
    assert_eq!(
        members(&json["activity"], &["active_s", "active_hours", "hours"]),
        json!({ "active_s": 300, "active_hours": 1, "hours": 1 })
    );
    assert_eq!(json["load"]["cpu_mean"], 30.0);
    assert_eq!(json["programs"]["starts"], 1);
    assert_eq!(json["alerts"]["findings"], 2);
    assert_eq!(
        members(&json["coverage"], &["agents_known", "agents_seen", "share", "coverage_mean"]),
        json!({ "agents_known": null, "agents_seen": 1, "share": null, "coverage_mean": 0.5 })
    );
}

#[tokio::test]
async fn days_begin_in_the_zone_and_an_unknown_zone_is_told() {
    let (_database, mut connection) = filled().await;
    // 10:00 UTC is 00:00 of the next day in Kiritimati (UTC+14)
    let (zone, wednesday) = ("Pacific/Kiritimati", Period::holding(Kind::Day, day("2026-01-07")));
    let json = compute(&mut connection, wednesday, &Subject::Fleet, zone, LIMIT).await.unwrap().json;
    assert_eq!(
        members(&json["activity"], &["active_s", "first_hour"]),
        json!({ "active_s": 900, "first_hour": "2026-01-07 00:00" })
    );
    let error =
        compute(&mut connection, tuesday(), &Subject::Fleet, "Mars/Olympus", LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("Mars/Olympus"), "{error}");
}

#[tokio::test]
async fn computing_again_replaces_and_an_older_one_does_not() {
    let (database, mut connection) = filled().await;
    let first = computed(&mut connection, tuesday(), &Subject::Fleet).await;
    store(&mut connection, &first).await.unwrap();
    let again = computed(&mut connection, tuesday(), &Subject::Fleet).await;
    assert_eq!(again.json, first.json, "the same tables give the same report");
    store(&mut connection, &again).await.unwrap();
    connection
        .execute("update features_1h set cpu_max = 100, changed_at = now() where agent_id = 'b'")
        .await
        .unwrap();
    let newer = computed(&mut connection, tuesday(), &Subject::Fleet).await;
    store(&mut connection, &newer).await.unwrap();
    store(&mut connection, &first).await.unwrap();
    until(&database, "select count(*) || ' ' || max(body -> 'load' ->> 'cpu_max') from reports", "1 100")
        .await;
}

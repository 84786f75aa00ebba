use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Schema;
use schemas::columns::arrow_schema;
use schemas::record::RecordKind;
use serde_json::{Value, json};

use super::family::FamilyPlan;
use super::*;
use crate::rules::testing::rows_of;

const NOW: i64 = 1_732_147_200_000_000;

fn batch(family: Family, rows: &[Value]) -> RecordBatch {
    rows_of(RecordKind::Family(family), rows).unwrap()
}

fn normalise(family: Family, rows: &[Value]) -> Normalised {
    Normaliser::new(&Functions::new()).unwrap().apply(family, batch(family, rows)).unwrap()
}

fn texts<'a>(rows: &'a Normalised, column: &str) -> Vec<Option<&'a str>> {
    rows.batch.column_by_name(column).unwrap().as_string::<i32>().iter().collect()
}

#[test]
fn every_family_keeps_its_columns_and_an_ordinary_row() {
    let mut normaliser = Normaliser::new(&Functions::new()).unwrap();
    for family in Family::ALL {
        let ordinary = json!({
            "cpu_percent": 5.0, "memory_bytes": 1, "name": "bash", "path": "/usr/bin/bash", "pid": 4, "mouse": true,
            "program": "vim", "remote_address": "10.0.0.1", "bus": "usb",
        });
        let schema = arrow_schema(RecordKind::Family(family));
        let known = |(name, value): (&String, &Value)| {
            schema.index_of(name).is_ok().then(|| (name.clone(), value.clone()))
        };
        let ordinary = ordinary.as_object().unwrap().iter().filter_map(known).collect();
        let rows = batch(family, &[Value::Object(ordinary)]);
        let result = normaliser.apply(family, rows.clone()).unwrap();
        assert_eq!(result.batch.schema(), arrow_schema(RecordKind::Family(family)), "{family:?}");
        assert_eq!(result.kept, [0], "{family:?}");
        assert_eq!(texts(&result, "flags"), [None], "{family:?}");
        assert_eq!(normaliser.apply(family, rows.slice(0, 0)).unwrap().batch.num_rows(), 0, "{family:?}");
        // cleaning twice is cleaning once
        assert_eq!(normaliser.apply(family, result.batch.clone()).unwrap().batch, result.batch, "{family:?}");
    }
}

#[test]
fn names_are_trimmed_and_paths_classed() {
    let rows = normalise(
        Family::ProcessEvent,
        &[
            json!({"event_type": "process_started", "name": " SVCHOST.EXE ", "path": r" C:\Windows\System32\svchost.exe ",
               "user": "  ", "hash": "ABCD"}),
            json!({"event_type": "process_started", "path": "/tmp/.X11/Evil"}),
            json!({"event_type": "service_changed", "service": "sshd", "service_state": "Running"}),
        ],
    );
    assert_eq!(texts(&rows, "name"), [Some("svchost.exe"), Some("Evil"), None]);
    assert_eq!(
        texts(&rows, "path"),
        [Some(r"C:\Windows\System32\svchost.exe"), Some("/tmp/.X11/Evil"), None]
    );
    assert_eq!(texts(&rows, "path_class"), [Some("system"), Some("temp"), None]);
    assert_eq!(texts(&rows, "user"), [None, None, None]);
    assert_eq!(texts(&rows, "hash"), [Some("abcd"), None, None]);
    assert_eq!(texts(&rows, "service_state"), [None, None, Some("running")]);
}

#[test]
fn the_impossible_is_flagged_and_kept_as_it_is() {
    let rows = normalise(
        Family::HostMetrics,
        &[
            json!({"cpu_percent": 100.0}),
            json!({"cpu_percent": 100.1}),
            json!({"cpu_percent": 390.0, "cpu_count": 4}),
            json!({"cpu_percent": -1.0, "flags": "from_source"}),
            json!({"mem_used_bytes": 2, "mem_total_bytes": 1, "disk_used_bytes": -1}),
            json!({"cpu_percent": 1.0, "event_time": NOW + 300_000_001}),
            json!({"cpu_percent": 1.0, "event_time": NOW + 300_000_000}),
            json!({"cpu_percent": 1.0, "event_time": 0}),
            json!({"net_rx_bytes_per_s": -0.5, "flags": "negative_rate"}),
        ],
    );
    assert_eq!(
        texts(&rows, "flags"),
        [
            None,
            Some("cpu_out_of_range"),
            None,
            Some("from_source,cpu_out_of_range"),
            Some("negative_size,used_over_total"),
            Some("future_time"),
            None,
            Some("implausible_time"),
            Some("negative_rate"),
        ]
    );
    let percent = rows.batch.column_by_name("cpu_percent").unwrap();
    let percent = percent.as_primitive::<arrow::datatypes::Float64Type>();
    assert!((percent.value(1) - 100.1).abs() < f64::EPSILON, "a flag never changes the value");
}

#[test]
fn impossible_values_of_the_other_families() {
    let cases = [
        (Family::ProcessSample, json!({"name": "x", "cpu_percent": -0.1}), "cpu_out_of_range"),
        (Family::ProcessSample, json!({"name": "x", "memory_bytes": -1}), "negative_size"),
        (Family::ProcessSample, json!({"name": "x", "group_size": 0}), "impossible_process"),
        (Family::ProcessEvent, json!({"name": "x", "pid": -4}), "impossible_process"),
        (Family::ProcessEvent, json!({"name": "x", "started_at": NOW + 400_000_000}), "started_later"),
        (Family::UserActivity, json!({"mouse_events": -1}), "negative_count"),
        (Family::UserActivity, json!({"idle_s": -1.0}), "negative_duration"),
        (Family::WindowEvent, json!({"hid_code": -1}), "impossible_code"),
        (Family::FileEvent, json!({"path": "/x", "size_bytes": -1}), "negative_size"),
        (Family::NetworkEvent, json!({"remote_address": "::1", "remote_port": 65536}), "impossible_port"),
        (Family::DeviceEvent, json!({"bus": "usb", "event_time": NOW + 301_000_000}), "future_time"),
        (Family::AgentStatus, json!({"shed_from": 5, "shed_to": 4}), "impossible_range"),
        (Family::AgentStatus, json!({"queue_rows": -5}), "negative_count"),
        (Family::CustomEvent, json!({"payload": "{}", "event_time": -1}), "implausible_time"),
    ];
    for (family, row, flag) in cases {
        assert_eq!(texts(&normalise(family, std::slice::from_ref(&row)), "flags"), [Some(flag)], "{row}");
    }
}

#[test]
fn the_insignificant_is_dropped_and_counted_by_rule() {
    let rows = normalise(
        Family::ProcessSample,
        &[
            json!({"name": "", "cpu_percent": 3.0}),
            json!({"name": "bash", "cpu_percent": 1.0, "memory_bytes": 5}),
            json!({"name": "kworker", "cpu_percent": 0.0, "memory_bytes": 0}),
            json!({"cpu_percent": 0.0, "memory_bytes": 0}),
            json!({"pid": 7, "cpu_percent": 0.0}),
        ],
    );
    assert_eq!(rows.kept, [1, 4]);
    assert_eq!(rows.batch.num_rows(), 2);
    assert_eq!(texts(&rows, "name"), [Some("bash"), None]);
    assert_eq!(rows.dropped, [("empty_sample".to_owned(), 2), ("idle_sample".to_owned(), 1)]);
}

#[test]
fn empty_rows_go_where_nothing_is_said() {
    let silent = [
        Family::HostMetrics,
        Family::ProcessSample,
        Family::ProcessEvent,
        Family::UserActivity,
        Family::WindowEvent,
        Family::FileEvent,
        Family::NetworkEvent,
        Family::DeviceEvent,
    ];
    for family in Family::ALL {
        let rows = normalise(family, &[json!({})]);
        assert_eq!(rows.kept.is_empty(), silent.contains(&family), "{family:?}");
        assert_eq!(rows.dropped.len(), rows.batch.num_rows().abs_diff(1), "{family:?}");
    }
}

#[test]
fn a_query_that_does_not_fit_the_family_is_refused() {
    let cases = [
        ("SELECT 1 AS nosuch FROM events", "no column `nosuch`"),
        ("SELECT 1 AS host FROM events", "`host` is Int64, but must be Utf8"),
        ("SELECT 'x' AS flag_x FROM events", "`flag_x` is Utf8, but must be Boolean"),
        ("SELECT nosuch FROM events", "normalising process_event"),
    ];
    for (sql, says) in cases {
        let error = FamilyPlan::new(Family::ProcessEvent, sql, &Functions::new()).unwrap_err().to_string();
        assert!(error.contains(says), "{sql}: {error}");
    }
}

#[test]
fn a_query_that_filters_is_refused_at_the_first_batch() {
    let sql = "SELECT host FROM events WHERE pid > 5";
    let mut plan = FamilyPlan::new(Family::ProcessEvent, sql, &Functions::new()).unwrap();
    let error = plan.apply(batch(Family::ProcessEvent, &[json!({"pid": 1})])).unwrap_err().to_string();
    assert!(error.contains("answered 0 rows for 1"), "{error}");
}

#[test]
fn a_batch_of_another_family_is_an_error() {
    let mut normaliser = Normaliser::new(&Functions::new()).unwrap();
    let other = RecordBatch::new_empty(Arc::new(Schema::empty()));
    assert!(normaliser.apply(Family::ProcessEvent, other).is_err());
}

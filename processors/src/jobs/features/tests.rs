//! What stands in feature rows, against plain arithmetic over the events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::engine::simulation::Chance;
use crate::rules::testing::rows_of;

const SECOND: i64 = 1_000_000;
/// An hour begins here.
const START: i64 = 472_222 * 60 * MINUTE;

fn plans() -> &'static Mutex<FeaturePlans> {
    static PLANS: OnceLock<Mutex<FeaturePlans>> = OnceLock::new();
    PLANS.get_or_init(|| Mutex::new(FeaturePlans::new(&Functions::new()).unwrap()))
}

/// Feature windows fed by hand; agents are known by number.
struct Rig {
    windows: FeatureWindows,
    watermark: i64,
    interval: i64,
}

impl Rig {
    fn new() -> Self {
        Self { windows: FeatureWindows::new(&plans().lock()), watermark: i64::MIN, interval: 10 * SECOND }
    }

    /// Rows of one agent; `event_time` is in seconds after the start.
    fn add(&mut self, agent: u32, family: Family, rows: &[Value]) -> usize {
        let complete = |row: &Value| {
            let mut row = row.clone();
            let seconds = row["event_time"].as_f64().unwrap();
            row["event_time"] = json!(START + (seconds * 1e6) as i64);
            row["agent_id"] = json!(name(agent));
            row
        };
        let rows: Vec<Value> = rows.iter().map(complete).collect();
        let times: Vec<Timed> = rows
            .iter()
            .map(|row| Timed { time: row["event_time"].as_i64().unwrap(), watermark: self.watermark })
            .collect();
        let heard = vec![Heard { agent, interval: self.interval, hearsay: false }; rows.len()];
        let batch = rows_of(RecordKind::Family(family), &rows).unwrap();
        self.windows.add(family, &batch, &times, &heard, |number| Arc::from(name(number))).unwrap().len()
    }

    fn closings(&self, agents: u32, before: i64) -> Vec<Closing> {
        let of = |agent| Closing { agent: Arc::from(name(agent)), before, watermark: self.watermark };
        (0..agents).map(of).collect()
    }

    /// Moves the watermark of some agents to so many seconds after the start.
    fn close(&mut self, agents: u32, seconds: i64) -> Vec<Emission> {
        let before = std::mem::replace(&mut self.watermark, START + seconds * SECOND);
        let closings = self.closings(agents, before);
        self.windows.close(&mut plans().lock(), &closings).unwrap()
    }

    fn peek(&mut self, agents: u32) -> Vec<Emission> {
        let agents = self.closings(agents, self.watermark);
        self.windows.peek(&mut plans().lock(), &agents).unwrap()
    }
}

fn name(agent: u32) -> String {
    format!("agent-{agent}")
}

fn column(rows: &RecordBatch, name: &str) -> ArrayRef {
    Arc::clone(rows.column_by_name(name).unwrap_or_else(|| panic!("no column {name}")))
}

/// A number of a row, whatever its type; `None` for null.
fn number(rows: &RecordBatch, name: &str, row: usize) -> Option<f64> {
    let numbers = cast(&column(rows, name), &DataType::Float64).unwrap();
    let numbers = numbers.as_primitive::<Float64Type>();
    numbers.is_valid(row).then(|| numbers.value(row))
}

fn text(rows: &RecordBatch, name: &str, row: usize) -> String {
    column(rows, name).as_string::<i32>().value(row).to_owned()
}

/// The only emission of this kind.
fn of(emissions: &[Emission], kind: RecordKind) -> RecordBatch {
    let mut found = emissions.iter().filter(|emission| emission.kind == kind);
    let only = found.next().unwrap_or_else(|| panic!("no {}", kind.name()));
    assert!(found.next().is_none());
    only.rows.clone()
}

fn check(rows: &RecordBatch, row: usize, expected: &[(&str, Option<f64>)]) {
    for (name, expected) in expected {
        let found = number(rows, name, row);
        let equal = match (found, expected) {
            (Some(found), Some(expected)) => (found - expected).abs() <= 1e-9 * expected.abs().max(1.0),
            (found, expected) => found == *expected,
        };
        assert!(equal, "{name}: {found:?} instead of {expected:?}");
    }
}

#[test]
fn a_minute_of_metrics_is_what_the_documentation_of_its_columns_says() {
    let mut rig = Rig::new();
    let reading = |at: f64, seq: i64, cpu: f64, used: i64| {
        json!({"event_time": at, "seq": seq, "cpu_percent": cpu, "mem_used_bytes": used,
            "mem_total_bytes": 1000, "load_1": cpu / 50.0, "cpu_count": 2, "host": "pc"})
    };
    rig.add(
        0,
        Family::HostMetrics,
        &[
            reading(31.0, 3, 90.0, 950),
            reading(2.0, 1, 20.0, 100),
            reading(59.9, 9, 40.0, 300),
            json!({"event_time": 12.0, "disk_used_bytes": 90, "disk_total_bytes": 100, "disk": "/"}),
            json!({"event_time": 13.0, "net_rx_bytes_per_s": 7.0, "net_interface": "e"}),
        ],
    );
    let minute = of(&rig.close(1, 62), RecordKind::Feature1m);
    assert_eq!(minute.num_rows(), 1);
    assert_eq!((text(&minute, "agent_id", 0), text(&minute, "host", 0)), (name(0), "pc".to_owned()));
    let spread = |values: [f64; 3]| {
        let mean = values.iter().sum::<f64>() / 3.0;
        (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 3.0).sqrt()
    };
    let some = Some;
    check(
        &minute,
        0,
        &[
            ("samples", some(5.0)),
            ("cpu_samples", some(3.0)),
            ("cpu_mean", some(50.0)),
            ("cpu_min", some(20.0)),
            ("cpu_max", some(90.0)),
            ("cpu_std", some(spread([20.0, 90.0, 40.0]))),
            ("cpu_last", some(40.0)),
            ("cpu_over_share", some(1.0 / 3.0)),
            ("load_last", some(0.8)),
            ("load_over_share", some(0.0)),
            ("mem_used_mean_bytes", some(450.0)),
            ("mem_used_max_bytes", some(950.0)),
            ("mem_used_min_bytes", some(100.0)),
            ("mem_used_last_bytes", some(300.0)),
            ("mem_over_share", some(1.0 / 3.0)),
            ("disk_used_mean_percent", some(90.0)),
            ("disk_over_share", some(1.0)),
            ("net_rx_mean_bytes_per_s", some(7.0)),
            ("net_rx_samples", some(1.0)),
            // Nobody measured these.
            ("net_tx_samples", some(0.0)),
            ("net_tx_mean_bytes_per_s", None),
            ("swap_used_last_bytes", None),
            ("swap_over_share", None),
            // Heard in the seconds 2, 12, 13, 31 and 59: four of six intervals.
            ("events", some(5.0)),
            ("reports_expected", some(6.0)),
            ("reports_received", some(4.0)),
            ("coverage", some(4.0 / 6.0)),
            ("late", some(0.0)),
            ("lost", some(0.0)),
            ("starts", None),
            ("active_s", None),
        ],
    );
}

#[test]
fn a_zero_is_told_only_by_who_looked() {
    let mut rig = Rig::new();
    // Agent 0 samples processes, and none starts. Agent 1 only says that it lives. Agent 2 is dead.
    rig.add(0, Family::ProcessSample, &[json!({"event_time": 1.0, "name": "x", "cpu_percent": 3.0})]);
    rig.add(1, Family::AgentStatus, &[json!({"event_time": 1.0, "event_type": "agent_health"})]);
    let minute = of(&rig.close(3, 120), RecordKind::Feature1m);
    assert_eq!(minute.num_rows(), 2, "a dead agent has no row at all");
    check(
        &minute,
        0,
        &[
            ("starts", Some(0.0)),
            ("stops", Some(0.0)),
            ("suspicious_paths", Some(0.0)),
            ("distinct_programs", Some(0.0)),
            ("program_entropy_bits", None),
            ("process_samples", Some(1.0)),
            ("top_process_share", Some(1.0)),
            ("samples", Some(0.0)),
            ("cpu_mean", None),
            ("active_s", None),
            ("input_ratio", None),
            ("idle_runs", None),
        ],
    );
    for name in ["starts", "stops", "process_samples", "cpu_mean", "active_s", "mouse_events"] {
        check(&minute, 1, &[(name, None)]);
    }
    check(&minute, 1, &[("events", Some(1.0)), ("coverage", Some(1.0 / 6.0))]);
}

#[test]
fn users_have_rows_of_their_own_and_the_machine_has_the_total() {
    let mut rig = Rig::new();
    let start = |at: f64, user: Value, name: &str, class: &str| json!({"event_time": at, "event_type": "process_started", "user": user, "name": name, "path_class": class});
    rig.add(
        0,
        Family::ProcessEvent,
        &[
            start(1.0, json!("anna"), "a.exe", "user_temp"),
            start(2.0, json!("anna"), "b.exe", "system"),
            start(3.0, json!("boris"), "a.exe", "system"),
            start(4.0, Value::Null, "c.exe", "temp"),
            json!({"event_time": 5.0, "event_type": "process_stopped", "user": "boris", "name": "a.exe"}),
            json!({"event_time": 6.0, "event_type": "process_started", "first_seen": true, "user": "boris",
                "name": "a.exe"}),
        ],
    );
    let active = |at: f64, user: &str, active: f64, idle: f64| {
        json!({"event_time": at, "user": user, "mouse": active > 0.0, "keyboard": false,
            "mouse_events": active as i64, "keyboard_events": 0, "active_s": active, "idle_s": idle})
    };
    rig.add(
        0,
        Family::UserActivity,
        &[
            active(10.0, "anna", 10.0, 0.0),
            // One run without input, told twice; then input; then another run.
            active(20.0, "anna", 0.0, 10.0),
            active(30.0, "anna", 0.0, 20.0),
            active(40.0, "anna", 10.0, 0.0),
            active(50.0, "anna", 0.0, 10.0),
        ],
    );
    rig.add(
        0,
        Family::ProcessSample,
        &[
            json!({"event_time": 7.0, "user": "boris", "name": "a.exe", "cpu_percent": 30.0}),
            json!({"event_time": 7.0, "user": "boris", "name": "b.exe", "cpu_percent": 10.0}),
            json!({"event_time": 7.0, "user": "anna", "name": "a.exe", "cpu_percent": 60.0}),
        ],
    );
    let emissions = rig.close(1, 61);
    let machine = of(&emissions, RecordKind::Feature1m);
    let users = of(&emissions, RecordKind::UserFeature1m);
    let third = |p: f64| -p * p.log2();
    check(
        &machine,
        0,
        &[
            ("starts", Some(5.0)),
            ("stops", Some(1.0)),
            ("first_seen_starts", Some(1.0)),
            ("suspicious_paths", Some(2.0)),
            ("distinct_programs", Some(3.0)),
            ("program_entropy_bits", Some(third(0.6) + 2.0 * third(0.2))),
            ("top_process_share", Some(0.9)),
            ("active_s", Some(20.0)),
            ("input_ratio", Some(20.0 / 60.0)),
            ("idle_runs", Some(2.0)),
            ("mouse_events", Some(20.0)),
        ],
    );
    assert_eq!(users.num_rows(), 2);
    assert_eq!((text(&users, "user", 0), text(&users, "user", 1)), ("anna".to_owned(), "boris".to_owned()));
    check(
        &users,
        0,
        &[
            ("starts", Some(2.0)),
            ("suspicious_paths", Some(1.0)),
            ("top_process_share", Some(1.0)),
            ("active_s", Some(20.0)),
            ("idle_runs", Some(2.0)),
            // Heard in the seconds 1 to 7, 10, 20, 30, 40, 50.
            ("coverage", Some(1.0)),
        ],
    );
    check(&users, 1, &[("starts", Some(2.0)), ("stops", Some(1.0)), ("active_s", None)]);
}

#[test]
fn an_agent_that_falls_silent_is_told_as_it_stands_in_all_sizes_and_again_when_it_returns() {
    let mut rig = Rig::new();
    let cpu = |at: f64| json!({"event_time": at, "cpu_percent": 50.0});
    rig.add(0, Family::HostMetrics, &[cpu(10.0), cpu(70.0)]);
    let closed = rig.close(1, 68);
    check(&of(&closed, RecordKind::Feature1m), 0, &[("revision", Some(0.0)), ("cpu_samples", Some(1.0))]);
    let partial = rig.peek(1);
    for (kind, samples) in RecordKind::FEATURES.into_iter().zip([1.0, 2.0, 2.0]) {
        let rows = of(&partial, kind);
        check(
            &rows,
            0,
            &[("revision", Some(0.0)), ("cpu_samples", Some(samples)), ("events", Some(samples))],
        );
        assert!(column(&rows, "is_partial").as_boolean().value(0));
    }
    rig.add(0, Family::HostMetrics, &[cpu(80.0), cpu(400.0)]);
    let closed = rig.close(1, 3_600);
    let minutes = of(&closed, RecordKind::Feature1m);
    check(&minutes, 0, &[("revision", Some(1.0)), ("cpu_samples", Some(2.0))]);
    check(&minutes, 1, &[("revision", Some(0.0)), ("cpu_samples", Some(1.0))]);
    check(&of(&closed, RecordKind::Feature5m), 0, &[("revision", Some(1.0)), ("cpu_samples", Some(3.0))]);
    let hour = of(&closed, RecordKind::Feature1h);
    check(
        &hour,
        0,
        &[("revision", Some(1.0)), ("cpu_samples", Some(4.0)), ("reports_expected", Some(360.0))],
    );
    assert!(!column(&hour, "is_partial").as_boolean().value(0));
}

#[test]
fn what_is_late_or_lost_is_counted_where_the_agents_time_stood() {
    let mut rig = Rig::new();
    let cpu = |at: f64| json!({"event_time": at, "cpu_percent": 50.0});
    assert_eq!(rig.add(0, Family::HostMetrics, &[cpu(10.0), cpu(130.0)]), 0);
    rig.close(1, 128);
    assert_eq!(rig.add(0, Family::HostMetrics, &[cpu(20.0), cpu(127.0)]), 1);
    assert_eq!(rig.add(0, Family::FileEvent, &[json!({"event_time": 20.0})]), 0, "no window misses it");
    rig.windows.lost(&Arc::from(name(0)), START + 128 * SECOND, 7);
    let closed = rig.close(1, 300);
    let minute = of(&closed, RecordKind::Feature1m);
    check(
        &minute,
        0,
        &[("late", Some(1.0)), ("lost", Some(7.0)), ("events", Some(2.0)), ("cpu_samples", Some(2.0))],
    );
    check(
        &of(&closed, RecordKind::Feature5m),
        0,
        &[("late", Some(1.0)), ("lost", Some(7.0)), ("events", Some(3.0))],
    );
}

/// Sums of one window, as plain arithmetic finds them.
#[derive(Default)]
struct Plain {
    cpu: Vec<f64>,
    starts: BTreeMap<u64, usize>,
    load: BTreeMap<u64, f64>,
    seconds: BTreeSet<i64>,
}

/// Random events of two agents over two hours, in any order that lateness allows, closed at any time: each size of
/// window equals arithmetic over all of its events.
#[test]
fn each_size_equals_plain_arithmetic_over_its_events() {
    for seed in 0..6 {
        let mut chance = Chance::new(seed);
        let mut rig = Rig::new();
        let mut plain: [BTreeMap<(u32, i64), Plain>; LEVELS] = Default::default();
        let mut found: [BTreeMap<(u32, i64), RecordBatch>; LEVELS] = Default::default();
        let mut keep = |emissions: Vec<Emission>| {
            for Emission { kind, level, rows } in emissions {
                for row in 0..rows.num_rows() {
                    if kind == RecordKind::FEATURES[level] {
                        let agent =
                            text(&rows, "agent_id", row).trim_start_matches("agent-").parse().unwrap();
                        let start = crate::jobs::scan::micros(&rows, "window_start").unwrap()[row];
                        let before = found[level].insert((agent, start), rows.slice(row, 1));
                        assert!(before.is_none(), "a window came twice");
                    }
                }
            }
        };
        let mut now = 0;
        while now < 7_200 {
            now += chance.below(40) as i64;
            for _ in 0..chance.below(4) {
                let agent = chance.below(2) as u32;
                let at = (now - chance.below(50) as i64).max(0);
                let value = chance.below(1_000) as f64 / 10.0;
                let key = chance.below(9);
                let (family, row) = match chance.below(3) {
                    0 => (Family::HostMetrics, json!({"event_time": at, "cpu_percent": value, "seq": key})),
                    1 => (
                        Family::ProcessEvent,
                        json!({"event_time": at, "event_type": "process_started", "name": format!("p{key}"),
                            "user": format!("u{}", key % 3)}),
                    ),
                    _ => (
                        Family::ProcessSample,
                        json!({"event_time": at, "name": format!("p{key}"), "cpu_percent": value}),
                    ),
                };
                if rig.add(agent, family, &[row]) == 1 {
                    continue;
                }
                for (level, size) in SIZES.into_iter().enumerate() {
                    let time = START + at * SECOND;
                    let window = plain[level].entry((agent, time.div_euclid(size) * size)).or_default();
                    window.seconds.insert(at);
                    match family {
                        Family::HostMetrics => window.cpu.push(value),
                        Family::ProcessEvent => *window.starts.entry(key).or_default() += 1,
                        _ => *window.load.entry(key).or_default() += value,
                    }
                }
            }
            if chance.one_in(3) {
                keep(rig.close(2, now - 30));
            }
        }
        keep(rig.close(2, 10_800));
        for level in 0..LEVELS {
            assert!(found[level].keys().eq(plain[level].keys()), "seed {seed}, level {level}");
            for (key, plain) in &plain[level] {
                compare(&found[level][key], plain, level);
            }
        }
    }
}

fn compare(row: &RecordBatch, plain: &Plain, level: usize) {
    let count = plain.cpu.len() as f64;
    let mean = plain.cpu.iter().sum::<f64>() / count;
    let variance = plain.cpu.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let starts: usize = plain.starts.values().sum();
    let entropy: f64 = plain
        .starts
        .values()
        .map(|part| *part as f64 / starts as f64)
        .map(|share| -share * share.log2())
        .sum();
    let load: f64 = plain.load.values().sum();
    let top = plain.load.values().copied().reduce(f64::max);
    let slots: BTreeSet<i64> = plain.seconds.iter().map(|second| second / 10).collect();
    let looked = !plain.starts.is_empty() || !plain.load.is_empty();
    let expected = [360.0 / 60.0, 360.0 / 12.0, 360.0][level];
    check(
        row,
        0,
        &[
            ("cpu_samples", Some(count)),
            ("starts", looked.then_some(starts as f64)),
            ("distinct_programs", looked.then_some(plain.starts.len() as f64)),
            ("program_entropy_bits", (starts > 0).then_some(entropy)),
            ("top_process_share", top.filter(|_| load > 0.0).map(|top| top / load)),
            ("reports_expected", Some(expected)),
            ("reports_received", Some(slots.len() as f64)),
        ],
    );
    match number(row, "cpu_mean", 0) {
        Some(found) => {
            assert!((found - mean).abs() < 1e-6, "{found} {mean}");
            let deviation = number(row, "cpu_std", 0).unwrap();
            assert!((deviation - variance.sqrt()).abs() < 1e-5, "{deviation} {}", variance.sqrt());
        }
        None => assert!(plain.cpu.is_empty()),
    }
}

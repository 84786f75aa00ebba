//! Measures what feature windows cost: events per CPU-second, on one thread, and bytes of changelog an event.
//!
//! One of eight partitions of 10,000 agents that together make 250,000 events a second: 60 % host metrics, 20 % process
//! samples, 15 % process events, 5 % user activity; a commit every 50 ms of event time. Planning is left out.
#![allow(clippy::print_stdout, reason = "a command line program")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use processors::functions::Functions;
use processors::rules::testing::rows_of;
use processors::windows::{Aggregate, Closing, Timed, Tumbling, Windows};
use schemas::columns::arrow_schema;
use schemas::family::Family;
use schemas::record::RecordKind;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

const AGENTS: usize = 1_250;
const COMMIT: i64 = 50_000;
/// Events of a partition in one commit.
const EVENTS: usize = 1_562;
const MINUTE: i64 = 60_000_000;
const MINUTES: i64 = 3;
const START: i64 = 28_333_334 * MINUTE;

const FAMILIES: [(Family, &str, usize); 4] = [
    (Family::HostMetrics, include_str!("../sql/features_host_metrics.sql"), 60),
    (Family::ProcessSample, include_str!("../sql/features_process_sample.sql"), 20),
    (Family::ProcessEvent, include_str!("../sql/features_process_event.sql"), 15),
    (Family::UserActivity, include_str!("../sql/features_user_activity.sql"), 5),
];

fn main() -> Result<(), Failure> {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!("profile {profile}");
    let (mut all, mut all_bytes, mut all_events) = (Duration::ZERO, 0, 0);
    for (family, sql, percent) in FAMILIES {
        let rows = arrow_schema(RecordKind::Family(family));
        let mut aggregate = Aggregate::new(sql, "events", &rows, &Functions::new())?;
        let sizes = [MINUTE, 5 * MINUTE, 60 * MINUTE];
        let mut windows = Tumbling::new("features", &sizes, &aggregate);
        let count = EVENTS * percent / 100;
        let (mut spent, mut bytes, mut events, mut results) = ([Duration::ZERO; 4], 0, 0, 0);
        for commit in 0..MINUTES * MINUTE / COMMIT {
            let now = START + commit * COMMIT;
            let batch = batch(family, now, commit as usize, count)?;
            let times = vec![Timed { time: now, watermark: now - 2_000_000 }; count];
            let closings = closings(now);
            let mut at = cpu_time();
            let mut lap = |part: usize| {
                let before = std::mem::replace(&mut at, cpu_time());
                spent[part] += at.saturating_sub(before);
            };
            windows.add(&batch, &times)?;
            lap(0);
            let closed = windows.close(&mut aggregate, &closings)?;
            lap(1);
            for closed in closed {
                results += aggregate.results_and_totals(&closed.rows)?.num_rows();
            }
            lap(2);
            for changes in windows.operator().changes() {
                bytes += written(&changes?)?;
            }
            lap(3);
            events += count;
        }
        let whole: Duration = spent.iter().sum();
        let [add, close, finish, write] = spent.map(|part| part.as_secs_f64() * 1e9 / events as f64);
        println!(
            "{family}: {:.0} events per CPU-second; ns an event: add {add:.0}, close {close:.0}, results {finish:.0}, \
             write {write:.0}; {} bytes of changelog an event; {results} results",
            events as f64 / whole.as_secs_f64(),
            bytes / events,
        );
        all += whole;
        all_bytes += bytes;
        all_events += events;
    }
    println!(
        "together: {:.0} events per CPU-second, {} bytes of changelog an event",
        all_events as f64 / all.as_secs_f64(),
        all_bytes / all_events
    );
    Ok(())
}

/// Each agent's clock is a little off, so minutes close one after the other.
fn closings(now: i64) -> Vec<Closing> {
    let of = |agent: usize| {
        let watermark = now - 2_000_000 - (agent as i64 * MINUTE / AGENTS as i64);
        let before = watermark - COMMIT;
        let closes = watermark.div_euclid(MINUTE) > before.div_euclid(MINUTE);
        closes.then(|| Closing { agent: Arc::from(name(agent)), before, watermark })
    };
    (0..AGENTS).filter_map(of).collect()
}

fn name(agent: usize) -> String {
    format!("5f1c6a0e-6d2b-4c5e-9a1f-{agent:012}")
}

fn batch(family: Family, now: i64, commit: usize, count: usize) -> Result<RecordBatch, Failure> {
    let row = |number: usize| -> Value {
        let agent = name((number * 7 + commit * 31) % AGENTS);
        let mut row = match family {
            Family::HostMetrics if number.is_multiple_of(2) => {
                json!({"event_type": "cpu_usage", "cpu_percent": number % 100, "load_1": 1.5, "cpu_count": 8})
            }
            Family::HostMetrics => {
                json!({"event_type": "mem_usage", "mem_used_bytes": number, "mem_total_bytes": 5000})
            }
            Family::ProcessSample => {
                json!({"name": format!("p{}.exe", number % 40), "cpu_percent": number % 30})
            }
            Family::ProcessEvent => {
                json!({"event_type": "process_started", "name": format!("p{}.exe", number % 40), "user": "anna"})
            }
            _ => json!({"mouse": true, "mouse_events": 4, "active_s": 10.0, "idle_s": 0.0, "user": "anna"}),
        };
        row["agent_id"] = json!(agent);
        row["event_time"] = json!(now);
        row["seq"] = json!(number);
        row
    };
    let rows: Vec<Value> = (0..count).map(row).collect();
    Ok(rows_of(RecordKind::Family(family), &rows)?)
}

fn written(rows: &RecordBatch) -> Result<usize, Failure> {
    let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema())?;
    writer.write(rows)?;
    Ok(writer.into_inner()?.len())
}

/// CPU time of this thread; Linux only, elsewhere the wall clock has to do.
fn cpu_time() -> Duration {
    static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    nanos.map_or_else(|| BEGAN.get_or_init(Instant::now).elapsed(), Duration::from_nanos)
}

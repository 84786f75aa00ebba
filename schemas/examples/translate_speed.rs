//! Measures the hot path of the bridge: events per CPU-second from JSON to Avro, on one thread.
//!
//! The mix: 60 % host metrics, 20 % process samples, 15 % process events, 5 % user activity, in batches of 100.
#![allow(clippy::print_stdout, reason = "a command line program")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use schemas::translate::{Context, Translator};

const AGENT: &str = "5f1c6a0e-6d2b-4c5e-9a1f-0c2b7d3e4f50";
const BATCH: usize = 100;
const RUN: Duration = Duration::from_secs(3);

fn main() {
    let batch = Bytes::from(format!("[{}]", (0..BATCH).map(event).collect::<Vec<_>>().join(",")));
    let single = Bytes::from(event(0));
    let translator = Translator::new();
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!("profile {profile}, {} bytes an event on average", batch.len() / BATCH);
    measure("batches of 100", &translator, &batch);
    measure("single events", &translator, &single);
}

fn measure(what: &str, translator: &Translator, message: &Bytes) {
    let (started, cpu) = (Instant::now(), cpu_time());
    let (mut events, mut refused) = (0_u64, 0_u64);
    while started.elapsed() < RUN {
        for _ in 0..100 {
            let mut mint = || String::from("minted");
            let ctx = Context {
                topic_agent: AGENT,
                topic_event_type: None,
                received_at: 1_732_147_201_500_000,
                sent_at: Some(1_732_147_201_400_000),
                mint: &mut mint,
            };
            for result in translator.message(message, ctx) {
                events += 1;
                refused += u64::from(result.is_err());
            }
        }
    }
    let spent = match (cpu, cpu_time()) {
        (Some(before), Some(after)) => after.saturating_sub(before),
        _ => started.elapsed(),
    };
    let rate = events as f64 / spent.as_secs_f64();
    println!("{what}: {rate:.0} events per CPU-second ({events} events, {refused} refused)");
}

/// CPU time of this thread; Linux only, elsewhere the wall clock has to do.
fn cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

fn event(number: usize) -> String {
    let (event_type, source, payload) = match number % 20 {
        0..12 => (
            "cpu_usage",
            "system/procfs",
            r#"{"cpu_percent":37.5,"cpu_count":8,"load_1":1.25,"load_5":0.75,"load_15":0.5,"interval_s":1.0}"#,
        ),
        12..16 => (
            "process_sample",
            "process/poll",
            r#"{"snapshot_id":17,"pid":4242,"name":"chrome","path":"/opt/google/chrome/chrome","cpu_percent":12.5,"memory_bytes":734003200}"#,
        ),
        16..19 => (
            "process_started",
            "process/poll",
            r#"{"pid":4711,"parent_pid":612,"parent_name":"explorer.exe","name":"notepad.exe","path":"C:\\Windows\\System32\\notepad.exe","started_at":1732147200900000}"#,
        ),
        _ => (
            "user_activity",
            "input/x11",
            r#"{"mouse":true,"keyboard":false,"mouse_events":31,"active_s":4.5}"#,
        ),
    };
    format!(
        r#"{{"agent_id":"{AGENT}","session":1732147200000000,"lane":"normal","seq":{number},"event_time":1732147201000000,"event_type":"{event_type}","source":"{source}","host":"pc001","user":"alice","replayed":false,"payload":{payload}}}"#
    )
}

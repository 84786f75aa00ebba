//! What events cost in the lake: bytes an event by family and by column, files, rows a CPU-second, peak memory, and how
//! long questions of DuckDB and Polars take before and after `optimize`.
//!
//! `cargo run --release -p sinks --example lake_sizes -- [--agents 1000] [--days 30] [--looks 24] [--backlog]
//! [--commit-age-ms 1000] [--memory-mib N] [--recorded-looks 120] [--windows-events FILE] [--python PATH] [--folder PATH]`
//!
//! Values are not random: `sinks/tests/fleet` says how machines repeat what was recorded. `looks` is how often a day
//! all monitors of a machine are asked. With `--python` a Python that has the readers of
//! `infra/stack/python-requirements.txt` answers `sinks/tests/ask_lake.py`.
#![expect(clippy::print_stdout, reason = "an example talks on its terminal")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an example")]

#[path = "../../tests/fleet/mod.rs"]
mod fleet;
mod sizes;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use eventlog::registry::{MemoryRegistry, SchemaRegistry, register_all};
use fleet::process;
use fleet::recording::record;
use fleet::stream::{FleetLog, Plan};
use runtime::config::ByteSize;
use runtime::health::Health;
use runtime::shutdown::Shutdown;
use schemas::topics::Topics;
use sinks::lake::LakeConfig;
use sinks::lake::optimize::{Optimizing, optimize};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// 2025-11-01T00:00:00Z in µs.
const FROM: i64 = 1_761_955_200_000_000;

struct Arguments {
    plan: Plan,
    commit_age: Duration,
    memory: Option<ByteSize>,
    recorded_looks: usize,
    windows_events: Option<PathBuf>,
    python: Option<PathBuf>,
    folder: Option<PathBuf>,
}

impl Arguments {
    fn parse() -> Self {
        let plan = Plan { machines: 1000, from: FROM, days: 30, looks: 24, is_backlog: false };
        let mut parsed = Self {
            plan,
            commit_age: Duration::from_secs(1),
            memory: None,
            recorded_looks: 120,
            windows_events: None,
            python: None,
            folder: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if word == "--backlog" {
                parsed.plan.is_backlog = true;
                continue;
            }
            let value = words.next().expect("each option but --backlog has a value");
            let number = || value.parse::<u64>().expect("a number");
            match word.as_str() {
                "--agents" => parsed.plan.machines = number() as usize,
                "--days" => parsed.plan.days = number() as i64,
                "--looks" => parsed.plan.looks = number() as i64,
                "--commit-age-ms" => parsed.commit_age = Duration::from_millis(number()),
                "--memory-mib" => parsed.memory = Some(ByteSize::mib(number())),
                "--recorded-looks" => parsed.recorded_looks = number() as usize,
                "--windows-events" => parsed.windows_events = Some(value.into()),
                "--python" => parsed.python = Some(value.into()),
                "--folder" => parsed.folder = Some(value.into()),
                other => panic!("{other} is no option"),
            }
        }
        parsed
    }
}

#[tokio::main]
async fn main() {
    // As `varta sink` and `varta lake` do.
    runtime::memory::prefer_small_pages();
    let arguments = Arguments::parse();
    let plan = arguments.plan;
    let temporary = tempfile::tempdir().unwrap();
    let folder = arguments.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    println!("records this machine for {:.0} s", arguments.recorded_looks as f64 / 4.0);
    let recording = record(arguments.recorded_looks, arguments.windows_events.as_deref());
    println!(
        "{} looks with {} values each, {} single events",
        recording.looks.len(),
        recording.looks.iter().map(Vec::len).sum::<usize>() / recording.looks.len().max(1),
        recording.events.len()
    );
    println!(
        "{} agents, {} days, {} looks a day{}",
        plan.machines,
        plan.days,
        plan.looks,
        if plan.is_backlog { ", all days at once" } else { "" }
    );
    let registry = Arc::new(MemoryRegistry::new());
    let ids = register_all(&*registry).unwrap();
    let topics = Topics::default();
    let log = FleetLog::new(plan, recording, ids, topics.clone());
    let defaults = LakeConfig::default();
    let config = LakeConfig {
        root: folder.to_str().unwrap().to_owned(),
        commit_age: arguments.commit_age,
        memory: arguments.memory.unwrap_or(defaults.memory),
        ..defaults
    };

    sizes::forget_peak();
    let (before, started) = (process::cpu(), Instant::now());
    println!("{} MiB resident before the sink starts", process::peak_mib());
    let (shutdown, progress) = (Shutdown::new(), Arc::clone(&log.progress));
    let registry: Arc<dyn SchemaRegistry> = registry;
    let sink =
        sinks::lake::run(config.clone(), log, registry, topics.clone(), Health::new(), shutdown.clone());
    let sink = tokio::spawn(sink);
    while !progress.is_done.load(Ordering::Acquire) && !sink.is_finished() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    process::until_idle().await;
    shutdown.request();
    sink.await.unwrap().unwrap();
    let made = progress.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
    let used = process::cpu() - before - made;
    let rows = progress.events.load(Ordering::Relaxed);
    println!(
        "{rows} rows ({} MiB of Avro) in {:.1} s: {:.0} thousand rows a CPU-second ({used:.1} CPU-s beside {made:.1} to make them), peak {} MiB",
        progress.bytes.load(Ordering::Relaxed) >> 20,
        started.elapsed().as_secs_f64(),
        rows as f64 / used / 1000.0,
        process::peak_mib()
    );
    let kept = sizes::show(&config, &topics).await;
    assert_eq!(kept, rows, "rows in the lake");
    ask(&arguments, &config);

    sizes::forget_peak();
    let (before, started) = (process::cpu(), Instant::now());
    let done = optimize(&config, &topics, &Optimizing::default()).await.unwrap();
    println!(
        "optimised with {} merges in {:.1} s, {:.1} CPU-s, peak {} MiB",
        done.iter().map(|table| table.merges).sum::<usize>(),
        started.elapsed().as_secs_f64(),
        process::cpu() - before,
        process::peak_mib()
    );
    sizes::show(&config, &topics).await;
    ask(&arguments, &config);
    for table in ["host_metrics", "process_sample", "process_event", "raw"] {
        println!("{table}: {}", sizes::by_column(&folder, table).await);
    }
}

/// Asks other makers' readers; they print what they found and how long it took.
fn ask(arguments: &Arguments, config: &LakeConfig) {
    let Some(python) = &arguments.python else { return };
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ask_lake.py");
    let status = Command::new(python).arg(script).arg(&config.root).status().unwrap();
    assert!(status.success());
}

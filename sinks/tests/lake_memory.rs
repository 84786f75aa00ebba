//! The memory of a whole process that fills the lake, as the system counts it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "tests")]

mod fleet;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use eventlog::registry::{MemoryRegistry, SchemaRegistry, register_all};
use fleet::process::{peak_mib, until_idle};
use fleet::recording::record;
use fleet::stream::{FleetLog, Plan};
use runtime::health::Health;
use runtime::shutdown::Shutdown;
use schemas::topics::Topics;
use sinks::lake::{LakeConfig, info};

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Set in the process that is measured.
const ROLE: &str = "VARTA_LAKE_MEMORY_ROLE";
/// What the process may take, in MiB.
const LIMIT: u64 = 512;
const DAYS: i64 = 30;
/// 2025-11-01T00:00:00Z in µs.
const FROM: i64 = 1_761_955_200_000_000;

/// Machines that were away come back, and every poll brings rows of thirty days; nothing but the limit of memory makes the
/// sink commit. Prints what it took.
async fn fill() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan { machines: 60, from: FROM, days: DAYS, looks: 36, is_backlog: true };
    let registry = Arc::new(MemoryRegistry::new());
    let ids = register_all(&*registry).unwrap();
    let topics = Topics::default();
    let log = FleetLog::new(plan, record(20, None), ids, topics.clone());
    let hour = Duration::from_hours(1);
    let config = LakeConfig {
        root: folder.path().to_str().unwrap().to_owned(),
        commit_age: hour,
        late_age: hour,
        commit_rows: usize::MAX,
        drain: Duration::from_mins(5),
        ..LakeConfig::default()
    };
    let (shutdown, progress) = (Shutdown::new(), Arc::clone(&log.progress));
    let registry: Arc<dyn SchemaRegistry> = registry;
    let sink =
        sinks::lake::run(config.clone(), log, registry, topics.clone(), Health::new(), shutdown.clone());
    let sink = tokio::spawn(sink);
    while !progress.is_done.load(Ordering::Acquire) && !sink.is_finished() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until_idle().await;
    let stored: u64 = rows(&config, &topics).await.0;
    let peak = peak_mib();
    shutdown.request();
    sink.await.unwrap().unwrap();
    let (rows, days) = rows(&config, &topics).await;
    assert_eq!(rows, progress.events.load(Ordering::Relaxed), "rows in the lake");
    eprintln!("peak={} before_drain={peak} rows={rows} stored_before_drain={stored} days={days}", peak_mib());
}

/// Rows and days over all tables.
async fn rows(config: &LakeConfig, topics: &Topics) -> (u64, usize) {
    let tables = info::info(config, topics).await.unwrap();
    let days = tables.iter().map(|table| table.days.len()).max().unwrap_or_default();
    (tables.iter().map(|table| table.total().rows).sum(), days)
}

#[test]
fn a_process_with_thirty_open_partitions_stays_below_its_limit() {
    if std::env::var_os(ROLE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(fill());
    }
    let test = "a_process_with_thirty_open_partitions_stays_below_its_limit";
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, "measured")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stdout));
    let line = said.lines().find(|line| line.starts_with("peak=")).unwrap();
    let number = |name: &str| -> u64 {
        let word = line.split_whitespace().find_map(|word| word.strip_prefix(name)).unwrap();
        word.trim_start_matches('=').parse().unwrap()
    };
    eprintln!("{line}");
    assert_eq!(number("days"), DAYS as u64, "{line}");
    assert!(number("stored_before_drain") > 0, "the limit was never reached: {line}");
    assert!(number("peak") <= LIMIT, "the process took more than {LIMIT} MiB: {line}");
}

//! The lake's memory has a limit, and it is the process's own: measured, not counted by the sink.
//!
//! One test in a program of its own, because it looks at the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test")]

#[path = "../src/testing.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of the library")]
mod testing;

use std::sync::Arc;
use std::time::Duration;

use eventlog::registry::{MemoryRegistry, SchemaRegistry};
use eventlog::{Appender as _, Log as _, NewRecord};
use runtime::config::ByteSize;
use runtime::health::Health;
use runtime::shutdown::Shutdown;
use schemas::family::Family;
use sinks::lake::{LakeConfig, info};
use testing::{NOW, World};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DAY: i64 = 86_400_000_000;
/// Open days, whose rows come in turn.
const DAYS: i64 = 30;
const METRICS: i64 = 120_000;
const LETTERS: i64 = 60_000;
const MIB: u64 = 1 << 20;

/// Peak of what the process has in memory since [`forget_peak`], in bytes.
fn peak() -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The peak counts from what is there now.
fn forget_peak() -> u64 {
    fs_err::write("/proc/self/clear_refs", "5").unwrap();
    peak()
}

fn filled() -> World {
    let world = World::new(2);
    let topic = world.topics.events(Family::HostMetrics);
    let appender = world.log.appender(Box::new(|_, outcome| assert!(outcome.is_ok()))).unwrap();
    // the values are shared, so that the log itself takes little
    let by_day: Vec<bytes::Bytes> = (0..DAYS).map(|day| world.metric("a0", day, NOW - day * DAY)).collect();
    for number in 0..METRICS {
        let value = by_day[(number % DAYS) as usize].clone();
        let record = NewRecord::keyed(&*topic, "key", value).to_partition((number % 2) as i32);
        appender.append(record, 0).unwrap();
    }
    let letter = bytes::Bytes::from(vec![7; 4096]);
    for number in 0..LETTERS {
        let record = NewRecord::keyed(&*world.topics.dlq(), "key", letter.clone());
        appender.append(record.to_partition((number % 2) as i32), 0).unwrap();
    }
    appender.flush(Duration::from_secs(5)).unwrap();
    world
}

/// Runs the sink until everything is in the tables; how much its peak is above what was there before.
async fn run(world: &World, memory: ByteSize) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let config = LakeConfig {
        root: folder.path().to_str().unwrap().to_owned(),
        // nothing but the limit, and in the end the stop, makes it commit
        commit_rows: usize::MAX,
        commit_bytes: ByteSize::mib(1 << 20),
        commit_age: Duration::from_hours(1),
        late_age: Duration::from_hours(1),
        drain: Duration::from_mins(3),
        memory,
        ..LakeConfig::default()
    };
    let before = forget_peak();
    let shutdown = Shutdown::new();
    let registry: Arc<dyn SchemaRegistry> = Arc::<MemoryRegistry>::clone(&world.registry);
    let (log, topics) = (world.log.handle(), world.topics.clone());
    let sink = sinks::lake::run(config.clone(), log, registry, topics, Health::new(), shutdown.clone());
    let sink = tokio::spawn(sink);
    let rows = || async {
        let tables = info::info(&config, &world.topics).await.unwrap();
        tables.iter().map(|table| table.total().rows).sum::<u64>()
    };
    // it holds the last rows until it is stopped; what it has read by then shows in what it holds no longer
    let all = (METRICS + LETTERS) as u64;
    let mut last = (0, std::time::Instant::now());
    while last.1.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = peak() + rows().await;
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
    }
    shutdown.request();
    sink.await.unwrap().unwrap();
    assert_eq!(rows().await, all);
    peak().saturating_sub(before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_stays_near_its_limit_however_much_is_held() {
    let world = filled();
    let limited = run(&world, ByteSize::mib(32)).await;
    let unlimited = run(&world, ByteSize::mib(1 << 20)).await;
    println!("peak above the start: {} MiB with 32 MiB, {} MiB without a limit", limited / MIB, unlimited / MIB);
    // with what a commit needs beside it: the order of the rows, one file being written, batches on their way
    assert!(limited < 160 * MIB, "{} MiB with a limit of 32", limited / MIB);
    // the measure would see it
    assert!(unlimited > 250 * MIB, "only {} MiB without a limit", unlimited / MIB);
}

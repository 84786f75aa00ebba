//! The lake as the world outside sees it: readers of other makers, an S3-compatible store, a disk that is full.
//!
//! Python with the readers and the store come from `infra/stack`; `make test` sets their variables.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../src/testing.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of the library")]
mod testing;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventlog::memory::MemoryLog;
use eventlog::registry::{MemoryRegistry, SchemaRegistry};
use runtime::config::Secret;
use runtime::health::Health;
use runtime::shutdown::Shutdown;
use sinks::SinkError;
use sinks::lake::optimize::{Optimizing, optimize};
use sinks::lake::verify::{Verified, verify};
use sinks::lake::{LakeConfig, info};
use testing::{NOW, World};
use tokio::task::JoinHandle;

const DAY: i64 = 86_400_000_000;

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run `make test`, or `infra/stack/with-stack`"))
}

fn config(root: &str) -> LakeConfig {
    LakeConfig {
        root: root.to_owned(),
        commit_rows: 200,
        commit_age: Duration::from_millis(100),
        late_age: Duration::from_millis(300),
        poll_rows: 50,
        drain: Duration::from_secs(20),
        ..LakeConfig::default()
    }
}

type Running = (JoinHandle<Result<(), SinkError>>, Shutdown);

fn start(config: &LakeConfig, world: &World, log: MemoryLog, health: &Health) -> Running {
    let shutdown = Shutdown::new();
    let registry: Arc<dyn SchemaRegistry> = Arc::<MemoryRegistry>::clone(&world.registry);
    let topics = world.topics.clone();
    let sink = sinks::lake::run(config.clone(), log, registry, topics, health.clone(), shutdown.clone());
    (tokio::spawn(sink), shutdown)
}

async fn stop((task, shutdown): Running) {
    shutdown.request();
    task.await.unwrap().unwrap();
}

async fn metrics(config: &LakeConfig, world: &World) -> Option<Verified> {
    let tables = verify(config, &world.topics, true).await.unwrap();
    tables.into_iter().find(|table| table.table == "host_metrics")
}

async fn until_rows(config: &LakeConfig, world: &World, rows: u64) {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let found = metrics(config, world).await;
        if let Some(found) = found.filter(|found| found.rows >= rows) {
            assert_eq!((found.problems, found.rows), (vec![], rows));
            return;
        }
        assert!(Instant::now() < deadline, "waited in vain for {rows} rows");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What each reader sees in host_metrics.
fn read_by_all(root: &Path) -> BTreeMap<String, serde_json::Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_lake.py");
    let said =
        Command::new(variable("VARTA_PYTHON")).arg(script).arg(root.join("host_metrics")).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_four_makers_agree_before_and_after_optimize() {
    let folder = tempfile::tempdir().unwrap();
    let (world, config) = (World::new(2), config(folder.path().to_str().unwrap()));
    let running = start(&config, &world, world.log.handle(), &Health::new());
    let at = |seq: i64| NOW + seq * 1_000_003 - (seq % 3) * DAY;
    for round in 0..5 {
        for partition in 0..2 {
            world.send_metrics_of(partition, round * 300..(round + 1) * 300, at);
        }
        until_rows(&config, &world, (round as u64 + 1) * 600).await;
    }
    stop(running).await;

    let seqs = || (0..1500_i64).chain(0..1500);
    let expected = serde_json::json!({
        "rows": 3000,
        "seq": seqs().sum::<i64>(),
        "cpu": seqs().map(|seq| (seq % 100) as f64 + 0.5).sum::<f64>(),
        "nulls": 3000,
        "days": ["2025-11-19", "2025-11-20", "2025-11-21"],
    });
    let types = |reader: &str| match reader {
        "polars" => ["Datetime(time_unit='us', time_zone='UTC')", "Int64", "Float64", "String"],
        "duckdb" => ["TIMESTAMP WITH TIME ZONE", "BIGINT", "DOUBLE", "VARCHAR"],
        _ => ["timestamp[us, tz=UTC]", "int64", "double", "string"],
    };
    let agree = || {
        for (reader, seen) in read_by_all(folder.path()) {
            for (fact, wanted) in expected.as_object().unwrap() {
                assert_eq!(&seen[fact], wanted, "{fact} by {reader}");
            }
            assert_eq!(seen["earliest"], "2025-11-19T00:00:02.000006+00:00", "{reader}");
            for (column, wanted) in
                ["event_time", "seq", "cpu_percent", "agent_id"].into_iter().zip(types(&reader))
            {
                let found = seen["types"][column].as_str().unwrap();
                let same = found == wanted
                    || found == format!("large_{wanted}")
                    || found == format!("{wanted}_view");
                assert!(same, "{column} is {found} by {reader}");
            }
        }
    };
    let files = || async {
        let tables = info::info(&config, &world.topics).await.unwrap();
        tables.iter().find(|table| table.table == "host_metrics").unwrap().total().files
    };
    let before = files().await;
    agree();
    optimize(&config, &world.topics, &Optimizing::default()).await.unwrap();
    assert!(before > 3 && files().await == 3, "{before} files became {}", files().await);
    agree();
}

fn s3() -> LakeConfig {
    let unique: u64 = rand_number();
    let option = |name: &str, value: &str| (name.to_owned(), Secret::new(value));
    LakeConfig {
        options: BTreeMap::from([
            option("aws_endpoint", &variable("VARTA_S3")),
            option("aws_access_key_id", "varta"),
            option("aws_secret_access_key", "a secret of the store"),
            option("aws_region", "us-east-1"),
            option("aws_allow_http", "true"),
        ]),
        ..config(&format!("s3://{}/lake-{unique}", variable("VARTA_S3_BUCKET")))
    }
}

fn rand_number() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Two sinks and an optimiser on a store that knows no rename, only a put that fails when the object is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sinks_share_tables_in_an_s3_store() {
    runtime::tls::install_crypto();
    let (world, config) = (World::new(2), s3());
    assert!(!format!("{config:?}").contains("a secret of the store"));
    let first = start(&config, &world, world.log.handle(), &Health::new());
    let second = start(&config, &world, world.log.handle(), &Health::new());
    for round in 0..6 {
        for partition in 0..2 {
            let at = |seq: i64| NOW + seq * 1000 - (seq % 2) * 3 * DAY;
            world.send_metrics_of(partition, round * 100..(round + 1) * 100, at);
        }
        if round == 3 {
            world.log.rebalance("varta-lake");
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    until_rows(&config, &world, 1200).await;
    stop(first).await;
    stop(second).await;
    let before = metrics(&config, &world).await.unwrap().files;
    optimize(&config, &world.topics, &Optimizing::default()).await.unwrap();
    let after = metrics(&config, &world).await.unwrap();
    assert!(before > 2 && after.files == 2, "{before} files became {}", after.files);
    assert_eq!((after.problems, after.rows), (vec![], 1200));
}

/// A file system of its own, gone with the value.
struct Disk(tempfile::TempDir);

impl Disk {
    /// # Panics
    /// Only root may mount; without it this promise is not tested, and that must be seen.
    fn of(kib: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = Self(folder);
        disk.mount(&format!("size={kib}k"));
        disk
    }

    fn mount(&self, options: &str) {
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(self.0.path())
            .status()
            .unwrap();
        assert!(done.success(), "cannot mount a small file system: this test must be run by root");
    }

    fn grow(&self, kib: u32) {
        self.mount(&format!("remount,size={kib}k"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_waited_for_and_nothing_is_lost() {
    let (disk, roomy) = (Disk::of(1024), tempfile::tempdir().unwrap());
    let world = World::new(1);
    let tight = config(disk.0.path().to_str().unwrap());
    let other = LakeConfig { group: "other".into(), ..config(roomy.path().to_str().unwrap()) };
    let health = Health::new();
    let full = start(&tight, &world, world.log.handle(), &health);
    let beside = start(&other, &world, world.log.handle(), &Health::new());
    let mut sent = 0;
    let deadline = Instant::now() + Duration::from_mins(1);
    // about 13 KB a commit: the disk is full after some
    while !format!("{:?}", health.snapshot()).contains("No space") {
        assert!(Instant::now() < deadline, "the disk never became full: {:?}", health.snapshot());
        world.send_metrics(0, sent, 200);
        sent += 200;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for _ in 0..5 {
        world.send_metrics(0, sent, 200);
        sent += 200;
        // the sink beside it runs on
        until_rows(&other, &world, sent as u64).await;
    }
    let stuck = metrics(&tight, &world).await.unwrap();
    assert!(stuck.rows < sent as u64 && stuck.problems.is_empty(), "{stuck:?}");
    disk.grow(64 * 1024);
    until_rows(&tight, &world, sent as u64).await;
    stop(full).await;
    stop(beside).await;
    // attempts without room have left nothing behind
    let folder = disk.0.path().join("host_metrics/dt=2025-11-21");
    let stored = fs_err::read_dir(folder).unwrap().count();
    assert_eq!(stored, metrics(&tight, &world).await.unwrap().files);
}

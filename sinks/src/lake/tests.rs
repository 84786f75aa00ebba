//! The lake on a temporary folder: whatever crashes, sleeps or races, each row is there once.

use std::time::{Duration, Instant};

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use eventlog::memory::MemoryLog;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use runtime::config::ByteSize;
use tokio::task::JoinHandle;

use eventlog::TopicPartition;

use super::{
    info::info,
    optimize::{LEAST_RETENTION, Optimizing, optimize, optimize_anyhow},
    rebuild::{Rebuilding, rebuild},
    shape::Shape,
    table::{Attempt, LogAction, Root, actions},
    verify::{Verified, verify},
    writer::{Scope, TableWriter},
    *,
};
use crate::{
    Flush, Sink as _,
    batch::{Batch, Place, Rows, Span},
    testing::{NOW, World, until},
};

type Identity = (String, i64);
const DAY: i64 = 86_400_000_000;

struct Lake {
    folder: tempfile::TempDir,
    config: LakeConfig,
}

impl Lake {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = LakeConfig {
            root: folder.path().to_str().unwrap().to_owned(),
            commit_rows: 100,
            commit_age: Duration::from_millis(50),
            late_age: Duration::from_millis(250),
            poll_rows: 37,
            checkpoint_every: 3,
            drain: Duration::from_secs(5),
            ..LakeConfig::default()
        };
        Self { folder, config }
    }

    fn start(&self, world: &World, log: MemoryLog) -> (JoinHandle<Result<(), SinkError>>, Shutdown) {
        let shutdown = Shutdown::new();
        let registry: Arc<dyn SchemaRegistry> =
            Arc::<eventlog::registry::MemoryRegistry>::clone(&world.registry);
        let running =
            run(self.config.clone(), log, registry, world.topics.clone(), Health::new(), shutdown.clone());
        (tokio::spawn(running), shutdown)
    }

    fn root(&self) -> Root {
        self.config.root()
    }

    /// Paths of the files that the log names.
    fn files(&self, table: &str) -> Vec<String> {
        let folder = self.folder.path().join(table).join("_delta_log");
        let Ok(entries) = fs_err::read_dir(&folder) else {
            return Vec::new();
        };
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            for action in actions(&fs_err::read(path).unwrap()) {
                match action {
                    LogAction::Add(file) => files.push(file.path),
                    LogAction::Remove(file) => files.retain(|path| *path != file.path),
                    _ => {}
                }
            }
        }
        files
    }

    /// Every row of a table, file by file.
    fn rows(&self, table: &str) -> Vec<RecordBatch> {
        let mut batches = Vec::new();
        for file in self.files(table) {
            let file = fs_err::File::open(self.folder.path().join(table).join(file)).unwrap();
            let (file, _) = file.into_parts();
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
            batches.extend(reader.map(Result::unwrap));
        }
        batches
    }

    fn identities(&self, table: &str) -> Vec<Identity> {
        let mut found: Vec<Identity> = self.rows(table).iter().flat_map(identities).collect();
        found.sort();
        found
    }

    async fn verified(&self, world: &World, table: &str) -> Verified {
        let tables = verify(&self.config, &world.topics, true).await.unwrap();
        tables.into_iter().find(|found| found.table == table).unwrap()
    }
}

fn identities(batch: &RecordBatch) -> Vec<Identity> {
    let agents = batch.column_by_name("agent_id").unwrap().as_string::<i32>();
    let seqs = batch.column_by_name("seq").unwrap().as_primitive::<Int64Type>();
    (0..batch.num_rows()).map(|row| (agents.value(row).to_owned(), seqs.value(row))).collect()
}

fn expected(partitions: i32, count: i64) -> Vec<Identity> {
    (0..partitions).flat_map(|partition| (0..count).map(move |seq| (format!("a{partition}"), seq))).collect()
}

/// A writer of host_metrics and its batches, without a log between.
struct Writer {
    table: TableWriter,
    letters: DeadLetters,
    topic: Arc<str>,
}

impl Writer {
    async fn open(lake: &Lake, world: &World) -> Self {
        let (name, topic, content) =
            tables(&world.topics).into_iter().find(|(name, ..)| name == "host_metrics").unwrap();
        let writing = encoding::Writing { row_group_rows: 1000, ..lake.config.writing() };
        let limits = lake.config.limits();
        let mut writer =
            TableWriter::new(name, Arc::clone(&topic), "varta", content, writing, limits).unwrap();
        writer.open(&lake.root(), 10).await.unwrap();
        writer.next_offsets(&[0]).await.unwrap();
        let letters = DeadLetters::open(&world.log, &world.topics, "lake").unwrap();
        Self { table: writer, letters, topic }
    }

    /// Rows with `seq` = offset, of the partition 0.
    async fn accept(&mut self, world: &World, from: i64, to: i64) {
        let times: Vec<i64> = (from..to).map(|offset| NOW + offset).collect();
        self.accept_times(world, from, &times).await;
    }

    async fn accept_times(&mut self, world: &World, from: i64, times: &[i64]) {
        let place = |offset| Place { partition: 0, offset, timestamp: NOW / 1000 };
        let records: Vec<eventlog::Record> = times
            .iter()
            .enumerate()
            .map(|(number, time)| eventlog::Record {
                topic: Arc::clone(&self.topic),
                partition: 0,
                offset: from + number as i64,
                timestamp: NOW / 1000,
                key: None,
                value: Some(world.metric("a0", from + number as i64, *time)),
                headers: vec![],
            })
            .collect();
        let registry: Arc<dyn SchemaRegistry> =
            Arc::<eventlog::registry::MemoryRegistry>::clone(&world.registry);
        let decoded = eventlog::batches::BatchDecoder::new(registry).decode(&records).unwrap();
        let to = from + times.len() as i64;
        let rows = decoded.groups.into_iter().map(|group| Rows {
            kind: Some(group.kind),
            places: (from..to).map(place).collect(),
            batch: group.batch,
        });
        let batch = Batch {
            topic: Arc::clone(&self.topic),
            spans: vec![Span { partition: 0, from, to }],
            rows: rows.collect(),
            poison: vec![],
            plain: vec![],
        };
        self.table.accept(batch, vec![], &[]).await.unwrap();
    }

    async fn commit_fresh(&mut self) {
        self.table.commit(Scope::Fresh, &self.letters).await.unwrap();
    }

    async fn commit(&mut self) -> Result<(), SinkError> {
        self.table.commit(Scope::Everything, &self.letters).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_slept_skips_what_another_has_committed() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut sleeper = Writer::open(&lake, &world).await;
    sleeper.accept(&world, 0, 30).await;
    sleeper.table.cut().await.unwrap();
    sleeper.table.prepare(Scope::Everything).await.unwrap();

    let mut other = Writer::open(&lake, &world).await;
    other.accept(&world, 0, 20).await;
    other.commit().await.unwrap();

    // It wakes exactly between its check and its commit: the version is taken.
    assert_eq!(sleeper.table.append(Scope::Everything).await.unwrap(), Attempt::Conflict);
    sleeper.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 30));
    // And long after, with rows that are all there.
    other.accept(&world, 20, 25).await;
    other.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 30));
    let verified = lake.verified(&world, "host_metrics").await;
    assert_eq!(verified.problems, Vec::<String>::new());
    assert_eq!(verified.rows, 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_lost_is_no_second_commit() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut first = Writer::open(&lake, &world).await;
    first.accept(&world, 0, 10).await;
    first.commit().await.unwrap();
    // The same process believes that the commit failed: it holds the rows still.
    let mut again = Writer::open(&lake, &world).await;
    again.accept(&world, 0, 10).await;
    again.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_a_crash_before_the_commit_are_invisible() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut crashed = Writer::open(&lake, &world).await;
    crashed.accept(&world, 0, 10).await;
    crashed.table.cut().await.unwrap();
    crashed.table.prepare(Scope::Everything).await.unwrap();
    drop(crashed);
    assert!(lake.files("host_metrics").is_empty());
    let mut next = Writer::open(&lake, &world).await;
    next.accept(&world, 0, 10).await;
    next.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 10));
    assert_eq!(lake.verified(&world, "host_metrics").await.problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_rows_wait_for_company_and_survive_a_crash() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    for minute in 0..10 {
        // one row of today, one of each of three days long past
        let times = [NOW + minute, NOW - 5 * DAY, NOW - 6 * DAY, NOW - 7 * DAY];
        writer.accept_times(&world, minute * 4, &times).await;
        writer.commit_fresh().await;
    }
    assert_eq!(lake.files("host_metrics").len(), 10, "late rows have made files");
    // it dies with thirty late rows in memory; its successor reads on where the first of them is
    drop(writer);
    let mut successor = Writer::open(&lake, &world).await;
    let start = successor.table.next_offsets(&[0]).await.unwrap();
    assert_eq!(start, [Some(1)]);
    for minute in 0..10 {
        let times = [NOW + minute, NOW - 5 * DAY, NOW - 6 * DAY, NOW - 7 * DAY];
        successor.accept_times(&world, minute * 4, &times).await;
    }
    successor.commit().await.unwrap();
    assert_eq!(lake.files("host_metrics").len(), 13);
    assert_eq!(lake.identities("host_metrics"), expected(1, 40));
    assert_eq!(successor.table.next_offsets(&[0]).await.unwrap(), [Some(40)]);
    let verified = lake.verified(&world, "host_metrics").await;
    assert_eq!(verified.problems, Vec::<String>::new());
    assert_eq!(verified.covered, verified.covered_late);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_offsets_of_late_rows_goes_on_where_all_ended() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    writer.accept_times(&world, 0, &[NOW, NOW - 5 * DAY]).await;
    writer.commit().await.unwrap();
    let entry = lake.folder.path().join("host_metrics/_delta_log/00000000000000000001.json");
    let text = fs_err::read_to_string(&entry).unwrap();
    let older: Vec<&str> = text.lines().filter(|line| !line.contains(":0:late")).collect();
    assert_eq!(older.len() + 1, text.lines().count());
    fs_err::write(&entry, older.join("\n")).unwrap();
    let mut writer = Writer::open(&lake, &world).await;
    assert_eq!(writer.table.next_offsets(&[0]).await.unwrap(), [Some(2)]);
    writer.accept_times(&world, 0, &[NOW, NOW - 5 * DAY, NOW, NOW - 5 * DAY]).await;
    writer.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 4));
}

/// The store is away in the middle of several files: what is there already is neither written again nor left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_failed_goes_on_where_it_was() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    writer.accept_times(&world, 0, &[NOW - 2 * DAY, NOW - DAY, NOW]).await;
    // a file where a folder must be
    let blocked = lake.folder.path().join("host_metrics/dt=2025-11-20");
    fs_err::write(&blocked, "").unwrap();
    for _ in 0..3 {
        assert!(matches!(writer.commit().await, Err(SinkError::Unavailable { .. })));
    }
    fs_err::remove_file(&blocked).unwrap();
    writer.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 3));
    let days = ["dt=2025-11-19", "dt=2025-11-20", "dt=2025-11-21"];
    for day in days {
        let folder = lake.folder.path().join("host_metrics").join(day);
        assert_eq!(fs_err::read_dir(folder).unwrap().count(), 1, "{day}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_between_table_and_memory_is_read_again() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    writer.accept(&world, 0, 10).await;
    writer.commit().await.unwrap();
    writer.accept(&world, 15, 20).await;
    assert!(matches!(writer.commit().await, Err(SinkError::Stale(_))));
    assert_eq!(lake.identities("host_metrics"), expected(1, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_sorted_and_absurd_dates_go_by_their_arrival() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    let day = 86_400_000_000;
    let long_ago = NOW - 9000 * day;
    writer.accept_times(&world, 0, &[NOW + 9, NOW - day, NOW + 5, long_ago, NOW + 4000 * day]).await;
    writer.commit().await.unwrap();
    let files = lake.files("host_metrics");
    assert_eq!(files.len(), 2);
    assert!(files[0].starts_with("dt=2025-11-20/") && files[1].starts_with("dt=2025-11-21/"), "{files:?}");
    let batches = lake.rows("host_metrics");
    let times = batches[1].column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>();
    assert_eq!(times.values(), &[long_ago, NOW + 5, NOW + 9, NOW + 4000 * day]);
    let marks = batches[1].column_by_name("dt_by_arrival").unwrap().as_boolean();
    let marks: Vec<Option<bool>> = marks.iter().collect();
    assert_eq!(marks, [Some(true), None, None, Some(true)]);
    assert_eq!(batches[0].column_by_name("dt_by_arrival").unwrap().null_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_an_older_version_gets_the_new_columns() {
    let lake = Lake::new();
    let columns = Shape::new(Content::Raw).unwrap().delta_columns().unwrap();
    let older = columns[..columns.len() - 4].iter().chain(columns.last()).cloned().collect();
    table::Table::open(&lake.root(), "raw", older, 10).await.unwrap();
    table::Table::open(&lake.root(), "raw", columns.clone(), 10).await.unwrap();
    // The third finds nothing to do and nothing to complain about.
    table::Table::open(&lake.root(), "raw", columns, 10).await.unwrap();
    assert_eq!(fs_err::read_dir(lake.folder.path().join("raw/_delta_log")).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_finds_what_was_tampered_with() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    for from in [0, 10, 20] {
        writer.accept(&world, from, from + 10).await;
        writer.commit().await.unwrap();
    }
    assert_eq!(lake.verified(&world, "host_metrics").await.problems, Vec::<String>::new());
    let files = lake.files("host_metrics");
    let path = |file: &str| lake.folder.path().join("host_metrics").join(file);
    let mut content = fs_err::read(path(&files[0])).unwrap();
    content[100] ^= 1;
    fs_err::write(path(&files[0]), content).unwrap();
    fs_err::remove_file(path(&files[1])).unwrap();
    let entry = lake.folder.path().join("host_metrics/_delta_log/00000000000000000003.json");
    let text = fs_err::read_to_string(&entry).unwrap().replace("\"from\":20", "\"from\":21");
    fs_err::write(&entry, text).unwrap();
    let problems = lake.verified(&world, "host_metrics").await.problems.join("\n");
    for part in ["its hash differs", "missing", "misses offsets 20..21"] {
        assert!(problems.contains(part), "{part} not in {problems}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_of_the_topics_is_in_the_tables() {
    let (world, lake) = (World::new(2), Lake::new());
    world.send_metrics(0, 0, 150);
    world.send_metrics(1, 0, 80);
    let raw = world.topics.raw();
    let event = r#"{"agent_id":"a9","session":7,"lane":"bulk","seq":1,"event_time":1763683200000000,
        "event_type":"process_started","source":"s","user":"eve","payload":{"pid":4,"name":"x\"y"}}"#;
    world.send(&raw, 0, world.event(event));
    world.send(&raw, 0, world.clock());
    world.send(&raw, 1, world.clock());
    world.send(&raw, 0, bytes::Bytes::from_static(b"garbage"));
    world.send(&world.topics.late(), 0, bytes::Bytes::from_static(b"late row"));
    let (task, shutdown) = lake.start(&world, world.log.clone());
    until("the rows", || lake.identities("host_metrics").len() == 230).await;
    until("raw", || lake.identities("raw").len() == 1).await;
    until("late", || !lake.files("late").is_empty()).await;
    until("the dead letter in the lake", || !lake.files("dead_letters").is_empty()).await;
    shutdown.request();
    task.await.unwrap().unwrap();

    assert_eq!(
        lake.identities("host_metrics"),
        expected(1, 150).into_iter().chain((0..80).map(|seq| ("a1".to_owned(), seq))).collect::<Vec<_>>()
    );
    let rows = lake.rows("raw");
    let text = |name: &str| rows[0].column_by_name(name).unwrap().as_string::<i32>().value(0).to_owned();
    assert_eq!(text("family"), "process_event");
    assert_eq!(text("body"), r#"{"pid":4,"name":"x\"y"}"#);
    assert_eq!(text("user"), "eve");
    let letters = world.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].value.as_deref(), Some(&b"garbage"[..]));
    let rows = lake.rows("dead_letters");
    let cell = |name: &str| rows[0].column_by_name(name).unwrap().as_string::<i32>().value(0).to_owned();
    assert_eq!((cell("stage"), cell("origin")), ("lake".to_owned(), format!("{raw}-0-2")));
    assert!(!cell("reason").is_empty());
    assert!(rows[0].column_by_name("at").unwrap().as_primitive::<TimestampMicrosecondType>().value(0) > NOW);
    assert_eq!(rows[0].column_by_name("value").unwrap().as_binary::<i32>().value(0), b"garbage");
    for table in verify(&lake.config, &world.topics, true).await.unwrap() {
        assert_eq!(table.problems, Vec::<String>::new(), "{}", table.table);
    }
    let covered = lake.verified(&world, "raw").await.covered;
    assert_eq!(covered.get(&(raw.to_string(), 0)), Some(&(0, 3)));
    assert_eq!(covered.get(&(raw.to_string(), 1)), Some(&(0, 1)));
}

fn compacting() -> Optimizing {
    Optimizing { retention: Duration::ZERO, ..Optimizing::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_become_one_sorted_file_and_nothing_is_lost() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    // more files than are merged at once, in two days; times run backwards so that rows interleave
    for round in 0..70 {
        writer.accept_times(&world, round * 3, &[NOW - round, NOW + round, NOW - DAY + round]).await;
        writer.commit().await.unwrap();
    }
    let before = lake.rows("host_metrics");
    assert_eq!(lake.files("host_metrics").len(), 140);
    let optimized = optimize_anyhow(&lake.config, &world.topics, &compacting()).await.unwrap();
    let metrics = optimized.iter().find(|table| table.table == "host_metrics").unwrap();
    assert_eq!((metrics.before.0, metrics.after.0, metrics.given_up), (140, 2, 0));
    // what was merged on the way has gone, too
    let stored: usize = ["dt=2025-11-20", "dt=2025-11-21"]
        .iter()
        .map(|day| fs_err::read_dir(lake.folder.path().join("host_metrics").join(day)).unwrap().count())
        .sum();
    assert_eq!(stored, 2);
    assert_eq!(lake.identities("host_metrics"), expected(1, 210));
    for batch in lake.rows("host_metrics") {
        let times = batch.column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>();
        assert!(times.values().is_sorted());
    }
    let sum = |rows: &[RecordBatch]| -> f64 {
        let column = |batch: &RecordBatch| {
            let values = batch.column_by_name("cpu_percent").unwrap();
            arrow::compute::sum(values.as_primitive::<arrow::datatypes::Float64Type>()).unwrap()
        };
        rows.iter().map(column).sum()
    };
    assert!((sum(&before) - sum(&lake.rows("host_metrics"))).abs() < 1e-6);
    let verified = lake.verified(&world, "host_metrics").await;
    assert_eq!((verified.problems, verified.rows, verified.files), (vec![], 210, 2));
    let table = info(&lake.config, &world.topics).await.unwrap().remove(0);
    assert!(table.days.values().all(|day| day.small == 1 && day.files == 1), "{:?}", table.days);
    // a writer goes on beside it, and a second run finds nothing to do
    writer.accept_times(&world, 210, &[NOW]).await;
    writer.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 211));
    let table = info(&lake.config, &world.topics).await.unwrap().remove(0);
    assert_eq!((table.table.as_str(), table.total().rows, table.total().files), ("host_metrics", 211, 3));
    assert_eq!(table.days.keys().collect::<Vec<_>>(), ["2025-11-20", "2025-11-21"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_table_does_not_keep_the_others_from_being_optimised() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    for from in [0, 10] {
        writer.accept(&world, from, from + 10).await;
        writer.commit().await.unwrap();
    }
    let others: Vec<String> = super::tables(&world.topics)
        .into_iter()
        .map(|(name, ..)| name)
        .filter(|name| name != "host_metrics")
        .collect();
    for name in &others {
        let log = lake.folder.path().join(name).join("_delta_log");
        fs_err::create_dir_all(&log).unwrap();
        fs_err::write(log.join("00000000000000000000.json"), "no log entry").unwrap();
    }
    let optimized = optimize_anyhow(&lake.config, &world.topics, &compacting()).await.unwrap();
    assert_eq!(optimized.len(), others.len() + 1);
    for table in optimized {
        assert_eq!(table.failed.is_none(), table.table == "host_metrics", "{table:?}");
    }
    assert_eq!(lake.files("host_metrics").len(), 1);
}

/// Two monitors take turns; in files, merged or not, what each says stands together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_monitor_says_again_and_again_stands_together() {
    let (world, lake) = (World::new(1), Lake::new());
    let topic = world.topics.events(Family::HostMetrics);
    let (running, stop) = lake.start(&world, world.log.handle());
    for round in 0..2_i64 {
        for seq in round * 40..(round + 1) * 40 {
            let (kind, payload) = match seq % 2 {
                0 if seq % 4 == 0 => ("disk_usage", r#"{"disk":"/","disk_used_bytes":4096}"#),
                0 => ("disk_usage", r#"{"disk":"/home","disk_used_bytes":8192}"#),
                _ => ("cpu_usage", r#"{"cpu_percent":1.5}"#),
            };
            let (agent, time) = (seq % 3, NOW + seq * 1000);
            let event = format!(
                r#"{{"agent_id":"a{agent}","session":7,"lane":"normal","seq":{seq},"event_time":{time},
                    "event_type":"{kind}","source":"s","payload":{payload}}}"#
            );
            world.send(&topic, 0, world.event(&event));
        }
        let rows = (round as usize + 1) * 40;
        until("the round", || lake.identities("host_metrics").len() == rows).await;
    }
    stop.request();
    running.await.unwrap().unwrap();
    let are_sorted = || {
        for file in lake.files("host_metrics") {
            assert_eq!(order_of(&lake, &file), SORTED);
        }
        for batch in lake.rows("host_metrics") {
            let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
            let (agents, kinds, disks) = (text("agent_id"), text("event_type"), text("disk"));
            let times = batch.column_by_name("event_time").unwrap();
            let times = times.as_primitive::<TimestampMicrosecondType>().clone();
            let key = |row: usize| (agents.value(row), kinds.value(row), disks.value(row), times.value(row));
            assert!((1..batch.num_rows()).all(|row| key(row - 1) < key(row)), "{batch:?}");
        }
    };
    are_sorted();
    assert!(lake.files("host_metrics").len() > 1);
    optimize_anyhow(&lake.config, &world.topics, &compacting()).await.unwrap();
    assert_eq!(lake.files("host_metrics").len(), 1);
    assert_eq!(lake.rows("host_metrics").iter().map(RecordBatch::num_rows).sum::<usize>(), 80);
    are_sorted();
}

const SORTED: [&str; 7] = ["agent_id", "event_type", "disk", "net_interface", "sensor", "event_time", "seq"];

/// Columns by which a file says that it is sorted.
fn order_of(lake: &Lake, file: &str) -> Vec<String> {
    let file = fs_err::File::open(lake.folder.path().join("host_metrics").join(file)).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.into_parts().0).unwrap();
    let columns = reader.metadata().row_group(0).sorting_columns().cloned().unwrap_or_default();
    let name = |column: i32| reader.schema().field(column as usize).name().clone();
    columns.iter().map(|column| name(column.column_idx)).collect()
}

/// Files that a reader of an older version or a writer before its commit needs stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vacuum_leaves_what_somebody_may_need() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut writer = Writer::open(&lake, &world).await;
    for from in [0, 10] {
        writer.accept(&world, from, from + 10).await;
        writer.commit().await.unwrap();
    }
    writer.accept(&world, 20, 30).await;
    writer.table.cut().await.unwrap();
    writer.table.prepare(Scope::Everything).await.unwrap();
    let how = Optimizing { retention: LEAST_RETENTION, ..Optimizing::default() };
    let optimized = optimize(&lake.config, &world.topics, &how).await.unwrap();
    assert_eq!((optimized[0].after.0, optimized[0].vacuumed.0), (1, 0));
    let folder = lake.folder.path().join("host_metrics/dt=2025-11-21");
    assert_eq!(fs_err::read_dir(&folder).unwrap().count(), 4);
    writer.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 30));
    let too_short = Optimizing { retention: Duration::from_secs(1), ..Optimizing::default() };
    assert!(matches!(optimize(&lake.config, &world.topics, &too_short).await, Err(SinkError::Fatal(_))));
}

/// Two writers of different partitions and two optimisers, all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_and_optimisers_at_once_lose_nothing() {
    let (world, lake) = (World::new(2), Lake::new());
    let (first, stop_first) = lake.start(&world, world.log.handle());
    let (second, stop_second) = lake.start(&world, world.log.handle());
    let how = Optimizing { retention: Duration::from_hours(1), ..Optimizing::default() };
    let optimisers = [0, 1].map(|_| {
        let (config, topics, how) = (lake.config.clone(), world.topics.clone(), how.clone());
        tokio::spawn(async move {
            let mut merges = 0;
            for _ in 0..20 {
                let done = optimize_anyhow(&config, &topics, &how).await.unwrap();
                merges += done.iter().map(|table| table.merges).sum::<usize>();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            merges
        })
    });
    for round in 0..20 {
        world.send_metrics(0, round * 50, 50);
        world.send_metrics(1, round * 50, 50);
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let mut merges = 0;
    for optimiser in optimisers {
        merges += optimiser.await.unwrap();
    }
    assert!(merges > 0, "nothing was merged beside the writers");
    until("all rows", || lake.identities("host_metrics").len() >= 2000).await;
    stop_first.request();
    stop_second.request();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(2, 1000));
    let verified = lake.verified(&world, "host_metrics").await;
    assert_eq!((verified.problems, verified.rows), (vec![], 2000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_made_anew_from_given_offsets() {
    let (world, lake, fresh) = (World::new(2), Lake::new(), Lake::new());
    world.send_metrics(0, 0, 50);
    world.send_metrics(1, 0, 30);
    let topic = world.topics.events(Family::HostMetrics);
    world.send(&topic, 1, bytes::Bytes::from_static(b"garbage"));
    world.send(&world.topics.dlq(), 0, bytes::Bytes::from_static(b"a letter"));
    let what = Rebuilding {
        tables: vec![],
        from: [((topic.to_string(), 0), 20)].into(),
        dead_lettered: [((topic.to_string(), 1), 31)].into(),
    };
    let again = || {
        let registry: Arc<dyn SchemaRegistry> =
            Arc::<eventlog::registry::MemoryRegistry>::clone(&world.registry);
        rebuild(fresh.config.clone(), world.log.clone(), registry, &world.topics, what.clone())
    };
    let rebuilt = again().await.unwrap();
    let metrics = rebuilt.iter().find(|part| part.of == (topic.to_string(), 0)).unwrap();
    assert_eq!((metrics.from, metrics.to), (20, 50));
    let mut all: Vec<Identity> = (20..50).map(|seq| ("a0".to_owned(), seq)).collect();
    all.extend((0..30).map(|seq| ("a1".to_owned(), seq)));
    assert_eq!(fresh.identities("host_metrics"), all);
    assert_eq!(fresh.rows("dead_letters").len(), 1);
    assert_eq!(world.dead_letters().len(), 1, "poison was dead-lettered a second time");
    // a second time reads only what has come since
    world.send_metrics(0, 50, 5);
    again().await.unwrap();
    assert_eq!(fresh.identities("host_metrics").len(), all.len() + 5);
    let verified = fresh.verified(&world, "host_metrics").await;
    assert_eq!(verified.problems, Vec::<String>::new());
    assert_eq!(verified.covered.get(&(topic.to_string(), 0)), Some(&(20, 55)));
    assert_eq!(verified.covered.get(&(topic.to_string(), 1)), Some(&(0, 31)));
    assert!(lake.files("host_metrics").is_empty());
}

/// The event of [`World::metric`] as a version of tomorrow writes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_that_no_lake_has_read_is_dead_lettered_when_tables_are_made_anew() {
    let (world, fresh) = (World::new(1), Lake::new());
    let topic = world.topics.events(Family::HostMetrics);
    world.send(&topic, 0, bytes::Bytes::from_static(b"garbage of old"));
    world.send(&topic, 0, bytes::Bytes::from_static(b"garbage of new"));
    let what = Rebuilding {
        tables: vec!["host_metrics".to_owned()],
        dead_lettered: [((topic.to_string(), 0), 1)].into(),
        ..Rebuilding::default()
    };
    let registry: Arc<dyn SchemaRegistry> = Arc::<eventlog::registry::MemoryRegistry>::clone(&world.registry);
    rebuild(fresh.config.clone(), world.log.clone(), registry, &world.topics, what).await.unwrap();
    let letters = world.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].value.as_deref(), Some(&b"garbage of new"[..]));
    let verified = fresh.verified(&world, "host_metrics").await;
    assert_eq!(verified.problems, Vec::<String>::new());
    assert_eq!(verified.covered.get(&(topic.to_string(), 0)), Some(&(0, 2)));
}

fn of_tomorrow(world: &World, seq: i64) -> bytes::Bytes {
    let mut schema: serde_json::Value =
        serde_json::from_str(RecordKind::Family(Family::HostMetrics).avsc()).unwrap();
    schema["fields"].as_array_mut().unwrap().push(
        serde_json::json!({"name": "rack", "type": ["null", "string"], "default": null, "doc": "Where it stands."}),
    );
    let kind = RecordKind::Family(Family::HostMetrics);
    let id = world.registry.register(kind.subject(), &schema.to_string()).unwrap();
    let today = world.metric("a0", seq, NOW + seq * 1000);
    let mut datum = today[schemas::wire::PREFIX..].to_vec();
    datum.extend([2, 4, b'r', b'7']);
    let mut value = Vec::new();
    schemas::wire::frame(id, &datum, &mut value);
    value.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_grows_when_a_newer_version_arrives_and_nobody_stops() {
    let (world, lake) = (World::new(1), Lake::new());
    let topic = world.topics.events(Family::HostMetrics);
    let (first, stop) = lake.start(&world, world.log.handle());
    world.send_metrics(0, 0, 40);
    until("today's rows", || lake.identities("host_metrics").len() == 40).await;
    for seq in 40..60 {
        world.send(&topic, 0, of_tomorrow(&world, seq));
    }
    // both versions in one batch
    world.send_metrics(0, 60, 10);
    world.send(&topic, 0, of_tomorrow(&world, 70));
    until("tomorrow's rows", || lake.identities("host_metrics").len() == 71).await;
    stop.request();
    first.await.unwrap().unwrap();
    let racks = || {
        let mut racks = [0, 0];
        for batch in lake.rows("host_metrics") {
            match batch.column_by_name("rack") {
                None => racks[0] += batch.num_rows(),
                Some(column) => {
                    racks[0] += column.null_count();
                    let column = column.as_string::<i32>();
                    racks[1] += column.iter().flatten().filter(|rack| *rack == "r7").count();
                }
            }
        }
        racks
    };
    assert_eq!(racks(), [50, 21]);
    let columns = info(&lake.config, &world.topics).await.unwrap();
    let columns = columns.iter().find(|table| table.table == "host_metrics").unwrap().columns;
    let known = schemas::columns::arrow_schema(RecordKind::Family(Family::HostMetrics)).fields().len();
    assert_eq!(columns, known + 3, "dt, dt_by_arrival and rack");
    // a process that knows only today's version goes on with the table that has grown
    let (second, stop) = lake.start(&world, world.log.handle());
    world.send_metrics(0, 71, 9);
    until("more rows", || lake.identities("host_metrics").len() == 80).await;
    stop.request();
    second.await.unwrap().unwrap();
    optimize_anyhow(&lake.config, &world.topics, &compacting()).await.unwrap();
    assert_eq!(lake.files("host_metrics").len(), 1);
    assert_eq!((racks(), lake.identities("host_metrics")), ([59, 21], expected(1, 80)));
    assert_eq!(lake.verified(&world, "host_metrics").await.problems, Vec::<String>::new());
}

/// Two processes; one is killed again and again at another moment, rebalances come at random.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_and_rebalances_leave_each_row_once() {
    let (world, lake) = (World::new(3), Lake::new());
    let survivor_log = world.log.handle();
    let (survivor, shutdown) = lake.start(&world, survivor_log);
    let rounds = 8;
    for round in 0..rounds {
        let log = world.log.handle();
        let (victim, _) = lake.start(&world, log.clone());
        for partition in 0..3 {
            // every seventh row is three days old
            let at = |seq| if seq % 7 == 0 { NOW - 3 * DAY + seq } else { NOW + seq * 1000 };
            world.send_metrics_of(partition, round * 90..(round + 1) * 90, at);
        }
        tokio::time::sleep(Duration::from_millis(17 * (round as u64 % 5))).await;
        if round % 3 == 0 {
            world.log.rebalance("varta-lake");
        }
        log.kill();
        victim.abort();
        let _ = victim.await;
    }
    let all = expected(3, rounds * 90);
    until("all rows", || lake.identities("host_metrics").len() >= all.len()).await;
    shutdown.request();
    survivor.await.unwrap().unwrap();
    assert_eq!(lake.identities("host_metrics"), all);
    let verified = lake.verified(&world, "host_metrics").await;
    assert_eq!(verified.problems, Vec::<String>::new());
    assert_eq!(verified.rows, all.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_never_grows_beyond_its_limit() {
    const LIMIT: u64 = 1 << 20;
    let (world, lake) = (World::new(1), Lake::new());
    // nothing but the limit makes it commit
    let hour = Duration::from_hours(1);
    let config = LakeConfig {
        memory: ByteSize(LIMIT),
        commit_rows: usize::MAX,
        commit_age: hour,
        late_age: hour,
        ..lake.config.clone()
    };
    let letters = DeadLetters::open(&world.log, &world.topics, "lake").unwrap();
    let mut sink = LakeSink::new(config, tables(&world.topics), letters).unwrap();
    sink.open().await.unwrap();
    let topic = world.topics.late();
    sink.starts(&[TopicPartition::new(Arc::clone(&topic), 0)]).await.unwrap();
    let rows = 100;
    for number in 0..30 {
        // thirty days, one after the other
        let record = |offset: i64| eventlog::Record {
            topic: Arc::clone(&topic),
            partition: 0,
            offset,
            timestamp: (NOW - number * DAY) / 1000,
            key: None,
            value: Some(vec![1; 4096].into()),
            headers: vec![],
        };
        let (from, to) = (number * rows, (number + 1) * rows);
        let plain = (from..to).map(record).collect();
        let spans = vec![Span { partition: 0, from, to }];
        let topic = Arc::clone(&topic);
        sink.accept(Batch { topic, spans, rows: vec![], poison: vec![], plain }).await.unwrap();
        if sink.memory() > LIMIT {
            assert!(sink.due().is_some_and(|due| due <= Instant::now()));
            sink.flush(Flush::Due).await.unwrap();
        }
        assert!(sink.memory() <= LIMIT, "{} bytes are held", sink.memory());
    }
    // twelve megabytes came, and one at most is not in the table
    assert!(lake.files("late").len() >= 20);
}

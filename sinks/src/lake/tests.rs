//! The lake on a temporary folder: whatever crashes, sleeps or races, each row is there once.

use std::{collections::BTreeMap, time::Duration};

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use eventlog::memory::MemoryLog;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use runtime::config::ByteSize;
use tokio::task::JoinHandle;

use super::{
    shape::Shape,
    table::{Attempt, LogAction, actions},
    verify::{Verified, verify},
    *,
};
use crate::{
    batch::{Batch, Place, Rows, Span},
    testing::{NOW, World, until},
};

type Identity = (String, i64);

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
        Root { location: self.config.root.clone(), options: BTreeMap::new() }
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
                if let LogAction::Add(file) = action {
                    files.push(file.path);
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
        let writing = Writing {
            row_group_rows: 1000,
            zstd_level: 3,
            believable: Believable::new(lake.config.oldest, lake.config.ahead),
        };
        let mut writer = TableWriter::new(name, Arc::clone(&topic), "varta", content, writing).unwrap();
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
        self.table.accept(batch, vec![]).await.unwrap();
    }

    async fn commit(&mut self) -> Result<(), SinkError> {
        self.table.commit(&self.letters).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_slept_skips_what_another_has_committed() {
    let (world, lake) = (World::new(1), Lake::new());
    let mut sleeper = Writer::open(&lake, &world).await;
    sleeper.accept(&world, 0, 30).await;
    sleeper.table.cut().await.unwrap();
    sleeper.table.prepare().await.unwrap();

    let mut other = Writer::open(&lake, &world).await;
    other.accept(&world, 0, 20).await;
    other.commit().await.unwrap();

    // It wakes exactly between its check and its commit: the version is taken.
    assert_eq!(sleeper.table.append().await.unwrap(), Attempt::Conflict);
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
    crashed.table.prepare().await.unwrap();
    drop(crashed);
    assert!(lake.files("host_metrics").is_empty());
    let mut next = Writer::open(&lake, &world).await;
    next.accept(&world, 0, 10).await;
    next.commit().await.unwrap();
    assert_eq!(lake.identities("host_metrics"), expected(1, 10));
    assert_eq!(lake.verified(&world, "host_metrics").await.problems, Vec::<String>::new());
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
    for table in verify(&lake.config, &world.topics, true).await.unwrap() {
        assert_eq!(table.problems, Vec::<String>::new(), "{}", table.table);
    }
    let covered = lake.verified(&world, "raw").await.covered;
    assert_eq!(covered.get(&(raw.to_string(), 0)), Some(&(0, 3)));
    assert_eq!(covered.get(&(raw.to_string(), 1)), Some(&(0, 1)));
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
            world.send_metrics(partition, round * 90, 90);
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
    let world = World::new(1);
    let lake = Lake::new();
    let config =
        LakeConfig { memory: ByteSize::kib(1), commit_age: Duration::from_hours(1), ..lake.config.clone() };
    let letters = DeadLetters::open(&world.log, &world.topics, "lake").unwrap();
    let mut sink = LakeSink::new(config, tables(&world.topics), letters).unwrap();
    sink.open().await.unwrap();
    let topic = world.topics.late();
    sink.starts(&[TopicPartition::new(Arc::clone(&topic), 0)]).await.unwrap();
    let record = eventlog::Record {
        topic: Arc::clone(&topic),
        partition: 0,
        offset: 0,
        timestamp: NOW / 1000,
        key: None,
        value: Some(vec![1; 4096].into()),
        headers: vec![],
    };
    let spans = vec![Span { partition: 0, from: 0, to: 1 }];
    sink.accept(Batch { topic, spans, rows: vec![], poison: vec![], plain: vec![record] }).await.unwrap();
    assert!(sink.due().is_some_and(|due| due <= Instant::now()));
    sink.flush(Flush::Due).await.unwrap();
    assert_eq!(sink.memory(), 0);
    assert_eq!(lake.files("late").len(), 1);
}

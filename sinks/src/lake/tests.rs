//! The lake on a temporary folder.

mod commits;
mod compaction;
mod contents;

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

fn compacting() -> Optimizing {
    Optimizing { retention: Duration::ZERO, ..Optimizing::default() }
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
        let (limits, mill) = (lake.config.limits(), Arc::new(mill::Mill::start().unwrap()));
        let mut writer =
            TableWriter::new(name, Arc::clone(&topic), "varta", content, writing, limits, mill).unwrap();
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

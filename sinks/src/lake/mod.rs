//! The Delta lake: one table per family, raw, features, alerts, late and dead letters.
//!
//! **Exactly once.** A commit adds files *and* a `txn` action per topic-partition with the last offset that the
//! files hold. Before each attempt the sink reads the table's log to its end, drops from memory what the table
//! has already, and then makes exactly the next version or fails. So it does not matter who else writes,
//! who slept, or whether an answer was lost. Where reading begins after a start comes from the same
//! `txn` actions.
//!
//! A file is uploaded whole before it is named in the log; a crash between the two leaves a file that no reader
//! sees and that a vacuum removes. Limitation: on a local folder, object_store stages an upload
//! under `<name>#<number>`; a crash in the middle of one leaves that name behind.

mod config;
mod dates;
mod files;
mod held;
mod shape;
mod table;
#[cfg(test)]
mod tests;
pub mod verify;
mod writer;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use eventlog::{Log, Position, TopicPartition, registry::SchemaRegistry};
use runtime::{health::Health, shutdown::Shutdown};
use schemas::{
    family::Family,
    record::RecordKind,
    topics::{FEATURE_SIZES, Topics},
};

pub use self::config::LakeConfig;
use self::{dates::Believable, files::Writing, shape::Content, table::Root, writer::TableWriter};
use crate::{
    DeadLetters, Flush, Sink, SinkError, Start,
    batch::Batch,
    runner::{self, Feed},
};

/// Runs the sink until `shutdown` or a fatal error.
pub async fn run<L: Log>(
    config: LakeConfig,
    log: L,
    registry: Arc<dyn SchemaRegistry>,
    topics: Topics,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), SinkError> {
    if !config.enabled {
        return Ok(());
    }
    let tables = tables(&topics);
    let (plain, decoded): (Vec<_>, Vec<_>) =
        tables.iter().partition(|(_, _, content)| *content == Content::Records);
    let names =
        |of: Vec<&(String, Arc<str>, Content)>| of.iter().map(|(_, topic, _)| topic.to_string()).collect();
    let feed = Feed {
        group: config.group.clone(),
        instance: config.instance.clone(),
        decoded: names(decoded),
        plain: names(plain),
        poll_rows: config.poll_rows,
        poll_bytes: config.poll_bytes.bytes() as usize,
        drain: config.drain,
    };
    let letters = DeadLetters::open(&log, &topics, "lake")?;
    runner::run(LakeSink::new(config, tables, letters)?, feed, log, registry, health, shutdown).await
}

/// Every table with its topic.
fn tables(topics: &Topics) -> Vec<(String, Arc<str>, Content)> {
    let mut tables = vec![("raw".to_owned(), topics.raw(), Content::Raw)];
    for family in Family::ALL {
        let content = Content::Kind(RecordKind::Family(family));
        tables.push((family.name().to_owned(), topics.events(family), content));
    }
    for ((size, by_machine), by_user) in
        FEATURE_SIZES.into_iter().zip(RecordKind::FEATURES).zip(RecordKind::USER_FEATURES)
    {
        tables.push((format!("features_{size}"), topics.features(size), Content::Kind(by_machine)));
        tables.push((format!("user_features_{size}"), topics.user_features(size), Content::Kind(by_user)));
    }
    tables.push(("alerts".to_owned(), topics.alerts(), Content::Kind(RecordKind::Alert)));
    tables.push(("late".to_owned(), topics.late(), Content::Records));
    tables.push(("dead_letters".to_owned(), topics.dlq(), Content::Records));
    tables
}

/// The sink over all tables.
struct LakeSink {
    config: LakeConfig,
    root: Root,
    letters: DeadLetters,
    tables: BTreeMap<Arc<str>, TableWriter>,
}

impl LakeSink {
    fn new(
        config: LakeConfig,
        tables: Vec<(String, Arc<str>, Content)>,
        letters: DeadLetters,
    ) -> Result<Self, SinkError> {
        let writing = Writing {
            row_group_rows: config.row_group_rows,
            zstd_level: config.zstd_level,
            believable: Believable::new(config.oldest, config.ahead),
        };
        let mut writers = BTreeMap::new();
        for (name, topic, content) in tables {
            let writer = TableWriter::new(name, Arc::clone(&topic), &config.app, content, writing.clone())?;
            writers.insert(topic, writer);
        }
        let root = Root { location: config.root.clone(), options: config.options.clone() };
        Ok(Self { config, root, letters, tables: writers })
    }

    fn memory(&self) -> u64 {
        self.tables.values().map(|table| table.held().bytes() as u64).sum()
    }

    fn is_full(&self, table: &TableWriter) -> bool {
        let held = table.held();
        held.is_broken()
            || held.count() >= self.config.commit_rows
            || held.bytes() as u64 >= self.config.commit_bytes.bytes()
    }

    fn is_due(&self, table: &TableWriter, now: Instant) -> bool {
        let old = |since: Instant| now.duration_since(since) >= self.config.commit_age;
        self.is_full(table) || table.held().since().is_some_and(old)
    }
}

#[async_trait]
impl Sink for LakeSink {
    fn name(&self) -> &'static str {
        "lake"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        for table in self.tables.values_mut() {
            table.open(&self.root, self.config.checkpoint_every).await?;
        }
        Ok(())
    }

    async fn starts(&mut self, of: &[TopicPartition]) -> Result<Vec<Start>, SinkError> {
        let mut partitions: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
        for of in of {
            partitions.entry(Arc::clone(&of.topic)).or_default().push(of.partition);
        }
        let mut found: BTreeMap<(Arc<str>, i32), Start> = BTreeMap::new();
        for (topic, partitions) in partitions {
            let table = self.tables.get_mut(&topic);
            let table = table.ok_or_else(|| SinkError::Fatal(format!("no table takes topic {topic}")))?;
            for (partition, next) in partitions.iter().zip(table.next_offsets(&partitions).await?) {
                let start = next.map_or(Start::Beginning, Start::At);
                found.insert((Arc::clone(&topic), *partition), start);
            }
        }
        let start = |of: &TopicPartition| found.get(&(Arc::clone(&of.topic), of.partition)).copied();
        Ok(of.iter().map(|of| start(of).unwrap_or(Start::Beginning)).collect())
    }

    async fn accept(&mut self, mut batch: Batch) -> Result<(), SinkError> {
        let letters = self.letters.take_poison(&mut batch);
        match self.tables.get_mut(&batch.topic) {
            Some(table) => table.accept(batch, letters).await?,
            None => return Err(SinkError::Fatal(format!("no table takes topic {}", batch.topic))),
        }
        metrics::gauge!("varta_sinks_held_bytes", "sink" => "lake").set(self.memory() as f64);
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        if self.memory() > self.config.memory.bytes() || self.tables.values().any(|table| self.is_full(table))
        {
            return Some(now);
        }
        self.tables
            .values()
            .filter_map(|table| table.held().since())
            .min()
            .map(|at| at + self.config.commit_age)
    }

    async fn flush(&mut self, how: Flush) -> Result<Vec<Position>, SinkError> {
        let now = Instant::now();
        let due: Vec<Arc<str>> = self
            .tables
            .iter()
            .filter(|(_, table)| !table.held().is_empty() && (how == Flush::All || self.is_due(table, now)))
            .map(|(topic, _)| Arc::clone(topic))
            .collect();
        for topic in due {
            if let Some(table) = self.tables.get_mut(&topic) {
                table.commit(&self.letters).await?;
            }
        }
        while self.memory() > self.config.memory.bytes() {
            let fullest = self.tables.values_mut().max_by_key(|table| table.held().bytes());
            let Some(table) = fullest.filter(|table| !table.held().is_empty()) else {
                break;
            };
            table.commit(&self.letters).await?;
        }
        metrics::gauge!("varta_sinks_held_bytes", "sink" => "lake").set(self.memory() as f64);
        Ok(Vec::new())
    }

    fn discard(&mut self, of: &[TopicPartition]) {
        for (topic, table) in &mut self.tables {
            let partitions: Vec<i32> =
                of.iter().filter(|of| of.topic == *topic).map(|of| of.partition).collect();
            if !partitions.is_empty() {
                table.discard(&partitions);
            }
        }
    }
}

/// How long an upload may take before it is tried again.
const UPLOAD: Duration = Duration::from_mins(2);

//! The sink: which tables are committed, and when.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use async_trait::async_trait;
use eventlog::{Position, TopicPartition};

use super::{
    LakeConfig,
    mill::Mill,
    probe,
    shape::Content,
    table::Root,
    writer::{Scope, TableWriter},
};
use crate::{DeadLetters, Flush, Sink, SinkError, Start, batch::Batch};

/// The sink over all tables.
pub(super) struct LakeSink {
    config: LakeConfig,
    root: Root,
    letters: DeadLetters,
    tables: BTreeMap<Arc<str>, TableWriter>,
    /// Poison below these offsets was dead-lettered by another lake; it is only counted.
    dead_lettered: BTreeMap<(String, i32), i64>,
}

impl LakeSink {
    pub(super) fn new(
        config: LakeConfig,
        tables: Vec<(String, Arc<str>, Content)>,
        letters: DeadLetters,
    ) -> Result<Self, SinkError> {
        let (mut writers, mill) = (BTreeMap::new(), Arc::new(Mill::start()?));
        for (name, topic, content) in tables {
            let (writing, limits) = (config.writing(), config.limits());
            let (of, mill) = (Arc::clone(&topic), Arc::clone(&mill));
            let writer = TableWriter::new(name, of, &config.app, content, writing, limits, mill)?;
            writers.insert(topic, writer);
        }
        let root = config.root();
        Ok(Self { config, root, letters, tables: writers, dead_lettered: BTreeMap::new() })
    }

    /// Leaves poison below these offsets to whoever dead-lettered it.
    pub(super) fn dead_lettered(self, below: BTreeMap<(String, i32), i64>) -> Self {
        Self { dead_lettered: below, ..self }
    }

    pub(super) fn memory(&self) -> u64 {
        self.tables.values().map(|table| table.bytes() as u64).sum()
    }

    fn is_over(&self) -> bool {
        self.memory() > self.config.memory.bytes()
    }

    fn told(&self) {
        metrics::gauge!("varta_sinks_held_bytes", "sink" => "lake").set(self.memory() as f64);
    }
}

#[async_trait]
impl Sink for LakeSink {
    fn name(&self) -> &'static str {
        "lake"
    }

    fn takes_new_fields(&self) -> bool {
        true
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        probe::try_out(&self.root).await?;
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
        let mut letters = self.letters.take_poison(&mut batch);
        let mut known = Vec::new();
        if !self.dead_lettered.is_empty() {
            letters.retain(|(partition, offset, _)| {
                let below = self.dead_lettered.get(&(batch.topic.to_string(), *partition));
                let is_known = below.is_some_and(|below| offset < below);
                if is_known {
                    known.push((*partition, *offset));
                }
                !is_known
            });
        }
        match self.tables.get_mut(&batch.topic) {
            Some(table) => table.accept(batch, letters, &known).await?,
            None => return Err(SinkError::Fatal(format!("no table takes topic {}", batch.topic))),
        }
        self.told();
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        if self.is_over() {
            return Some(now);
        }
        self.tables.values().filter_map(|table| table.due(now)).map(|(at, _)| at).min()
    }

    async fn flush(&mut self, how: Flush) -> Result<Vec<Position>, SinkError> {
        let now = Instant::now();
        for table in self.tables.values_mut() {
            let scope = match how {
                Flush::All => (!table.is_empty()).then_some(Scope::Everything),
                Flush::Due => table.due(now).filter(|(at, _)| *at <= now).map(|(_, scope)| scope),
            };
            if let Some(scope) = scope {
                table.commit(scope, &self.letters).await?;
            }
        }
        while self.is_over() {
            let fullest = self.tables.values_mut().max_by_key(|table| table.bytes());
            let Some(table) = fullest.filter(|table| !table.is_empty()) else { break };
            table.commit(Scope::Everything, &self.letters).await?;
        }
        self.told();
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

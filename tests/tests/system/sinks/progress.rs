//! How far a sink has come, by the place where it keeps its offsets, and that it never went back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schemas::family::Family;

use crate::stage::{PARTITIONS, Stage, blocking};

const ANSWER: Duration = Duration::from_secs(15);

/// Topic and partition to the offset to go on from.
type Offsets = BTreeMap<(String, i32), i64>;

/// Offsets as they were last seen.
pub(super) struct Progress {
    sink: &'static str,
    /// The topics that say how far it has come: those with events, which only grow while a load is sent.
    topics: Vec<String>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    offsets: Offsets,
    /// What must never be, if only for a moment.
    went_back: Option<String>,
}

impl Progress {
    pub(super) fn watch(stage: &Stage, sink: &'static str) -> Self {
        // PostgreSQL takes only some of the families.
        let families: &[Family] = match sink {
            "postgres" => &[Family::ProcessEvent],
            _ => &[Family::HostMetrics, Family::ProcessEvent],
        };
        let topics = families.iter().map(|family| stage.topics().events(*family).to_string()).collect();
        Self { sink, topics, seen: Mutex::default() }
    }

    /// Looks where the store stands; fails from then on when an offset is smaller than before.
    pub(super) async fn note(&self, stage: &Stage) -> anyhow::Result<()> {
        let now = self.offsets(stage).await?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (of, offset) in now {
            let before = seen.offsets.insert(of.clone(), offset).unwrap_or(0);
            if offset < before {
                let what = format!("{}: {of:?} went back from {before} to {offset}", self.sink);
                seen.went_back.get_or_insert(what);
            }
        }
        match &seen.went_back {
            Some(what) => bail!("{what}"),
            None => Ok(()),
        }
    }

    /// Whether all that was on the topics is stored.
    pub(super) async fn is_complete(&self, stage: &Stage) -> anyhow::Result<bool> {
        let stored = self.offsets(stage).await?;
        for topic in &self.topics {
            for record in stage.records(topic)? {
                let of = (topic.clone(), record.partition);
                if stored.get(&of).is_none_or(|next| *next <= record.offset) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// A last look, and the whole course where the store remembers it.
    pub(super) async fn end(&self, stage: &Stage) -> anyhow::Result<()> {
        self.note(stage).await?;
        if self.sink != "lake" {
            return Ok(());
        }
        let mut moves = 0;
        for table in fs_err::read_dir(stage.lake())? {
            moves += forward_only(&table?.path().join("_delta_log"))?;
        }
        ensure!(moves > 10, "{moves} moves of offsets only");
        Ok(())
    }

    async fn offsets(&self, stage: &Stage) -> anyhow::Result<Offsets> {
        match self.sink {
            "lake" => blocking(|| Self::in_lake(stage)),
            "postgres" => self.in_postgres(stage).await,
            _ => blocking(|| self.in_group(stage)),
        }
    }

    /// The consumer group's, of which this consumer does not become a member.
    fn in_group(&self, stage: &Stage) -> anyhow::Result<Offsets> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &stage.kafka).set("enable.auto.commit", "false");
        config.set("group.id", format!("{}-{}", stage.prefix, self.sink));
        let consumer: BaseConsumer = config.create()?;
        let mut asked = TopicPartitionList::new();
        for topic in &self.topics {
            asked.add_partition_range(topic, 0, PARTITIONS - 1);
        }
        let mut offsets = Offsets::new();
        for element in consumer.committed_offsets(asked, ANSWER)?.elements() {
            if let Offset::Offset(offset) = element.offset() {
                offsets.insert((element.topic().to_owned(), element.partition()), offset);
            }
        }
        Ok(offsets)
    }

    async fn in_postgres(&self, stage: &Stage) -> anyhow::Result<Offsets> {
        let made = "SELECT to_regclass('offsets')::text";
        if stage.postgres.texts(made).await?.first().is_none_or(String::is_empty) {
            return Ok(Offsets::new());
        }
        let query =
            "SELECT concat_ws(' ', topic, partition, next_offset) FROM offsets WHERE sink = 'postgres'";
        let rows = stage.postgres.texts(query).await?;
        rows.iter()
            .map(|row| {
                let [topic, partition, offset] = row.split(' ').collect::<Vec<_>>()[..] else {
                    bail!("offsets: {row}");
                };
                Ok(((topic.to_owned(), partition.parse()?), offset.parse()?))
            })
            .collect()
    }

    /// The last of each application id in the logs of the tables.
    fn in_lake(stage: &Stage) -> anyhow::Result<Offsets> {
        let mut offsets = Offsets::new();
        if !stage.lake().exists() {
            return Ok(offsets);
        }
        for table in fs_err::read_dir(stage.lake())? {
            for (id, version) in transactions(&table?.path().join("_delta_log"))? {
                // `<app>:<topic>:<partition>`, of rows that came in time; the number is that of the last row
                if let [_, topic, partition] = id.split(':').collect::<Vec<_>>()[..] {
                    offsets.insert((topic.to_owned(), partition.parse()?), version + 1);
                }
            }
        }
        Ok(offsets)
    }
}

/// Application ids and versions, in the order of the log.
fn transactions(log: &std::path::Path) -> anyhow::Result<Vec<(String, i64)>> {
    let mut found = Vec::new();
    if !log.exists() {
        return Ok(found);
    }
    let mut files: Vec<PathBuf> =
        fs_err::read_dir(log)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    for file in files {
        for line in fs_err::read_to_string(&file)?.lines() {
            let action: serde_json::Value =
                serde_json::from_str(line).with_context(|| file.display().to_string())?;
            if let Some(transaction) = action.get("txn") {
                let id = transaction["appId"].as_str().context("an application id")?;
                let version = transaction["version"].as_i64().context("a version")?;
                found.push((id.to_owned(), version));
            }
        }
    }
    Ok(found)
}

/// How often the offsets of a table moved; each time forward.
fn forward_only(log: &std::path::Path) -> anyhow::Result<usize> {
    let (mut last, mut moves) = (BTreeMap::new(), 0);
    for (id, version) in transactions(log)? {
        let before = last.insert(id.clone(), version).unwrap_or(-1);
        ensure!(version >= before, "{}: {id} went back from {before} to {version}", log.display());
        moves += usize::from(version > before);
    }
    Ok(moves)
}

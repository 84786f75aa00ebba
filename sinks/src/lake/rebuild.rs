//! Tables made anew from the topics, in another folder.
//!
//! Each partition is read from a given offset up to where it ended when this began, and goes through the same steps
//! as in the sink; the offsets in the new tables say how far it came. So it may be killed and started again, and a
//! sink that is pointed at the new folder goes on where it ended.

use std::{collections::BTreeMap, sync::Arc};

use eventlog::{
    Log, LogError, LogErrorKind, Record, TopicPartition, batches::BatchDecoder, registry::SchemaRegistry,
};
use schemas::topics::Topics;
use tokio::sync::mpsc;

use super::{LakeConfig, sink::LakeSink, tables};
use crate::{
    DeadLetters, Flush, Sink as _, SinkError, Start,
    batch::{Batch, Span},
    runner::decode,
};

/// Records that are decoded together.
const ROWS: usize = 4096;
/// Polls on their way to the tables.
const QUEUE: usize = 2;

/// What is made anew, and from where.
#[derive(Debug, Clone, Default)]
pub struct Rebuilding {
    /// Only these tables; all when empty.
    pub tables: Vec<String>,
    /// Where to begin, by topic and partition; the oldest record that is there, where nothing is given.
    pub from: BTreeMap<(String, i32), i64>,
    /// How far another lake covers the topics: its sink has dead-lettered the poison below. What is beyond is
    /// dead-lettered now.
    pub dead_lettered: BTreeMap<(String, i32), i64>,
}

/// What was read of one partition, half-open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The table.
    pub table: String,
    /// Topic and partition.
    pub of: (String, i32),
    /// First offset read, now.
    pub from: i64,
    /// Where the partition ended when this began.
    pub to: i64,
}

/// Fills the tables below `config.root`, which must not be those of a sink that runs.
pub async fn rebuild<L: Log>(
    config: LakeConfig,
    log: L,
    registry: Arc<dyn SchemaRegistry>,
    topics: &Topics,
    what: Rebuilding,
) -> Result<Vec<Rebuilt>, SinkError> {
    let all = tables(topics);
    let known: Vec<String> = all.iter().map(|(name, ..)| name.clone()).collect();
    if let Some(unknown) = what.tables.iter().find(|table| !known.contains(table)) {
        return Err(SinkError::Fatal(format!(
            "no table is called `{unknown}`; there are: {}",
            known.join(", ")
        )));
    }
    let wanted: Vec<_> =
        all.into_iter().filter(|(name, ..)| what.tables.is_empty() || what.tables.contains(name)).collect();
    let letters = DeadLetters::open(&log, topics, "lake")?;
    let poll_bytes = config.poll_bytes.bytes() as usize;
    let mut sink = LakeSink::new(config, wanted.clone(), letters)?.dead_lettered(what.dead_lettered);
    sink.open().await?;
    let mut decoder = BatchDecoder::growing(registry);
    let mut done = Vec::new();
    for (table, topic, content) in wanted {
        let bounds = bounds(&log, &topic).await?;
        let partitions: Vec<TopicPartition> = bounds.iter().map(|(of, ..)| of.clone()).collect();
        let starts = sink.starts(&partitions).await?;
        for ((of, earliest, end), start) in bounds.into_iter().zip(starts) {
            let given = what.from.get(&(of.topic.to_string(), of.partition)).copied();
            let from = match start {
                // It was begun before: the table knows best.
                Start::At(offset) => offset,
                Start::Beginning | Start::Committed => given.unwrap_or(earliest),
            };
            if from < earliest {
                return Err(SinkError::Fatal(format!(
                    "{of}: offsets {from}..{earliest} were removed by retention; give a later offset"
                )));
            }
            let reading = Reading::new(of.clone(), from, content.is_plain(), poll_bytes, decoder);
            decoder = fill(&mut sink, &log, reading, end).await?;
            done.push(Rebuilt {
                table: table.clone(),
                of: (of.topic.to_string(), of.partition),
                from,
                to: end,
            });
        }
        sink.flush(Flush::All).await?;
    }
    Ok(done)
}

/// Each partition with its first offset and its end.
async fn bounds<L: Log>(log: &L, topic: &Arc<str>) -> Result<Vec<(TopicPartition, i64, i64)>, SinkError> {
    let (log, topic) = (log.clone(), Arc::clone(topic));
    let asked = tokio::task::spawn_blocking(move || {
        let group = format!("varta-rebuild-{}", uuid::Uuid::new_v4());
        let mut consumer = log.consumer(&group, &[&topic], None, eventlog::StartAt::Earliest)?;
        let mut bounds = Vec::new();
        for partition in 0..log.partitions(&topic)? {
            let of = TopicPartition { topic: Arc::clone(&topic), partition };
            let (earliest, end) = eventlog::Consumer::bounds(&mut consumer, &of)?;
            bounds.push((of, earliest, end));
        }
        Ok::<_, LogError>(bounds)
    });
    Ok(asked.await.map_err(|error| SinkError::Fatal(error.to_string()))??)
}

/// Reads one partition into its table. Offsets without records (of aborted transactions) count as covered.
async fn fill<L: Log>(
    sink: &mut LakeSink,
    log: &L,
    mut reading: Reading,
    end: i64,
) -> Result<BatchDecoder, SinkError> {
    let (sender, mut batches) = mpsc::channel::<Batch>(QUEUE);
    let (log, of, from) = (log.clone(), reading.of.clone(), reading.next);
    let reading = tokio::task::spawn_blocking(move || {
        let hand_over = |batch| {
            let gone = || LogError::new(LogErrorKind::Fatal, "the table does not take rows any more");
            sender.blocking_send(batch).map_err(|_| gone())
        };
        log.read_partition(&of, from, end, &mut |record| match reading.take(record)? {
            Some(batch) => hand_over(batch),
            None => Ok(()),
        })?;
        if let Some(batch) = reading.gathered(end)? {
            hand_over(batch)?;
        }
        Ok::<_, LogError>(reading.decoder)
    });
    while let Some(batch) = batches.recv().await {
        sink.accept(batch).await?;
        if sink.due().is_some_and(|due| due <= std::time::Instant::now()) {
            sink.flush(Flush::Due).await?;
        }
    }
    Ok(reading.await.map_err(|error| SinkError::Fatal(error.to_string()))??)
}

struct Reading {
    of: TopicPartition,
    next: i64,
    is_plain: bool,
    /// Bytes of records that are decoded together, about.
    poll_bytes: usize,
    decoder: BatchDecoder,
    gathered: Vec<Record>,
    bytes: usize,
}

impl Reading {
    fn new(of: TopicPartition, from: i64, is_plain: bool, poll_bytes: usize, decoder: BatchDecoder) -> Self {
        Self { of, next: from, is_plain, poll_bytes, decoder, gathered: Vec::new(), bytes: 0 }
    }

    /// Gathers a record; gives a batch when there are enough of them, by number or by weight.
    fn take(&mut self, record: Record) -> Result<Option<Batch>, LogError> {
        let to = record.offset + 1;
        self.bytes += record.value.as_ref().map_or(0, bytes::Bytes::len);
        self.gathered.push(record);
        if self.gathered.len() >= ROWS || self.bytes >= self.poll_bytes {
            self.gathered(to)
        } else {
            Ok(None)
        }
    }

    /// What was gathered; it covers the offsets up to `to`.
    fn gathered(&mut self, to: i64) -> Result<Option<Batch>, LogError> {
        let records = std::mem::take(&mut self.gathered);
        self.bytes = 0;
        if to <= self.next {
            return Ok(None);
        }
        let spans = vec![Span { partition: self.of.partition, from: self.next, to }];
        let batch = if self.is_plain || records.is_empty() {
            let topic = Arc::clone(&self.of.topic);
            Batch { topic, spans, rows: vec![], poison: vec![], plain: records }
        } else {
            decode(&self.of.topic, &records, &spans, &mut self.decoder).map_err(LogError::unavailable)?
        };
        self.next = to;
        Ok(Some(batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavy_records_are_handed_on_before_they_are_many() {
        let registry: Arc<dyn SchemaRegistry> = Arc::new(eventlog::registry::MemoryRegistry::new());
        let of = TopicPartition::new("t", 0);
        let mut reading = Reading::new(of, 0, true, 1000, BatchDecoder::new(registry));
        let record = |offset| Record {
            topic: "t".into(),
            partition: 0,
            offset,
            timestamp: 0,
            key: None,
            value: Some(vec![0; 400].into()),
            headers: vec![],
        };
        assert!(reading.take(record(0)).unwrap().is_none());
        assert!(reading.take(record(1)).unwrap().is_none());
        let batch = reading.take(record(2)).unwrap().unwrap();
        assert_eq!((batch.plain.len(), batch.spans[0].from, batch.spans[0].to), (3, 0, 3));
        assert!(reading.take(record(3)).unwrap().is_none());
        let rest = reading.gathered(9).unwrap().unwrap();
        assert_eq!((rest.plain.len(), rest.spans[0].from, rest.spans[0].to), (1, 3, 9));
    }
}

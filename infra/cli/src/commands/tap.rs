//! `varta tap TOPIC`: decoded rows as JSON lines, from now or from the beginning, filtered by SQL.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arrow::array::RecordBatch;
use eventlog::batches::BatchDecoder;
use eventlog::kafka::KafkaLog;
use eventlog::registry::{HttpRegistry, SchemaRegistry};
use eventlog::{Consumer, Log, LogError, Polled, Record, TopicPartition};
use processors::functions::Functions;
use processors::plan::CachedPlan;
use schemas::headers::dead_letter;
use schemas::record::RecordKind;

use crate::config::Config;
use crate::exit::Exit;
use crate::onlooker::{self, Begin};

/// Records that are decoded together.
const ROWS: usize = 1000;

/// What `varta tap` can be told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The topic, with or without its prefix: alerts, events.process_event, varta.raw …
    topic: String,
    /// Begin with the oldest record instead of the next one.
    #[arg(long)]
    from_start: bool,
    /// Stop at what was the end when the command started.
    #[arg(long)]
    to_end: bool,
    /// Only rows for which this SQL condition holds, e.g. "cpu_percent > 90".
    #[arg(long = "where", value_name = "SQL")]
    condition: Option<String>,
    /// Only records of this kind, by name: HostMetrics, ProcessEvent, Clock …
    #[arg(long, value_name = "RECORD")]
    kind: Option<String>,
    /// Stop after so many rows.
    #[arg(long, short = 'n')]
    limit: Option<usize>,
}

/// Prints rows until the limit, the end or Ctrl-C.
pub(crate) fn tap(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let prefix = format!("{}.", config.topics.prefix);
    let topic =
        if args.topic.starts_with(&prefix) { args.topic.clone() } else { format!("{prefix}{}", args.topic) };
    let only = match &args.kind {
        None => None,
        Some(name) => Some(
            RecordKind::from_full_name(&format!("varta.{name}"))
                .with_context(|| format!("no record is called {name:?}"))?,
        ),
    };
    let log = KafkaLog::connect(&config.kafka)?;
    let registry: Arc<dyn SchemaRegistry> = Arc::new(HttpRegistry::new(&config.registry)?);
    let mut printer =
        Printer { decoder: BatchDecoder::new(registry), filters: Vec::new(), args, only, printed: 0 };
    if args.to_end && args.from_start {
        read_all(&log, &topic, |records| printer.print(records))?;
    } else if !args.to_end {
        let from = if args.from_start { Begin::Oldest } else { Begin::Next };
        follow(&log, &topic, from, |records| printer.print(records))?;
    }
    Ok(Exit::Done)
}

/// Polls the topic outside of any lasting group and hands on what comes until `each` says stop.
fn follow(
    log: &KafkaLog,
    topic: &str,
    from: Begin,
    mut each: impl FnMut(&[Record]) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let mut consumer = onlooker::consumer(log, "tap", &[topic])?;
    loop {
        match consumer.poll(ROWS, Duration::from_millis(200))? {
            Polled::Assigned(partitions) => onlooker::begin(&mut consumer, partitions, from)?,
            Polled::Revoked { .. } => {}
            Polled::Records(records) => {
                if !each(&records)? {
                    return Ok(());
                }
            }
        }
    }
}

/// Reads what is in the topic now, partition after partition.
fn read_all<L: Log>(
    log: &L,
    topic: &str,
    mut each: impl FnMut(&[Record]) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    for partition in 0..log.partitions(topic)? {
        let of = TopicPartition { topic: topic.into(), partition };
        let (earliest, end) = log.bounds(&of)?;
        let mut chunks = Chunks { each: &mut each, gathered: Vec::new(), outcome: Ok(true) };
        let read = log.read_partition(&of, earliest, end, &mut |record| chunks.take(record));
        if !chunks.outcome? {
            return Ok(());
        }
        read?;
        if !(chunks.each)(&chunks.gathered)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Records handed on a few at a time, until no more are wanted.
struct Chunks<F> {
    each: F,
    gathered: Vec<Record>,
    outcome: anyhow::Result<bool>,
}

impl<F: FnMut(&[Record]) -> anyhow::Result<bool>> Chunks<F> {
    /// An error only ends the reading; why it ends is the outcome.
    fn take(&mut self, record: Record) -> Result<(), LogError> {
        self.gathered.push(record);
        if self.gathered.len() < ROWS {
            return Ok(());
        }
        self.outcome = (self.each)(&self.gathered);
        self.gathered.clear();
        if matches!(self.outcome, Ok(true)) { Ok(()) } else { Err(LogError::fatal("no more is wanted")) }
    }
}

struct Printer<'a> {
    decoder: BatchDecoder,
    filters: Vec<(RecordKind, CachedPlan)>,
    args: &'a Args,
    only: Option<RecordKind>,
    printed: usize,
}

impl Drop for Printer<'_> {
    fn drop(&mut self) {
        // Nor may a runtime end on such a thread.
        tokio::task::block_in_place(|| self.filters.clear());
    }
}

impl Printer<'_> {
    /// Prints the records; false when the limit is reached.
    fn print(&mut self, records: &[Record]) -> anyhow::Result<bool> {
        if records.is_empty() {
            return Ok(true);
        }
        let is_dead_letter =
            |record: &Record| record.headers.iter().any(|(name, _)| name == dead_letter::REASON);
        let is_json =
            |record: &Record| record.value.as_ref().is_some_and(|value| value.first() == Some(&b'{'));
        if is_dead_letter(&records[0]) || is_json(&records[0]) {
            for record in records {
                println!("{}", if is_dead_letter(record) { letter(record) } else { text(record) });
                self.printed += 1;
                if self.is_full() {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        let decoded = self.decoder.decode(records)?;
        for (row, reason) in &decoded.poison {
            let record = &records[*row as usize];
            eprintln!("{}-{}-{}: {reason}", record.topic, record.partition, record.offset);
        }
        for group in decoded.groups {
            if self.only.is_some_and(|only| only != group.kind) {
                continue;
            }
            let batch = self.filtered(group.kind, group.batch)?;
            if !self.print_rows(&batch)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn filtered(&mut self, kind: RecordKind, batch: RecordBatch) -> anyhow::Result<RecordBatch> {
        // A query runs on a runtime of its own, which no thread may enter that already drives one.
        tokio::task::block_in_place(|| self.matching(kind, batch))
    }

    fn matching(&mut self, kind: RecordKind, batch: RecordBatch) -> anyhow::Result<RecordBatch> {
        let Some(condition) = &self.args.condition else {
            return Ok(batch);
        };
        if !self.filters.iter().any(|(known, _)| *known == kind) {
            let sql = format!("SELECT * FROM rows WHERE {condition}");
            let plan = CachedPlan::new(&sql, "rows", batch.schema(), &Functions::new())
                .with_context(|| format!("the condition does not fit {}", kind.name()))?;
            self.filters.push((kind, plan));
        }
        match self.filters.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, plan)) => Ok(plan.run(batch)?),
            None => Ok(batch),
        }
    }

    fn print_rows(&mut self, batch: &RecordBatch) -> anyhow::Result<bool> {
        let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
        writer.write(batch)?;
        writer.finish()?;
        for line in String::from_utf8(writer.into_inner())?.lines() {
            if self.is_full() {
                return Ok(false);
            }
            println!("{line}");
            self.printed += 1;
        }
        Ok(!self.is_full())
    }

    fn is_full(&self) -> bool {
        self.args.limit.is_some_and(|limit| self.printed >= limit)
    }
}

fn text(record: &Record) -> String {
    record.value.as_ref().map_or_else(String::new, |value| String::from_utf8_lossy(value).into_owned())
}

/// A dead letter as one JSON line: why, who, from where, and the original as text where it is one.
fn letter(record: &Record) -> String {
    let mut line = serde_json::Map::new();
    for (name, value) in &record.headers {
        line.insert(name.clone(), String::from_utf8_lossy(value).into());
    }
    line.insert("bytes".into(), record.value.as_ref().map_or(0, bytes::Bytes::len).into());
    line.insert("original".into(), text(record).into());
    serde_json::Value::Object(line).to_string()
}

#[cfg(test)]
mod tests {
    use eventlog::memory::MemoryLog;
    use eventlog::{Appender as _, NewRecord};

    use super::*;

    fn filled(count: usize) -> MemoryLog {
        let log = MemoryLog::new();
        log.create("t", 2);
        let appender = log.appender(Box::new(|_, outcome| assert!(outcome.is_ok()))).unwrap();
        for number in 0..count {
            appender.append(NewRecord::keyed("t", "k", number.to_string()).to_partition(0), 0).unwrap();
        }
        log
    }

    #[test]
    fn the_topic_is_read_in_chunks_and_no_further_than_wanted() {
        let log = filled(3 * ROWS + 1);
        let mut sizes = Vec::new();
        read_all(&log, "t", |records| {
            sizes.push(records.len());
            Ok(true)
        })
        .unwrap();
        assert_eq!(sizes, [ROWS, ROWS, ROWS, 1, 0]);
        let mut taken = 0;
        let mut chunks = Chunks { each: |_: &[Record]| Ok(false), gathered: Vec::new(), outcome: Ok(true) };
        let of = TopicPartition::new("t", 0);
        let ended = log.read_partition(&of, 0, 3 * ROWS as i64 + 1, &mut |record| {
            taken += 1;
            chunks.take(record)
        });
        assert!(ended.is_err());
        assert_eq!((taken, chunks.gathered.len(), chunks.outcome.unwrap()), (ROWS, 0, false));
        let mut calls = 0;
        read_all(&log, "t", |_| {
            calls += 1;
            Ok(false)
        })
        .unwrap();
        assert_eq!(calls, 1);
    }
}

//! InfluxDB: time series for people at dashboards.
//!
//! InfluxDB has no transactions. Each row makes the same point whenever it is written ([`lines`]), so the
//! order is: write, hear that it is written, then commit the offsets to the log's consumer group. A crash between
//! repeats points that overwrite themselves.
//!
//! A refused request is halved until the lines at fault are found; each becomes a dead letter with the server's
//! words, its neighbours are written.

mod client;
mod config;
mod lines;
mod tags;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use eventlog::{Log, Position, TopicPartition, dead_letter::DeadLetter, registry::SchemaRegistry};
use parking_lot::Mutex;
use runtime::{failpoint, health::Health, shutdown::Shutdown};
use schemas::{
    family::Family,
    topics::{FEATURE_SIZES, Topics},
};

pub use self::config::{InfluxConfig, WriteApi};
use self::{
    client::{Answer, Client},
    lines::Lines,
    tags::TagGuard,
};
use crate::{
    DeadLetters, Flush, Sink, SinkError, Start,
    batch::{Batch, Place},
    dead_letters::origin,
    pending::{Pending, is_among},
    runner::{self, Feed},
};

/// Whether the server takes writes into the configured bucket with the configured token. Writes nothing.
///
/// # Errors
/// As when the sink opens it: `Unavailable` with the server's words.
pub async fn check(config: &InfluxConfig) -> Result<(), SinkError> {
    open(&Client::new(config)?, config).await
}

async fn open(client: &Client, config: &InfluxConfig) -> Result<(), SinkError> {
    client.try_out().await.map_err(|(reason, retry_after)| SinkError::Unavailable {
        store: format!("influx at {}", config.url),
        reason,
        retry_after,
    })
}

/// Runs the sink until `shutdown` or a fatal error.
pub async fn run<L: Log>(
    config: InfluxConfig,
    log: L,
    registry: Arc<dyn SchemaRegistry>,
    topics: Topics,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), SinkError> {
    if !config.enabled {
        return Ok(());
    }
    let mut decoded: Vec<String> =
        Family::ALL.iter().map(|family| topics.events(*family).to_string()).collect();
    decoded.extend(FEATURE_SIZES.map(|size| topics.features(size).to_string()));
    let feed = Feed {
        group: config.group.clone(),
        instance: config.instance.clone(),
        decoded,
        plain: Vec::new(),
        poll_rows: config.poll_rows,
        poll_bytes: config.poll_bytes.bytes() as usize,
        drain: config.drain,
    };
    let letters = DeadLetters::open(&log, &topics, "influx")?;
    let sink = InfluxSink::new(config, letters)?;
    runner::run(sink, feed, log, registry, health, shutdown).await
}

/// Lines that wait for their write, of one batch.
struct Waiting {
    topic: Arc<str>,
    lines: Lines,
    /// Lines already written.
    done: usize,
}

struct InfluxSink {
    config: InfluxConfig,
    client: Client,
    dead: DeadLetters,
    guard: Arc<Mutex<TagGuard>>,
    waiting: Vec<Waiting>,
    pending: Pending,
    since: Option<Instant>,
}

impl InfluxSink {
    fn new(config: InfluxConfig, dead: DeadLetters) -> Result<Self, SinkError> {
        Ok(Self {
            client: Client::new(&config)?,
            guard: Arc::new(Mutex::new(TagGuard::new(config.tag_values))),
            config,
            dead,
            waiting: Vec::new(),
            pending: Pending::default(),
            since: None,
        })
    }

    fn held_lines(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.lines.ends.len() - waiting.done).sum()
    }

    fn held_bytes(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.lines.text.len()).sum()
    }

    fn refuse(&mut self, topic: &Arc<str>, place: Place, original: Bytes, reason: String) {
        let letter = DeadLetter {
            stage: "influx",
            reason,
            origin: origin(topic, place.partition, place.offset),
            key: None,
            original,
            headers: Vec::new(),
        };
        self.pending.bury(topic, place.partition, letter);
    }

    /// Writes lines `from..to` of a batch of lines. Refused ones are halved until the culprits are alone.
    async fn write(&mut self, number: usize, from: usize, to: usize) -> Result<(), SinkError> {
        let mut parts = vec![(from, to)];
        while let Some((from, to)) = parts.pop() {
            let waiting = &self.waiting[number];
            let start = if from == 0 { 0 } else { waiting.lines.ends[from - 1].0 };
            let bytes = &waiting.lines.text[start..waiting.lines.ends[to - 1].0];
            let middle = from + (to - from) / 2;
            match self.client.write(bytes).await {
                Answer::Written => self.waiting[number].done = to,
                Answer::Later { reason, retry_after } => {
                    return Err(SinkError::Unavailable {
                        store: format!("influx at {}", self.config.url),
                        reason,
                        retry_after,
                    });
                }
                Answer::Refused(_) | Answer::TooLarge if to - from > 1 => {
                    parts.push((middle, to));
                    parts.push((from, middle));
                }
                refused => {
                    let reason = match refused {
                        Answer::Refused(reason) => reason,
                        _ => "larger than the server takes".to_owned(),
                    };
                    let (topic, line) = (Arc::clone(&waiting.topic), Bytes::copy_from_slice(bytes));
                    let place = waiting.lines.ends[from].1;
                    self.refuse(&topic, place, line, reason);
                    self.waiting[number].done = to;
                }
            }
        }
        Ok(())
    }

    /// End of the next request that begins at line `from`.
    fn request_end(&self, lines: &Lines, from: usize) -> usize {
        let start = if from == 0 { 0 } else { lines.ends[from - 1].0 };
        let limit = start + self.config.batch_bytes.bytes() as usize;
        let last = lines.ends.len().min(from + self.config.batch_lines);
        let fitting = lines.ends[from..last].partition_point(|(end, _)| *end <= limit);
        from + fitting.max(1)
    }
}

#[async_trait]
impl Sink for InfluxSink {
    fn name(&self) -> &'static str {
        "influx"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        open(&self.client, &self.config).await
    }

    async fn starts(&mut self, of: &[TopicPartition]) -> Result<Vec<Start>, SinkError> {
        Ok(vec![Start::Committed; of.len()])
    }

    async fn accept(&mut self, mut batch: Batch) -> Result<(), SinkError> {
        let topic = Arc::clone(&batch.topic);
        self.pending.take(&mut batch, &self.dead);
        let (rows, skip) = (batch.rows, self.config.skip.clone());
        let guard = Arc::clone(&self.guard);
        let built = tokio::task::spawn_blocking(move || {
            let (mut lines, mut guard) = (Lines::default(), guard.lock());
            for rows in &rows {
                lines::append(rows, &skip, &mut guard, &mut lines)?;
            }
            Ok::<_, SinkError>(lines)
        });
        let mut lines = built.await.map_err(|error| SinkError::Fatal(error.to_string()))??;
        if lines.overwriting > 0 {
            metrics::counter!("varta_sinks_influx_overwritten_total").increment(lines.overwriting);
            tracing::warn!(%topic, rows = lines.overwriting, "events of one instant overwrite each other");
        }
        for (place, reason, row) in std::mem::take(&mut lines.refused) {
            self.refuse(&topic, place, row, reason);
        }
        if !lines.ends.is_empty() {
            self.waiting.push(Waiting { topic, lines, done: 0 });
        }
        self.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        let full = self.held_lines() >= self.config.batch_lines
            || self.held_bytes() as u64 >= self.config.batch_bytes.bytes();
        self.since.map(|since| if full { since } else { since + self.config.batch_age })
    }

    async fn flush(&mut self, _: Flush) -> Result<Vec<Position>, SinkError> {
        failpoint::hit("influx.before_write");
        for number in 0..self.waiting.len() {
            while self.waiting[number].done < self.waiting[number].lines.ends.len() {
                let from = self.waiting[number].done;
                let to = self.request_end(&self.waiting[number].lines, from);
                self.write(number, from, to).await?;
            }
        }
        let positions = self.pending.settle(&self.dead, &BTreeMap::new()).await?;
        failpoint::hit("influx.after_write");
        self.waiting.clear();
        self.since = None;
        Ok(positions)
    }

    fn positions_stored(&mut self) {
        failpoint::hit("influx.after_offsets");
    }

    /// Lines go, too: the new owner may have written a newer revision of the same window.
    fn discard(&mut self, of: &[TopicPartition]) {
        self.pending.discard(of);
        for Waiting { topic, lines, done } in &mut self.waiting {
            if of.iter().any(|gone| gone.topic == *topic) {
                lines.keep(*done, |place| !is_among(of, topic, place.partition));
            }
        }
        self.waiting.retain(|waiting| waiting.done < waiting.lines.ends.len());
        if self.pending.is_empty() && self.waiting.is_empty() {
            self.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        batch::Span,
        testing::{NOW, World},
    };

    /// Rows of these partitions, and a record of each that is none.
    fn batch(world: &World, partitions: &[i32]) -> Batch {
        let topic = world.topics.events(Family::HostMetrics);
        let records: Vec<eventlog::Record> = partitions
            .iter()
            .flat_map(|partition| {
                let values = [world.metric(&format!("a{partition}"), 0, NOW), Bytes::from_static(b"garbage")];
                (0..).zip(values).map(|(offset, value)| eventlog::Record {
                    topic: Arc::clone(&topic),
                    partition: *partition,
                    offset,
                    timestamp: NOW / 1000,
                    key: None,
                    value: Some(value),
                    headers: Vec::new(),
                })
            })
            .collect();
        let spans: Vec<Span> =
            partitions.iter().map(|partition| Span { partition: *partition, from: 0, to: 2 }).collect();
        let registry: Arc<dyn SchemaRegistry> =
            Arc::<eventlog::registry::MemoryRegistry>::clone(&world.registry);
        runner::decode(&topic, &records, &spans, &mut eventlog::batches::BatchDecoder::new(registry)).unwrap()
    }

    fn sink(world: &World, url: String) -> InfluxSink {
        let letters = DeadLetters::open(&world.log, &world.topics, "influx").unwrap();
        InfluxSink::new(InfluxConfig { url, gzip: false, ..InfluxConfig::default() }, letters).unwrap()
    }

    #[tokio::test]
    async fn lines_and_letters_of_partitions_that_go_are_dropped() {
        let world = World::new(2);
        let mut sink = sink(&world, "http://127.0.0.1:1".to_owned());
        sink.accept(batch(&world, &[0, 1])).await.unwrap();
        let topic = world.topics.events(Family::HostMetrics);
        sink.discard(&[TopicPartition::new(Arc::clone(&topic), 0)]);
        let text = String::from_utf8(sink.waiting[0].lines.text.clone()).unwrap();
        assert!(text.contains("agent_id=a1") && !text.contains("agent_id=a0"), "{text}");
        assert_eq!(sink.pending.buried(), [1]);
        sink.discard(&[TopicPartition::new(topic, 1)]);
        assert!(sink.waiting.is_empty() && sink.pending.is_empty() && sink.due().is_none());
    }

    /// Answers each request with the next of these.
    fn server(answers: Vec<(u16, &'static str)>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 8192];
                let _ = stream.read(&mut request).unwrap();
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        url
    }

    #[tokio::test]
    async fn only_an_answer_to_the_empty_write_opens_the_store() {
        let world = World::new(1);
        let answers = vec![
            (400, r#"{"code":"invalid","message":"Please provide either orgID or org"}"#),
            (405, "Method Not Allowed"),
            (413, ""),
            (400, r#"{"code":"invalid","message":"writing requires points"}"#),
            (204, ""),
        ];
        let mut sink = sink(&world, server(answers));
        for _ in 0..3 {
            let error = sink.open().await.unwrap_err();
            assert!(matches!(error, SinkError::Unavailable { .. }), "{error}");
        }
        sink.open().await.unwrap();
        sink.open().await.unwrap();
    }
}

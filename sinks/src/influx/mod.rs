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
mod series;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use eventlog::{Log, Position, TopicPartition, dead_letter::DeadLetter, registry::SchemaRegistry};
use runtime::{failpoint, health::Health, shutdown::Shutdown};
use schemas::{
    family::Family,
    topics::{FEATURE_SIZES, Topics},
};

pub use self::config::{InfluxConfig, WriteApi};
use self::{
    client::{Answer, Client},
    lines::Lines,
    series::Series,
};
use crate::{
    DeadLetters, Flush, Sink, SinkError, Start,
    batch::{Batch, Place},
    dead_letters::origin,
    runner::{self, Feed},
};

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
    /// Lent to the thread that makes lines.
    series: Series,
    waiting: Vec<Waiting>,
    letters: Vec<(Arc<str>, i32, DeadLetter)>,
    /// Offsets to go on from once everything waiting is written.
    positions: BTreeMap<(Arc<str>, i32), i64>,
    since: Option<Instant>,
}

impl InfluxSink {
    fn new(config: InfluxConfig, dead: DeadLetters) -> Result<Self, SinkError> {
        Ok(Self {
            client: Client::new(&config)?,
            series: Series::new(config.max_series),
            config,
            dead,
            waiting: Vec::new(),
            letters: Vec::new(),
            positions: BTreeMap::new(),
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
        self.letters.push((Arc::clone(topic), place.partition, letter));
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

    /// An empty write: it shows that the server is there, and that it knows the bucket and the token.
    async fn open(&mut self) -> Result<(), SinkError> {
        match self.client.write(b"").await {
            Answer::Later { reason, retry_after } => Err(SinkError::Unavailable {
                store: format!("influx at {}", self.config.url),
                reason,
                retry_after,
            }),
            Answer::Written | Answer::Refused(_) | Answer::TooLarge => Ok(()),
        }
    }

    async fn starts(&mut self, of: &[TopicPartition]) -> Result<Vec<Start>, SinkError> {
        Ok(vec![Start::Committed; of.len()])
    }

    async fn accept(&mut self, mut batch: Batch) -> Result<(), SinkError> {
        let topic = Arc::clone(&batch.topic);
        for (partition, _, letter) in self.dead.take_poison(&mut batch) {
            self.letters.push((Arc::clone(&topic), partition, letter));
        }
        let (spans, rows, skip) = (batch.spans, batch.rows, self.config.skip.clone());
        let mut series = std::mem::replace(&mut self.series, Series::new(0));
        let built = tokio::task::spawn_blocking(move || {
            let mut lines = Lines::default();
            let outcome =
                rows.iter().try_for_each(|rows| lines::append(rows, &skip, &mut series, &mut lines));
            (series, outcome.map(|()| lines))
        });
        let (series, lines) = built.await.map_err(|error| SinkError::Fatal(error.to_string()))?;
        self.series = series;
        metrics::gauge!("varta_sinks_influx_series").set(self.series.len() as f64);
        let mut lines = lines?;
        for (place, reason, row) in std::mem::take(&mut lines.refused) {
            self.refuse(&topic, place, row, reason);
        }
        for span in spans {
            self.positions.insert((Arc::clone(&topic), span.partition), span.to);
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
        let letters = self.letters.iter().map(|(_, _, letter)| letter.clone()).collect();
        self.dead.deliver(letters).await?;
        failpoint::hit("influx.after_write");
        self.waiting.clear();
        self.letters.clear();
        self.since = None;
        let positions = std::mem::take(&mut self.positions);
        let position = |((topic, partition), offset)| Position { topic, partition, offset };
        Ok(positions.into_iter().map(position).collect())
    }

    fn positions_stored(&mut self) {
        failpoint::hit("influx.after_offsets");
    }

    /// Lines of partitions that go stay in the queue: written twice they are one point. Their offsets go.
    fn discard(&mut self, of: &[TopicPartition]) {
        self.positions.retain(|(topic, partition), _| {
            !of.iter().any(|gone| gone.topic == *topic && gone.partition == *partition)
        });
    }
}

//! PostgreSQL: program starts, agents, users, programs, features and alerts for reports and people.
//!
//! **Exactly once.** Rows and offsets move in one transaction, and an offset moves by compare-and-set: a process that
//! believes in an older offset (it slept, or lost the partition) fails its whole transaction, drops what it
//! holds and reads again from where the table `offsets` says. The merges are idempotent beside that.
//!
//! What people are to be told is written in the same transaction ([`outbox`]).
//!
//! A row that PostgreSQL refuses is found by halving within the transaction and dead-lettered before the commit.

mod columns;
mod config;
mod copy;
mod feedback;
mod migrations;
mod outbox;
mod programs;
mod store;
mod tables;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
    time::Instant,
};

use async_trait::async_trait;
use eventlog::{Log, Position, TopicPartition, dead_letter::DeadLetter, registry::SchemaRegistry};
use runtime::{failpoint, health::Health, shutdown::Shutdown};
use schemas::{family::Family, topics::Topics};
use sqlx::PgConnection;

pub(crate) use self::store::{answered, connect_migrated, failed};
use self::tables::{ForTable, Staged, TABLES};
pub use self::{
    config::{Exclude, PostgresConfig},
    migrations::migrate,
    outbox::Notify,
    store::connect,
};
use crate::{
    DeadLetters, Flush, Sink, SinkError, Start,
    batch::{Batch, Place},
    row_json,
    runner::{self, Feed},
};

/// Runs the sink until `shutdown` or a fatal error.
pub async fn run<L: Log>(
    config: PostgresConfig,
    log: L,
    registry: Arc<dyn SchemaRegistry>,
    topics: Topics,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), SinkError> {
    if !config.enabled {
        return Ok(());
    }
    runtime::tls::install_crypto();
    let decoded = [
        topics.events(Family::ProcessEvent),
        topics.events(Family::AgentStatus),
        topics.features("1m"),
        topics.features("1h"),
        topics.user_features("1h"),
        topics.alerts(),
        topics.feedback(),
    ];
    let feed = Feed {
        group: config.group.clone(),
        instance: config.instance.clone(),
        decoded: decoded.iter().map(ToString::to_string).collect(),
        plain: Vec::new(),
        poll_rows: config.poll_rows,
        poll_bytes: config.poll_bytes.bytes() as usize,
        drain: config.drain,
    };
    let letters = DeadLetters::open(&log, &topics, "postgres")?;
    runner::run(PostgresSink::new(config, letters), feed, log, registry, health, shutdown).await
}

/// A staged row with its topic.
type Row = (Arc<str>, Staged);

struct PostgresSink {
    config: PostgresConfig,
    dead: DeadLetters,
    connection: Option<PgConnection>,
    /// Offsets as the store was last known to have them; `None`: it has never seen the partition.
    stored: HashMap<TopicPartition, Option<i64>>,
    /// Covered by what is held.
    spans: BTreeMap<(Arc<str>, i32), Range<i64>>,
    rows: [Vec<Row>; tables::COUNT],
    letters: Vec<(Arc<str>, Place, DeadLetter)>,
    bytes: usize,
    since: Option<Instant>,
    /// Offsets that never arrived: everything must be read again.
    gap: Option<String>,
}

impl PostgresSink {
    fn new(config: PostgresConfig, dead: DeadLetters) -> Self {
        Self {
            config,
            dead,
            connection: None,
            stored: HashMap::new(),
            spans: BTreeMap::new(),
            rows: std::array::from_fn(|_| Vec::new()),
            letters: Vec::new(),
            bytes: 0,
            since: None,
            gap: None,
        }
    }

    fn held_rows(&self) -> usize {
        self.rows.iter().map(Vec::len).sum()
    }

    /// The connection, new if the last one failed.
    async fn connection(&mut self) -> Result<PgConnection, SinkError> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => answered(10 * self.config.timeout, store::open(&self.config)).await,
        }
    }

    fn letter(topic: &str, place: Place, reason: String, original: bytes::Bytes) -> DeadLetter {
        DeadLetter {
            stage: "postgres",
            reason,
            origin: store::origin_of(topic, place),
            key: None,
            original,
            headers: Vec::new(),
        }
    }

    /// Notes the spans of a batch. False: the batch does not follow what is held.
    fn extend_spans(&mut self, batch: &Batch) -> bool {
        for span in &batch.spans {
            let of = (Arc::clone(&batch.topic), span.partition);
            let held = self.spans.entry(of).or_insert(span.from..span.from);
            if held.end != span.from {
                self.gap = Some(format!(
                    "{}-{} went on at {} after {}",
                    batch.topic, span.partition, span.from, held.end
                ));
                return false;
            }
            held.end = span.to;
        }
        true
    }

    /// Everything in one transaction. Dead letters are delivered before its commit.
    async fn transact(&mut self, connection: &mut PgConnection) -> Result<(), SinkError> {
        // A step is a few statements; the server itself ends each that takes longer than `timeout`.
        let limit = 4 * self.config.timeout;
        let mut transaction = answered(limit, store::begin(connection)).await?;
        for ((topic, partition), span) in &self.spans {
            let of = TopicPartition { topic: Arc::clone(topic), partition: *partition };
            let from = match self.stored.get(&of) {
                Some(None) => None,
                _ => Some(span.start),
            };
            let moving = store::move_offset(&mut transaction, &self.config.sink, &of, from, span.end);
            answered(limit, moving).await?;
        }
        let mut letters: Vec<DeadLetter> = self.letters.iter().map(|(_, _, letter)| letter.clone()).collect();
        let tells = self.config.notify.is_some();
        let tables: [&'static tables::Table; tables::COUNT] = TABLES.each_ref();
        for (table, rows) in tables.into_iter().zip(&self.rows) {
            let staged: Vec<Staged> = rows.iter().map(|(_, staged)| staged.clone()).collect();
            for (refused, reason) in store::store(&mut transaction, table, &staged, tells, limit).await? {
                let (topic, row) = &rows[refused];
                let original = row_json::row(&row.source, row.row as usize);
                letters.push(Self::letter(topic, row.place, format!("{}: {reason}", table.name), original));
            }
        }
        self.dead.deliver(letters).await?;
        failpoint::hit("postgres.before_commit");
        answered(limit, async { transaction.commit().await.map_err(failed) }).await?;
        failpoint::hit("postgres.after_commit");
        Ok(())
    }

    fn clear(&mut self) {
        self.spans.clear();
        self.rows.iter_mut().for_each(Vec::clear);
        self.letters.clear();
        self.bytes = 0;
        self.since = None;
    }
}

#[async_trait]
impl Sink for PostgresSink {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        let connection = self.connection().await?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn starts(&mut self, of: &[TopicPartition]) -> Result<Vec<Start>, SinkError> {
        let mut connection = self.connection().await?;
        let limit = 4 * self.config.timeout;
        let offsets = answered(limit, store::offsets(&mut connection, &self.config.sink)).await?;
        self.connection = Some(connection);
        let mut starts = Vec::with_capacity(of.len());
        for of in of {
            let offset = offsets.get(of).copied();
            self.stored.insert(of.clone(), offset);
            starts.push(offset.map_or(Start::Beginning, Start::At));
        }
        Ok(starts)
    }

    async fn accept(&mut self, mut batch: Batch) -> Result<(), SinkError> {
        self.since.get_or_insert_with(Instant::now);
        if self.gap.is_some() || !self.extend_spans(&batch) {
            return Ok(());
        }
        let topic = Arc::clone(&batch.topic);
        for (partition, offset, letter) in self.dead.take_poison(&mut batch) {
            let place = Place { partition, offset, timestamp: 0 };
            self.letters.push((Arc::clone(&topic), place, letter));
        }
        for rows in &batch.rows {
            let mut is_held = false;
            for ForTable { table, staged, refused } in tables::stage(rows, &self.config.exclude)? {
                for (row, reason) in refused {
                    let place = rows.places[row];
                    let letter = Self::letter(&topic, place, reason, row_json::row(&rows.batch, row));
                    self.letters.push((Arc::clone(&topic), place, letter));
                }
                is_held |= !staged.is_empty();
                self.bytes += staged.iter().map(|row| row.tuple.len()).sum::<usize>();
                self.rows[table].extend(staged.into_iter().map(|row| (Arc::clone(&topic), row)));
            }
            if is_held {
                self.bytes += rows.memory();
            }
        }
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        let full = self.gap.is_some()
            || self.held_rows() >= self.config.batch_rows
            || self.bytes as u64 >= self.config.batch_bytes.bytes();
        self.since.map(|since| if full { since } else { since + self.config.batch_age })
    }

    async fn flush(&mut self, _: Flush) -> Result<Vec<Position>, SinkError> {
        if let Some(gap) = &self.gap {
            return Err(SinkError::Stale(gap.clone()));
        }
        if self.spans.is_empty() {
            self.since = None;
            return Ok(Vec::new());
        }
        // A connection on which anything failed is not used again: its state is not known.
        let mut connection = self.connection().await?;
        self.transact(&mut connection).await?;
        self.connection = Some(connection);
        for ((topic, partition), span) in &self.spans {
            let of = TopicPartition { topic: Arc::clone(topic), partition: *partition };
            self.stored.insert(of, Some(span.end));
        }
        tracing::debug!(rows = self.held_rows(), partitions = self.spans.len(), "stored");
        self.clear();
        Ok(Vec::new())
    }

    fn discard(&mut self, of: &[TopicPartition]) {
        let gone = |topic: &Arc<str>, partition: i32| {
            of.iter().any(|of| of.topic == *topic && of.partition == partition)
        };
        self.gap = None;
        self.spans.retain(|(topic, partition), _| !gone(topic, *partition));
        for rows in &mut self.rows {
            rows.retain(|(topic, row)| !gone(topic, row.place.partition));
        }
        self.letters.retain(|(topic, place, _)| !gone(topic, place.partition));
        if self.spans.is_empty() {
            self.clear();
        }
    }
}

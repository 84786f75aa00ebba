//! Alerts back on the MQTT bus, for subscribers at the edge: `alerts/{agent_id}/{severity}`, QoS 1, JSON; and reports
//! ([`reports`]).
//!
//! At least once: publish, hear from the broker that it has each message, then commit the offsets to the log's consumer
//! group. A crash between repeats alerts; `finding_uid` and `revision` in the payload tell a repetition.

mod config;
mod payload;
mod publisher;
mod refusal;
mod reports;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use async_trait::async_trait;
use eventlog::{Log, Position, TopicPartition, dead_letter::DeadLetter, registry::SchemaRegistry};
use runtime::{failpoint, health::Health, shutdown::Shutdown};
use schemas::{record::RecordKind, topics::Topics};

pub use self::config::{MqttConfig, Scope, TlsConfig};
use self::{
    publisher::{Message, Publisher},
    refusal::{Failed, Origin, Refusal, packet_bytes},
    reports::Reports,
};
use crate::{
    DeadLetters, Flush, Sink, SinkError, Start,
    batch::Batch,
    column,
    postgres::PostgresConfig,
    row_json,
    runner::{self, Feed},
};

/// Runs the sink until `shutdown` or a fatal error. Reports come from `postgres`, alerts from the log: neither waits for
/// the other.
pub async fn run<L: Log>(
    config: MqttConfig,
    postgres: PostgresConfig,
    log: L,
    registry: Arc<dyn SchemaRegistry>,
    topics: Topics,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), SinkError> {
    if !config.enabled {
        return Ok(());
    }
    let feed = Feed {
        group: config.group.clone(),
        instance: config.instance.clone(),
        decoded: vec![topics.alerts().to_string()],
        plain: Vec::new(),
        poll_rows: config.poll_rows,
        poll_bytes: config.poll_bytes.bytes() as usize,
        drain: config.drain,
    };
    let letters = DeadLetters::open(&log, &topics, "mqtt")?;
    runtime::tls::install_crypto();
    let reports = Reports::new(config.clone(), postgres).run(health.clone(), shutdown.clone());
    let alerts = runner::run(MqttSink::new(config, letters), feed, log, registry, health, shutdown);
    tokio::try_join!(alerts, reports)?;
    Ok(())
}

struct MqttSink {
    config: MqttConfig,
    dead: DeadLetters,
    publisher: Option<Publisher>,
    /// What the broker has not acknowledged, in the order of the log.
    messages: Vec<Message>,
    /// What these were made of.
    origins: Vec<Origin>,
    letters: Vec<(Arc<str>, i32, DeadLetter)>,
    /// Offsets to go on from once everything is acknowledged.
    positions: BTreeMap<(Arc<str>, i32), i64>,
    since: Option<Instant>,
}

impl MqttSink {
    fn new(config: MqttConfig, dead: DeadLetters) -> Self {
        Self {
            config,
            dead,
            publisher: None,
            messages: Vec::new(),
            origins: Vec::new(),
            letters: Vec::new(),
            positions: BTreeMap::new(),
            since: None,
        }
    }

    /// What is acknowledged is let go, also when the rest fails. What the broker refuses for good goes without its
    /// evidence, and else to the dead letters: one message must not keep back those behind it.
    async fn publish(&mut self) -> Result<(), SinkError> {
        loop {
            match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(Failed::Refused(refusal)) => self.refused(&refusal),
                Err(Failed::TooLarge { max }) if self.lighten(max) => {}
                Err(Failed::Unusable(error)) => return Err(error),
                Err(error) => return Err(SinkError::unavailable(self.config.broker(), error)),
            }
        }
    }

    /// The first message is refused; those behind it that are acknowledged go.
    fn refused(&mut self, Refusal { reason, behind }: &Refusal) {
        let mut taken = std::iter::once(&false).chain(behind);
        self.messages.retain(|_| taken.next() != Some(&true));
        let mut taken = std::iter::once(&false).chain(behind);
        self.origins.retain(|_| taken.next() != Some(&true));
        self.lighten_or_bury(0, &format!("the broker refuses it: {reason}"));
    }

    /// No packet is longer than `max` bytes any more. False: none was.
    fn lighten(&mut self, max: usize) -> bool {
        let (mut at, mut was_any) = (0, false);
        while let Some(message) = self.messages.get(at) {
            if packet_bytes(&message.topic, &message.payload) <= max {
                at += 1;
                continue;
            }
            was_any = true;
            self.lighten_or_bury(at, &format!("the broker takes no packet of more than {max} bytes"));
        }
        was_any
    }

    fn lighten_or_bury(&mut self, at: usize, reason: &str) {
        let message = &mut self.messages[at];
        if let Some(lighter) = payload::without_evidence(&message.payload) {
            message.payload = lighter;
            return;
        }
        self.messages.remove(at);
        let origin = self.origins.remove(at);
        let letter = origin.letter(reason.to_owned());
        self.letters.push((Arc::clone(&origin.topic), origin.partition, letter));
    }

    async fn attempt(&mut self) -> Result<(), Failed> {
        let mut publisher = match self.publisher.take() {
            Some(publisher) if !publisher.has_ended() => publisher,
            _ => Publisher::start(&self.config, self.config.client_id.clone()).map_err(Failed::Unusable)?,
        };
        let mut acknowledged = 0;
        let publishing = publisher.publish(&self.messages, || acknowledged += 1);
        let outcome = tokio::time::timeout(self.config.timeout, publishing).await;
        self.messages.drain(..acknowledged);
        self.origins.drain(..acknowledged);
        metrics::counter!("varta_sinks_mqtt_published_total").increment(acknowledged as u64);
        match outcome {
            Ok(outcome @ (Ok(()) | Err(Failed::Refused(_)))) => {
                self.publisher = Some(publisher);
                outcome
            }
            Ok(outcome) => outcome,
            Err(_) => Err(Failed::Away("it acknowledges nothing".to_owned())),
        }
    }
}

#[async_trait]
impl Sink for MqttSink {
    fn name(&self) -> &'static str {
        "mqtt"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    async fn starts(&mut self, of: &[TopicPartition]) -> Result<Vec<Start>, SinkError> {
        Ok(vec![Start::Committed; of.len()])
    }

    async fn accept(&mut self, mut batch: Batch) -> Result<(), SinkError> {
        let topic = Arc::clone(&batch.topic);
        for (partition, _, letter) in self.dead.take_poison(&mut batch) {
            self.letters.push((Arc::clone(&topic), partition, letter));
        }
        let longest = self.config.max_payload.bytes() as usize;
        for rows in batch.rows.iter().filter(|rows| rows.kind == Some(RecordKind::Alert)) {
            let (agent, severity) =
                (column::text(&rows.batch, "agent_id")?, column::text(&rows.batch, "severity")?);
            let bodies = row_json::bodies(&rows.batch, 0)?;
            for (row, place) in rows.places.iter().enumerate() {
                let of_row = Origin {
                    topic: Arc::clone(&topic),
                    partition: place.partition,
                    offset: place.offset,
                    rows: rows.batch.clone(),
                    row,
                };
                if let Some(payload) = payload::payload(bodies.value(row), longest) {
                    let topic = payload::topic(agent.value(row), severity.value(row));
                    self.messages.push(Message { topic, payload, is_retained: false });
                    self.origins.push(of_row);
                    continue;
                }
                let reason = format!("larger than {} without its evidence", self.config.max_payload);
                let letter = of_row.letter(reason);
                self.letters.push((Arc::clone(&topic), place.partition, letter));
            }
        }
        for span in batch.spans {
            self.positions.insert((Arc::clone(&topic), span.partition), span.to);
        }
        self.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        let full = self.messages.len() >= self.config.batch_rows;
        self.since.map(|since| if full { since } else { since + self.config.batch_age })
    }

    async fn flush(&mut self, _: Flush) -> Result<Vec<Position>, SinkError> {
        failpoint::hit("mqtt.before_publish");
        if !self.messages.is_empty() {
            self.publish().await?;
        }
        let letters = self.letters.iter().map(|(_, _, letter)| letter.clone()).collect();
        self.dead.deliver(letters).await?;
        failpoint::hit("mqtt.after_publish");
        self.letters.clear();
        self.since = None;
        let positions = std::mem::take(&mut self.positions);
        let position = |((topic, partition), offset)| Position { topic, partition, offset };
        Ok(positions.into_iter().map(position).collect())
    }

    fn positions_stored(&mut self) {
        failpoint::hit("mqtt.after_offsets");
    }

    /// Alerts of partitions that go stay in the queue: told twice they are one finding. Their offsets go.
    fn discard(&mut self, of: &[TopicPartition]) {
        self.positions.retain(|(topic, partition), _| {
            !of.iter().any(|gone| gone.topic == *topic && gone.partition == *partition)
        });
    }
}

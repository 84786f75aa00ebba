//! Alerts back on the MQTT bus, for subscribers at the edge: `alerts/{agent_id}/{severity}`, QoS 1, JSON; and reports
//! ([`reports`]).
//!
//! At least once: publish, hear from the broker that it has each message, then commit the offsets to the log's consumer
//! group. A crash between repeats alerts; `finding_uid` and `revision` in the payload tell a repetition. What the broker's
//! access list keeps back waits by itself ([`barred`]).

mod aside;
mod barred;
mod config;
mod payload;
mod publisher;
mod refusal;
mod reports;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use eventlog::{Log, Position, TopicPartition, registry::SchemaRegistry};
use runtime::{failpoint, health::Health, shutdown::Shutdown};
use schemas::{record::RecordKind, topics::Topics};

pub use self::config::{MqttConfig, Scope, TlsConfig};
use self::{
    barred::Barred,
    publisher::{Message, Publisher},
    refusal::{Failed, Origin, Verdict, packet_bytes},
    reports::Reports,
};
use crate::{
    DeadLetters, Flush, Sink, SinkError, Start,
    batch::Batch,
    column,
    pending::{Pending, is_among},
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
    let sink = MqttSink::new(config, letters, health.clone());
    let alerts = runner::run(sink, feed, log, registry, health, shutdown);
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
    barred: Barred,
    pending: Pending,
    since: Option<Instant>,
}

impl MqttSink {
    fn new(config: MqttConfig, dead: DeadLetters, health: Health) -> Self {
        Self {
            barred: Barred::new(config.access_wait, health),
            config,
            dead,
            publisher: None,
            messages: Vec::new(),
            origins: Vec::new(),
            pending: Pending::default(),
            since: None,
        }
    }

    /// What is acknowledged is let go, also when the rest fails. What the broker refuses for good goes without its
    /// evidence, and else to the dead letters, and what it does not let us publish waits aside: one message must not keep
    /// back those behind it.
    async fn publish(&mut self) -> Result<(), SinkError> {
        loop {
            match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(Failed::Refused(verdicts)) => self.refused(verdicts),
                Err(Failed::TooLarge { max }) if self.lighten(max) => {}
                Err(Failed::Unusable(error)) => return Err(error),
                Err(error) => return Err(SinkError::unavailable(self.config.broker(), error)),
            }
        }
    }

    /// Each of the first messages goes where its verdict sends it; those that are to be sent again come before the rest.
    fn refused(&mut self, verdicts: Vec<Verdict>) {
        let behind = (self.messages.split_off(verdicts.len()), self.origins.split_off(verdicts.len()));
        let judged = std::mem::take(&mut self.messages).into_iter().zip(std::mem::take(&mut self.origins));
        for ((message, origin), verdict) in judged.zip(verdicts) {
            let again = match verdict {
                Verdict::Taken => None,
                Verdict::Later(_) => Some((message, origin)),
                Verdict::Unauthorized => {
                    self.barred.hold(message, origin);
                    None
                }
                Verdict::Refused(reason) => {
                    self.lighten_or_bury(message, origin, &format!("the broker refuses it: {reason}"))
                }
            };
            if let Some((message, origin)) = again {
                self.messages.push(message);
                self.origins.push(origin);
            }
        }
        self.messages.extend(behind.0);
        self.origins.extend(behind.1);
    }

    /// No packet is longer than `max` bytes any more. False: none was.
    fn lighten(&mut self, max: usize) -> bool {
        let mut was_any = false;
        let all = std::mem::take(&mut self.messages).into_iter().zip(std::mem::take(&mut self.origins));
        for (message, origin) in all {
            let mut fitting = Some((message, origin));
            while let Some((message, origin)) =
                fitting.take_if(|(message, _)| packet_bytes(&message.topic, &message.payload) > max)
            {
                was_any = true;
                let reason = format!("the broker takes no packet of more than {max} bytes");
                fitting = self.lighten_or_bury(message, origin, &reason);
            }
            if let Some((message, origin)) = fitting {
                self.messages.push(message);
                self.origins.push(origin);
            }
        }
        was_any
    }

    fn lighten_or_bury(
        &mut self,
        mut message: Message,
        origin: Origin,
        reason: &str,
    ) -> Option<(Message, Origin)> {
        if let Some(lighter) = payload::without_evidence(&message.payload) {
            message.payload = lighter;
            return Some((message, origin));
        }
        self.bury(&origin, reason.to_owned());
        None
    }

    fn bury(&mut self, origin: &Origin, reason: String) {
        self.pending.bury(&origin.topic, origin.partition, origin.letter(reason));
    }

    /// What waits for the broker's access list is tried again, before what has come since.
    fn release_barred(&mut self) {
        let (mut messages, mut origins): (Vec<_>, Vec<_>) = self.barred.release().into_iter().unzip();
        messages.append(&mut self.messages);
        origins.append(&mut self.origins);
        (self.messages, self.origins) = (messages, origins);
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
        self.pending.take(&mut batch, &self.dead);
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
                    barred_since: None,
                };
                if let Some(payload) = payload::payload(bodies.value(row), longest) {
                    let topic = payload::topic(agent.value(row), severity.value(row));
                    let message = Message { topic, payload, is_retained: false };
                    if self.barred.has(&message.topic) {
                        self.barred.hold(message, of_row);
                    } else {
                        self.messages.push(message);
                        self.origins.push(of_row);
                    }
                    continue;
                }
                let reason = format!("larger than {} without its evidence", self.config.max_payload);
                self.bury(&of_row, reason);
            }
        }
        self.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        let full = self.messages.len() >= self.config.batch_rows;
        let fresh = self.since.map(|since| if full { since } else { since + self.config.batch_age });
        fresh.into_iter().chain(self.barred.due()).min()
    }

    async fn flush(&mut self, _: Flush) -> Result<Vec<Position>, SinkError> {
        failpoint::hit("mqtt.before_publish");
        self.release_barred();
        if !self.messages.is_empty() {
            self.publish().await?;
        }
        for origin in self.barred.give_up() {
            self.bury(&origin, "the broker does not let us publish it: NotAuthorized".to_owned());
        }
        self.barred.tell();
        let positions = self.pending.settle(&self.dead, &self.barred.first_offsets()).await?;
        failpoint::hit("mqtt.after_publish");
        self.since = None;
        Ok(positions)
    }

    fn positions_stored(&mut self) {
        failpoint::hit("mqtt.after_offsets");
    }

    /// Alerts go, too: their new owner publishes them.
    fn discard(&mut self, of: &[TopicPartition]) {
        let kept = std::mem::take(&mut self.messages).into_iter().zip(std::mem::take(&mut self.origins));
        let kept = kept.filter(|(_, origin)| !is_among(of, &origin.topic, origin.partition));
        (self.messages, self.origins) = kept.unzip();
        self.barred.discard(of);
        self.pending.discard(of);
        if self.pending.is_empty() && self.messages.is_empty() {
            self.since = None;
        }
    }
}

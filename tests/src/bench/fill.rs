//! Fills `varta.raw` as a bridge would: the load as JSON, translated, framed, keyed by agent.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use schemas::event::Event;
use schemas::family::Family;
use schemas::record::RecordKind;
use schemas::translate::{Clock, Context, Translator};
use schemas::wire;

use super::watermark::Watermarks;
use crate::load::Mix;

/// Takes a record: its key, its framed value and its event time, µs.
pub type Each<'a> = dyn FnMut(Option<&str>, &[u8], i64) -> anyhow::Result<()> + 'a;

/// Which agents send, and how many events in all.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// The load.
    pub mix: Mix,
    /// Agents that take turns. No multiple of 2 or 5, or each of them sends only some families: the mix repeats itself
    /// after a hundred events.
    pub agents: u64,
    /// Number of the first of them.
    pub first_agent: u64,
    /// Events in all.
    pub events: u64,
}

/// Name of agent number `k`.
pub fn agent_id(k: u64) -> String {
    format!("00000000-0000-4000-8000-{k:012}")
}

impl Fill {
    /// Event number `n` as its agent would send it: each agent numbers its own lanes without gaps.
    pub fn event(&self, n: u64, seqs: &mut [[i64; 3]]) -> anyhow::Result<Event> {
        let made = self.mix.event(n);
        let agent = n % self.agents;
        let lane = match made.lane.as_str() {
            "critical" => 0,
            "normal" => 1,
            _ => 2,
        };
        let seq = &mut seqs[usize::try_from(agent)?][lane];
        let number = *seq;
        *seq += 1;
        Ok(Event {
            agent_id: agent_id(self.first_agent + agent).into(),
            session: self.mix.base,
            lane: made.lane,
            seq: number,
            event_time: made.event_time,
            event_type: made.event_type.into(),
            source: "synthetic/mix".into(),
            host: Some(format!("host-{}", self.first_agent + agent)),
            user: made.user.map(str::to_owned),
            replayed: false,
            payload: made.payload,
        })
    }

    /// All records as a bridge would write them: key, framed value and the event time, µs. A clock record, which has no
    /// key and goes into every partition, for each [`CLOCK`] of event time.
    pub fn records(
        &self,
        ids: &dyn Fn(RecordKind) -> anyhow::Result<u32>,
        each: &mut Each<'_>,
    ) -> anyhow::Result<()> {
        let translator = Translator::new();
        let mut seqs = vec![[0_i64; 3]; usize::try_from(self.agents)?];
        let mut framed = Vec::new();
        let mut schema_ids = std::collections::HashMap::new();
        for family in Family::ALL {
            schema_ids.insert(family, ids(RecordKind::Family(family))?);
        }
        let (clock_id, mut clock) = (ids(RecordKind::Clock)?, self.mix.base);
        for n in 0..self.events {
            let event = self.event(n, &mut seqs)?;
            while clock <= event.event_time {
                let tick = Clock {
                    bridge_id: "bench".into(),
                    bridge_time: clock,
                    sequence: (clock - self.mix.base) / CLOCK,
                    mqtt_connected: true,
                    goodbye: false,
                };
                framed.clear();
                wire::frame(clock_id, &translator.clock(&tick), &mut framed);
                each(None, &framed, clock)?;
                clock += CLOCK;
            }
            let json = Bytes::from(serde_json::to_vec(&event)?);
            let mut mint = || unreachable_id(n);
            let context = Context {
                topic_agent: &event.agent_id,
                topic_event_type: None,
                received_at: event.event_time,
                sent_at: None,
                mint: &mut mint,
            };
            for row in translator.message(&json, context) {
                let row = row.map_err(|refused| anyhow::anyhow!("{}", refused.reason))?;
                framed.clear();
                wire::frame(*schema_ids.get(&row.family).context("registered")?, &row.datum, &mut framed);
                each(Some(&row.agent_id), &framed, event.event_time)?;
            }
        }
        Ok(())
    }

    /// Writes all events; returns how long it took.
    pub fn raw(
        &self,
        kafka: &str,
        topic: &str,
        ids: &dyn Fn(RecordKind) -> anyhow::Result<u32>,
    ) -> anyhow::Result<Duration> {
        let raw = Raw::connect(kafka, topic, "20")?;
        let started = Instant::now();
        self.records(ids, &mut |key, value, _| raw.send(key, value))?;
        raw.producer.flush(Duration::from_mins(1))?;
        Ok(started.elapsed())
    }
}

/// Event time between two clock records, µs.
pub const CLOCK: i64 = 5_000_000;

/// Writes into `varta.raw`.
pub struct Raw {
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
    partitions: i32,
}

impl Raw {
    /// `linger`: how long a record waits for company, ms.
    pub fn connect(kafka: &str, topic: &str, linger: &str) -> anyhow::Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", kafka)
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2")
            .set("linger.ms", linger)
            .set("queue.buffering.max.messages", "200000")
            .create()?;
        let partitions = Watermarks::connect(kafka, "varta-bench")?.partitions(topic)?;
        Ok(Self { producer, topic: topic.to_owned(), partitions })
    }

    /// One record, to the partition of its key, or without one to all.
    pub fn send(&self, key: Option<&str>, value: &[u8]) -> anyhow::Result<()> {
        let record = BaseRecord::to(&self.topic).payload(value);
        if let Some(key) = key {
            return send(&self.producer, record.key(key));
        }
        for partition in 0..self.partitions {
            send(
                &self.producer,
                BaseRecord::<str, [u8]>::to(&self.topic).payload(value).partition(partition),
            )?;
        }
        Ok(())
    }
}

/// The load brings its identities; nothing is minted.
fn unreachable_id(n: u64) -> String {
    format!("minted-{n}")
}

fn send(
    producer: &ThreadedProducer<DefaultProducerContext>,
    mut record: BaseRecord<'_, str, [u8]>,
) -> anyhow::Result<()> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

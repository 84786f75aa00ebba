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
use schemas::translate::{Context, Translator};
use schemas::wire;

use crate::load::Mix;

/// Which agents send, and how many events in all.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// The load.
    pub mix: Mix,
    /// Agents that take turns.
    pub agents: u64,
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
            agent_id: agent_id(agent).into(),
            session: self.mix.base,
            lane: made.lane,
            seq: number,
            event_time: made.event_time,
            event_type: made.event_type.into(),
            source: "synthetic/mix".into(),
            host: Some(format!("host-{agent}")),
            user: made.user.map(str::to_owned),
            replayed: false,
            payload: made.payload,
        })
    }

    /// Writes all events; returns how long it took.
    pub fn raw(
        &self,
        kafka: &str,
        topic: &str,
        ids: &dyn Fn(RecordKind) -> anyhow::Result<u32>,
    ) -> anyhow::Result<Duration> {
        let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
            .set("bootstrap.servers", kafka)
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2")
            .set("linger.ms", "20")
            .set("queue.buffering.max.messages", "200000")
            .create()?;
        let started = Instant::now();
        let translator = Translator::new();
        let mut seqs = vec![[0_i64; 3]; usize::try_from(self.agents)?];
        let mut framed = Vec::new();
        let mut schema_ids = std::collections::HashMap::new();
        for family in Family::ALL {
            schema_ids.insert(family, ids(RecordKind::Family(family))?);
        }
        for n in 0..self.events {
            let event = self.event(n, &mut seqs)?;
            let json = Bytes::from(serde_json::to_vec(&event)?);
            let mut mint = || unreachable_id(n);
            let context = Context {
                topic_agent: &event.agent_id,
                topic_event_type: None,
                received_at: event.event_time + 50_000,
                sent_at: None,
                mint: &mut mint,
            };
            for row in translator.message(&json, context) {
                let row = row.map_err(|refused| anyhow::anyhow!("{}", refused.reason))?;
                framed.clear();
                wire::frame(*schema_ids.get(&row.family).context("registered")?, &row.datum, &mut framed);
                send(&producer, topic, &row.agent_id, &framed)?;
            }
        }
        producer.flush(Duration::from_mins(1))?;
        Ok(started.elapsed())
    }
}

/// The load brings its identities; nothing is minted.
fn unreachable_id(n: u64) -> String {
    format!("minted-{n}")
}

fn send(
    producer: &ThreadedProducer<DefaultProducerContext>,
    topic: &str,
    key: &str,
    value: &[u8],
) -> anyhow::Result<()> {
    let mut record = BaseRecord::to(topic).key(key).payload(value);
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

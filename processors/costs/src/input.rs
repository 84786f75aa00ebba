//! Raw records of many agents: 60 % host metrics, 20 % process samples, 15 % process events, 5 % user activity, or host
//! metrics alone; and the clock record of a bridge every five seconds.

use std::sync::Arc;

use anyhow::anyhow;
use bytes::Bytes;
use eventlog::Record;
use eventlog::registry::SchemaIds;
use schemas::record::RecordKind;
use schemas::topics::Topics;
use schemas::translate::{Clock, Context, Translator};
use serde_json::{Value, json};

use crate::measure::SECOND;

/// A full hour.
pub(crate) const START: i64 = 1_699_999_200 * SECOND;
const CLOCK: i64 = 5 * SECOND;

/// Makes records in the order of the log, each agent in turn.
pub(crate) struct Input {
    translator: Translator,
    ids: SchemaIds,
    topic: Arc<str>,
    agents: i64,
    /// Log time between two events, µs.
    step: f64,
    /// Host metrics alone, of agents that say first which lane they use: so their windows close by what they send.
    only_metrics: bool,
    made: i64,
    offset: i64,
    clock: i64,
}

impl Input {
    /// `per_second`: events of one agent in a second of event time.
    pub(crate) fn new(ids: SchemaIds, agents: i64, per_second: f64) -> Self {
        let step = 1e6 / (agents as f64 * per_second);
        let topic = Topics::default().raw();
        Self {
            translator: Translator::new(),
            ids,
            topic,
            agents,
            step,
            only_metrics: false,
            made: 0,
            offset: 0,
            clock: START - CLOCK,
        }
    }

    /// Host metrics alone.
    pub(crate) fn only_metrics(self) -> Self {
        Self { only_metrics: true, ..self }
    }

    /// Log time of the next event, µs.
    pub(crate) fn now(&self) -> i64 {
        START + (self.made as f64 * self.step) as i64
    }

    /// The next records, so many events among them.
    pub(crate) fn records(&mut self, events: usize) -> anyhow::Result<Vec<Record>> {
        let mut records = Vec::with_capacity(events + 8);
        for _ in 0..events {
            let now = self.now();
            while self.clock + CLOCK <= now {
                self.clock += CLOCK;
                records.push(self.tick());
            }
            records.push(self.event(now)?);
            self.made += 1;
        }
        Ok(records)
    }

    fn tick(&mut self) -> Record {
        let clock = Clock {
            bridge_id: "bridge".into(),
            bridge_time: self.clock,
            sequence: self.clock,
            mqtt_connected: true,
            goodbye: false,
        };
        let datum = self.translator.clock(&clock);
        self.record(RecordKind::Clock, &datum, String::new(), self.clock)
    }

    fn event(&mut self, now: i64) -> anyhow::Result<Record> {
        let (agent, seq) = (self.made % self.agents, self.made / self.agents);
        let noise = (self.made as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let program = format!("p{}.exe", noise % 40);
        let turn = (seq * 37 + agent) % if self.only_metrics { 12 } else { 20 };
        let (event_type, payload) = match turn {
            _ if self.only_metrics && seq == 0 => ("agent_started", json!({"lanes": r#"["normal"]"#})),
            0..6 => ("cpu_usage", json!({"cpu_percent": noise % 100, "load_1": 1.5, "cpu_count": 8})),
            6..12 => ("mem_usage", json!({"mem_used_bytes": noise, "mem_total_bytes": 1_i64 << 34})),
            12..16 => ("process_sample", json!({"pid": noise, "name": program, "cpu_percent": noise % 30})),
            16..19 => (
                "process_started",
                json!({"pid": noise, "name": program, "path": format!("C:\\Program Files\\App\\{program}"),
                    "command_line": format!("{program} --flag {noise}")}),
            ),
            _ => (
                "user_activity",
                json!({"mouse": true, "keyboard": false, "mouse_events": 4, "keyboard_events": 0,
                    "active_s": 10.0, "idle_s": 0.0}),
            ),
        };
        let agent = format!("5f1c6a0e-6d2b-4c5e-9a1f-{agent:012}");
        let message: Value = json!({"agent_id": agent, "session": START, "lane": "normal", "seq": seq, "event_time": now,
            "event_type": event_type, "source": "bench", "host": "pc", "user": "anna", "payload": payload});
        let mut mint = || "minted".to_owned();
        let context = Context {
            topic_agent: &agent,
            topic_event_type: None,
            received_at: now,
            sent_at: None,
            mint: &mut mint,
        };
        let mut rows = self.translator.message(&Bytes::from(message.to_string()), context);
        let row = rows.remove(0).map_err(|refused| anyhow!("{}", refused.reason))?;
        Ok(self.record(RecordKind::Family(row.family), &row.datum, agent.clone(), now))
    }

    fn record(&mut self, kind: RecordKind, datum: &[u8], key: String, now: i64) -> Record {
        let mut value = Vec::new();
        schemas::wire::frame(self.ids.id(kind), datum, &mut value);
        let record = Record {
            topic: Arc::clone(&self.topic),
            partition: 0,
            offset: self.offset,
            timestamp: now / 1_000,
            key: Some(Bytes::from(key)),
            value: Some(Bytes::from(value)),
            headers: Vec::new(),
        };
        self.offset += 1;
        record
    }
}

//! A log in memory with events in it, for the tests of this crate.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use eventlog::{
    Appender as _, Log as _, NewRecord, Record,
    memory::MemoryLog,
    registry::{MemoryRegistry, SchemaIds, register_all},
};
use parking_lot::Mutex;
use schemas::{
    family::Family,
    record::RecordKind,
    topics::Topics,
    translate::{Clock, Context, Translator},
    wire,
};

/// 2025-11-21T00:00:00Z in µs.
pub(crate) const NOW: i64 = 1_763_683_200_000_000;

/// Log, registry and everything to write events with.
pub(crate) struct World {
    pub(crate) log: MemoryLog,
    pub(crate) registry: Arc<MemoryRegistry>,
    pub(crate) ids: SchemaIds,
    pub(crate) topics: Topics,
    translator: Translator,
}

impl World {
    pub(crate) fn new(partitions: i32) -> Self {
        let registry = Arc::new(MemoryRegistry::new());
        let ids = register_all(&*registry).unwrap();
        let (log, topics) = (MemoryLog::new(), Topics::default());
        log.create_topics(&topics.all(), partitions).unwrap();
        log.set_time(NOW / 1000);
        Self { log, registry, ids, topics, translator: Translator::new() }
    }

    /// The framed Avro of an event of host_metrics.
    pub(crate) fn metric(&self, agent: &str, seq: i64, event_time: i64) -> Bytes {
        self.event(&format!(
            r#"{{"agent_id":"{agent}","session":7,"lane":"normal","seq":{seq},"event_time":{event_time},
                "event_type":"cpu_usage","source":"system/procfs","host":"pc","payload":{{"cpu_percent":{}.5}}}}"#,
            seq % 100
        ))
    }

    /// The framed Avro of any event.
    pub(crate) fn event(&self, json: &str) -> Bytes {
        self.event_at(json, NOW + 1_000_000, None)
    }

    /// The same, received and sent at these times.
    pub(crate) fn event_at(&self, json: &str, received_at: i64, sent_at: Option<i64>) -> Bytes {
        let mut mint = || "minted".to_owned();
        let parsed: serde_json::Value = serde_json::from_str(json).unwrap();
        let context = Context {
            topic_agent: parsed["agent_id"].as_str().unwrap(),
            topic_event_type: None,
            received_at,
            sent_at,
            mint: &mut mint,
        };
        let rows = self.translator.message(&Bytes::copy_from_slice(json.as_bytes()), context);
        let row = rows.into_iter().next().unwrap().unwrap();
        self.framed(RecordKind::Family(row.family), &row.datum)
    }

    pub(crate) fn clock(&self) -> Bytes {
        let clock = Clock {
            bridge_id: "b".into(),
            bridge_time: NOW,
            sequence: 1,
            mqtt_connected: true,
            goodbye: false,
        };
        self.framed(RecordKind::Clock, &self.translator.clock(&clock))
    }

    fn framed(&self, kind: RecordKind, datum: &[u8]) -> Bytes {
        let mut value = Vec::new();
        wire::frame(self.ids.id(kind), datum, &mut value);
        Bytes::from(value)
    }

    /// Appends a record to a partition.
    pub(crate) fn send(&self, topic: &str, partition: i32, value: Bytes) {
        let appender = self.log.appender(Box::new(|_, outcome| assert!(outcome.is_ok()))).unwrap();
        appender.append(NewRecord::keyed(topic, "key", value).to_partition(partition), 0).unwrap();
        appender.flush(Duration::from_secs(1)).unwrap();
    }

    /// `count` events of agent `a<partition>` to the topic of host metrics, `seq` from `from`.
    pub(crate) fn send_metrics(&self, partition: i32, from: i64, count: i64) {
        self.send_metrics_of(partition, from..from + count, |seq| NOW + seq * 1000);
    }

    /// The same with event times by `seq`.
    pub(crate) fn send_metrics_of(&self, partition: i32, seqs: Range<i64>, at: impl Fn(i64) -> i64) {
        let topic = self.topics.events(Family::HostMetrics);
        let appender = self.log.appender(Box::new(|_, outcome| assert!(outcome.is_ok()))).unwrap();
        for seq in seqs {
            let value = self.metric(&format!("a{partition}"), seq, at(seq));
            appender.append(NewRecord::keyed(&*topic, "key", value).to_partition(partition), 0).unwrap();
        }
        appender.flush(Duration::from_secs(5)).unwrap();
    }

    pub(crate) fn dead_letters(&self) -> Vec<Record> {
        self.log.records(&self.topics.dlq())
    }
}

/// Waits until `holds`, or fails after 20 s with what was waited for.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A value that a test's sink and the test share.
pub(crate) type Shared<T> = Arc<Mutex<T>>;

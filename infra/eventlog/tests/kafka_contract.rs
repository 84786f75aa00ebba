//! Kafka keeps the promises of every log, and a schema registry those of a registry. Needs real servers: the
//! addresses come from `VARTA_KAFKA` and `VARTA_REGISTRY`, which `make test` sets.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod contract;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use contract::World;
use eventlog::kafka::{KafkaConfig, KafkaLog};
use eventlog::registry::{HttpRegistry, RegistryConfig, RegistryError, SchemaRegistry, register_all};
use eventlog::{Appender, Log, LogErrorKind, NewRecord, TopicPartition};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use runtime::fate::Fate;
use schemas::record::RecordKind;

fn address(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run `make test`, which starts the servers"))
}

struct Kafka {
    config: KafkaConfig,
    log: KafkaLog,
}

impl Kafka {
    fn new() -> Self {
        let config = KafkaConfig {
            brokers: address("VARTA_KAFKA"),
            // Static members are only gone after this; long enough for a slow machine's restart.
            session_timeout: Duration::from_secs(6),
            properties: [("heartbeat.interval.ms".to_owned(), "200".to_owned())].into(),
            ..KafkaConfig::default()
        };
        let log = KafkaLog::connect(&config).unwrap();
        Self { config, log }
    }
}

impl World for Kafka {
    type Log = KafkaLog;

    fn log(&self) -> KafkaLog {
        self.log.clone()
    }

    fn trim(&self, of: &TopicPartition, before: i64) {
        let admin: AdminClient<DefaultClientContext> =
            rdkafka::ClientConfig::new().set("bootstrap.servers", &self.config.brokers).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&of.topic, of.partition, Offset::Offset(before)).unwrap();
        futures::executor::block_on(admin.delete_records(&list, &AdminOptions::new())).unwrap();
    }

    fn name(&self, what: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
        format!("contract.{what}.{now}.{}", COUNT.fetch_add(1, Ordering::Relaxed))
    }
}

promises!(Kafka::new());

/// A port where nobody listens.
fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn brokers_that_are_away_are_transient_and_hold_nobody_for_long() {
    let config = KafkaConfig {
        brokers: nowhere(),
        request_timeout: Duration::from_millis(500),
        transaction_timeout: Duration::from_secs(1),
        ..KafkaConfig::default()
    };
    let log = KafkaLog::connect(&config).unwrap();
    let began = Instant::now();
    assert_eq!(log.partitions("any").unwrap_err().kind, LogErrorKind::Unavailable);
    let error = log.transactional_producer("any").err().unwrap();
    assert_eq!(error.fate(), Fate::Transient, "{error}");
    // Records are taken all the same, and wait.
    let appender = log.appender(Box::new(|_, _| ())).unwrap();
    appender.append(NewRecord::keyed("any", "key", "value"), 1).unwrap();
    assert_eq!(appender.flush(Duration::from_millis(100)).unwrap_err().kind, LogErrorKind::Unavailable);
    assert_eq!(appender.in_flight(), 1);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[test]
fn an_unknown_property_is_refused_at_once() {
    let properties = [("linger.msec".to_owned(), "5".to_owned())].into();
    let error = KafkaLog::connect(&KafkaConfig { properties, ..KafkaConfig::default() }).err().unwrap();
    assert_eq!(error.kind, LogErrorKind::Fatal);
    assert!(error.message.contains("linger.msec"), "{error}");
}

#[test]
fn the_registry_keeps_schemas_and_refuses_what_readers_could_not_read() {
    let config = RegistryConfig { url: address("VARTA_REGISTRY"), ..RegistryConfig::default() };
    let registry = HttpRegistry::new(&config).unwrap();
    let ids = register_all(&registry).unwrap();
    assert_eq!(register_all(&registry).unwrap(), ids, "the same schemas have the same ids");
    for (kind, id) in ids.iter() {
        let text = registry.schema(id).unwrap();
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["name"], kind.full_name().rsplit_once('.').unwrap().1);
        assert_eq!(registry.compatibility(kind.subject()).unwrap(), "BACKWARD_TRANSITIVE");
    }
    let mandatory = RecordKind::Clock.avsc().replacen("\"fields\"", "\"doc2\": 1, \"fields\"", 1);
    let mut schema: serde_json::Value = serde_json::from_str(&mandatory).unwrap();
    let field = serde_json::json!({ "name": "mandatory_news", "type": "string" });
    schema["fields"].as_array_mut().unwrap().push(field);
    let error = registry.register(RecordKind::Clock.subject(), &schema.to_string()).unwrap_err();
    assert!(matches!(error, RegistryError::Incompatible { .. }), "{error}");
    assert_eq!(registry.schema(2_000_000_000), Err(RegistryError::NotFound { id: 2_000_000_000 }));
}

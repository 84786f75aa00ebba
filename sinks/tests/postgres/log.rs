//! The real sink between a log in memory and a real database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::json::ReaderBuilder;
use eventlog::batches::BatchEncoder;
use eventlog::memory::MemoryLog;
use eventlog::registry::{MemoryRegistry, SchemaIds, register_all};
use eventlog::{Appender as _, Log as _, NewRecord};
use runtime::config::Secret;
use runtime::health::Health;
use runtime::shutdown::Shutdown;
use schemas::columns::arrow_schema;
use schemas::record::RecordKind;
use schemas::topics::Topics;
use serde_json::Value;
use sinks::SinkError;
use sinks::postgres::PostgresConfig;

use crate::database::Database;

/// A log with all topics, one partition each.
pub(crate) struct World {
    pub(crate) log: MemoryLog,
    pub(crate) topics: Topics,
    registry: Arc<MemoryRegistry>,
    ids: SchemaIds,
}

impl World {
    pub(crate) fn new() -> Self {
        let registry = Arc::new(MemoryRegistry::new());
        let ids = register_all(&*registry).unwrap();
        let (log, topics) = (MemoryLog::new(), Topics::default());
        log.create_topics(&topics.all(), 1).unwrap();
        Self { log, topics, registry, ids }
    }

    /// Appends records, each given by some of its columns; mandatory ones that are missing are empty.
    pub(crate) fn send(&self, topic: &str, kind: RecordKind, rows: &[Value]) {
        let schema = arrow_schema(kind);
        let lines: Vec<String> = rows.iter().map(|row| whole(row, &schema).to_string()).collect();
        let lines = lines.join("\n");
        let mut reader = ReaderBuilder::new(schema).build(lines.as_bytes()).unwrap();
        let batch = reader.next().unwrap().unwrap();
        let values = BatchEncoder::new(kind, self.ids.id(kind)).encode(&batch).unwrap();
        let appender = self.log.appender(Box::new(|_, outcome| assert!(outcome.is_ok()))).unwrap();
        for value in values {
            appender.append(NewRecord::keyed(topic, "key", value).to_partition(0), 0).unwrap();
        }
        appender.flush(Duration::from_secs(1)).unwrap();
    }

    /// Starts a process of the sink.
    pub(crate) fn start(&self, database: &Database) -> Running {
        let config = PostgresConfig {
            url: Secret::new(database.url.as_str()),
            batch_age: Duration::from_millis(20),
            drain: Duration::from_secs(5),
            ..PostgresConfig::default()
        };
        let shutdown = Shutdown::new();
        let sink = sinks::postgres::run(
            config,
            self.log.handle(),
            self.registry.clone(),
            self.topics.clone(),
            Health::default(),
            shutdown.clone(),
        );
        Running { shutdown, task: tokio::spawn(sink) }
    }
}

fn whole(row: &Value, schema: &arrow::datatypes::Schema) -> Value {
    use arrow::datatypes::DataType;
    let mut row = row.clone();
    for field in schema.fields().iter().filter(|field| !field.is_nullable()) {
        let empty = match field.data_type() {
            DataType::Utf8 => Value::from(""),
            DataType::Boolean => Value::from(false),
            _ => Value::from(0),
        };
        let cell = &mut row[field.name().as_str()];
        if cell.is_null() {
            *cell = empty;
        }
    }
    row
}

/// A process of the sink.
pub(crate) struct Running {
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<(), SinkError>>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }
}

/// Waits until a query gives `expected` as its one text, or fails after 20 s.
pub(crate) async fn until(database: &Database, query: &'static str, expected: &str) {
    let mut connection = database.connect().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // before the sink has made the tables there is nothing to ask
        let answer: Result<Option<String>, _> = sqlx::query_scalar(query).fetch_one(&mut connection).await;
        if answer.as_ref().is_ok_and(|answer| answer.as_deref() == Some(expected)) {
            return;
        }
        assert!(Instant::now() < deadline, "{query}: {answer:?}, not {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

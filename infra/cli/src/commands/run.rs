//! `bridge`, `process`, `sink`, `up`: the parts under one supervisor until a signal or a failure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use eventlog::kafka::KafkaLog;
use eventlog::registry::{HttpRegistry, SchemaRegistry};
use processors::{JobName, ProcessConfig, ProcessError};
use runtime::health::Health;
use runtime::shutdown::{Shutdown, on_signals};
use runtime::supervisor::Supervisor;
use schemas::topics::Topics;
use sinks::SinkError;
use sinks::mqtt::MqttConfig;
use sinks::postgres::PostgresConfig;

use super::rules;
use crate::config::Config;
use crate::exit::Exit;
use crate::parts::{Part, SinkName};

/// Runs the parts until a signal comes or one of them fails.
pub(crate) async fn run(config: Config, parts: &[Part]) -> anyhow::Result<Exit> {
    if parts.contains(&Part::Process)
        && let Some(problems) = rules::problems(config.process.rules.clone()).await?
    {
        for problem in problems {
            eprintln!("{problem}");
        }
        return Ok(Exit::WrongConfiguration);
    }
    let _log = runtime::logging::init(&config.log).context("cannot open the log")?;
    let topics = config.topic_names();
    let shutdown = Shutdown::new();
    on_signals(&shutdown);
    let health = Health::default();
    let log = KafkaLog::connect(&config.kafka)?;
    let registry: Arc<dyn SchemaRegistry> = Arc::new(HttpRegistry::new(&config.registry)?);
    let mut supervisor = Supervisor::new(shutdown.clone(), config.shutdown.drain);

    if !config.http.listen.is_empty() {
        let address: SocketAddr = config.http.listen.parse()?;
        supervisor.spawn("http", runtime::http::serve(address, health.clone(), shutdown.clone()));
    }
    if parts.iter().any(|part| part.needs_log())
        && !prepare(&config, &log, &registry, &health, &shutdown).await?
    {
        return Ok(Exit::Done);
    }
    let common = Common { log, registry, topics, health, shutdown };
    for part in parts {
        match part {
            Part::Bridge => supervisor.spawn("bridge", common.run(config.bridge.clone(), bridge::run)),
            Part::Process => supervisor.spawn("process", common.run(config.process.clone(), process)),
            Part::Fleet if config.process.job == JobName::Fleet => {}
            Part::Fleet => {
                // One worker is enough for what rules over the fleet leave over.
                let fleet = ProcessConfig { job: JobName::Fleet, workers: 1, ..config.process.clone() };
                supervisor.spawn("fleet", common.run(fleet, process));
            }
            Part::Sink(SinkName::Lake) if config.sinks.lake.enabled => {
                supervisor.spawn("lake", common.run(config.sinks.lake.clone(), sinks::lake::run));
            }
            Part::Sink(SinkName::Influx) if config.sinks.influx.enabled => {
                supervisor.spawn("influx", common.run(config.sinks.influx.clone(), sinks::influx::run));
            }
            Part::Sink(SinkName::Postgres) if config.sinks.postgres.enabled => {
                supervisor.spawn("postgres", common.run(config.sinks.postgres(), sinks::postgres::run));
            }
            Part::Sink(SinkName::Mqtt) if config.sinks.mqtt.enabled => {
                let configs = (config.sinks.mqtt.clone(), config.sinks.postgres.clone());
                supervisor.spawn("mqtt", common.run(configs, mqtt));
            }
            Part::Sink(SinkName::Notifier) if config.sinks.notifier.is_on() => {
                let Common { health, shutdown, .. } = common.clone();
                supervisor.spawn("notifier", sinks::notifier::run(config.sinks.notifier(), health, shutdown));
            }
            Part::Sink(SinkName::Reports) if config.reports.enabled && config.sinks.postgres.enabled => {
                let Common { health, shutdown, .. } = common.clone();
                let (reports, postgres) = (config.reports.clone(), config.sinks.postgres.clone());
                supervisor.spawn("reports", sinks::reports::run(reports, postgres, health, shutdown));
            }
            Part::Sink(name) => tracing::info!(sink = ?name, "not enabled"),
        }
    }
    supervisor.run_until_done().await?;
    Ok(Exit::Done)
}

/// What all parts that read or write the log are run with, beside their configuration.
#[derive(Clone)]
struct Common {
    log: KafkaLog,
    registry: Arc<dyn SchemaRegistry>,
    topics: Topics,
    health: Health,
    shutdown: Shutdown,
}

impl Common {
    fn run<C, F>(
        &self,
        config: C,
        run: impl FnOnce(C, KafkaLog, Arc<dyn SchemaRegistry>, Topics, Health, Shutdown) -> F,
    ) -> F {
        let Self { log, registry, topics, health, shutdown } = self.clone();
        run(config, log, registry, topics, health, shutdown)
    }
}

async fn process(
    config: ProcessConfig,
    log: KafkaLog,
    registry: Arc<dyn SchemaRegistry>,
    topics: Topics,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), ProcessError> {
    processors::run(config, log, registry, topics, health, shutdown, runtime::clock::now_us).await
}

async fn mqtt(
    (mqtt, postgres): (MqttConfig, PostgresConfig),
    log: KafkaLog,
    registry: Arc<dyn SchemaRegistry>,
    topics: Topics,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), SinkError> {
    sinks::mqtt::run(mqtt, postgres, log, registry, topics, health, shutdown).await
}

/// Whatever takes longer is told.
const SOON: Duration = Duration::from_secs(2);

/// Waits for Kafka and the schema registry and creates topics and schemas in them.
/// False: asked to stop while waiting.
async fn prepare(
    config: &Config,
    log: &KafkaLog,
    registry: &Arc<dyn SchemaRegistry>,
    health: &Health,
    shutdown: &Shutdown,
) -> anyhow::Result<bool> {
    let component = health.component("kafka and registry");
    let specs = config.topic_names().all();
    let mut backoff = runtime::backoff::Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    // what was told last; nothing is told twice in a row
    let mut told: Option<String> = None;
    loop {
        let (log, registry, specs) = (log.clone(), Arc::clone(registry), specs.clone());
        let partitions = config.topics.partitions;
        let mut attempt = tokio::task::spawn_blocking(move || {
            use eventlog::Log as _;
            log.create_topics(&specs, partitions).map_err(|error| Waiting::of_log(&error))?;
            eventlog::registry::register_all(registry.as_ref()).map_err(|error| Waiting::of_registry(&error))
        });
        let outcome = tokio::select! {
            outcome = &mut attempt => outcome?,
            () = tokio::time::sleep(SOON), if told.is_none() => {
                // an attempt takes as long as a request may; a person is told earlier what it is that takes so long
                told = Some(String::new());
                tracing::warn!(kafka = config.kafka.brokers, registry = config.registry.url,
                    "waiting for Kafka and the schema registry");
                component.waiting("no answer yet");
                attempt.await?
            }
        };
        match outcome {
            Ok(_ids) => {
                component.ready();
                return Ok(true);
            }
            Err(Waiting { fate: runtime::fate::Fate::Transient, why }) => {
                component.waiting(&why);
                if told.as_ref() != Some(&why) {
                    tracing::warn!(%why, kafka = config.kafka.brokers, "waiting for Kafka and the schema registry");
                    told = Some(why);
                }
            }
            Err(Waiting { why, .. }) => anyhow::bail!(why),
        }
        tokio::select! {
            () = shutdown.wait() => return Ok(false),
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

struct Waiting {
    fate: runtime::fate::Fate,
    why: String,
}

impl Waiting {
    fn of_log(error: &eventlog::LogError) -> Self {
        Self { fate: error.fate(), why: error.to_string() }
    }

    fn of_registry(error: &eventlog::registry::RegistryError) -> Self {
        Self { fate: error.fate(), why: error.to_string() }
    }
}

//! `bridge`, `process`, `sink`, `up`: the parts under one supervisor until a signal or a failure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use eventlog::kafka::KafkaLog;
use eventlog::registry::{HttpRegistry, SchemaRegistry};
use processors::{JobName, ProcessConfig};
use runtime::health::Health;
use runtime::shutdown::{Shutdown, on_signals};
use runtime::supervisor::Supervisor;

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
    for part in parts {
        match part {
            Part::Bridge => supervisor.spawn(
                "bridge",
                bridge::run(
                    config.bridge.clone(),
                    log.clone(),
                    registry.clone(),
                    topics.clone(),
                    health.clone(),
                    shutdown.clone(),
                ),
            ),
            Part::Process => supervisor.spawn(
                "process",
                processors::run(
                    config.process.clone(),
                    log.clone(),
                    registry.clone(),
                    topics.clone(),
                    health.clone(),
                    shutdown.clone(),
                    runtime::clock::now_us,
                ),
            ),
            Part::Fleet if config.process.job == JobName::Fleet => {}
            Part::Fleet => supervisor.spawn(
                "fleet",
                processors::run(
                    // One worker is enough for what rules over the fleet leave over.
                    ProcessConfig { job: JobName::Fleet, workers: 1, ..config.process.clone() },
                    log.clone(),
                    registry.clone(),
                    topics.clone(),
                    health.clone(),
                    shutdown.clone(),
                    runtime::clock::now_us,
                ),
            ),
            Part::Sink(SinkName::Lake) if config.sinks.lake.enabled => supervisor.spawn(
                "lake",
                sinks::lake::run(
                    config.sinks.lake.clone(),
                    log.clone(),
                    registry.clone(),
                    topics.clone(),
                    health.clone(),
                    shutdown.clone(),
                ),
            ),
            Part::Sink(SinkName::Influx) if config.sinks.influx.enabled => supervisor.spawn(
                "influx",
                sinks::influx::run(
                    config.sinks.influx.clone(),
                    log.clone(),
                    registry.clone(),
                    topics.clone(),
                    health.clone(),
                    shutdown.clone(),
                ),
            ),
            Part::Sink(SinkName::Postgres) if config.sinks.postgres.enabled => supervisor.spawn(
                "postgres",
                sinks::postgres::run(
                    config.sinks.postgres(),
                    log.clone(),
                    registry.clone(),
                    topics.clone(),
                    health.clone(),
                    shutdown.clone(),
                ),
            ),
            Part::Sink(SinkName::Notifier) if config.sinks.notifier.is_on() => supervisor.spawn(
                "notifier",
                sinks::notifier::run(config.sinks.notifier(), health.clone(), shutdown.clone()),
            ),
            Part::Sink(SinkName::Mqtt) if config.sinks.mqtt.enabled => supervisor.spawn(
                "mqtt",
                sinks::mqtt::run(
                    config.sinks.mqtt.clone(),
                    config.sinks.postgres.clone(),
                    log.clone(),
                    registry.clone(),
                    topics.clone(),
                    health.clone(),
                    shutdown.clone(),
                ),
            ),
            Part::Sink(SinkName::Reports) if config.reports.enabled && config.sinks.postgres.enabled => {
                supervisor.spawn(
                    "reports",
                    sinks::reports::run(
                        config.reports.clone(),
                        config.sinks.postgres.clone(),
                        health.clone(),
                        shutdown.clone(),
                    ),
                );
            }
            Part::Sink(name) => tracing::info!(sink = ?name, "not enabled"),
        }
    }
    supervisor.run_until_done().await?;
    Ok(Exit::Done)
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

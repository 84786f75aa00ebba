//! The bridge: MQTT and HTTPS in, Kafka out.
//!
//! It takes events from the broker, checks and encodes them, and lets go of each only when Kafka has it: then the
//! broker gets its PUBACK and, after that, the agent its confirmation. Over HTTP the 202 is both. What cannot become an event becomes a dead
//! letter; when Kafka or the registry is away, nothing does: the broker keeps what the bridge cannot hold.
//!
//! It knows topics, identities and the order of acknowledgements. It never knows what an event means: it neither
//! drops repetitions nor puts events in order, which the processors do by their sequence numbers.
//!
//! Limits: a source that sends neither sequence number nor identifier gets events *at least* once, for the bridge
//! mints a new identifier when the broker delivers such a message again. One task does all the work, so one
//! bridge fills one core; several share the load by a share group.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod broker_statistics;
mod clock;
pub mod config;
mod confirmations;
mod dead_letters;
mod deliveries;
mod http;
mod intake;
pub mod keys;
mod metrics;
mod mqtt;
mod pipeline;
mod ring;
mod shipping;
mod sizing;
mod start;

use std::sync::Arc;
use std::time::Instant;

pub use config::BridgeConfig;
use eventlog::registry::{RegistryError, SchemaRegistry};
use eventlog::{Log, LogError};
pub use intake::AGENT_MISMATCH;
use runtime::health::Health;
use runtime::shutdown::Shutdown;
use schemas::topics::Topics;
use schemas::translate::Translator;

use crate::clock::ClockRecords;
use crate::intake::Intake;
use crate::mqtt::{Driver, Link};
use crate::pipeline::Pipeline;

/// Why a bridge ended that nobody asked to.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// A certificate or key file.
    #[error("certificate: {0}")]
    Certificate(#[source] std::io::Error),
    /// The address of the HTTP intake cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address as configured.
        address: std::net::SocketAddr,
        /// What the operating system said.
        #[source]
        error: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error("tls: {0}")]
    Tls(String),
    /// Kafka will not work again without somebody's help.
    #[error("kafka: {0}")]
    Log(#[from] LogError),
    /// Kafka lost or refused records for good, dead letters included.
    #[error("kafka did not take a record: {0}")]
    Delivery(String),
    /// The registry refuses our schemas.
    #[error("schema registry: {0}")]
    Registry(#[from] RegistryError),
    /// A thread that set something up has panicked.
    #[error("starting: {0}")]
    Start(#[from] tokio::task::JoinError),
}

/// Runs a bridge until `shutdown`: then it takes nothing in any more, waits up to `config.drain` for Kafka,
/// acknowledges, confirms, says goodbye in the clock records and disconnects.
///
/// Waits with backoff for registry, Kafka and broker, at the start as well as later.
///
/// # Errors
/// Only what waiting cannot mend: see [`BridgeError`].
pub async fn run<L: Log>(
    config: BridgeConfig,
    log: L,
    registry: Arc<dyn SchemaRegistry>,
    topics: Topics,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), BridgeError> {
    let broker_health = health.component(format!("bridge {} mqtt", config.id));
    let kafka_health = health.component(format!("bridge {} kafka", config.id));
    sizing::warn(&config);
    let link = Link::new(&config)?;
    let Some(ids) = start::schema_ids(registry, &kafka_health, &shutdown).await? else {
        return Ok(());
    };
    let intake = Intake::new(&config.id, Translator::new(), ids.clone(), &topics);
    let Some(partitions) = start::partitions(log.clone(), &topics, &kafka_health, &shutdown).await? else {
        return Ok(());
    };
    let slots = pipeline::slots(config.in_flight.messages);
    let opened = start::appender(log.clone(), slots, &kafka_health, &shutdown).await?;
    let Some((appender, deliveries)) = opened else {
        return Ok(());
    };
    kafka_health.ready();
    broker_health.waiting(format!("mqtt broker {}:{}: connecting", config.mqtt.host, config.mqtt.port));
    let now = Instant::now();
    let clock = ClockRecords::new(config.clock_interval, partitions, now);
    let pipeline = Pipeline::new(&config, intake, appender, Arc::clone(&deliveries), now);
    let driver = Driver::new(config.clone(), &link, pipeline, deliveries, clock, broker_health, kafka_health);
    let over_http = http::run(&config, log, &topics, ids, &health, shutdown.clone());
    tokio::try_join!(driver.run(link, shutdown), over_http)?;
    Ok(())
}

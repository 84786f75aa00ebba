//! HTTPS in: `POST /v1/events` for programs that do not speak MQTT, `POST /v1/feedback` for what people say about
//! alerts.
//!
//! 202 is the promise: Kafka has every event of the request, confirmed by all replicas. Before it nothing is promised
//! and the sender keeps what it has; it may send again, for events carry their identity, or are given one by the
//! request's `Idempotency-Key`.
//!
//! Everything is bounded before it is read: connections, the time for a head, for a body and for an answer to be read,
//! bytes as sent and inflated, requests and bytes that Kafka has not confirmed, requests a second of each key.
//!
//! Limits: HTTP/1.1 only. Requests are translated on the thread that serves their connection, 2 MiB in some 10 ms.

mod body;
pub(crate) mod config;
mod courier;
mod gate;
mod limits;
mod patience;
mod refusal;
mod routes;
mod server;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use eventlog::{Appender, Log};
use runtime::health::{Component, Health};
use runtime::shutdown::Shutdown;
use schemas::topics::Topics;
use schemas::translate::Translator;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::config::BridgeConfig;
use crate::deliveries::Deliveries;
use crate::intake::{Intake, WriterIds};
use crate::keys::{Keys, Watcher};
use crate::{BridgeError, start};
use config::HttpConfig;
use courier::{Courier, Outage};
use gate::Gate;

/// Serves until `shutdown`, and at most `config.drain` longer. Returns at once when it is not configured.
pub(crate) async fn run<L: Log>(
    config: &BridgeConfig,
    log: L,
    topics: &Topics,
    ids: WriterIds,
    health: &Health,
    shutdown: Shutdown,
) -> Result<(), BridgeError> {
    let Some(address) = config.http.address() else {
        return Ok(());
    };
    let tls = config.http.tls.as_ref().map(tls::acceptor).transpose()?;
    let served = health.component(format!("bridge {} http", config.id));
    let slots = config.http.limits.requests_in_flight;
    let opened = start::appender(log, slots, &served, &shutdown).await?;
    let Some((appender, deliveries)) = opened else {
        return Ok(());
    };
    let listener =
        TcpListener::bind(address).await.map_err(|error| BridgeError::Listen { address, error })?;
    tracing::info!(%address, tls = tls.is_some(), "taking events over http");
    let intake = Intake::new(&config.id, Translator::new(), ids, topics);
    let keys_health = health.component(format!("bridge {} keys", config.id));
    let (watcher, keys) = Watcher::new(&config.http.keys, keys_health);
    let looking = watcher.run(shutdown.clone());
    let serving = Serving { appender, deliveries, intake, keys, listener, tls };
    let serving = serving.run(&config.http, config.drain, served, shutdown);
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = looking => {}
    }
    serving.await
}

/// What is needed to answer requests.
struct Serving<A> {
    appender: A,
    deliveries: Arc<Deliveries>,
    intake: Intake,
    keys: Keys,
    listener: TcpListener,
    tls: Option<tokio_rustls::TlsAcceptor>,
}

impl<A: Appender> Serving<A> {
    async fn run(
        self,
        config: &HttpConfig,
        drain: Duration,
        health: Component,
        shutdown: Shutdown,
    ) -> Result<(), BridgeError> {
        let Self { appender, deliveries, intake, keys, listener, tls } = self;
        let limits = config.limits.clone();
        let outage = Outage::default();
        let (shipments, queue) = mpsc::channel(limits.requests_in_flight);
        let courier = Courier::new(appender, deliveries, limits.kafka_timeout, outage.clone(), health);
        let gate = Arc::new(Gate::new(intake, limits, keys, shipments, outage));
        // The courier ends when the last request has gone, and with it the last of the senders.
        let serving = async {
            server::serve(listener, tls, gate, drain, shutdown.clone()).await;
            Ok(())
        };
        tokio::try_join!(courier.run(queue, drain, shutdown.clone()), serving)?;
        Ok(())
    }
}

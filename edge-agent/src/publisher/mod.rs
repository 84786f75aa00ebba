//! Sends what the outbox holds over MQTT 5 and removes what the bridge confirmed.
//!
//! Decisions are in [`window`], bytes in [`compose`]; here is the I/O. A connection is used once:
//! when it breaks, client and buffers are dropped and the window decides what goes again, so that
//! no second queue with an order of its own hides in the MQTT client. QoS 1; the broker's PUBACK
//! only frees room on the wire. A row leaves the outbox only when `agent/{id}/ack` names it.

mod compose;
mod config;
mod connection;
mod sending;
mod will;
pub mod window;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use rumqttc::{AsyncClient, PublishOptions, QoS};
use runtime::backoff::Backoff;
use runtime::shutdown::Shutdown;
use schemas::confirmation::Confirmation;
use schemas::mqtt;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

pub use compose::{Composer, Message};
pub use config::{Mode, MqttConfig, PublisherConfig, TlsConfig};

use crate::outbox::{LaneRange, Outbox, OutboxError, Stats};
use connection::{SHORTEST_PAUSE, Signal};
use sending::sent_now;
use will::Status;
use window::{MessageId, Window};

/// Why the publisher gave up; a broker that is away is no reason.
#[derive(Debug, Error)]
pub enum PublishError {
    /// A certificate or key cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Certificates or keys do not fit.
    #[error("tls: {0}")]
    Tls(String),
    /// The MQTT client refuses its options.
    #[error("mqtt options: {0}")]
    Options(String),
    /// The outbox has ended.
    #[error(transparent)]
    Outbox(#[from] Arc<OutboxError>),
}

/// What others may know about the connection; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Link {
    connected: Arc<AtomicBool>,
    connection: Arc<AtomicI64>,
}

impl Link {
    /// Whether the broker has greeted us and not gone since.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Connections begun in this session.
    pub fn connection(&self) -> i64 {
        self.connection.load(Ordering::Relaxed)
    }
}

/// What the publisher is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The broker.
    pub mqtt: MqttConfig,
    /// What is sent how.
    pub publisher: PublisherConfig,
    /// The agent's id, also the MQTT client id.
    pub agent_id: Arc<str>,
    /// Its host name.
    pub host: Arc<str>,
    /// Where rows come from.
    pub outbox: Outbox,
    /// Set by the publisher, read by whoever reports.
    pub link: Link,
}

/// The sending end of the agent.
#[derive(Debug)]
pub struct Publisher {
    parts: Parts,
    composer: Composer,
    window: Window,
    stats: watch::Receiver<Stats>,
    start: Instant,
    session: i64,
    /// Messages handed to the client that have no packet id yet, in order; `None` is a status.
    queued: VecDeque<Option<MessageId>>,
    packets: HashMap<u16, MessageId>,
    /// Confirmed ranges that the outbox could not remove; tried again with the next.
    unremoved: Vec<LaneRange>,
    lost_at: Option<Instant>,
    leaving: bool,
}

enum Ended {
    Settled,
    Lost(String),
}

impl Publisher {
    /// Nothing is connected before [`Publisher::run`].
    pub fn new(parts: Parts) -> Self {
        let mut stats = parts.outbox.watch();
        let now = *stats.borrow_and_update();
        let size = usize::try_from(parts.publisher.batch_size.bytes()).unwrap_or(mqtt::MAX_BATCH_BYTES);
        Self {
            composer: Composer::new(&parts.agent_id, size),
            window: Window::new(parts.publisher.limits(), now.session, now.last_seq),
            stats,
            start: Instant::now(),
            session: now.session,
            queued: VecDeque::new(),
            packets: HashMap::new(),
            unremoved: Vec::new(),
            lost_at: Some(Instant::now()),
            leaving: false,
            parts,
        }
    }

    /// Connects, sends, confirms, reconnects; until the shutdown, after which what is left is sent
    /// within the drain time once `stored` says that no more rows come.
    pub async fn run(mut self, shutdown: Shutdown, stored: Shutdown) -> Result<(), PublishError> {
        let mut backoff = Backoff::new(Duration::from_millis(500), self.parts.mqtt.retry_max);
        let mut attempts = 0_u64;
        loop {
            let connection = self.parts.link.connection.fetch_add(1, Ordering::Relaxed) + 1;
            let (client, polled) = self.client(connection)?;
            let (sender, signals) = mpsc::channel(256);
            let ended = tokio::select! {
                biased;
                ended = self.drive(client, connection, signals, &shutdown, &stored, &mut backoff) => ended?,
                error = connection::poll(polled, sender) => {
                    attempts += 1;
                    Ended::Lost(format!("{error} ({})", connection::advice(&error)))
                }
            };
            let Ended::Lost(why) = ended else { return Ok(()) };
            if self.leaving {
                // The connection ends because we said goodbye.
                return Ok(());
            }
            self.disconnected(&why, attempts);
            if shutdown.is_requested() {
                tracing::warn!(%why, queued_rows = self.parts.outbox.stats().all_rows(), "stopping without a broker, events stay in the outbox");
                return Ok(());
            }
            let pause = backoff.next_delay().max(SHORTEST_PAUSE);
            tokio::select! {
                () = sleep(pause) => {}
                () = shutdown.wait() => {}
            }
        }
    }

    fn client(&self, connection: i64) -> Result<(AsyncClient, rumqttc::EventLoop), PublishError> {
        let last_will = self.status(Status::Offline, connection);
        let Parts { mqtt, publisher, agent_id, .. } = &self.parts;
        let options = connection::options(agent_id, mqtt, publisher, last_will)?;
        // The window never has more messages out than `inflight`; the rest is for statuses.
        let capacity = usize::from(publisher.inflight) + 16;
        AsyncClient::builder(options)
            .capacity(capacity)
            .try_build()
            .map_err(|error| PublishError::Options(error.to_string()))
    }

    fn status(&self, status: Status, connection: i64) -> Vec<u8> {
        let now = runtime::clock::now_us();
        will::status(status, &self.parts.agent_id, &self.parts.host, self.session, connection, now)
    }

    fn disconnected(&mut self, why: &str, attempts: u64) {
        let was_connected = self.parts.link.connected.swap(false, Ordering::Relaxed);
        self.queued.clear();
        self.packets.clear();
        self.window.disconnected(self.start.elapsed());
        let stats = self.parts.outbox.stats();
        if was_connected {
            self.lost_at = Some(Instant::now());
            tracing::warn!(
                why,
                queued_rows = stats.all_rows(),
                unconfirmed_rows = self.window.open_rows(),
                "connection lost"
            );
        } else {
            let away_s = self.lost_at.map_or(0, |at| at.elapsed().as_secs());
            tracing::warn!(
                why,
                attempts,
                away_s,
                queued_rows = stats.all_rows(),
                "not connected, events wait in the outbox"
            );
        }
    }

    async fn drive(
        &mut self,
        client: AsyncClient,
        connection: i64,
        mut signals: mpsc::Receiver<Signal>,
        shutdown: &Shutdown,
        stored: &Shutdown,
        backoff: &mut Backoff,
    ) -> Result<Ended, PublishError> {
        if !self.greeting(&mut signals, shutdown).await {
            return Ok(Ended::Lost("stopped before a connection was made".to_owned()));
        }
        self.greeted(&client, connection).await;
        let mut drain_until: Option<Instant> = None;
        loop {
            // Asked once for this turn: a row that is stored after the last look is not among those that are settled.
            let is_all_stored = drain_until.is_some() && stored.is_requested();
            if is_all_stored {
                self.note_stored();
            }
            let mut now = self.start.elapsed();
            while let Some(ask) = self.window.next(now) {
                self.send(&client, ask).await?;
                now = self.start.elapsed();
            }
            if let Some(deadline) = drain_until {
                let settled = is_all_stored && self.window.is_settled() && self.unremoved.is_empty();
                if settled || Instant::now() >= deadline {
                    return Ok(self.goodbye(&client, connection, signals).await);
                }
            }
            let wake =
                self.window.next_wake(now).map(|at| self.start + at).into_iter().chain(drain_until).min();
            tokio::select! {
                signal = signals.recv() => match signal {
                    Some(signal) => self.noted(signal, backoff).await?,
                    // The poll loop has ended too; its error says why.
                    None => std::future::pending().await,
                },
                changed = self.stats.changed() => match changed {
                    Ok(()) => self.note_stored(),
                    Err(_) => return Err(Arc::new(OutboxError::Closed).into()),
                },
                () = sleep_until(wake.unwrap_or_else(far_away)), if wake.is_some() => {}
                () = shutdown.wait(), if drain_until.is_none() => {
                    tracing::info!(queued_rows = self.parts.outbox.stats().all_rows(), "sending what is left");
                    drain_until = Some(Instant::now() + self.parts.publisher.drain);
                    self.window.gather_no_longer();
                }
                () = stored.wait(), if drain_until.is_some() && !is_all_stored => {}
            }
        }
    }

    fn note_stored(&mut self) {
        let last_seq = self.stats.borrow_and_update().last_seq;
        self.window.stored(last_seq, self.start.elapsed());
    }

    /// False if the shutdown came first.
    async fn greeting(&self, signals: &mut mpsc::Receiver<Signal>, shutdown: &Shutdown) -> bool {
        loop {
            tokio::select! {
                signal = signals.recv() => match signal {
                    Some(Signal::Connected) => return true,
                    Some(_) => {}
                    None => std::future::pending().await,
                },
                () = stopped_for_long(shutdown, self.parts.publisher.drain) => return false,
            }
        }
    }

    async fn greeted(&mut self, client: &AsyncClient, connection: i64) {
        self.parts.link.connected.store(true, Ordering::Relaxed);
        let away_s = self.lost_at.take().map_or(0, |at| at.elapsed().as_secs());
        let queued_rows = self.parts.outbox.stats().all_rows();
        let broker = format!("{}:{}", self.parts.mqtt.host, self.parts.mqtt.port);
        tracing::info!(%broker, connection, away_s, queued_rows, "connected");
        if let Err(error) = client.subscribe(mqtt::ack_topic(&self.parts.agent_id), QoS::AtLeastOnce).await {
            tracing::error!(%error, "cannot ask for confirmations");
        }
        self.publish_status(client, Status::Online, connection).await;
        self.note_stored();
    }

    async fn publish_status(&mut self, client: &AsyncClient, status: Status, connection: i64) {
        let options = PublishOptions::new(QoS::AtLeastOnce).retained().properties(sent_now());
        let payload = self.status(status, connection);
        match client.publish(mqtt::status_topic(&self.parts.agent_id), payload, options).await {
            Ok(()) => self.queued.push_back(None),
            Err(error) => tracing::warn!(%error, "status was not sent"),
        }
    }

    async fn noted(&mut self, signal: Signal, backoff: &mut Backoff) -> Result<(), PublishError> {
        match signal {
            Signal::Connected | Signal::Disconnected => {}
            Signal::Sent(packet) => match self.queued.pop_front() {
                Some(Some(message)) => drop(self.packets.insert(packet, message)),
                Some(None) => {}
                None => tracing::debug!(packet, "a packet nobody asked for"),
            },
            Signal::Acknowledged(packet, refused) => {
                backoff.reset();
                if let Some(reason) = refused {
                    tracing::error!(
                        ?reason,
                        packet,
                        "the broker refuses a message; it will be sent again later"
                    );
                }
                if let Some(message) = self.packets.remove(&packet) {
                    self.window.acknowledged(message);
                }
            }
            Signal::SubscriptionRefused(reason) => {
                tracing::error!(%reason, "the broker refuses the topic of confirmations; nothing can leave the outbox");
            }
            Signal::Confirmation(text) => self.confirmed(&text).await?,
        }
        Ok(())
    }

    async fn confirmed(&mut self, text: &[u8]) -> Result<(), PublishError> {
        let confirmation: Confirmation = match serde_json::from_slice(text) {
            Ok(confirmation) => confirmation,
            Err(error) => {
                tracing::warn!(%error, "a confirmation cannot be read");
                return Ok(());
            }
        };
        let now = self.start.elapsed();
        let mut ranges = std::mem::take(&mut self.unremoved);
        for ack in confirmation.acks {
            for (from, to) in ack.ranges {
                let range = LaneRange { lane: ack.lane, session: ack.session, from, to };
                let Some(plausible) = self.window.confirmed(range, now) else {
                    tracing::warn!(?range, bridge = %confirmation.bridge, "confirmation names what was never sent");
                    continue;
                };
                ranges.push(plausible);
            }
        }
        match self.parts.outbox.confirm(ranges.clone()).await {
            Ok(removed) => tracing::debug!(removed, bridge = %confirmation.bridge, "confirmed"),
            Err(error) if matches!(*error, OutboxError::Closed) => return Err(error.into()),
            Err(error) => {
                tracing::error!(%error, "confirmed events stay in the outbox for now");
                self.unremoved = ranges;
            }
        }
        Ok(())
    }

    /// Says goodbye, so that the broker does not send the last will.
    async fn goodbye(
        &mut self,
        client: &AsyncClient,
        connection: i64,
        mut signals: mpsc::Receiver<Signal>,
    ) -> Ended {
        let left = self.parts.outbox.stats().all_rows();
        tracing::info!(
            unconfirmed_rows = self.window.open_rows(),
            queued_rows = left,
            "stopping, what is queued stays in the outbox"
        );
        self.publish_status(client, Status::Stopped, connection).await;
        self.leaving = true;
        if let Err(error) = client.disconnect().await {
            tracing::warn!(%error, "cannot say goodbye to the broker");
            return Ended::Settled;
        }
        let gone = async {
            while let Some(signal) = signals.recv().await {
                if matches!(signal, Signal::Disconnected) {
                    return;
                }
            }
        };
        if tokio::time::timeout(Duration::from_secs(2), gone).await.is_err() {
            tracing::warn!("the broker did not take our goodbye in time");
        }
        self.parts.link.connected.store(false, Ordering::Relaxed);
        Ended::Settled
    }
}

async fn stopped_for_long(shutdown: &Shutdown, drain: Duration) {
    shutdown.wait().await;
    sleep(drain).await;
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_hours(1)
}

//! The loop: polls the broker, feeds the pipeline, keeps the clock, ends in order.
//!
//! The client library drops the PUBACKs that it still queues when a connection ends, but it would send one given
//! to it too late on the next connection. That cannot happen here: the loop that hands out PUBACKs is the one
//! that polls, and the ring starts a new generation before the library connects again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eventlog::Appender;
use rumqttc::mqttbytes::v5::{ConnAck, PubAck, Publish, SubAck, SubscribeReasonCode};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, ManualAck, Outgoing, Packet, PublishOptions, QoS,
};
use runtime::backoff::Backoff;
use runtime::clock::now_us;
use runtime::health::Component;
use runtime::shutdown::Shutdown;
use schemas::mqtt::SENT_AT;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use uuid::Uuid;

use super::options;
use crate::BridgeError;
use crate::broker_statistics;
use crate::clock::ClockRecords;
use crate::config::BridgeConfig;
use crate::deliveries::Deliveries;
use crate::intake::{Arrival, Mint};
use crate::pipeline::{Incoming, Outlet, Pipeline};

/// How often the loop looks at everything that depends on time.
const TICK: Duration = Duration::from_millis(20);
/// Silence of Kafka, while something waits for it, that a person is told of.
const KAFKA_SILENCE: Duration = Duration::from_secs(5);
/// Ticks for which a connection must need nothing but its end: time for the last PUBACKs to leave the socket.
const SETTLED_TICKS: u32 = 2;
/// How long the broker may take to end a connection in order.
const LEAVE: Duration = Duration::from_secs(2);

/// The client library's two halves.
pub(crate) struct Link {
    client: AsyncClient,
    eventloop: EventLoop,
    /// While set, the socket sends at once.
    eager: Arc<AtomicBool>,
}

impl Link {
    /// Connects to nothing yet.
    pub(crate) fn new(config: &BridgeConfig) -> Result<Self, BridgeError> {
        let eager = Arc::new(AtomicBool::new(false));
        let options = options::options(config, &eager)?;
        let (client, eventloop) = AsyncClient::builder(options).capacity(options::REQUESTS).build();
        Ok(Self { client, eventloop, eager })
    }
}

/// Gives packets to the client and counts those that it has not sent or the broker not acknowledged.
struct ClientOutlet {
    client: AsyncClient,
    pubacks: usize,
    publishes: usize,
}

impl Outlet for ClientOutlet {
    fn acknowledge(&mut self, packet_id: u16) -> bool {
        let is_sent = self.client.try_manual_ack(ManualAck::PubAck(PubAck::new(packet_id, None))).is_ok();
        self.pubacks += usize::from(is_sent);
        is_sent
    }

    fn publish(&mut self, topic: String, payload: Vec<u8>) -> bool {
        let options = PublishOptions::new(QoS::AtLeastOnce);
        let is_sent = self.client.try_publish(topic, payload, options).is_ok();
        self.publishes += usize::from(is_sent);
        is_sent
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Nothing is taken in; Kafka confirms what is in flight.
    Draining {
        until: Instant,
    },
    /// The goodbye of the clock is on its way.
    Goodbye {
        until: Instant,
    },
    /// The last packets and DISCONNECT are on their way.
    Leaving {
        until: Instant,
    },
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Away,
    /// Connected; the broker has not granted the subscription yet.
    Asking,
    Subscribed,
}

/// See the module.
pub(crate) struct Driver<A> {
    config: BridgeConfig,
    pipeline: Pipeline<A>,
    deliveries: Arc<Deliveries>,
    outlet: ClientOutlet,
    clock: ClockRecords,
    broker_health: Component,
    kafka_health: Component,
    phase: Phase,
    standing: Standing,
    /// Packet identifier of the subscription to events.
    subscription: Option<u16>,
    backoff: Backoff,
    resume_at: Option<tokio::time::Instant>,
    settled_ticks: u32,
    mint: Mint,
}

/// What the inner loop ended with.
enum Polled {
    Event(Box<Result<Event, ConnectionError>>),
    /// The connection is to be given up.
    Reconnect,
    Done,
}

impl<A: Appender> Driver<A> {
    pub(crate) fn new(
        config: BridgeConfig,
        link: &Link,
        pipeline: Pipeline<A>,
        deliveries: Arc<Deliveries>,
        clock: ClockRecords,
        broker_health: Component,
        kafka_health: Component,
    ) -> Self {
        Self {
            pipeline,
            deliveries,
            outlet: ClientOutlet { client: link.client.clone(), pubacks: 0, publishes: 0 },
            clock,
            broker_health,
            kafka_health,
            phase: Phase::Running,
            standing: Standing::Away,
            subscription: None,
            backoff: Backoff::new(Duration::from_millis(100), config.mqtt.max_backoff),
            resume_at: None,
            settled_ticks: 0,
            mint: Mint { process: Uuid::new_v4(), message: 0 },
            config,
        }
    }

    /// Runs until `shutdown` and everything that follows from it.
    pub(crate) async fn run(mut self, link: Link, shutdown: Shutdown) -> Result<(), BridgeError> {
        let Link { client: _, mut eventloop, eager } = link;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deliveries = Arc::clone(&self.deliveries);
        loop {
            let polled = {
                let resume_at = self.resume_at.take();
                let polling = async {
                    if let Some(at) = resume_at {
                        sleep_until(at).await;
                    }
                    eventloop.poll().await
                };
                // The future is kept over all turns: dropping it half-way could lose a packet it was writing.
                tokio::pin!(polling);
                loop {
                    tokio::select! {
                        event = &mut polling => break Polled::Event(Box::new(event)),
                        () = deliveries.changed() => self.pipeline.pump(&mut self.outlet, Instant::now())?,
                        _ = ticks.tick() => self.tick(&eager)?,
                        () = shutdown.wait(), if self.phase == Phase::Running => self.stop(),
                    }
                    if self.phase == Phase::Done {
                        break Polled::Done;
                    }
                    if self.settled_ticks >= SETTLED_TICKS {
                        break Polled::Reconnect;
                    }
                }
            };
            match polled {
                Polled::Event(event) => match *event {
                    Ok(event) => {
                        if !self.take(event, &mut eventloop) {
                            eventloop.clean();
                            self.disconnected("the subscription was refused");
                        }
                    }
                    Err(_) if matches!(self.phase, Phase::Leaving { .. }) => return Ok(()),
                    Err(error) => self.disconnected(&error.to_string()),
                },
                Polled::Reconnect => {
                    eventloop.clean();
                    self.disconnected("closed by us: the broker shall send again what was let fall");
                    self.resume_at = None;
                }
                Polled::Done => return Ok(()),
            }
        }
    }

    /// Takes an event of the client in; `false` when the connection must be given up.
    fn take(&mut self, event: Event, eventloop: &mut EventLoop) -> bool {
        match event {
            Event::Incoming(Packet::Publish(publish)) => self.message(publish),
            Event::Incoming(Packet::ConnAck(connack)) => self.connected(&connack, eventloop),
            Event::Incoming(Packet::SubAck(suback)) => return self.subscribed(&suback),
            Event::Incoming(Packet::PubAck(_)) => {
                self.outlet.publishes = self.outlet.publishes.saturating_sub(1);
            }
            Event::Outgoing(Outgoing::PubAck(_)) => {
                self.outlet.pubacks = self.outlet.pubacks.saturating_sub(1);
            }
            Event::Outgoing(Outgoing::Subscribe(packet_id)) => {
                self.subscription.get_or_insert(packet_id);
            }
            _ => {}
        }
        true
    }

    fn message(&mut self, publish: Publish) {
        if broker_statistics::export(&publish.topic, &publish.payload) {
            return;
        }
        if publish.dup {
            self.pipeline.metrics().redelivered.increment(1);
        }
        let sent_at = publish.properties.as_ref().and_then(|properties| {
            let (_, text) = properties.user_properties.iter().find(|(name, _)| name == SENT_AT)?;
            text.parse().ok()
        });
        self.mint.message += 1;
        let arrival = Arrival {
            topic: publish.topic,
            payload: publish.payload,
            sent_at,
            received_at: now_us(),
            mint: self.mint,
        };
        let packet_id = (publish.qos != QoS::AtMostOnce).then_some(publish.pkid);
        let now = Instant::now();
        self.pipeline.arrive(Incoming { arrival, packet_id, is_retained: publish.retain }, now);
    }

    fn connected(&mut self, connack: &ConnAck, eventloop: &mut EventLoop) {
        // It has served: from here on the library knows its own session.
        eventloop.options.clear_session_store();
        self.standing = Standing::Asking;
        self.subscription = None;
        tracing::info!(session_present = connack.session_present, "connected to the mqtt broker");
        // Asked for each time: after a restart with another configuration the old session has the old filters.
        let client = &self.outlet.client;
        let events = client.try_subscribe_many(options::event_filters(&self.config.mqtt));
        let statistics = options::statistics_filters(&self.config.mqtt);
        let statistics = if statistics.is_empty() { Ok(()) } else { client.try_subscribe_many(statistics) };
        if let Err(error) = events.and(statistics) {
            tracing::error!(%error, "the mqtt client takes no subscription");
        }
        self.pipeline.connected(connack.session_present);
    }

    /// Whether the events are granted. Those of the broker's own numbers may be refused.
    fn subscribed(&mut self, suback: &SubAck) -> bool {
        if self.subscription != Some(suback.pkid) {
            return true;
        }
        let is_granted = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
        if !suback.return_codes.iter().all(is_granted) {
            tracing::error!(answers = ?suback.return_codes, "the mqtt broker refuses the subscription to events");
            return false;
        }
        let is_at_most_once =
            |code: &SubscribeReasonCode| *code == SubscribeReasonCode::Success(QoS::AtMostOnce);
        if suback.return_codes.iter().any(is_at_most_once) {
            tracing::error!(
                "the mqtt broker grants QoS 0 only: what it drops is lost to us until it is sent again"
            );
        }
        self.standing = Standing::Subscribed;
        self.backoff.reset();
        self.broker_health.ready();
        true
    }

    fn disconnected(&mut self, reason: &str) {
        let broker = format!("{}:{}", self.config.mqtt.host, self.config.mqtt.port);
        let delay = self.backoff.next_delay();
        if self.standing == Standing::Away {
            tracing::debug!(%broker, reason, ?delay, "no connection to the mqtt broker");
        } else {
            tracing::warn!(%broker, reason, "the connection to the mqtt broker has ended");
        }
        self.broker_health.waiting(format!("mqtt broker {broker}: {reason}"));
        self.resume_at = Some(tokio::time::Instant::now() + delay);
        self.standing = Standing::Away;
        self.outlet.pubacks = 0;
        self.settled_ticks = 0;
        self.pipeline.disconnected();
    }

    fn tick(&mut self, eager: &AtomicBool) -> Result<(), BridgeError> {
        let now = Instant::now();
        self.pipeline.pump(&mut self.outlet, now)?;
        if self.standing == Standing::Subscribed {
            self.pipeline.confirm(&mut self.outlet, now, false);
        }
        let is_settled = self.pipeline.needs_new_connection() && self.outlet.pubacks == 0;
        self.settled_ticks = if is_settled { self.settled_ticks + 1 } else { 0 };
        self.pipeline.gauge();
        self.tell_of_kafka(now);
        if self.phase == Phase::Running && self.clock.is_due(now) {
            let records = self.clock_records(now, false);
            self.pipeline.append_clock(records)?;
        }
        self.step(now, eager)
    }

    fn clock_records(&mut self, now: Instant, goodbye: bool) -> Vec<eventlog::NewRecord> {
        let is_connected = self.standing == Standing::Subscribed;
        self.clock.records(self.pipeline.intake(), now, now_us(), is_connected, goodbye)
    }

    fn tell_of_kafka(&self, now: Instant) {
        match self.pipeline.silence(now) {
            Some(silence) if silence > KAFKA_SILENCE => {
                let error = self.pipeline.last_kafka_error();
                self.kafka_health.waiting(format!("kafka confirms nothing (last error: {error})"));
            }
            _ => self.kafka_health.ready(),
        }
    }

    /// Takes nothing in any more.
    fn stop(&mut self) {
        tracing::info!("stopping: waiting for kafka to confirm what is in flight");
        self.pipeline.stop();
        self.phase = Phase::Draining { until: Instant::now() + self.config.drain };
    }

    /// Goes on with ending, as far as that is possible now.
    fn step(&mut self, now: Instant, eager: &AtomicBool) -> Result<(), BridgeError> {
        if let Phase::Draining { until } = self.phase
            && (self.pipeline.is_drained() || now >= until)
        {
            if !self.pipeline.is_drained() {
                tracing::warn!(
                    "not all was confirmed in time; the broker and the agents keep it and send it again"
                );
            }
            let records = self.clock_records(now, true);
            self.pipeline.append_goodbye(records)?;
            self.phase = Phase::Goodbye { until: until.max(now + LEAVE) };
        }
        if let Phase::Goodbye { until } = self.phase {
            let is_away = self.standing == Standing::Away;
            if !is_away {
                self.pipeline.confirm(&mut self.outlet, now, true);
            }
            let is_sent =
                self.outlet.pubacks == 0 && self.outlet.publishes == 0 && self.pipeline.has_confirmed();
            if (self.pipeline.has_said_goodbye() && (is_away || is_sent)) || now >= until {
                // Nothing is read after DISCONNECT, so nothing would send what waits in the socket.
                eager.store(true, Ordering::Relaxed);
                let is_leaving = !is_away && self.outlet.client.try_disconnect_with_timeout(LEAVE).is_ok();
                self.phase = if is_leaving { Phase::Leaving { until: now + 2 * LEAVE } } else { Phase::Done };
            }
        }
        if let Phase::Leaving { until } = self.phase
            && now >= until
        {
            self.phase = Phase::Done;
        }
        Ok(())
    }
}

//! From arrival to release: what the bridge holds, and the order of its promises.
//!
//! ```text
//!  arrive ─▶ ring ─ ship ─▶ Kafka ─ settle ─▶ release ─▶ PUBACK ─▶ confirmation
//!             │ waiting      │ in flight        │ from the front only
//!             └──────────────┴── bounded in messages, events and bytes
//! ```
//!
//! No step waits: each goes as far as it can and is called again. When Kafka is gone, messages stay in the ring
//! unacknowledged; the broker then sends no more than its window. What comes all the same and does not fit into
//! the bytes allowed is *let fall*: not kept, not acknowledged, still the broker's. As PUBACKs have an order,
//! everything after it on that connection falls too, and once the rest has been acknowledged the connection is
//! closed, so that the broker sends again what fell.

mod release;

use std::sync::Arc;
use std::time::{Duration, Instant};

use eventlog::{AppendError, Appender, NewRecord};
use runtime::backoff::Backoff;
use runtime::failpoint;
use runtime::fate::Fate;
use schemas::confirmation::Confirmation;
use schemas::identity::AgentId;
use schemas::mqtt;

use crate::BridgeError;
use crate::config::BridgeConfig;
use crate::confirmations::{Confirmations, Span};
use crate::deliveries::{Deliveries, UNTRACKED};
use crate::intake::{Arrival, Intake, Parcel};
use crate::metrics::Metrics;
use crate::ring::{Ring, Ticket};
use crate::shipping::Shipping;

/// Where PUBACKs and confirmations go. Both answer `false` when there is no room now.
pub(crate) trait Outlet {
    fn acknowledge(&mut self, packet_id: u16) -> bool;
    fn publish(&mut self, topic: String, payload: Vec<u8>) -> bool;
}

/// A message from the broker.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) arrival: Arrival,
    /// `None` at QoS 0.
    pub(crate) packet_id: Option<u16>,
    /// A replay of what was published before the subscription.
    pub(crate) is_retained: bool,
}

#[derive(Debug)]
struct Message {
    arrival: Arrival,
    since: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Not yet looked at.
    Waiting,
    /// With Kafka, as far as there is room.
    Shipped { slot: usize, agent: Option<AgentId>, settled: Vec<Span>, is_condemned: bool },
    /// Needs nothing but its PUBACK.
    Skipped,
}

/// Slots over the window of one connection: messages of earlier connections may still be with Kafka.
const GENERATIONS: usize = 4;
/// What a message costs beside its bytes: its place in the ring, and the heads of its buffers.
const OVERHEAD: u64 = 256;

pub(crate) struct Pipeline<A> {
    intake: Intake,
    shipping: Shipping<A>,
    deliveries: Arc<Deliveries>,
    free: Vec<usize>,
    ring: Ring<Message>,
    /// The first message that is not with Kafka yet.
    next: Ticket,
    retry: Backoff,
    retry_at: Option<Instant>,
    confirmations: Confirmations,
    max_events: usize,
    max_bytes: u64,
    held_bytes: u64,
    /// The rest of what this connection brings is let fall.
    is_falling: bool,
    /// A connection has ended and the next one has not yet said what of it the broker still holds.
    is_undecided: bool,
    is_stopped: bool,
    progress_at: Instant,
    metrics: Metrics,
    /// A planted defect: PUBACKs do not wait for Kafka.
    #[cfg(test)]
    acknowledges_early: bool,
}

/// Slots needed for a window of so many messages; the last one is for the clock's goodbye.
pub(crate) fn slots(window: u16) -> usize {
    usize::from(window) * GENERATIONS + 1
}

impl<A: Appender> Pipeline<A> {
    /// `deliveries` must have [`slots`] of the configured window and be told of every delivery of `appender`.
    pub(crate) fn new(
        config: &BridgeConfig,
        intake: Intake,
        appender: A,
        deliveries: Arc<Deliveries>,
        now: Instant,
    ) -> Self {
        let ring = Ring::new();
        Self {
            free: (0..deliveries.capacity() - 1).rev().collect(),
            confirmations: Confirmations::new(
                intake.bridge(),
                config.confirmations.gather,
                config.confirmations.max_ranges,
            ),
            next: ring.end(),
            ring,
            intake,
            shipping: Shipping::new(appender, Arc::clone(&deliveries)),
            deliveries,
            retry: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
            retry_at: None,
            max_events: config.in_flight.events,
            max_bytes: config.in_flight.bytes.0,
            held_bytes: 0,
            is_falling: false,
            is_undecided: false,
            is_stopped: false,
            progress_at: now,
            metrics: Metrics::new(),
            #[cfg(test)]
            acknowledges_early: false,
        }
    }

    pub(crate) fn intake(&self) -> &Intake {
        &self.intake
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A message came.
    pub(crate) fn arrive(&mut self, incoming: Incoming, now: Instant) {
        let Incoming { arrival, packet_id, is_retained } = incoming;
        let bytes = weight(&arrival);
        // By bytes and not by the window: brokers overstep it (Mosquitto 2.0 does whenever its queue is not empty),
        // and letting fall makes such a broker send everything again and again.
        let fits = self.ring.is_empty() || self.held_bytes + bytes <= self.max_bytes;
        if self.is_stopped || self.is_falling || !fits {
            if packet_id.is_none() {
                self.metrics.lost_at_qos_0.increment(1);
                return;
            }
            if !self.is_falling && !self.is_stopped {
                tracing::warn!(
                    held_bytes = self.held_bytes,
                    held_messages = self.ring.len(),
                    "no room, letting fall"
                );
                self.is_falling = true;
            }
            self.metrics.let_fall.increment(1);
            return;
        }
        self.metrics.messages.increment(1);
        self.metrics.bytes.increment(arrival.payload.len() as u64);
        let stage = if is_retained {
            self.metrics.retained.increment(1);
            Stage::Skipped
        } else {
            Stage::Waiting
        };
        if self.ring.is_empty() {
            self.progress_at = now;
        }
        self.held_bytes += bytes;
        self.ring.push(packet_id, Message { arrival, since: now, stage });
        self.ship();
    }

    /// A connection stands. With the broker's session present, everything unacknowledged comes once more.
    pub(crate) fn connected(&mut self, session_present: bool) {
        self.metrics.connections.increment(1);
        self.metrics.connected.set(1.0);
        if session_present {
            self.drop_waiting();
        }
        self.is_undecided = false;
        self.ship();
    }

    /// The connection has ended; its packet identifiers mean nothing any more.
    pub(crate) fn disconnected(&mut self) {
        self.metrics.connected.set(0.0);
        self.ring.next_generation();
        self.is_undecided = true;
        self.is_falling = false;
    }

    /// From now on everything that comes is let fall, and what has not been looked at is dropped: the broker
    /// keeps both.
    pub(crate) fn stop(&mut self) {
        self.is_stopped = true;
        self.drop_waiting();
        self.is_undecided = false;
    }

    /// Nothing is held any more.
    pub(crate) fn is_drained(&self) -> bool {
        self.ring.is_empty()
    }

    /// Everything that this connection brought has been acknowledged, save what fell, and there is room for that.
    pub(crate) fn needs_new_connection(&self) -> bool {
        let has_room = self.held_bytes <= self.max_bytes / 2;
        self.is_falling && self.ring.is_settled() && has_room
    }

    /// How long Kafka has confirmed nothing of what waits at the front; `None` when nothing waits.
    pub(crate) fn silence(&self, now: Instant) -> Option<Duration> {
        (!self.ring.is_empty()).then(|| now.saturating_duration_since(self.progress_at))
    }

    pub(crate) fn last_kafka_error(&self) -> String {
        self.deliveries.last_error()
    }

    pub(crate) fn gauge(&self) {
        self.metrics.in_flight_messages.set(self.ring.len() as f64);
        self.metrics.in_flight_bytes.set(self.held_bytes as f64);
        self.metrics.in_flight_events.set(self.deliveries.records() as f64);
        self.metrics.forgotten.absolute(self.confirmations.forgotten());
    }

    /// Goes on with everything that can go on.
    pub(crate) fn pump(&mut self, outlet: &mut impl Outlet, now: Instant) -> Result<(), BridgeError> {
        self.release(outlet, now)?;
        self.ship();
        Ok(())
    }

    /// Publishes the confirmations that are due, or all of them.
    pub(crate) fn confirm(&mut self, outlet: &mut impl Outlet, now: Instant, everything: bool) {
        let publish = |agent: &AgentId, confirmation: &Confirmation| {
            // A value of strings and integers always has a JSON text.
            let Ok(payload) = serde_json::to_vec(confirmation) else {
                return true;
            };
            let is_sent = outlet.publish(mqtt::ack_topic(agent), payload);
            if is_sent {
                failpoint::hit("bridge.after_confirm");
            }
            is_sent
        };
        let published = if everything {
            self.confirmations.publish_all(publish)
        } else {
            self.confirmations.publish_due(now, publish)
        };
        self.metrics.confirmations.increment(published as u64);
    }

    /// Whether every confirmation has been published.
    pub(crate) fn has_confirmed(&self) -> bool {
        self.confirmations.is_empty()
    }

    /// Appends records that no message stands for. One that finds no room is skipped: the next one is as good.
    pub(crate) fn append_clock(&self, records: Vec<NewRecord>) -> Result<(), BridgeError> {
        for record in records {
            match self.shipping.appender().append(record, UNTRACKED) {
                Ok(()) => self.metrics.clock_records.increment(1),
                Err(error) => refused(error)?,
            }
        }
        Ok(())
    }

    /// As [`Self::append_clock`], remembering whether Kafka got them; see [`Self::has_said_goodbye`].
    pub(crate) fn append_goodbye(&self, records: Vec<NewRecord>) -> Result<(), BridgeError> {
        let slot = self.goodbye_slot();
        self.deliveries.open(slot, records.len());
        for record in records {
            if let Err(error) = self.shipping.appender().append(record, slot) {
                self.deliveries.forgo(slot, 1);
                refused(error)?;
            }
        }
        Ok(())
    }

    /// Whether Kafka has answered for all goodbye records.
    pub(crate) fn has_said_goodbye(&self) -> bool {
        self.deliveries.is_settled(self.goodbye_slot())
    }

    fn goodbye_slot(&self) -> usize {
        self.deliveries.capacity() - 1
    }

    fn drop_waiting(&mut self) {
        let held = &mut self.held_bytes;
        self.ring.drop_redelivered(self.next, |message| *held -= message.bytes());
    }

    /// Gives waiting messages to Kafka, in order, as far as there is room.
    fn ship(&mut self) {
        if !self.shipping.resume() || self.is_undecided {
            return;
        }
        while self.deliveries.records() < self.max_events
            && let Some(message) = self.ring.get_mut(self.next)
        {
            let mut is_open = true;
            if matches!(message.stage, Stage::Waiting) {
                let Some(slot) = self.free.pop() else { return };
                let Parcel { records, agent, settled, tally } = self.intake.take(&message.arrival);
                self.metrics.found(&tally);
                message.stage = Stage::Shipped { slot, agent, settled, is_condemned: false };
                is_open = self.shipping.ship(slot, records);
            }
            self.next = self.ring.after(self.next);
            if !is_open {
                return;
            }
        }
    }
}

impl Message {
    fn bytes(&self) -> u64 {
        weight(&self.arrival)
    }
}

fn weight(arrival: &Arrival) -> u64 {
    OVERHEAD + (arrival.payload.len() + arrival.topic.len()) as u64
}

/// A record nobody waits for found no room, or failed.
fn refused(error: AppendError) -> Result<(), BridgeError> {
    match error {
        AppendError::QueueFull(_) => Ok(()),
        AppendError::Log(error) if error.fate() == Fate::Fatal => Err(BridgeError::Log(error)),
        AppendError::Log(error) => {
            tracing::warn!(%error, "a clock record was not written");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;

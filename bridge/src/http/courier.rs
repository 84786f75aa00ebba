//! Takes what requests want written to Kafka, and says when Kafka has all of it.
//!
//! One task owns the way to Kafka, as the pipeline does for MQTT; a request waits for its answer. What was given to
//! Kafka cannot be taken back, so the memory of a request that gave up waiting is still counted until Kafka has
//! answered for its records: an outage holds no more than the bounds say, however often senders come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eventlog::{Appender, NewRecord};
use runtime::failpoint;
use runtime::fate::Fate;
use runtime::health::Component;
use runtime::shutdown::Shutdown;
use tokio::sync::{mpsc, oneshot};

use super::limits::Share;
use crate::BridgeError;
use crate::deliveries::Deliveries;
use crate::shipping::Shipping;

/// How often what has stalled is tried again, and the time looked at.
const TICK: Duration = Duration::from_millis(20);

/// The records of one request.
pub(super) struct Shipment {
    pub(super) records: Vec<NewRecord>,
    pub(super) answer: oneshot::Sender<Outcome>,
    /// Held until Kafka has answered.
    pub(super) share: Share,
    pub(super) since: Instant,
}

/// What became of a shipment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Kafka has all of it.
    Stored,
    /// Kafka may have some of it; another attempt may succeed.
    Unavailable(String),
    /// Kafka refuses a record for good, and may have the others.
    Refused(String),
}

/// Whether Kafka has left something unanswered for too long.
#[derive(Debug, Clone, Default)]
pub(super) struct Outage(Arc<AtomicBool>);

impl Outage {
    pub(super) fn lasts(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Pending {
    slot: usize,
    answer: oneshot::Sender<Outcome>,
    since: Instant,
    _share: Share,
}

/// See the module.
pub(super) struct Courier<A> {
    shipping: Shipping<A>,
    deliveries: Arc<Deliveries>,
    free: Vec<usize>,
    pending: Vec<Pending>,
    /// After so long an answer of Kafka counts as missing.
    patience: Duration,
    outage: Outage,
    health: Component,
}

impl<A: Appender> Courier<A> {
    /// `deliveries` must be told of every delivery of `appender`; it has a slot for each request in flight.
    pub(super) fn new(
        appender: A,
        deliveries: Arc<Deliveries>,
        patience: Duration,
        outage: Outage,
        health: Component,
    ) -> Self {
        Self {
            free: (0..deliveries.capacity()).rev().collect(),
            shipping: Shipping::new(appender, Arc::clone(&deliveries)),
            deliveries,
            pending: Vec::new(),
            patience,
            outage,
            health,
        }
    }

    /// Runs until nobody can send shipments any more and Kafka has answered for all, or until `drain` after
    /// shutdown.
    pub(super) async fn run(
        mut self,
        mut shipments: mpsc::Receiver<Shipment>,
        drain: Duration,
        shutdown: Shutdown,
    ) -> Result<(), BridgeError> {
        let deliveries = Arc::clone(&self.deliveries);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_open = true;
        let end = async {
            shutdown.wait().await;
            tokio::time::sleep(drain).await;
        };
        tokio::pin!(end);
        loop {
            let has_room = is_open && !self.free.is_empty() && !self.shipping.is_stalled();
            tokio::select! {
                shipment = shipments.recv(), if has_room => match shipment {
                    Some(shipment) => self.take(shipment),
                    None => is_open = false,
                },
                () = deliveries.changed() => self.settle()?,
                _ = ticks.tick() => self.tick()?,
                () = &mut end => {
                    tracing::warn!(requests = self.pending.len(), "kafka did not confirm before the end");
                    return Ok(());
                }
            }
            if !is_open && self.pending.is_empty() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, shipment: Shipment) {
        let Shipment { records, answer, share, since } = shipment;
        // Who has given up waiting sends again; nothing of it is written yet.
        if answer.is_closed() {
            return;
        }
        let Some(slot) = self.free.pop() else { return };
        self.pending.push(Pending { slot, answer, since, _share: share });
        self.shipping.ship(slot, records);
    }

    fn tick(&mut self) -> Result<(), BridgeError> {
        self.shipping.resume();
        self.settle()?;
        let now = Instant::now();
        let oldest = self.pending.iter().map(|pending| now.saturating_duration_since(pending.since)).max();
        let lasts = oldest.is_some_and(|age| age >= self.patience);
        self.outage.0.store(lasts, Ordering::Relaxed);
        if lasts {
            let error = self.deliveries.last_error();
            self.health.waiting(format!("kafka has confirmed nothing for {:?}: {error}", self.patience));
        } else {
            self.health.ready();
        }
        Ok(())
    }

    /// Answers for everything that Kafka has answered for.
    fn settle(&mut self) -> Result<(), BridgeError> {
        if self.shipping.is_stalled() {
            self.shipping.resume();
        }
        let mut at = 0;
        while let Some(pending) = self.pending.get(at) {
            if !self.deliveries.is_settled(pending.slot) {
                at += 1;
                continue;
            }
            let pending = self.pending.swap_remove(at);
            self.free.push(pending.slot);
            let outcome = match self.deliveries.failure(pending.slot) {
                None => {
                    failpoint::hit("bridge.http_after_kafka");
                    Outcome::Stored
                }
                Some(Fate::Transient) => Outcome::Unavailable(self.deliveries.last_error()),
                Some(Fate::Poison) => Outcome::Refused(self.deliveries.last_error()),
                Some(Fate::Fatal) => return Err(BridgeError::Delivery(self.deliveries.last_error())),
            };
            // A sender that is gone sends again.
            let _ = pending.answer.send(outcome);
        }
        Ok(())
    }
}

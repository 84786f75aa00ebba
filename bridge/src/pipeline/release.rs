//! Letting messages go, and what happens when Kafka does not take one.

use std::time::Instant;

use eventlog::Appender;
use runtime::failpoint;
use runtime::fate::Fate;

use super::{Outlet, Pipeline, Stage};
use crate::BridgeError;
use crate::intake::{Arrival, Intake, Parcel};

impl<A: Appender> Pipeline<A> {
    /// Lets messages go from the front, once Kafka has all of their records.
    pub(super) fn release(&mut self, outlet: &mut impl Outlet, now: Instant) -> Result<(), BridgeError> {
        while let Some((packet_id, message)) = self.ring.front_mut() {
            if let Stage::Waiting = message.stage {
                return Ok(());
            }
            if let Stage::Shipped { slot, is_condemned, .. } = message.stage {
                if !self.deliveries.is_settled(slot) && !self.acknowledges_early() {
                    return Ok(());
                }
                match self.deliveries.failure(slot) {
                    None => failpoint::hit("bridge.after_kafka"),
                    Some(Fate::Transient) => {
                        self.retry(now);
                        return Ok(());
                    }
                    Some(Fate::Poison) if !is_condemned => {
                        self.condemn();
                        return Ok(());
                    }
                    Some(Fate::Poison | Fate::Fatal) => {
                        return Err(BridgeError::Delivery(self.deliveries.last_error()));
                    }
                }
            }
            if let Some(packet_id) = packet_id {
                if !outlet.acknowledge(packet_id) {
                    return Ok(());
                }
                self.metrics.acknowledged.increment(1);
                failpoint::hit("bridge.after_puback");
            } else {
                self.metrics.released_without_puback.increment(1);
            }
            self.leave(now);
        }
        Ok(())
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the test build decides here whether the defect is planted")]
    fn acknowledges_early(&self) -> bool {
        false
    }

    #[cfg(test)]
    fn acknowledges_early(&self) -> bool {
        self.acknowledges_early
    }

    /// The front message is done with.
    fn leave(&mut self, now: Instant) {
        let Some(message) = self.ring.pop() else { return };
        self.next = self.next.max(self.ring.front());
        self.held_bytes -= message.bytes();
        self.progress_at = now;
        self.retry.reset();
        self.retry_at = None;
        self.metrics.held.record(now.saturating_duration_since(message.since));
        if let Stage::Shipped { slot, agent, settled, .. } = message.stage {
            self.free.push(slot);
            if let Some(agent) = agent {
                self.confirmations.add(&agent, &settled, now);
            }
        }
    }

    /// Gives the front message to Kafka once more, after a while. Records that Kafka has already are repeated;
    /// they are the same to the byte, and dropped downstream.
    fn retry(&mut self, now: Instant) {
        let Some(at) = self.retry_at else {
            let delay = self.retry.next_delay();
            tracing::warn!(error = %self.deliveries.last_error(), ?delay, "kafka did not take a message, trying again");
            self.retry_at = Some(now + delay);
            return;
        };
        if now < at || self.shipping.is_stalled() {
            return;
        }
        self.retry_at = None;
        self.metrics.retries.increment(1);
        self.reship(false, Intake::take);
    }

    /// Makes a dead letter of the front message, which Kafka refuses for good.
    fn condemn(&mut self) {
        if self.shipping.is_stalled() {
            return;
        }
        let reason = format!("kafka refuses it: {}", self.deliveries.last_error());
        tracing::error!(%reason, "a message goes to the dead letters as a whole");
        self.metrics.dead_letters.increment(1);
        self.reship(true, |intake, arrival| intake.condemn(arrival, &reason));
    }

    fn reship(&mut self, condemned: bool, parcel: impl FnOnce(&Intake, &Arrival) -> Parcel) {
        let Some((_, message)) = self.ring.front_mut() else {
            return;
        };
        let Stage::Shipped { slot, is_condemned, .. } = &mut message.stage else {
            return;
        };
        *is_condemned |= condemned;
        let slot = *slot;
        let parcel = parcel(&self.intake, &message.arrival);
        self.shipping.ship(slot, parcel.records);
    }
}

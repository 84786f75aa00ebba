//! From records to Kafka's client, as far as its queue has room.

use std::sync::Arc;

use eventlog::{AppendError, Appender, NewRecord};
use runtime::failpoint;

use crate::deliveries::Deliveries;

/// Records of one message for which Kafka's queue had no room yet.
struct Stalled {
    slot: usize,
    records: std::vec::IntoIter<NewRecord>,
}

/// Gives messages to Kafka, one after the other; see the module.
pub(crate) struct Shipping<A> {
    appender: A,
    deliveries: Arc<Deliveries>,
    stalled: Option<Stalled>,
}

impl<A: Appender> Shipping<A> {
    /// `deliveries` must be told of every delivery of `appender`.
    pub(crate) fn new(appender: A, deliveries: Arc<Deliveries>) -> Self {
        Self { appender, deliveries, stalled: None }
    }

    pub(crate) fn appender(&self) -> &A {
        &self.appender
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// Whether all records of the message have found room. Nothing may be stalled before.
    pub(crate) fn ship(&mut self, slot: usize, records: Vec<NewRecord>) -> bool {
        failpoint::hit("bridge.before_produce");
        self.deliveries.open(slot, records.len());
        self.stalled = Some(Stalled { slot, records: records.into_iter() });
        self.resume()
    }

    /// Goes on with what is stalled. Whether nothing is any more.
    pub(crate) fn resume(&mut self) -> bool {
        let Some(mut stalled) = self.stalled.take() else {
            return true;
        };
        while let Some(record) = stalled.records.next() {
            match self.appender.append(record, stalled.slot) {
                Ok(()) => {}
                Err(AppendError::QueueFull(record)) => {
                    let rest: Vec<NewRecord> = std::iter::once(record).chain(stalled.records).collect();
                    self.stalled = Some(Stalled { slot: stalled.slot, records: rest.into_iter() });
                    return false;
                }
                Err(AppendError::Log(error)) => self.deliveries.settle(stalled.slot, Err(error)),
            }
        }
        true
    }
}

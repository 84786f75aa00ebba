//! What Kafka has confirmed, message by message.
//!
//! Kafka's client calls back once a record, from its own thread. A call costs two atomic subtractions; only the
//! last record of a message wakes the bridge. A *slot* stands for one message in flight and is used again only
//! after all of its records have been called back, so a late call can never be counted for another message.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

use eventlog::LogError;
use runtime::fate::Fate;
use tokio::sync::Notify;

/// Token of a record whose delivery nobody waits for.
pub(crate) const UNTRACKED: usize = usize::MAX;

#[derive(Debug, Default)]
struct Slot {
    outstanding: AtomicU32,
    /// The worst fate met by a record of this message, as [`rank`].
    worst: AtomicU8,
}

const DELIVERED: u8 = 0;

fn rank(fate: Fate) -> u8 {
    match fate {
        Fate::Transient => 1,
        Fate::Poison => 2,
        Fate::Fatal => 3,
    }
}

/// Shared with Kafka's callback.
#[derive(Debug)]
pub(crate) struct Deliveries {
    slots: Box<[Slot]>,
    records: AtomicUsize,
    changed: Notify,
    last_error: Mutex<Option<String>>,
}

impl Deliveries {
    /// For as many messages in flight at once as there are `slots`.
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            records: AtomicUsize::new(0),
            changed: Notify::new(),
            last_error: Mutex::new(None),
        }
    }

    /// How many slots there are.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Before the first record of a message is appended.
    pub(crate) fn open(&self, slot: usize, records: usize) {
        self.records.fetch_add(records, Ordering::Relaxed);
        let slot = &self.slots[slot];
        slot.worst.store(DELIVERED, Ordering::Relaxed);
        slot.outstanding.store(records as u32, Ordering::Release);
    }

    /// That many records of the message will not be appended after all.
    pub(crate) fn forgo(&self, slot: usize, records: usize) {
        self.records.fetch_sub(records, Ordering::Relaxed);
        self.slots[slot].outstanding.fetch_sub(records as u32, Ordering::AcqRel);
    }

    /// Kafka's answer for one record.
    pub(crate) fn settle(&self, token: usize, outcome: Result<(i32, i64), LogError>) {
        let Some(slot) = self.slots.get(token) else {
            if let Err(error) = outcome {
                self.note(&error);
            }
            return;
        };
        if let Err(error) = outcome {
            slot.worst.fetch_max(rank(error.fate()), Ordering::Relaxed);
            self.note(&error);
        }
        self.records.fetch_sub(1, Ordering::Relaxed);
        // Release publishes `worst`; the reader acquires before it looks.
        if slot.outstanding.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.changed.notify_one();
        }
    }

    fn note(&self, error: &LogError) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }

    /// Whether Kafka has answered for every record of the message.
    pub(crate) fn is_settled(&self, slot: usize) -> bool {
        self.slots[slot].outstanding.load(Ordering::Acquire) == 0
    }

    /// The worst that happened to a record of a settled message; `None` when Kafka has them all.
    pub(crate) fn failure(&self, slot: usize) -> Option<Fate> {
        match self.slots[slot].worst.load(Ordering::Relaxed) {
            DELIVERED => None,
            1 => Some(Fate::Transient),
            2 => Some(Fate::Poison),
            _ => Some(Fate::Fatal),
        }
    }

    /// Text of the latest failure, for people.
    pub(crate) fn last_error(&self) -> String {
        let error = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        error.clone().unwrap_or_else(|| "no error".to_owned())
    }

    /// Tracked records that Kafka has not answered for.
    pub(crate) fn records(&self) -> usize {
        self.records.load(Ordering::Relaxed)
    }

    /// Ends when some message has been settled since the last call. Cancel-safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_message_is_settled_with_its_last_record_from_any_thread() {
        let deliveries = Arc::new(Deliveries::new(2));
        deliveries.open(0, 1000);
        deliveries.open(1, 1);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let deliveries = Arc::clone(&deliveries);
                std::thread::spawn(move || (0..250).for_each(|n| deliveries.settle(0, Ok((0, n)))))
            })
            .collect();
        tokio::time::timeout(Duration::from_secs(10), deliveries.changed()).await.unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(deliveries.is_settled(0));
        assert!(!deliveries.is_settled(1));
        assert_eq!(deliveries.failure(0), None);
        assert_eq!(deliveries.records(), 1);
    }

    #[test]
    fn what_is_not_appended_is_not_waited_for() {
        let deliveries = Deliveries::new(1);
        deliveries.open(0, 3);
        deliveries.settle(0, Ok((0, 0)));
        deliveries.forgo(0, 2);
        assert!(deliveries.is_settled(0));
        assert_eq!(deliveries.records(), 0);
        deliveries.settle(UNTRACKED, Ok((0, 0)));
    }
}

//! How much of everything: bytes held by all requests, requests a second of one key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in pieces of this size, so that their number fits a semaphore.
const PIECE: u64 = 1024;
/// Buckets kept before those that are full again are dropped.
const MANY_BUCKETS: usize = 1024;

/// The bytes that all requests may hold together.
#[derive(Debug, Clone)]
pub(super) struct Room {
    pieces: Arc<Semaphore>,
    all: u64,
}

impl Room {
    pub(super) fn new(bytes: u64) -> Self {
        let all = (bytes / PIECE).clamp(1, u64::from(u32::MAX));
        Self { pieces: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// A share of nothing, which can grow.
    pub(super) fn share(&self) -> Share {
        Share { room: self.clone(), held: None }
    }

    /// Bytes held by all shares.
    pub(super) fn held(&self) -> u64 {
        (self.all - self.pieces.available_permits() as u64) * PIECE
    }
}

/// What one request holds. Dropping it gives all of it back.
#[derive(Debug)]
pub(super) struct Share {
    room: Room,
    held: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Makes sure of that many bytes. False when there is no room; then it is as before.
    #[must_use]
    pub(super) fn grow_to(&mut self, bytes: u64) -> bool {
        let have = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) as u64;
        let more = bytes.div_ceil(PIECE).saturating_sub(have);
        if more == 0 {
            return true;
        }
        let Ok(more) = u32::try_from(more) else { return false };
        let Ok(permit) = Arc::clone(&self.room.pieces).try_acquire_many_owned(more) else {
            return false;
        };
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        true
    }
}

/// Requests a second of each key: a bucket that fills steadily and from which each request takes one.
#[derive(Debug)]
pub(super) struct Rates {
    per_second: f64,
    burst: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Rates {
    pub(super) fn new(per_second: f64, burst: u32) -> Self {
        Self { per_second, burst: f64::from(burst), buckets: Mutex::default() }
    }

    /// Counts a request. The error says after how long there is room for one.
    pub(super) fn take(&self, key: &str, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MANY_BUCKETS && !buckets.contains_key(key) {
            // One that is full tells nothing that a new one would not.
            buckets.retain(|_, bucket| self.filled(bucket, now) < self.burst);
        }
        let bucket = buckets.entry(key.to_owned()).or_insert(Bucket { tokens: self.burst, at: now });
        bucket.tokens = self.filled(bucket, now);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.tokens) / self.per_second))
    }

    fn filled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.tokens + since * self.per_second).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_grow_within_the_room_and_give_back_all_of_it() {
        let room = Room::new(10 * PIECE);
        let mut first = room.share();
        assert!(first.grow_to(1) && first.grow_to(PIECE));
        assert_eq!(room.held(), PIECE);
        assert!(first.grow_to(7 * PIECE) && first.grow_to(3));
        let mut second = room.share();
        assert!(!second.grow_to(4 * PIECE));
        assert_eq!(room.held(), 7 * PIECE, "what found no room holds nothing");
        assert!(second.grow_to(3 * PIECE));
        drop(first);
        assert!(second.grow_to(10 * PIECE) && !second.grow_to(u64::MAX));
        drop(second);
        assert_eq!(room.held(), 0);
    }

    #[test]
    fn one_key_does_not_pay_for_another() {
        let rates = Rates::new(1.0, 2);
        let now = Instant::now();
        assert!(rates.take("a", now).is_ok() && rates.take("a", now).is_ok());
        let wait = rates.take("a", now).unwrap_err();
        assert!(wait <= Duration::from_secs(1) && wait > Duration::from_millis(900), "{wait:?}");
        assert!(rates.take("b", now).is_ok());
        assert!(rates.take("a", now + wait).is_ok());
    }

    #[test]
    fn buckets_of_keys_that_are_gone_are_dropped() {
        let rates = Rates::new(100.0, 1);
        let start = Instant::now();
        for n in 0..10 * MANY_BUCKETS {
            let now = start + Duration::from_millis(n as u64);
            assert!(rates.take(&n.to_string(), now).is_ok());
        }
        assert!(rates.buckets.lock().unwrap().len() <= MANY_BUCKETS);
    }

    proptest! {
        /// Whatever the pauses: within any time no more pass than the burst and what has filled since.
        #[test]
        fn never_more_than_the_rate(pauses in proptest::collection::vec(0..400_u64, 1..200)) {
            let rates = Rates::new(10.0, 5);
            let start = Instant::now();
            let mut now = start;
            let mut passed = 0_u32;
            for pause in pauses {
                now += Duration::from_millis(pause);
                passed += u32::from(rates.take("k", now).is_ok());
                let most = 5.0 + 10.0 * now.duration_since(start).as_secs_f64();
                prop_assert!(f64::from(passed) <= most + 1e-6);
            }
        }
    }
}

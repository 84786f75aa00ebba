//! Waiting longer after each failure.

use std::time::Duration;

/// Exponential backoff with full jitter: the n-th delay is uniform between nothing and
/// `initial · 2ⁿ`, bounded by `max`.
///
/// Full jitter spreads clients that lost the same server at the same moment; source: M. Brooker,
/// *Exponential Backoff And Jitter*, 2015.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    /// The first delay is at most `initial`, none is longer than `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, attempt: 0 }
    }

    /// How long to wait now; the next answer may be twice as long.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.initial.saturating_mul(1 << self.attempt.min(30)).min(self.max);
        self.attempt = self.attempt.saturating_add(1);
        let micros = u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(rand::random_range(0..=micros))
    }

    /// How many delays were asked for since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// To be called after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum_and_resets() {
        let ceilings = [10, 20, 40, 80, 100, 100];
        let mut longest = [Duration::ZERO; 6];
        for _ in 0..500 {
            let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
            for (slot, ceiling) in longest.iter_mut().zip(ceilings) {
                let delay = backoff.next_delay();
                assert!(delay <= Duration::from_millis(ceiling));
                *slot = (*slot).max(delay);
            }
            backoff.reset();
            assert!(backoff.next_delay() <= Duration::from_millis(10));
        }
        // Jitter uses the whole range: 500 draws all below 60 % of the ceiling do not happen.
        for (seen, ceiling) in longest.iter().zip(ceilings) {
            assert!(*seen > Duration::from_millis(ceiling * 6 / 10));
        }
    }

    #[test]
    fn many_attempts_never_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        for _ in 0..1000 {
            assert!(backoff.next_delay() <= Duration::from_secs(30));
        }
        assert_eq!(backoff.attempts(), 1000);
    }
}

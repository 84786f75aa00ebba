//! The load as a monitor of a real agent: numbered by its outbox, sent by its publisher, continued exactly
//! where it was after a crash.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use edge_agent::monitors::{Capability, Monitor};
use edge_agent::observation::Observation;

use super::Mix;

/// Produces events `0..total` at a rate. It is asked every few milliseconds and gives what is due.
pub struct Synthetic {
    mix: Mix,
    total: u64,
    per_second: u64,
    /// Event times are the clock's instead of the mix's: for measuring latency.
    live: bool,
    next: u64,
    started: Option<(Instant, u64)>,
    progress: Arc<AtomicU64>,
}

impl Synthetic {
    /// A source of `total` events at `per_second`.
    pub fn new(mix: Mix, total: u64, per_second: u64, live: bool) -> Self {
        Self { mix, total, per_second, live, next: 0, started: None, progress: Arc::default() }
    }
}

impl Synthetic {
    /// How many events it has made so far, over all restarts; follows it while it runs.
    pub fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.progress)
    }
}

impl Monitor for Synthetic {
    fn name(&self) -> &'static str {
        "synthetic"
    }

    fn source(&self) -> &'static str {
        "synthetic/mix"
    }

    fn capability(&self) -> Capability {
        Capability::Present
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(20)
    }

    fn sample(&mut self, now: i64) -> Vec<Observation> {
        let (started, first) = *self.started.get_or_insert((Instant::now(), self.next));
        let due = first + (started.elapsed().as_micros() as u64).saturating_mul(self.per_second) / 1_000_000;
        // after a pause catch up in bites, as a real monitor would
        let until = due.min(self.total).min(self.next + self.per_second.max(20)).max(self.next);
        let observations = (self.next..until)
            .map(|n| {
                let made = self.mix.event(n);
                let event_time = if self.live { now } else { made.event_time };
                Observation::new(event_time, made.lane, made.event_type, self.source(), made.payload)
                    .with_user(made.user.map(Into::into))
            })
            .collect();
        self.next = until;
        self.progress.store(until, Ordering::Relaxed);
        observations
    }

    fn low_water(&self, now: i64) -> i64 {
        if self.live { now } else { self.mix.event(self.next).event_time - 1 }
    }

    fn cursor(&self) -> Option<i64> {
        i64::try_from(self.next).ok()
    }

    fn resume(&mut self, cursor: i64) {
        self.next = u64::try_from(cursor).unwrap_or(0);
    }
}

//! The agent's clock: wall time that never runs backwards.
//!
//! Lane marks promise that nothing older than a time will follow, so two readings must never go
//! backwards even if somebody sets the machine's clock. When the wall clock is set forwards the
//! agent follows at once; when it is set back the agent runs at half speed until the wall has
//! caught up. `sent_at` is always the plain wall clock, so that the skew stays visible.
//!
//! ```text
//! wall    10:00 ──▶ 10:05 │ set back to 10:01 ──────▶ 10:09
//! agent   10:00 ──▶ 10:05 │ 10:05 ─ half speed ─────▶ 10:09   then together again
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Beyond this the difference to the wall clock is worth a log line.
const NOTEWORTHY_US: i64 = 1_000_000;

/// Strictly increasing event time in microseconds since 1970-01-01 UTC; clones share one clock.
#[derive(Clone, Debug)]
pub struct EventClock {
    start: Instant,
    state: Arc<Mutex<Slewed>>,
}

impl Default for EventClock {
    fn default() -> Self {
        Self::new()
    }
}

impl EventClock {
    /// A clock that starts at the wall time.
    pub fn new() -> Self {
        Self { start: Instant::now(), state: Arc::default() }
    }

    /// The next reading; later than every reading before it, on any clone.
    pub fn now(&self) -> i64 {
        let wall = runtime::clock::now_us();
        let steady = i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = state.advance(wall, steady);
        match state.note(now - wall) {
            Some(Skew::Began) => {
                tracing::warn!(ahead_us = now - wall, "wall clock was set back, event time waits for it");
            }
            Some(Skew::Ended) => tracing::info!("event time follows the wall clock again"),
            None => {}
        }
        now
    }

    /// Never read at or below `floor` from now on.
    pub fn start_after(&self, floor: i64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last = state.last.max(floor);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Skew {
    Began,
    Ended,
}

#[derive(Debug, Default)]
struct Slewed {
    last: i64,
    last_steady: i64,
    ahead: bool,
}

impl Slewed {
    fn advance(&mut self, wall: i64, steady: i64) -> i64 {
        let elapsed = steady.saturating_sub(self.last_steady).max(0);
        self.last_steady = steady;
        self.last = wall.max(self.last + (elapsed / 2).max(1));
        self.last
    }

    fn note(&mut self, ahead_us: i64) -> Option<Skew> {
        let ahead = if self.ahead { ahead_us > 1_000 } else { ahead_us > NOTEWORTHY_US };
        if ahead == self.ahead {
            return None;
        }
        self.ahead = ahead;
        Some(if ahead { Skew::Began } else { Skew::Ended })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_wall_forwards_and_slews_when_it_is_set_back() {
        let mut clock = Slewed::default();
        assert_eq!(clock.advance(1_000, 0), 1_000);
        assert_eq!(clock.advance(5_000, 100), 5_000);
        assert_eq!(clock.advance(2_000, 200), 5_050, "half of the 100 µs that passed");
        assert_eq!(clock.advance(2_000, 200), 5_051, "strictly increasing even when nothing passed");
        assert_eq!(clock.advance(9_000, 300), 9_000, "caught up");
    }

    #[test]
    fn a_step_back_is_noted_once_and_its_end_too() {
        let mut clock = Slewed::default();
        assert_eq!(clock.note(2_000_000), Some(Skew::Began));
        assert_eq!(clock.note(1_500_000), None);
        assert_eq!(clock.note(500_000), None);
        assert_eq!(clock.note(0), Some(Skew::Ended));
        assert_eq!(clock.note(10), None);
    }

    #[test]
    fn readings_increase_and_respect_a_floor() {
        let clock = EventClock::new();
        let first = clock.now();
        assert!(clock.clone().now() > first);
        clock.start_after(first + 60_000_000);
        assert!(clock.now() > first + 60_000_000);
    }
}

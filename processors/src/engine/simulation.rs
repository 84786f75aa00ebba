//! Failure first: the run loop on the log in memory, broken at every call, rebalanced, killed and woken late,
//! must leave outputs that an undisturbed run would have left, each once.
//!
//! `fleet` has the workers and what is done to them, `sums` the least job that shows a wrong state in its outputs,
//! `schedules` the tests with it, `turns` what is put off over commits. The same is done to the whole job in `jobs/simulation_tests.rs`.
//!
//! A seed is a whole schedule. A test that fails names it; `VARTA_SIMULATION_SEED=N` plays that one alone, and
//! `VARTA_SIMULATION_SEEDS=N` plays the first N instead of as many as `make test` has time for.

mod fleet;
mod schedules;
mod sums;
mod turns;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) use fleet::{Fleet, settings};

use super::ticker::Ticker;

/// The seeds to be played; `few` if nobody asks for others.
pub(crate) fn seeds(few: u64) -> Range<u64> {
    let asked = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match (asked("VARTA_SIMULATION_SEED"), asked("VARTA_SIMULATION_SEEDS")) {
        (Some(one), _) => one..one + 1,
        (None, Some(many)) => 0..many,
        (None, None) => 0..few,
    }
}

/// splitmix64: a seed is a whole schedule.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    pub(crate) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

/// Time that moves when the simulation says so.
#[derive(Default)]
pub(crate) struct Manual(AtomicU64);

impl Manual {
    pub(crate) fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Ticker for Manual {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn sleep(&self, time: Duration) {
        self.advance(time.as_millis() as u64);
    }
}

//! Benchmarks from outside: a part runs as the process that users run, fed over its real protocol, and is charged
//! the CPU-seconds that the operating system counts for it.

pub mod agent;
pub mod fill;
pub mod latency;
pub mod live;
pub mod part;
pub mod publish;
pub mod watermark;

use std::fmt;
use std::time::Duration;

/// What a run of one part cost.
#[derive(Debug, Clone)]
pub struct Cost {
    /// Which part, over what.
    pub what: String,
    /// Events or rows.
    pub events: u64,
    /// CPU-seconds of the process, user and system.
    pub cpu: Duration,
    /// Time from the first to the last event.
    pub wall: Duration,
    /// Largest resident memory, bytes.
    pub peak_rss: u64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<44} {:>9} events  {:>7.2} CPU-s  {:>9.0} events/CPU-s  {:>9.0} events/s  {:>5.0} MiB",
            self.what,
            self.events,
            self.cpu.as_secs_f64(),
            self.events as f64 / self.cpu.as_secs_f64().max(1e-3),
            self.events as f64 / self.wall.as_secs_f64().max(1e-3),
            self.peak_rss as f64 / f64::from(1 << 20),
        )
    }
}

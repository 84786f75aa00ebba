//! The records by which everything downstream tells the time.
//!
//! Processors never read a clock: *now* is the time at which Kafka appended the latest clock record. So each
//! partition of the raw topic gets one regularly, whether or not events come. It also says whether the bridge
//! hears its broker, so that silence of ours is not taken for silence of the agents.

use std::time::{Duration, Instant};

use eventlog::NewRecord;
use schemas::translate::Clock;

use crate::intake::Intake;

/// When the next records are due and which number they have.
#[derive(Debug)]
pub(crate) struct ClockRecords {
    interval: Duration,
    next: Instant,
    sequence: i64,
    partitions: i32,
}

impl ClockRecords {
    /// The first records are due at once.
    pub(crate) fn new(interval: Duration, partitions: i32, now: Instant) -> Self {
        Self { interval, next: now, sequence: 0, partitions }
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// One record for each partition. A bridge that was held up does not make up for what it missed.
    pub(crate) fn records(
        &mut self,
        intake: &Intake,
        now: Instant,
        bridge_time: i64,
        mqtt_connected: bool,
        goodbye: bool,
    ) -> Vec<NewRecord> {
        self.next = (self.next + self.interval).max(now);
        self.sequence += 1;
        let clock = Clock {
            bridge_id: intake.bridge().to_owned(),
            bridge_time,
            sequence: self.sequence,
            mqtt_connected,
            goodbye,
        };
        (0..self.partitions).map(|partition| intake.clock_record(partition, &clock)).collect()
    }
}

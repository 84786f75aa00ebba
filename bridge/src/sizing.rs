//! Whether the window in flight can carry the load, before anything is connected.
//!
//! By Little's law a window of `W` messages, each kept for the time `L` that Kafka takes to confirm, lets
//! `W ÷ L` messages a second through, however fast everything else is.

use std::time::Duration;

use schemas::mqtt::MAX_BATCH_BYTES;

use crate::config::{BridgeConfig, SizingConfig};

/// What the arithmetic says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Verdict {
    /// There is room for at least twice the load.
    Ample,
    /// It carries the load, with less than half to spare.
    Tight {
        /// Events a second that get through at most.
        carries: f64,
    },
    /// It cannot carry the load.
    TooSmall {
        /// Events a second that get through at most.
        carries: f64,
    },
}

/// Events a second that `messages` in flight let through.
fn carries(messages: u16, events_per_message: f64, latency: Duration) -> f64 {
    f64::from(messages) * events_per_message / latency.as_secs_f64()
}

pub(crate) fn judge(sizing: &SizingConfig, messages: u16) -> Verdict {
    let carries = carries(messages, sizing.events_per_message, sizing.kafka_latency);
    if carries < sizing.events_per_second {
        Verdict::TooSmall { carries }
    } else if carries < 2.0 * sizing.events_per_second {
        Verdict::Tight { carries }
    } else {
        Verdict::Ample
    }
}

/// Packets read from the socket in one go. What is read but not yet looked at is not counted as in flight, so it
/// is kept to half of the bytes allowed.
pub(crate) fn read_batch(config: &BridgeConfig) -> usize {
    let packets = config.in_flight.bytes.0 / 2 / config.mqtt.max_packet_size.0.max(1);
    usize::try_from(packets).unwrap_or(usize::MAX).clamp(1, 128)
}

/// Says in the log what is allowed but unwise.
pub(crate) fn warn(config: &BridgeConfig) {
    if let Verdict::Tight { carries } = judge(&config.sizing, config.in_flight.messages) {
        tracing::warn!(
            carries_events_per_second = carries,
            wanted_events_per_second = config.sizing.events_per_second,
            in_flight_messages = config.in_flight.messages,
            "the window in flight leaves less than half to spare"
        );
    }
    let window = u64::from(config.in_flight.messages) * MAX_BATCH_BYTES as u64;
    if window > config.in_flight.bytes.0 {
        tracing::warn!(
            in_flight_messages = config.in_flight.messages,
            in_flight_bytes = config.in_flight.bytes.0,
            "a window full of 256 KiB batches does not fit into in_flight.bytes: what is over is let fall and \
             sent again by the broker"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizing(events_per_second: f64, events_per_message: f64, latency_ms: u64) -> SizingConfig {
        SizingConfig {
            events_per_second,
            events_per_message,
            kafka_latency: Duration::from_millis(latency_ms),
        }
    }

    #[test]
    fn a_window_carries_its_size_per_latency() {
        assert_eq!(judge(&sizing(5_000.0, 1.0, 10), 100), Verdict::Ample);
        assert_eq!(judge(&sizing(5_001.0, 1.0, 10), 100), Verdict::Tight { carries: 10_000.0 });
        assert_eq!(judge(&sizing(10_001.0, 1.0, 10), 100), Verdict::TooSmall { carries: 10_000.0 });
        // Arrays of fifty events carry fifty times as much.
        assert_eq!(judge(&sizing(10_001.0, 50.0, 10), 100), Verdict::Ample);
    }

    #[test]
    fn what_is_read_ahead_stays_within_half_of_the_bytes() {
        let config = BridgeConfig::default();
        let ahead = read_batch(&config) as u64 * config.mqtt.max_packet_size.0;
        assert_eq!(ahead, config.in_flight.bytes.0 / 2);
    }
}

//! What the bridge counts. Handles are taken once: looking one up by name for each event would cost more than
//! the counting.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use schemas::family::Family;

use crate::intake::Tally;

pub(crate) struct Metrics {
    /// MQTT messages taken in.
    pub(crate) messages: Counter,
    /// Bytes of their payloads.
    pub(crate) bytes: Counter,
    /// Messages that the broker said it sends again.
    pub(crate) redelivered: Counter,
    /// Retained replays, which are not asked for.
    pub(crate) retained: Counter,
    /// Messages not taken for lack of room, which the broker keeps and sends again.
    pub(crate) let_fall: Counter,
    /// The same at QoS 0: lost, as their sender chose.
    pub(crate) lost_at_qos_0: Counter,
    events: [Counter; Family::ALL.len()],
    /// Events and messages put to the dead letters.
    pub(crate) dead_letters: Counter,
    /// Rejected markers written.
    pub(crate) rejected: Counter,
    /// Messages with events under another agent's name.
    pub(crate) mismatches: Counter,
    /// PUBACKs given to the MQTT client.
    pub(crate) acknowledged: Counter,
    /// Messages at QoS 0, or whose connection had ended before Kafka confirmed.
    pub(crate) released_without_puback: Counter,
    /// Confirmations published to agents.
    pub(crate) confirmations: Counter,
    /// Ranges of confirmations forgotten because too many waited.
    pub(crate) forgotten: Counter,
    /// Messages given to Kafka once more after a failure.
    pub(crate) retries: Counter,
    /// Clock records written.
    pub(crate) clock_records: Counter,
    /// Connections to the broker that were established.
    pub(crate) connections: Counter,
    /// Whether one stands.
    pub(crate) connected: Gauge,
    /// Messages held.
    pub(crate) in_flight_messages: Gauge,
    /// Their bytes.
    pub(crate) in_flight_bytes: Gauge,
    /// Events given to Kafka and not confirmed.
    pub(crate) in_flight_events: Gauge,
    /// From arrival to release of a message, in seconds.
    pub(crate) held: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            messages: counter!("varta_bridge_messages_total"),
            bytes: counter!("varta_bridge_payload_bytes_total"),
            redelivered: counter!("varta_bridge_redelivered_total"),
            retained: counter!("varta_bridge_retained_total"),
            let_fall: counter!("varta_bridge_let_fall_total"),
            lost_at_qos_0: counter!("varta_bridge_lost_at_qos_0_total"),
            events: Family::ALL
                .map(|family| counter!("varta_bridge_events_total", "family" => family.name())),
            dead_letters: counter!("varta_bridge_dead_letters_total"),
            rejected: counter!("varta_bridge_rejected_total"),
            mismatches: counter!("varta_bridge_agent_mismatch_total"),
            acknowledged: counter!("varta_bridge_acknowledged_total"),
            released_without_puback: counter!("varta_bridge_released_without_puback_total"),
            confirmations: counter!("varta_bridge_confirmations_total"),
            forgotten: counter!("varta_bridge_forgotten_ranges_total"),
            retries: counter!("varta_bridge_retries_total"),
            clock_records: counter!("varta_bridge_clock_records_total"),
            connections: counter!("varta_bridge_connections_total"),
            connected: gauge!("varta_bridge_connected"),
            in_flight_messages: gauge!("varta_bridge_in_flight_messages"),
            in_flight_bytes: gauge!("varta_bridge_in_flight_bytes"),
            in_flight_events: gauge!("varta_bridge_in_flight_events"),
            held: histogram!("varta_bridge_held_seconds"),
        }
    }

    /// What was found in a message.
    pub(crate) fn found(&self, tally: &Tally) {
        for (counter, events) in self.events.iter().zip(tally.families) {
            if events > 0 {
                counter.increment(u64::from(events));
            }
        }
        if tally.dead_letters > 0 {
            self.dead_letters.increment(u64::from(tally.dead_letters));
            self.rejected.increment(u64::from(tally.rejected));
            self.mismatches.increment(u64::from(tally.mismatches));
        }
    }
}

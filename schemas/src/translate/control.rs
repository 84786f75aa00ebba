//! Records of the raw topic that are not events.

use super::datum;
use crate::identity::Identity;

/// A bridge's sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// Which bridge.
    pub bridge_id: String,
    /// The bridge's own clock, in µs.
    pub bridge_time: i64,
    /// Counted by the bridge since its start.
    pub sequence: i64,
    /// True if the bridge has its MQTT connection.
    pub mqtt_connected: bool,
    /// True in the last record before a clean stop.
    pub goodbye: bool,
}

impl Clock {
    pub(super) fn datum(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bridge_id.len() + 24);
        datum::text(&self.bridge_id, &mut out);
        datum::long(self.bridge_time, &mut out);
        datum::long(self.sequence, &mut out);
        datum::boolean(self.mqtt_connected, &mut out);
        datum::boolean(self.goodbye, &mut out);
        out
    }
}

/// Marker for a seq whose event went to the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Identity of the event.
    pub identity: Identity,
    /// Why it was refused.
    pub reason: String,
    /// When the bridge received it, in µs.
    pub received_at: i64,
}

impl Rejected {
    pub(super) fn datum(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.identity.agent_id.len() + self.reason.len() + 40);
        datum::text(&self.identity.agent_id, &mut out);
        datum::long(self.identity.session, &mut out);
        datum::text(self.identity.lane.as_str(), &mut out);
        datum::long(self.identity.seq, &mut out);
        datum::text(&self.reason, &mut out);
        datum::long(self.received_at, &mut out);
        out
    }
}

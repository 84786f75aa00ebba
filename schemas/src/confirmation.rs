//! What the bridge tells an agent, as JSON on `agent/{agent_id}/ack`: these events are in Kafka, or were judged
//! for good and put to the dead letters. Only then may the agent forget them.

use serde::{Deserialize, Serialize};

use crate::identity::Lane;

/// One message of confirmation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// Which bridge confirms.
    pub bridge: String,
    /// What is confirmed.
    pub acks: Vec<LaneAck>,
}

/// The confirmed events of one session and lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneAck {
    /// Session of the events, in µs.
    pub session: i64,
    /// Lane of the events.
    pub lane: Lane,
    /// Ranges of seq, both ends inclusive.
    pub ranges: Vec<(i64, i64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_on_the_wire() {
        let confirmation = Confirmation {
            bridge: "b1".into(),
            acks: vec![LaneAck { session: 5, lane: Lane::Bulk, ranges: vec![(1, 3), (7, 7)] }],
        };
        let text = serde_json::to_string(&confirmation).unwrap();
        assert_eq!(text, r#"{"bridge":"b1","acks":[{"session":5,"lane":"bulk","ranges":[[1,3],[7,7]]}]}"#);
        assert_eq!(serde_json::from_str::<Confirmation>(&text).unwrap(), confirmation);
    }
}

//! What the broker does not take, and where it came from.

use std::sync::Arc;

use arrow::array::RecordBatch;
use eventlog::dead_letter::DeadLetter;
use rumqttc::{ConnectionError, PubAckReason, StateError, mqttbytes::Error};

use crate::{SinkError, dead_letters::origin, row_json};

/// Why not everything was published.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// What is configured.
    #[error("{0}")]
    Unusable(SinkError),
    /// The connection, or the broker as a whole: later.
    #[error("{0}")]
    Away(String),
    /// The first that is not acknowledged, for good.
    #[error("it refuses a message: {}", .0.reason)]
    Refused(Refusal),
    /// Packets beyond so many bytes; the connection has ended of one.
    #[error("it takes no packet of more than {max} bytes")]
    TooLarge { max: usize },
}

/// A message that the broker refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    /// Which of those behind it the broker has acknowledged.
    pub(super) behind: Vec<bool>,
}

impl Failed {
    /// Why a connection ended.
    pub(super) fn ended(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::MqttState(
                StateError::OutgoingPacketTooLarge { max, .. }
                | StateError::Deserialization(Error::OutgoingPacketTooLarge { max, .. }),
            ) => Self::TooLarge { max: *max as usize },
            error => Self::Away(error.to_string()),
        }
    }
}

/// Whether a broker says of a message that it will never take it. All other answers may be others later.
pub(super) fn is_definite(reason: PubAckReason) -> bool {
    use PubAckReason as Reason;
    match reason {
        Reason::UnspecifiedError
        | Reason::ImplementationSpecificError
        | Reason::NotAuthorized
        | Reason::TopicNameInvalid
        | Reason::PayloadFormatInvalid => true,
        Reason::Success
        | Reason::NoMatchingSubscribers
        | Reason::PacketIdentifierInUse
        | Reason::QuotaExceeded => false,
    }
}

/// Bytes of a PUBLISH packet without properties. Source: MQTT 5.0, 2.1 and 3.3.
pub(super) fn packet_bytes(topic: &str, payload: &[u8]) -> usize {
    let rest = 2 + topic.len() + 2 + 1 + payload.len();
    let length = match rest {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    };
    1 + length + rest
}

/// The row that a message was made of.
pub(super) struct Origin {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) rows: RecordBatch,
    pub(super) row: usize,
}

impl Origin {
    pub(super) fn letter(&self, reason: String) -> DeadLetter {
        DeadLetter {
            stage: "mqtt",
            reason,
            origin: origin(&self.topic, self.partition, self.offset),
            key: None,
            original: row_json::row(&self.rows, self.row),
            headers: Vec::new(),
        }
    }
}

//! What the broker does not take, and where it came from.

use std::{sync::Arc, time::Instant};

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
    /// Some that it refuses: of the first that is not acknowledged, and of those that went with it.
    #[error("it refuses messages: {}", words(.0))]
    Refused(Vec<Verdict>),
    /// Packets beyond so many bytes; the connection has ended of one.
    #[error("it takes no packet of more than {max} bytes")]
    TooLarge { max: usize },
}

/// What the broker says of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has it.
    Taken,
    /// Not now, or nothing is known.
    Later(String),
    /// We may not publish to this topic; a person can change that.
    Unauthorized,
    /// Never.
    Refused(String),
}

impl Verdict {
    /// What an acknowledgement means. Answers that do not speak of the message may be others later.
    pub(super) fn of(reason: PubAckReason) -> Self {
        use PubAckReason as Reason;
        match reason {
            Reason::Success | Reason::NoMatchingSubscribers => Self::Taken,
            Reason::NotAuthorized => Self::Unauthorized,
            Reason::UnspecifiedError
            | Reason::ImplementationSpecificError
            | Reason::TopicNameInvalid
            | Reason::PayloadFormatInvalid => Self::Refused(format!("{reason:?}")),
            Reason::PacketIdentifierInUse | Reason::QuotaExceeded => {
                Self::Later(format!("the broker refuses a message: {reason:?}"))
            }
        }
    }

    /// Why it has to wait, if it has to.
    pub(super) fn why_later(&self) -> Option<String> {
        match self {
            Self::Later(reason) => Some(reason.clone()),
            _ => None,
        }
    }
}

fn words(verdicts: &[Verdict]) -> &str {
    match verdicts.first() {
        Some(Verdict::Refused(reason) | Verdict::Later(reason)) => reason,
        _ => "NotAuthorized",
    }
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
    /// Since when the broker does not let us publish it.
    pub(super) barred_since: Option<Instant>,
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

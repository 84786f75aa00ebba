//! Messages that cannot become events, kept for people and for replay.

use std::sync::Arc;

use bytes::Bytes;
use eventlog::NewRecord;
use eventlog::dead_letter::DeadLetter;

use crate::intake::Arrival;

/// Name of this stage in the headers of its dead letters.
const STAGE: &str = "bridge";

/// The letter: `original` unchanged, with the reason and the topic or request in its headers.
pub(crate) fn record(
    dlq: &Arc<str>,
    arrival: &Arrival,
    key: Bytes,
    original: &Bytes,
    reason: &str,
) -> NewRecord {
    DeadLetter {
        stage: STAGE,
        reason: reason.to_owned(),
        origin: String::from_utf8_lossy(&arrival.topic).into_owned(),
        key: Some(key),
        original: original.clone(),
        headers: Vec::new(),
    }
    .into_record(Arc::clone(dlq), arrival.received_at)
}

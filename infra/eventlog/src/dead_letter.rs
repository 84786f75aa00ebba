//! What could not be read or used, kept with its original bytes.

use std::sync::Arc;

use bytes::Bytes;
use schemas::headers::dead_letter::{AT, ORIGIN, REASON, STAGE};

use crate::record::{NewRecord, Record};

/// Longest reason in bytes; the original may be quoted in it and must not double the record.
const MAX_REASON: usize = 2000;

/// A record or message that was given up, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which stage gave up, e.g. `bridge`.
    pub stage: &'static str,
    /// Why, as a sentence.
    pub reason: String,
    /// Where it came from: MQTT topic, or `topic-partition-offset`.
    pub origin: String,
    /// Key of the original, or the agent it came from.
    pub key: Option<Bytes>,
    /// The bytes as they came.
    pub original: Bytes,
    /// Headers of the original.
    pub headers: Vec<(String, Bytes)>,
}

impl DeadLetter {
    /// For a record of the log. A tombstone has no bytes to keep.
    pub fn of_record(stage: &'static str, reason: impl Into<String>, record: &Record) -> Self {
        Self {
            stage,
            reason: reason.into(),
            origin: record.origin(),
            key: record.key.clone(),
            original: record.value.clone().unwrap_or_default(),
            headers: record.headers.clone(),
        }
    }

    /// The record for the dead-letter topic: the original bytes as value, the rest as headers before those of the
    /// original. `at` is the time it was given up, in µs.
    pub fn into_record(self, topic: Arc<str>, at: i64) -> NewRecord {
        let mut reason = self.reason;
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        let mut headers = vec![
            (STAGE.to_owned(), Bytes::from_static(self.stage.as_bytes())),
            (REASON.to_owned(), Bytes::from(reason)),
            (ORIGIN.to_owned(), Bytes::from(self.origin)),
            (AT.to_owned(), Bytes::from(at.to_string())),
        ];
        headers.extend(self.headers);
        NewRecord { topic, partition: None, key: self.key, value: Some(self.original), headers }
    }

    /// Reads back what [`DeadLetter::into_record`] wrote; `None` when the headers are not those of a dead letter.
    /// The stage is returned beside it, for it is text now.
    pub fn parse(record: &Record) -> Option<(String, Self)> {
        let text = |name: &str| record.header(name).map(|value| String::from_utf8_lossy(value).into_owned());
        let letter = Self {
            stage: "",
            reason: text(REASON)?,
            origin: text(ORIGIN)?,
            key: record.key.clone(),
            original: record.value.clone().unwrap_or_default(),
            headers: record
                .headers
                .iter()
                .filter(|(name, _)| ![STAGE, REASON, ORIGIN, AT].contains(&name.as_str()))
                .cloned()
                .collect(),
        };
        Some((text(STAGE)?, letter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn original_bytes_and_reason_survive() {
        let origin = Record {
            topic: "varta.raw".into(),
            partition: 3,
            offset: 17,
            timestamp: 5,
            key: Some("agent".into()),
            value: Some(Bytes::from_static(b"\xff\x00broken")),
            headers: vec![("trace".to_owned(), "1".into())],
        };
        let letter = DeadLetter::of_record("core", format!("no field `a{}`", "ї".repeat(2000)), &origin);
        let written = letter.clone().into_record("varta.dlq".into(), 99);
        assert_eq!(written.value, origin.value);
        assert!(written.headers[1].1.len() <= MAX_REASON);
        let read = Record { topic: written.topic, headers: written.headers, ..origin.clone() };
        assert_eq!(read.header("varta.at").unwrap().as_ref(), b"99");
        let (stage, parsed) = DeadLetter::parse(&read).unwrap();
        assert_eq!(stage, "core");
        assert_eq!(parsed.origin, "varta.raw-3-17");
        assert_eq!((parsed.headers, parsed.key), (letter.headers, letter.key));
        assert!(letter.reason.starts_with(&parsed.reason));
        assert_eq!(DeadLetter::parse(&origin), None);
    }
}

//! Messages to records and back.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use crate::record::{NewRecord, Record};

/// Copies the payloads of many messages into one allocation and cuts records out of it.
pub(super) struct Gathering {
    arena: BytesMut,
    cuts: Vec<Cut>,
}

struct Cut {
    topic: Arc<str>,
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Vec<(String, Range<usize>)>,
}

impl Gathering {
    pub(super) fn new() -> Self {
        Self { arena: BytesMut::new(), cuts: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.cuts.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }

    pub(super) fn add(&mut self, topic: Arc<str>, message: &BorrowedMessage<'_>) {
        let key = message.key().map(|key| self.copy(key));
        let value = message.payload().map(|value| self.copy(value));
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .map(|header| (header.key.to_owned(), self.copy(header.value.unwrap_or_default())))
                .collect()
        });
        self.cuts.push(Cut {
            topic,
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis().unwrap_or_default(),
            key,
            value,
            headers,
        });
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        start..self.arena.len()
    }

    /// The records gathered; the next gathering begins empty, with room for as much.
    pub(super) fn take(&mut self) -> Vec<Record> {
        let size = self.arena.len();
        let arena = std::mem::replace(&mut self.arena, BytesMut::with_capacity(size)).freeze();
        let cut = |range: Range<usize>| arena.slice(range);
        let records = self.cuts.drain(..).map(|of| Record {
            topic: of.topic,
            partition: of.partition,
            offset: of.offset,
            timestamp: of.timestamp,
            key: of.key.map(cut),
            value: of.value.map(cut),
            headers: of.headers.into_iter().map(|(name, range)| (name, cut(range))).collect(),
        });
        records.collect()
    }

    pub(super) fn clear(&mut self) {
        self.arena.clear();
        self.cuts.clear();
    }
}

/// One message as a record with bytes of its own.
pub(super) fn owned(topic: &Arc<str>, message: &BorrowedMessage<'_>) -> Record {
    let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    Record {
        topic: Arc::clone(topic),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key().map(copy),
        value: message.payload().map(copy),
        headers: message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .map(|header| (header.key.to_owned(), copy(header.value.unwrap_or_default())))
                .collect()
        }),
    }
}

/// A record to be sent, borrowing key and value.
pub(super) fn outgoing<D: rdkafka::util::IntoOpaque>(
    record: &NewRecord,
    opaque: D,
) -> BaseRecord<'_, [u8], [u8], D> {
    let headers = (!record.headers.is_empty()).then(|| {
        record
            .headers
            .iter()
            .fold(OwnedHeaders::new_with_capacity(record.headers.len()), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(value.as_ref()) })
            })
    });
    BaseRecord {
        topic: &record.topic,
        partition: record.partition,
        payload: record.value.as_deref(),
        key: record.key.as_deref(),
        timestamp: None,
        headers,
        delivery_opaque: opaque,
    }
}

//! One partition: records and markers by offset.

use std::collections::BTreeMap;

use bytes::Bytes;

/// What occupies an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A record.
    Record {
        /// Its key.
        key: Option<Bytes>,
        /// Its value; none is a tombstone.
        value: Option<Bytes>,
        /// Its headers.
        headers: Vec<(String, Bytes)>,
    },
    /// The end of a transaction in this partition.
    Marker {
        /// Whether it was committed.
        committed: bool,
    },
}

/// One offset of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What is there.
    pub content: Content,
    /// When it was appended, in ms.
    pub timestamp: i64,
    /// Number of the transaction it belongs to.
    pub transaction: Option<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Partition {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) entries: BTreeMap<i64, Entry>,
    /// Transactions without a marker here, and their first offset.
    pub(super) open: BTreeMap<usize, i64>,
}

impl Partition {
    pub(super) fn append(&mut self, content: Content, timestamp: i64, transaction: Option<usize>) -> i64 {
        let offset = self.end;
        self.end += 1;
        match (&content, transaction) {
            (Content::Marker { .. }, Some(number)) => {
                self.open.remove(&number);
            }
            (Content::Record { .. }, Some(number)) => {
                self.open.entry(number).or_insert(offset);
            }
            _ => {}
        }
        self.entries.insert(offset, Entry { content, timestamp, transaction });
        offset
    }

    /// The last stable offset: everything below it is settled.
    pub(super) fn stable_end(&self) -> i64 {
        self.open.values().copied().min().unwrap_or(self.end)
    }

    pub(super) fn trim(&mut self, before: i64) {
        self.start = self.start.max(before.min(self.end));
        self.entries = self.entries.split_off(&self.start);
    }
}

//! What can go wrong with the log, by what one can do about it.

use runtime::fate::Fate;
use thiserror::Error;

use crate::record::NewRecord;

/// The classes of failure of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogErrorKind {
    /// A broker, coordinator or stable offset is not to be had now. After a `commit` of a transaction this means
    /// that its outcome is *unknown*: make a new producer with the same id, which settles the transaction, and read
    /// the committed offsets again.
    Unavailable,
    /// A newer producer has the same transactional id; this one can do nothing any more.
    Fenced,
    /// The group has changed since the token was captured: nothing was committed. Abort, and poll.
    Rebalanced,
    /// The transaction cannot be committed. Abort, discard what it was made of, start again from the committed offsets.
    Aborted,
    /// Records that the caller wants are gone. Never skipped silently.
    OffsetOutOfRange {
        /// Full name of the topic.
        topic: String,
        /// Number of the partition.
        partition: i32,
        /// The offset asked for.
        wanted: i64,
        /// The first offset that still exists. When it is below `wanted`, the log is shorter than the caller knew it.
        earliest: i64,
    },
    /// The record is larger than the topic takes.
    TooLarge,
    /// There is no such topic, or no such partition.
    UnknownTopic,
    /// This handle can do nothing any more, or the request itself is wrong.
    Fatal,
}

/// A failure of the log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct LogError {
    /// Its class.
    pub kind: LogErrorKind,
    /// What happened, with the topic, group or server it happened to.
    pub message: String,
}

impl LogError {
    /// Of a class with a message.
    pub fn new(kind: LogErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Something is not to be had now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(LogErrorKind::Unavailable, message)
    }

    /// Nothing can be done with this handle.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self::new(LogErrorKind::Fatal, message)
    }

    /// Names the lost range.
    pub fn out_of_range(topic: &str, partition: i32, wanted: i64, earliest: i64) -> Self {
        let message = if wanted < earliest {
            format!(
                "{topic}-{partition}: offsets {wanted} to {} are gone: removed by retention",
                earliest - 1
            )
        } else {
            format!(
                "{topic}-{partition}: offset {wanted} does not exist; the log begins at {earliest} and is shorter"
            )
        };
        let kind = LogErrorKind::OffsetOutOfRange { topic: topic.to_owned(), partition, wanted, earliest };
        Self { kind, message }
    }

    /// What the caller can do. A missing topic is transient: it may still be created.
    pub fn fate(&self) -> Fate {
        match self.kind {
            LogErrorKind::Unavailable
            | LogErrorKind::Rebalanced
            | LogErrorKind::Aborted
            | LogErrorKind::UnknownTopic => Fate::Transient,
            LogErrorKind::TooLarge => Fate::Poison,
            LogErrorKind::Fenced | LogErrorKind::OffsetOutOfRange { .. } | LogErrorKind::Fatal => Fate::Fatal,
        }
    }
}

/// Why a record was not taken for appending.
#[derive(Debug, Error)]
pub enum AppendError {
    /// Too many are in flight: wait for deliveries and offer it again.
    #[error("the queue of records in flight is full")]
    QueueFull(NewRecord),
    /// It will not be taken, or not by this appender.
    #[error(transparent)]
    Log(#[from] LogError),
}

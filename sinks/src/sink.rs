//! The one shape that every sink has.

use std::time::Instant;

use async_trait::async_trait;
use eventlog::{Position, TopicPartition};

use crate::{SinkError, batch::Batch};

/// Where reading of a partition goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The store has everything before this offset.
    At(i64),
    /// The store has never seen this partition: from the log's beginning.
    Beginning,
    /// The store keeps no offsets: where the group's committed offset is, else the beginning.
    Committed,
}

/// How much a flush makes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// What is due by rows, bytes or age.
    Due,
    /// Everything held: a stop, or partitions are given back.
    All,
}

/// A store that takes batches and makes them durable, one process among several.
///
/// [`crate::runner::run`] calls the methods one after the other from one task. Any call may fail
/// with a transient error and is then repeated; a sink keeps what it holds until the store has it.
#[async_trait]
pub trait Sink: Send + 'static {
    /// Short name: of metrics, log lines, the health component and dead letters' stage.
    fn name(&self) -> &'static str;

    /// Whether fields of a newer version of a record, which this program does not know, are wanted as columns behind
    /// those that it knows.
    fn takes_new_fields(&self) -> bool {
        false
    }

    /// Connects and creates what is missing. Called until it succeeds; nothing is subscribed
    /// before.
    async fn open(&mut self) -> Result<(), SinkError>;

    /// Where to go on reading, one answer for each partition of `of`, freshly asked of the store.
    async fn starts(&mut self, of: &[TopicPartition]) -> Result<Vec<Start>, SinkError>;

    /// Takes a batch into memory. Fails only fatally.
    async fn accept(&mut self, batch: Batch) -> Result<(), SinkError>;

    /// When the next [`Sink::flush`] is needed: in the past = now, `None` = nothing is held.
    fn due(&self) -> Option<Instant>;

    /// Makes rows durable. The positions returned are stored in the log's consumer group by the
    /// runner; sinks whose store keeps the offsets return none.
    async fn flush(&mut self, how: Flush) -> Result<Vec<Position>, SinkError>;

    /// The positions that the last flush returned are stored.
    fn positions_stored(&mut self) {}

    /// Forgets what is held of these partitions: they belong to another process now, or are going
    /// to be read again.
    fn discard(&mut self, of: &[TopicPartition]);
}

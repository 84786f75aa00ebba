//! Feeds a sink from the log.
//!
//! ```text
//!  plain thread (reader.rs)                          one async task (here)
//!  poll ─ decode ─▶ bounded queue of events ───────▶ accept ─ flush when due
//!       ◀─ commands: start at, store positions ◀─────┘
//! ```
//!
//! The thread goes on polling while the sink waits for its store, with the partitions paused, so
//! that the consumer group does not take them away. Memory is bounded: the queue holds a few batches, a
//! batch is bounded in rows and bytes, and the sink bounds what it holds.

mod decode;
mod drive;
mod reader;
mod starting;
#[cfg(test)]
mod tests;

pub(crate) use decode::decode;

use std::{sync::Arc, time::Duration};

use eventlog::{Log, registry::SchemaRegistry};
use runtime::{health::Health, shutdown::Shutdown};

use crate::{Sink, SinkError};

/// How a sink is fed.
#[derive(Debug, Clone)]
pub struct Feed {
    /// Consumer group; several processes share the partitions of one group.
    pub group: String,
    /// Static membership name, if any.
    pub instance: Option<String>,
    /// Topics decoded as Avro.
    pub decoded: Vec<String>,
    /// Topics taken as they are.
    pub plain: Vec<String>,
    /// Rows in one poll at most.
    pub poll_rows: usize,
    /// Bytes of values that one poll aims at.
    pub poll_bytes: usize,
    /// How long a stop, or giving partitions back, may take to make durable what is held.
    pub drain: Duration,
}

/// Runs a sink until `shutdown`, a fatal error, or for ever. A store or a log that is away is
/// waited for; what the wait is for is logged and shown by the health component `sink.<name>`.
pub async fn run<L: Log, S: Sink>(
    sink: S,
    feed: Feed,
    log: L,
    registry: Arc<dyn SchemaRegistry>,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), SinkError> {
    drive::Drive::new(sink, feed, &health, shutdown).run(log, registry, health).await
}

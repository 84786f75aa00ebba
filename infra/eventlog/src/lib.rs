//! The log between the parts: records at positions of topics, read by consumer groups, written in transactions.
//!
//! It knows consumers, transactional producers and appenders as traits with two implementations, Kafka
//! ([`kafka`]) and memory ([`memory`], which models transactions for tests and can break at any call); the schema
//! registry; dead letters; and, with feature `arrow`, how Avro records become Arrow batches and back. It never
//! knows what an event means, and it never decides what to do about a failure: [`LogError::fate`] tells its caller.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

#[cfg(feature = "arrow")]
pub mod batches;
pub mod dead_letter;
mod error;
pub mod kafka;
mod log;
pub mod memory;
mod partitioner;
mod record;
pub mod registry;

pub use error::{AppendError, LogError, LogErrorKind};
pub use log::{
    Appender, Consumer, Created, Drift, GroupToken, Log, OnDelivery, Polled, StartAt, TransactionalProducer,
};
pub use partitioner::{murmur2, partition_of};
pub use record::{NewRecord, Position, Record, TopicPartition};

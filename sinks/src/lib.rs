//! Destinations of the log: the Delta lake, InfluxDB and PostgreSQL; and the reports that are made of the last.
//!
//! *What it is*: one folder per store, each with the same few files: `config.rs` (what may be
//! set), `mod.rs` (the [`Sink`] and its `run`), and what only that store needs. All of them are
//! fed by one [`runner`]: a plain thread polls the log and decodes Avro into Arrow, a bounded
//! queue hands batches to the sink, and the sink decides when they are durable.
//!
//! *What it knows*: the event families and their columns, where each store keeps the offsets of
//! what it holds, and what to do when a store is away, refuses a row, or has been moved on by
//! another process.
//!
//! *What it never knows*: how events are made, normalised or judged; the query engine.
//!
//! The rule that all three obey: **the offset is stored with the rows or after them, never
//! before**. The lake and PostgreSQL store both in one commit and check on the very state that
//! the commit builds on, so each row is there once. InfluxDB has no transactions, but the same row
//! always makes the same point, so a repeat overwrites itself.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod batch;
mod column;
mod dead_letters;
mod error;
pub mod influx;
pub mod lake;
pub mod mqtt;
pub mod notifier;
mod pending;
pub mod postgres;
pub mod reports;
mod row_json;
pub mod runner;
mod sink;
#[cfg(test)]
mod testing;

pub use dead_letters::DeadLetters;
pub use error::SinkError;
pub use sink::{Flush, Sink, Start};

//! The system from outside: what an independent client finds in the topics and the stores.
//!
//! Knows the contract (`schemas`) and the public protocols of the servers. What it compares never comes from
//! a component's own counters, and topics are read with a plain Kafka client and a generic Avro reader
//! rather than with the code that is under test.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod audit;
pub mod bench;
pub mod load;
pub mod servers;

//! The contract between all parts: which events exist, how they are identified, named, written and read.
//!
//! Knows: event families and their Avro schemas, identities, topics of Kafka and MQTT, the wire format, how an
//! agent's JSON becomes an Avro datum (feature `avro`) and which Arrow columns a record has (feature `arrow`).
//! Never knows: connections, clocks, configuration. Everything here is a pure function of its arguments.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

#[cfg(feature = "arrow")]
pub mod columns;
pub mod confirmation;
pub mod event;
pub mod family;
pub mod headers;
pub mod identity;
#[cfg(feature = "avro")]
pub mod json_schema;
pub mod mqtt;
pub mod record;
pub mod status;
pub mod topics;
#[cfg(feature = "avro")]
pub mod translate;
pub mod wire;

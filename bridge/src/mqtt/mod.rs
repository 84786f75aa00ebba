//! The connection to the MQTT broker: one task that polls it always and never waits for Kafka.

mod driver;
mod options;
mod session;
mod socket;

pub(crate) use driver::{Driver, Link};

//! The system from outside, on real servers: each file is a scenario that reads like prose.
//!
//! A scenario has a [`stage`] of its own: topic prefix, MQTT broker, consumer groups, lake folder, database and
//! bucket. So scenarios run side by side, beside a running `make run`. Nothing here sleeps to synchronise:
//! every wait names a condition and a deadline.

mod backfill;
mod bad_input;
mod bus;
mod configuration;
mod crash;
mod dashboards;
mod faults;
mod fleet;
mod https;
mod identities;
mod lake;
mod metrics;
mod notifications;
mod outages;
mod replay;
mod rows;
mod sinks;
mod stage;
mod stored;

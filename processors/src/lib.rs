//! Exactly-once stream jobs on DataFusion: normalise, deduplicate, window, judge.
//!
//! It knows the raw topic, what its rows mean, and how to turn them into events, features and alerts so that each
//! comes out exactly once ([`engine`]). It is the only crate that spells DataFusion. It never knows what time it is
//! (time comes in the log, [`event_time`]), where events came from before the log, or who reads what it writes.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod alerts;
pub mod backfill;
pub mod config;
pub mod dedup;
pub mod engine;
pub mod event_time;
pub mod functions;
pub mod jobs;
pub mod metered;
pub mod normalise;
pub mod paths;
pub mod plan;
#[cfg(test)]
mod planted;
pub mod rules;
mod run;
pub mod windows;
mod workers;

pub use config::{JobName, ProcessConfig};
pub use run::{ProcessError, run};

//! How a process of Varta lives: configuration, supervision, shutdown, classes of failure, backoff,
//! metrics, health, logs.
//!
//! It knows how tasks start, fail and end. It never knows what an event, a topic or a store is, so that
//! the agent on a workstation and the server share it without sharing anything else.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod backoff;
pub mod clock;
pub mod config;
pub mod failpoint;
pub mod fate;
pub mod health;
#[cfg(feature = "http")]
pub mod http;
pub mod logging;
pub mod memory;
mod rotation;
pub mod shutdown;
pub mod supervisor;
pub mod tls;

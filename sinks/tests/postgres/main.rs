//! What the sinks promise about PostgreSQL, on a real one: its address comes from `VARTA_POSTGRES`, which `make test`
//! sets. Each test has a database of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod database;
mod hung;
mod log;
mod mail;
mod migrations;
mod notifications;
mod reports;
mod tables;

//! The contract held against the libraries that others read it with: apache-avro and arrow-avro.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod arrow;
mod hostile;
mod json_schemas;
mod round_trip;
mod samples;
mod structs;
mod support;
mod versions;

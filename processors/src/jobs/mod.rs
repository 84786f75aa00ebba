//! Jobs: operators wired over an input topic.

mod core;
mod features;
mod findings;
mod gauges;
mod scan;
mod status;

pub use self::core::{CoreJob, CoreSetup, CoreState};

//! Jobs: operators wired over an input topic.

mod core;
mod features;
mod gauges;
mod scan;
mod status;
mod trial;

pub use self::core::{CoreJob, CoreSetup, CoreState};
pub(crate) use self::trial::Trial;

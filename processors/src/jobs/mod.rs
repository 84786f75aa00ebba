//! Jobs: operators wired over an input topic.

mod clean;
mod core;
mod features;
mod fleet;
mod gauges;
mod normalise;
mod outputs;
mod scan;
mod stages;
mod status;
mod trial;

pub use self::core::{CoreJob, CoreSetup, CoreState};
pub use self::fleet::{FleetJob, FleetState};
pub use self::normalise::{NormaliseJob, NormaliseState};
pub(crate) use self::trial::Trial;

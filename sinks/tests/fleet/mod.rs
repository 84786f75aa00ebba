//! A fleet of machines that repeats what was recorded on real ones, as a log that a sink can read.
//!
//! Nothing of it is kept in memory or on disk: each poll makes the next records. So a month of a thousand agents can go
//! through a sink, and the memory of the process is the sink's.

pub(crate) mod machine;
pub(crate) mod process;
pub(crate) mod recording;
pub(crate) mod stream;

//! Time as the log tells it: the clock of the bridges, each agent's watermark, silence.

mod census;
mod clock;
mod deadlines;
mod partition;
mod passing;
mod said;
mod tracker;

pub use census::Census;
pub use clock::Clock;
pub use said::{Clone, Decision, Lost, Noticed, Row, Status, Verdict};
pub use tracker::{Hold, Lateness, Tracker};

//! Time as the log tells it: the clock of the bridges, each agent's watermark, silence.

mod clock;
mod tracker;

pub use clock::Clock;
pub use tracker::{Clone, Decision, Lateness, Lost, Noticed, Row, Status, Tracker, Verdict};

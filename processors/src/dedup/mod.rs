//! Exact deduplication: what was seen of each agent, session and lane, and of events with ids of their own.

mod agent;
mod agents;
mod codec;
mod floors;
mod foreign;
mod holes;
mod runs;
mod sequence;

pub use agent::{Agent, MAX_FORGOTTEN, MAX_INTERVALS, MAX_SESSIONS, Session, UNTOLD};
pub use agents::Agents;
pub use floors::{Floor, MAX_FLOORS};
pub use foreign::{ForeignIds, HORIZON_HOURS, MOST_AN_HOUR, Share};
pub use sequence::{MAX_AHEAD, Seen, Sequence};

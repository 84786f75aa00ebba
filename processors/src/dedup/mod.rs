//! Exact deduplication: what was seen of each agent, session and lane, and of events with ids of their own.

mod agents;
mod codec;
mod foreign;
mod sequence;

pub use agents::{Agent, Agents, MAX_SESSIONS, Session, UNTOLD};
pub use foreign::{ForeignIds, HORIZON_HOURS};
pub use sequence::{MAX_INTERVALS, Seen, Sequence};

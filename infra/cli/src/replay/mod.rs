//! Recorded events sent again: reading a recording, mapping it to our events, speaking MQTT as an agent.

pub(crate) mod agent;
pub(crate) mod recording;
pub(crate) mod sender;
pub(crate) mod windows;

#[cfg(test)]
#[path = "attacks_tests.rs"]
mod attacks;

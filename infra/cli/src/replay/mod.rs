//! Recorded events sent again: reading a recording, mapping it to our events, speaking MQTT as an agent.

pub mod recording;
pub mod sender;
pub mod windows;

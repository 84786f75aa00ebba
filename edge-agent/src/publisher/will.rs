//! What stands on the retained status topic: online, stopped, and what the broker says when the
//! agent vanishes. These events carry no seq (the broker sends the last one, not the outbox), but
//! an id made of session and connection, so that repeats are recognised.

use schemas::event::{AgentStatus, event_type};
use serde::Serialize;

/// Which status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Online,
    Stopped,
    Offline,
}

#[derive(Serialize)]
struct Message<'a> {
    agent_id: &'a str,
    event_id: String,
    event_time: i64,
    event_type: &'static str,
    source: &'static str,
    host: &'a str,
    payload: AgentStatus,
}

/// JSON for the status topic. The last will is written when the connection begins, so its event
/// time is that instant; when the agent vanished, `received_at` says.
pub(super) fn status(
    status: Status,
    agent_id: &str,
    host: &str,
    session: i64,
    connection: i64,
    now: i64,
) -> Vec<u8> {
    let (kind, name, reason) = match status {
        Status::Online => (event_type::AGENT_HEALTH, "online", "connected"),
        Status::Stopped => (event_type::AGENT_STOPPED, "stopped", "stopped"),
        Status::Offline => (event_type::AGENT_OFFLINE, "offline", "connection lost without goodbye"),
    };
    let message = Message {
        agent_id,
        event_id: format!("{agent_id}/{name}/{session}/{connection}"),
        event_time: now,
        event_type: kind,
        source: "agent/status",
        host,
        payload: AgentStatus {
            agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            connection: Some(connection),
            reason: Some(reason.to_owned()),
            previous_session: Some(session),
            ..AgentStatus::default()
        },
    };
    serde_json::to_vec(&message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_will_names_session_and_connection() {
        let text = status(Status::Offline, "a-1", "pc001", 5, 3, 1_000);
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["event_type"], "agent_offline");
        assert_eq!(value["event_id"], "a-1/offline/5/3");
        assert_eq!(value["payload"]["connection"], 3);
        assert_eq!(value.get("seq"), None);
    }
}

//! Payload of the family `agent_status`; its fields are those of `avro/agent_status.avsc`.

use serde::{Deserialize, Serialize};

/// What an agent says about itself: start, stop, health, loss.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentStatus {
    /// Version of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Version of the operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Domain or workgroup of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Time zone of the machine, as an IANA name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Session before this one, in microseconds since 1970-01-01 UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_session: Option<i64>,
    /// JSON text `{"lane":seq}`: last seq of each lane of the previous session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tails: Option<String>,
    /// JSON text `[{"lane","seq","time"}]`: the lane is complete up to that seq and time (microseconds since 1970-01-01 UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marks: Option<String>,
    /// JSON text: list of the lanes in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lanes: Option<String>,
    /// The agent's own reporting interval, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_s: Option<f64>,
    /// Event time of the oldest row in the outbox, in microseconds since 1970-01-01 UTC; null if it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_event_time: Option<i64>,
    /// Number of events in the outbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_rows: Option<i64>,
    /// Size of the outbox, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_bytes: Option<i64>,
    /// Limit of the outbox, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_limit_bytes: Option<i64>,
    /// Number of events shed since the session began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shed_total: Option<i64>,
    /// Lane of the events shed, for `events_shed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shed_lane: Option<String>,
    /// First seq shed, inclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shed_from: Option<i64>,
    /// Last seq shed, inclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shed_to: Option<i64>,
    /// Why: of a stop, of shedding, of a missing capability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Processor load of the agent itself, in percent of one processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    /// Resident memory of the agent itself, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<i64>,
    /// Version of the policy in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<String>,
    /// JSON text of an object: each monitor with what it can see, or why it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<String>,
    /// Counter of the agent's MQTT connections within the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<i64>,
}

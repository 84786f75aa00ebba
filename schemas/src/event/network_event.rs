//! Payload of the family `network_event`; its fields are those of `avro/network_event.avsc`.

use serde::{Deserialize, Serialize};

/// A connection was made, or a network link changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkEvent {
    /// Address of the other side, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_address: Option<String>,
    /// Port of the other side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<i32>,
    /// Address of this side, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_address: Option<String>,
    /// Port of this side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_port: Option<i32>,
    /// Transport protocol, e.g. `tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// `in` or `out`, seen from the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// File name of the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_name: Option<String>,
    /// Path of the program's executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Process id of the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i64>,
    /// Network interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// True if the link came up, false if it went down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
}

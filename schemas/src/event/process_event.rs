//! Payload of the family `process_event`; its fields are those of `avro/process_event.avsc`.

use serde::{Deserialize, Serialize};

/// A process began or ended, or a service changed its state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessEvent {
    /// Process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i64>,
    /// Process id of the parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_pid: Option<i64>,
    /// File name of the parent's program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_name: Option<String>,
    /// File name of the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Path of the executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Class of the path, e.g. `temporary`; set by normalisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_class: Option<String>,
    /// Command line, with secrets scrubbed by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_line: Option<String>,
    /// When the process started, in microseconds since 1970-01-01 UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    /// Exit code of the process, where the system tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Hash of the executable with its algorithm, e.g. `sha256:…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// True if this agent never saw this executable before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<bool>,
    /// Name of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// New state of the service, e.g. `running`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_state: Option<String>,
}

//! Payload of the family `process_sample`; its fields are those of `avro/process_sample.avsc`.

use serde::{Deserialize, Serialize};

/// Load of one process, or of a group of processes with one name, at an instant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessSample {
    /// Number shared by all samples of one look at the machine; unique within agent and session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<i64>,
    /// Process id; null for a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i64>,
    /// Process ids of a group, comma-separated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<String>,
    /// Number of processes in the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_size: Option<i32>,
    /// File name of the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Path of the executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Processor load of the process or group, in percent of one processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    /// Resident memory of the process or group, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<i64>,
}

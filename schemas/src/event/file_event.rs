//! Payload of the family `file_event`; its fields are those of `avro/file_event.avsc`.

use serde::{Deserialize, Serialize};

/// A file was created, changed or removed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileEvent {
    /// Path of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Class of the path, e.g. `temporary`; set by normalisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_class: Option<String>,
    /// Size of the file after the event, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// File name of the program that did it, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_name: Option<String>,
    /// Process id of the program that did it, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i64>,
}

//! Payload of the family `window_event`; its fields are those of `avro/window_event.avsc`.

use serde::{Deserialize, Serialize};

/// What happened to windows, tabs and documents.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WindowEvent {
    /// Name of the program that owns the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Version of the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program_version: Option<String>,
    /// Path of the program's executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Title of the window or tab.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Address shown in the active tab.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Document or sheet shown in the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// Domain or workgroup of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Time zone of the user's session, as an IANA name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Id of the window, unique within the session of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_id: Option<String>,
    /// Code of the input event, for `hid`: see the table of codes in the documentation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hid_code: Option<i32>,
    /// JSON text of an object: form fields that an allow-list names; null by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<String>,
}

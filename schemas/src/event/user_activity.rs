//! Payload of the family `user_activity`; its fields are those of `avro/user_activity.avsc`.

use serde::{Deserialize, Serialize};

/// Whether somebody used keyboard and mouse during an interval; never what was typed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserActivity {
    /// True if the mouse was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mouse: Option<bool>,
    /// True if the keyboard was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyboard: Option<bool>,
    /// Number of mouse events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mouse_events: Option<i64>,
    /// Number of key presses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyboard_events: Option<i64>,
    /// Time with input, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_s: Option<f64>,
    /// Time without input up to the event, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_s: Option<f64>,
    /// True if the input came from a program, false if from hardware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub injected: Option<bool>,
}

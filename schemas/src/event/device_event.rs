//! Payload of the family `device_event`; its fields are those of `avro/device_event.avsc`.

use serde::{Deserialize, Serialize};

/// A device was plugged in or removed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceEvent {
    /// Bus of the device, e.g. `usb`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// Vendor of the device, name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Product name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Kind of the device, e.g. `storage`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

//! The families of events. Each is a flat Avro record with a topic and a lake table of its own.

use std::fmt;

use crate::event::event_type;

/// One family of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Readings of a machine: processor, memory, disks, network, sensors.
    HostMetrics,
    /// Load of a process or of a group of processes.
    ProcessSample,
    /// A process began or ended, a service changed.
    ProcessEvent,
    /// Whether keyboard and mouse were used.
    UserActivity,
    /// Windows, tabs and documents.
    WindowEvent,
    /// A file was created, changed or removed.
    FileEvent,
    /// Connections and links.
    NetworkEvent,
    /// Devices plugged in or removed.
    DeviceEvent,
    /// What an agent says about itself.
    AgentStatus,
    /// Everything else.
    CustomEvent,
}

impl Family {
    /// All families, in the order of their declaration: `ALL[family as usize] == family`.
    pub const ALL: [Self; 10] = [
        Self::HostMetrics,
        Self::ProcessSample,
        Self::ProcessEvent,
        Self::UserActivity,
        Self::WindowEvent,
        Self::FileEvent,
        Self::NetworkEvent,
        Self::DeviceEvent,
        Self::AgentStatus,
        Self::CustomEvent,
    ];

    /// Name in topics, tables and file names, e.g. `host_metrics`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HostMetrics => "host_metrics",
            Self::ProcessSample => "process_sample",
            Self::ProcessEvent => "process_event",
            Self::UserActivity => "user_activity",
            Self::WindowEvent => "window_event",
            Self::FileEvent => "file_event",
            Self::NetworkEvent => "network_event",
            Self::DeviceEvent => "device_event",
            Self::AgentStatus => "agent_status",
            Self::CustomEvent => "custom_event",
        }
    }

    /// Name of the Avro record without its namespace, e.g. `HostMetrics`.
    pub const fn record(self) -> &'static str {
        match self {
            Self::HostMetrics => "HostMetrics",
            Self::ProcessSample => "ProcessSample",
            Self::ProcessEvent => "ProcessEvent",
            Self::UserActivity => "UserActivity",
            Self::WindowEvent => "WindowEvent",
            Self::FileEvent => "FileEvent",
            Self::NetworkEvent => "NetworkEvent",
            Self::DeviceEvent => "DeviceEvent",
            Self::AgentStatus => "AgentStatus",
            Self::CustomEvent => "CustomEvent",
        }
    }

    /// The Avro schema, as JSON text.
    pub const fn avsc(self) -> &'static str {
        match self {
            Self::HostMetrics => include_str!("../avro/host_metrics.avsc"),
            Self::ProcessSample => include_str!("../avro/process_sample.avsc"),
            Self::ProcessEvent => include_str!("../avro/process_event.avsc"),
            Self::UserActivity => include_str!("../avro/user_activity.avsc"),
            Self::WindowEvent => include_str!("../avro/window_event.avsc"),
            Self::FileEvent => include_str!("../avro/file_event.avsc"),
            Self::NetworkEvent => include_str!("../avro/network_event.avsc"),
            Self::DeviceEvent => include_str!("../avro/device_event.avsc"),
            Self::AgentStatus => include_str!("../avro/agent_status.avsc"),
            Self::CustomEvent => include_str!("../avro/custom_event.avsc"),
        }
    }

    /// The event types that belong to this family; none for [`Family::CustomEvent`], which takes all others.
    pub const fn event_types(self) -> &'static [&'static str] {
        use event_type as t;
        match self {
            Self::HostMetrics => &[t::CPU_USAGE, t::MEM_USAGE, t::DISK_USAGE, t::NET_USAGE, t::SENSOR],
            Self::ProcessSample => &[t::PROCESS_SAMPLE],
            Self::ProcessEvent => &[t::PROCESS_STARTED, t::PROCESS_STOPPED, t::SERVICE_CHANGED],
            Self::UserActivity => &[t::USER_ACTIVITY],
            Self::WindowEvent => &[
                t::WINDOW_OPEN,
                t::WINDOW_SWITCH,
                t::WINDOW_UPDATE,
                t::DOCUMENT_OPEN,
                t::DOCUMENT_SAVE,
                t::SHEET_OPEN,
                t::FIELD_EDIT,
                t::HID,
            ],
            Self::FileEvent => &[t::FILE_CREATED, t::FILE_CHANGED, t::FILE_REMOVED],
            Self::NetworkEvent => &[t::CONNECTION, t::LINK_CHANGED],
            Self::DeviceEvent => &[t::DEVICE_ADDED, t::DEVICE_REMOVED],
            Self::AgentStatus => {
                &[t::AGENT_STARTED, t::AGENT_STOPPED, t::AGENT_OFFLINE, t::AGENT_HEALTH, t::EVENTS_SHED]
            }
            Self::CustomEvent => &[],
        }
    }

    /// The family that an event type belongs to; an unknown type is a custom event.
    pub fn of_event_type(event_type: &str) -> Self {
        use crate::event::event_type as t;
        match event_type {
            t::CPU_USAGE | t::MEM_USAGE | t::DISK_USAGE | t::NET_USAGE | t::SENSOR => Self::HostMetrics,
            t::PROCESS_SAMPLE => Self::ProcessSample,
            t::PROCESS_STARTED | t::PROCESS_STOPPED | t::SERVICE_CHANGED => Self::ProcessEvent,
            t::USER_ACTIVITY => Self::UserActivity,
            t::WINDOW_OPEN
            | t::WINDOW_SWITCH
            | t::WINDOW_UPDATE
            | t::DOCUMENT_OPEN
            | t::DOCUMENT_SAVE
            | t::SHEET_OPEN
            | t::FIELD_EDIT
            | t::HID => Self::WindowEvent,
            t::FILE_CREATED | t::FILE_CHANGED | t::FILE_REMOVED => Self::FileEvent,
            t::CONNECTION | t::LINK_CHANGED => Self::NetworkEvent,
            t::DEVICE_ADDED | t::DEVICE_REMOVED => Self::DeviceEvent,
            t::AGENT_STARTED | t::AGENT_STOPPED | t::AGENT_OFFLINE | t::AGENT_HEALTH | t::EVENTS_SHED => {
                Self::AgentStatus
            }
            _ => Self::CustomEvent,
        }
    }

    /// The family of a [`Family::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_its_place_and_is_found_by_its_name() {
        for (index, family) in Family::ALL.into_iter().enumerate() {
            assert_eq!(family as usize, index);
            assert_eq!(Family::from_name(family.name()), Some(family));
            assert!(family.avsc().contains(&format!("\"name\": \"{}\"", family.record())));
        }
        assert_eq!(Family::from_name("HostMetrics"), None);
    }

    #[test]
    fn event_types_and_families_agree_both_ways() {
        let mut seen = std::collections::BTreeSet::new();
        for family in Family::ALL {
            for event_type in family.event_types() {
                assert_eq!(Family::of_event_type(event_type), family, "{event_type}");
                assert!(seen.insert(*event_type), "{event_type} belongs to two families");
            }
        }
        assert_eq!(seen.len(), event_type::ALL.len());
        assert_eq!(Family::of_event_type("door_opened"), Family::CustomEvent);
    }
}

//! Events as an agent writes them: JSON objects with an envelope and a payload by family.

mod agent_status;
mod device_event;
mod file_event;
mod host_metrics;
mod network_event;
mod process_event;
mod process_sample;
mod user_activity;
mod window_event;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

pub use agent_status::AgentStatus;
pub use device_event::DeviceEvent;
pub use file_event::FileEvent;
pub use host_metrics::HostMetrics;
pub use network_event::NetworkEvent;
pub use process_event::ProcessEvent;
pub use process_sample::ProcessSample;
pub use user_activity::UserActivity;
pub use window_event::WindowEvent;

use crate::family::Family;
use crate::identity::{AgentId, Identity, Lane};

/// The event types that have a family; any other text is the type of a custom event.
pub mod event_type {
    /// Processor load of a machine.
    pub const CPU_USAGE: &str = "cpu_usage";
    /// Memory of a machine.
    pub const MEM_USAGE: &str = "mem_usage";
    /// Space and traffic of a disk.
    pub const DISK_USAGE: &str = "disk_usage";
    /// Traffic of a network interface.
    pub const NET_USAGE: &str = "net_usage";
    /// Reading of a sensor.
    pub const SENSOR: &str = "sensor";
    /// Load of a process or group.
    pub const PROCESS_SAMPLE: &str = "process_sample";
    /// A process began.
    pub const PROCESS_STARTED: &str = "process_started";
    /// A process ended.
    pub const PROCESS_STOPPED: &str = "process_stopped";
    /// A service changed its state.
    pub const SERVICE_CHANGED: &str = "service_changed";
    /// Use of keyboard and mouse during an interval.
    pub const USER_ACTIVITY: &str = "user_activity";
    /// A window, tab, file or address was opened.
    pub const WINDOW_OPEN: &str = "window_open";
    /// Another window or tab became active.
    pub const WINDOW_SWITCH: &str = "window_switch";
    /// The title of the window changed.
    pub const WINDOW_UPDATE: &str = "window_update";
    /// A document was opened.
    pub const DOCUMENT_OPEN: &str = "document_open";
    /// A document was saved.
    pub const DOCUMENT_SAVE: &str = "document_save";
    /// A sheet was opened or switched to.
    pub const SHEET_OPEN: &str = "sheet_open";
    /// A field of a form was edited.
    pub const FIELD_EDIT: &str = "field_edit";
    /// Input by keyboard or mouse, with a numeric code.
    pub const HID: &str = "hid";
    /// A file was created.
    pub const FILE_CREATED: &str = "file_created";
    /// A file was changed.
    pub const FILE_CHANGED: &str = "file_changed";
    /// A file was removed.
    pub const FILE_REMOVED: &str = "file_removed";
    /// A connection was made.
    pub const CONNECTION: &str = "connection";
    /// A network link came up or went down.
    pub const LINK_CHANGED: &str = "link_changed";
    /// A device was plugged in.
    pub const DEVICE_ADDED: &str = "device_added";
    /// A device was removed.
    pub const DEVICE_REMOVED: &str = "device_removed";
    /// An agent started.
    pub const AGENT_STARTED: &str = "agent_started";
    /// An agent stopped cleanly.
    pub const AGENT_STOPPED: &str = "agent_stopped";
    /// The broker lost an agent: its last will.
    pub const AGENT_OFFLINE: &str = "agent_offline";
    /// An agent is well, and its lanes are complete up to here.
    pub const AGENT_HEALTH: &str = "agent_health";
    /// An agent's outbox was full and dropped events.
    pub const EVENTS_SHED: &str = "events_shed";

    /// All of them.
    pub const ALL: [&str; 30] = [
        CPU_USAGE,
        MEM_USAGE,
        DISK_USAGE,
        NET_USAGE,
        SENSOR,
        PROCESS_SAMPLE,
        PROCESS_STARTED,
        PROCESS_STOPPED,
        SERVICE_CHANGED,
        USER_ACTIVITY,
        WINDOW_OPEN,
        WINDOW_SWITCH,
        WINDOW_UPDATE,
        DOCUMENT_OPEN,
        DOCUMENT_SAVE,
        SHEET_OPEN,
        FIELD_EDIT,
        HID,
        FILE_CREATED,
        FILE_CHANGED,
        FILE_REMOVED,
        CONNECTION,
        LINK_CHANGED,
        DEVICE_ADDED,
        DEVICE_REMOVED,
        AGENT_STARTED,
        AGENT_STOPPED,
        AGENT_OFFLINE,
        AGENT_HEALTH,
        EVENTS_SHED,
    ];
}

/// One event: a fact about a machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Which agent made it.
    pub agent_id: AgentId,
    /// When the agent started, in µs.
    pub session: i64,
    /// Which queue carries it.
    pub lane: Lane,
    /// Number within agent, session and lane.
    pub seq: i64,
    /// When it happened, in µs since 1970-01-01 UTC.
    pub event_time: i64,
    /// What happened; decides the family.
    pub event_type: String,
    /// Which monitor and method saw it.
    pub source: String,
    /// Name of the machine.
    pub host: Option<String>,
    /// Account whose session it belongs to.
    pub user: Option<String>,
    /// True if it waited for an outage to end or comes from a recording.
    pub replayed: bool,
    /// What exactly happened.
    pub payload: Payload,
}

impl Event {
    /// The identity of this event.
    pub fn identity(&self) -> Identity {
        Identity { agent_id: self.agent_id.clone(), session: self.session, lane: self.lane, seq: self.seq }
    }

    /// The family that the event type belongs to.
    pub fn family(&self) -> Family {
        Family::of_event_type(&self.event_type)
    }
}

/// Payload by family; written as the bare object.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Payload {
    /// Of [`Family::HostMetrics`].
    HostMetrics(HostMetrics),
    /// Of [`Family::ProcessSample`].
    ProcessSample(ProcessSample),
    /// Of [`Family::ProcessEvent`].
    ProcessEvent(ProcessEvent),
    /// Of [`Family::UserActivity`].
    UserActivity(UserActivity),
    /// Of [`Family::WindowEvent`].
    WindowEvent(WindowEvent),
    /// Of [`Family::FileEvent`].
    FileEvent(FileEvent),
    /// Of [`Family::NetworkEvent`].
    NetworkEvent(NetworkEvent),
    /// Of [`Family::DeviceEvent`].
    DeviceEvent(DeviceEvent),
    /// Of [`Family::AgentStatus`].
    AgentStatus(AgentStatus),
    /// Of [`Family::CustomEvent`]: any JSON.
    Custom(Value),
}

impl Payload {
    /// The family of the payload.
    pub fn family(&self) -> Family {
        match self {
            Self::HostMetrics(_) => Family::HostMetrics,
            Self::ProcessSample(_) => Family::ProcessSample,
            Self::ProcessEvent(_) => Family::ProcessEvent,
            Self::UserActivity(_) => Family::UserActivity,
            Self::WindowEvent(_) => Family::WindowEvent,
            Self::FileEvent(_) => Family::FileEvent,
            Self::NetworkEvent(_) => Family::NetworkEvent,
            Self::DeviceEvent(_) => Family::DeviceEvent,
            Self::AgentStatus(_) => Family::AgentStatus,
            Self::Custom(_) => Family::CustomEvent,
        }
    }

    fn parse(family: Family, payload: Value) -> Result<Self, serde_json::Error> {
        use serde_json::from_value;
        Ok(match family {
            Family::HostMetrics => Self::HostMetrics(from_value(payload)?),
            Family::ProcessSample => Self::ProcessSample(from_value(payload)?),
            Family::ProcessEvent => Self::ProcessEvent(from_value(payload)?),
            Family::UserActivity => Self::UserActivity(from_value(payload)?),
            Family::WindowEvent => Self::WindowEvent(from_value(payload)?),
            Family::FileEvent => Self::FileEvent(from_value(payload)?),
            Family::NetworkEvent => Self::NetworkEvent(from_value(payload)?),
            Family::DeviceEvent => Self::DeviceEvent(from_value(payload)?),
            Family::AgentStatus => Self::AgentStatus(from_value(payload)?),
            Family::CustomEvent => Self::Custom(payload),
        })
    }
}

/// Reads what an agent wrote; the event type decides the payload. Unknown fields are dropped here, whereas the bridge
/// keeps them: this is for agents that read their own outbox, and for tests.
impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Written {
            agent_id: AgentId,
            session: i64,
            lane: Lane,
            seq: i64,
            event_time: i64,
            event_type: String,
            source: String,
            host: Option<String>,
            user: Option<String>,
            #[serde(default)]
            replayed: bool,
            payload: Value,
        }
        let written = Written::deserialize(deserializer)?;
        let family = Family::of_event_type(&written.event_type);
        let payload = Payload::parse(family, written.payload).map_err(D::Error::custom)?;
        Ok(Self {
            agent_id: written.agent_id,
            session: written.session,
            lane: written.lane,
            seq: written.seq,
            event_time: written.event_time,
            event_type: written.event_type,
            source: written.source,
            host: written.host,
            user: written.user,
            replayed: written.replayed,
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON_THE_WIRE: &str = concat!(
        r#"{"agent_id":"a-1","session":1732147200000000,"lane":"normal","seq":17,"event_time":1732147201000000,"#,
        r#""event_type":"cpu_usage","source":"system/procfs","host":"pc001","user":null,"replayed":false,"#,
        r#""payload":{"cpu_percent":37.5}}"#
    );

    #[test]
    fn an_event_is_written_as_agreed_and_read_back() {
        let event = Event {
            agent_id: "a-1".into(),
            session: 1_732_147_200_000_000,
            lane: Lane::Normal,
            seq: 17,
            event_time: 1_732_147_201_000_000,
            event_type: event_type::CPU_USAGE.into(),
            source: "system/procfs".into(),
            host: Some("pc001".into()),
            user: None,
            replayed: false,
            payload: Payload::HostMetrics(HostMetrics { cpu_percent: Some(37.5), ..HostMetrics::default() }),
        };
        assert_eq!(serde_json::to_string(&event).unwrap(), ON_THE_WIRE);
        assert_eq!(serde_json::from_str::<Event>(ON_THE_WIRE).unwrap(), event);
        assert_eq!(event.family(), event.payload.family());
    }

    #[test]
    fn an_unknown_type_keeps_any_payload() {
        let text =
            ON_THE_WIRE.replace("cpu_usage", "door_opened").replace(r#"{"cpu_percent":37.5}"#, "[1,null]");
        let event: Event = serde_json::from_str(&text).unwrap();
        assert_eq!(event.payload, Payload::Custom(serde_json::json!([1, null])));
        assert_eq!(serde_json::to_string(&event).unwrap(), text);
    }
}

//! Recorded Windows events as ours: Sysmon 1, 3, 5, 11 and Security 4688, 4689.
//!
//! Pure: one JSON object in, one event or the reason why there is none out. The field names are those of
//! the Windows event log as shippers write them.

use chrono::{DateTime, NaiveDateTime};
use schemas::event::{FileEvent, NetworkEvent, Payload, ProcessEvent, event_type};
use serde_json::{Map, Value};

/// What a recorded event says, before an agent gives it its identity.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mapped {
    /// The computer that recorded it.
    pub host: String,
    /// When it happened, µs UTC.
    pub event_time: i64,
    /// One of ours.
    pub event_type: &'static str,
    /// Who saw it, e.g. `sysmon/1`.
    pub source: String,
    /// The account, without its domain.
    pub user: Option<String>,
    /// The recording that it comes from, where the record tells.
    pub recording: Option<String>,
    /// The rest.
    pub payload: Payload,
}

/// Maps one record; the error says in a few words why there is no event.
pub(crate) fn map(record: &Map<String, Value>) -> Result<Mapped, String> {
    let id = integer(record, "EventID").ok_or("no EventID")?;
    let channel = text(record, "Channel").or_else(|| text(record, "SourceName")).unwrap_or_default();
    let sysmon = channel.contains("Sysmon");
    let (event_type, user, payload) = match (sysmon, id) {
        (true, 1) => (event_type::PROCESS_STARTED, account(record, "User"), sysmon_start(record)?),
        (true, 3) => (event_type::CONNECTION, account(record, "User"), sysmon_connection(record)?),
        (true, 5) => (event_type::PROCESS_STOPPED, account(record, "User"), sysmon_stop(record)?),
        (true, 11) => (event_type::FILE_CREATED, account(record, "User"), sysmon_file(record)?),
        (false, 4688) => {
            (event_type::PROCESS_STARTED, account(record, "SubjectUserName"), security_start(record)?)
        }
        (false, 4689) => {
            (event_type::PROCESS_STOPPED, account(record, "SubjectUserName"), security_stop(record)?)
        }
        _ => return Err(format!("event {id} of {channel:?} is not one that we map")),
    };
    Ok(Mapped {
        host: text(record, "Hostname").or_else(|| text(record, "Computer")).ok_or("no Hostname")?,
        event_time: time(record, sysmon)?,
        event_type,
        source: format!("{}/{id}", if sysmon { "sysmon" } else { "security" }),
        user,
        recording: text(record, "_recording"),
        payload,
    })
}

fn sysmon_start(record: &Map<String, Value>) -> Result<Payload, String> {
    let path = text(record, "Image").ok_or("no Image")?;
    Ok(Payload::ProcessEvent(ProcessEvent {
        pid: number(record, "ProcessId"),
        parent_pid: number(record, "ParentProcessId"),
        parent_name: text(record, "ParentImage").map(|parent| base_name(&parent)),
        name: Some(base_name(&path)),
        path: Some(path),
        command_line: text(record, "CommandLine"),
        hash: text(record, "Hashes").and_then(|hashes| sha256(&hashes)),
        ..ProcessEvent::default()
    }))
}

fn sysmon_stop(record: &Map<String, Value>) -> Result<Payload, String> {
    let path = text(record, "Image").ok_or("no Image")?;
    Ok(Payload::ProcessEvent(ProcessEvent {
        pid: number(record, "ProcessId"),
        name: Some(base_name(&path)),
        path: Some(path),
        ..ProcessEvent::default()
    }))
}

fn sysmon_connection(record: &Map<String, Value>) -> Result<Payload, String> {
    let initiated = text(record, "Initiated").is_some_and(|initiated| initiated == "true");
    let (local, remote) = if initiated { ("Source", "Destination") } else { ("Destination", "Source") };
    let path = text(record, "Image");
    Ok(Payload::NetworkEvent(NetworkEvent {
        remote_address: text(record, &format!("{remote}Ip")),
        remote_port: port(record, &format!("{remote}Port"))?,
        local_address: text(record, &format!("{local}Ip")),
        local_port: port(record, &format!("{local}Port"))?,
        protocol: text(record, "Protocol"),
        direction: Some(if initiated { "out" } else { "in" }.into()),
        process_name: path.as_deref().map(base_name),
        path,
        pid: number(record, "ProcessId"),
        ..NetworkEvent::default()
    }))
}

fn sysmon_file(record: &Map<String, Value>) -> Result<Payload, String> {
    Ok(Payload::FileEvent(FileEvent {
        path: Some(text(record, "TargetFilename").ok_or("no TargetFilename")?),
        process_name: text(record, "Image").map(|image| base_name(&image)),
        pid: number(record, "ProcessId"),
        ..FileEvent::default()
    }))
}

fn security_start(record: &Map<String, Value>) -> Result<Payload, String> {
    let path = text(record, "NewProcessName").ok_or("no NewProcessName")?;
    Ok(Payload::ProcessEvent(ProcessEvent {
        pid: number(record, "NewProcessId"),
        parent_pid: number(record, "ProcessId"),
        parent_name: text(record, "ParentProcessName").map(|parent| base_name(&parent)),
        name: Some(base_name(&path)),
        path: Some(path),
        command_line: text(record, "CommandLine"),
        ..ProcessEvent::default()
    }))
}

fn security_stop(record: &Map<String, Value>) -> Result<Payload, String> {
    let path = text(record, "ProcessName").ok_or("no ProcessName")?;
    Ok(Payload::ProcessEvent(ProcessEvent {
        pid: number(record, "ProcessId"),
        name: Some(base_name(&path)),
        path: Some(path),
        exit_code: number(record, "Status"),
        ..ProcessEvent::default()
    }))
}

fn utc(field: &str, text: &str) -> Result<i64, String> {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f")
        .map(|time| time.and_utc().timestamp_micros())
        .map_err(|error| format!("{field} {text:?}: {error}"))
}

/// Sysmon says when it happened in `UtcTime`; of the security log some recordings have `TimeCreated` (UTC), others
/// only the time of shipping.
fn time(record: &Map<String, Value>, sysmon: bool) -> Result<i64, String> {
    if let Some(utc_time) = text(record, "UtcTime").filter(|_| sysmon) {
        return utc("UtcTime", &utc_time);
    }
    if let Some(created) = text(record, "TimeCreated").filter(|_| !record.contains_key("@timestamp")) {
        return utc("TimeCreated", &created);
    }
    let shipped = text(record, "@timestamp").ok_or("neither UtcTime nor @timestamp nor TimeCreated")?;
    DateTime::parse_from_rfc3339(&shipped)
        .map(|time| time.timestamp_micros())
        .map_err(|error| format!("@timestamp {shipped:?}: {error}"))
}

/// A text that says something; Windows writes `-` where it has nothing to say.
fn text(record: &Map<String, Value>, field: &str) -> Option<String> {
    match record.get(field)? {
        Value::String(text) if !text.is_empty() && text != "-" => Some(text.clone()),
        _ => None,
    }
}

/// A number as a number, as decimal text or as hexadecimal text.
fn integer(record: &Map<String, Value>, field: &str) -> Option<i64> {
    match record.get(field)? {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => match text.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        },
        _ => None,
    }
}

fn number(record: &Map<String, Value>, field: &str) -> Option<i64> {
    integer(record, field)
}

fn port(record: &Map<String, Value>, field: &str) -> Result<Option<i32>, String> {
    match integer(record, field) {
        None => Ok(None),
        Some(port) => {
            u16::try_from(port).map(|port| Some(i32::from(port))).map_err(|_| format!("{field} {port}"))
        }
    }
}

/// `DOMAIN\name` without the domain.
fn account(record: &Map<String, Value>, field: &str) -> Option<String> {
    let user = text(record, field)?;
    Some(user.rsplit('\\').next().unwrap_or(&user).to_owned())
}

fn base_name(path: &str) -> String {
    path.rsplit(['\\', '/']).next().unwrap_or(path).to_owned()
}

fn sha256(hashes: &str) -> Option<String> {
    hashes.split(',').find_map(|hash| hash.strip_prefix("SHA256=")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mapped(record: &Value) -> Result<Mapped, String> {
        map(record.as_object().unwrap())
    }

    #[test]
    fn a_sysmon_start_keeps_path_parent_and_hash() {
        let event = mapped(&json!({
            "EventID": 1, "Channel": "Microsoft-Windows-Sysmon/Operational", "Hostname": "W1",
            "UtcTime": "2020-06-10 02:51:04.728", "User": "CORP\\alice", "ProcessId": "2008",
            "ParentProcessId": "696", "ParentImage": "C:\\Windows\\explorer.exe",
            "Image": "C:\\Users\\alice\\Downloads\\a.exe", "CommandLine": "a.exe /s",
            "Hashes": "SHA1=00,SHA256=AB12",
        }))
        .unwrap();
        assert_eq!(event.event_time, 1_591_757_464_728_000);
        assert_eq!(event.user.as_deref(), Some("alice"));
        let Payload::ProcessEvent(process) = event.payload else { panic!("not a process event") };
        assert_eq!(process.name.as_deref(), Some("a.exe"));
        assert_eq!(process.parent_name.as_deref(), Some("explorer.exe"));
        assert_eq!(process.parent_pid, Some(696));
        assert_eq!(process.hash.as_deref(), Some("AB12"));
    }

    #[test]
    fn the_security_log_counts_in_hexadecimal() {
        let event = mapped(&json!({
            "EventID": 4688, "Channel": "Security", "Hostname": "W1", "@timestamp": "2020-06-10T02:51:05.734Z",
            "NewProcessId": "0x7d8", "ProcessId": "0x2b8", "NewProcessName": "C:\\Windows\\System32\\sppsvc.exe",
        }))
        .unwrap();
        let Payload::ProcessEvent(process) = event.payload else { panic!("not a process event") };
        assert_eq!((process.pid, process.parent_pid), (Some(2008), Some(696)));
    }

    #[test]
    fn an_inbound_connection_has_its_remote_end_at_the_source() {
        let event = mapped(&json!({
            "EventID": 3, "Channel": "Microsoft-Windows-Sysmon/Operational", "Hostname": "W1", "Initiated": "false",
            "UtcTime": "2020-06-10 02:50:55.662", "SourceIp": "10.0.0.9", "SourcePort": "53",
            "DestinationIp": "10.0.0.1", "DestinationPort": "49246", "Protocol": "udp", "Image": "C:\\a\\dns.exe",
        }))
        .unwrap();
        let Payload::NetworkEvent(connection) = event.payload else { panic!("not a connection") };
        assert_eq!(connection.remote_address.as_deref(), Some("10.0.0.9"));
        assert_eq!(connection.local_port, Some(49246));
        assert_eq!(connection.direction.as_deref(), Some("in"));
    }

    #[test]
    fn what_cannot_be_mapped_says_why() {
        assert!(mapped(&json!({"EventID": 7, "Channel": "Security"})).unwrap_err().contains("event 7"));
        assert!(mapped(&json!({"Channel": "Security"})).unwrap_err().contains("EventID"));
        let no_time = json!({"EventID": 4689, "Channel": "Security", "Hostname": "W", "ProcessName": "a"});
        assert!(mapped(&no_time).unwrap_err().contains("@timestamp"));
    }
}

//! What is recorded: this machine, by the agent's own monitors, and if a file is given, events of Windows machines.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use edge_agent::monitors::{self, MonitorsConfig, ProcessConfig, SystemConfig};
use schemas::event::{FileEvent, NetworkEvent, Payload, ProcessEvent, event_type};
use serde_json::Value;

/// Between two looks at the machine; processor load needs more than 200 ms.
const STEP: Duration = Duration::from_millis(250);
/// Of these looks one has the processes that consume most.
const SAMPLED: u32 = 6;

/// Something that a monitor or the recording of a machine said.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) event_type: String,
    pub(crate) source: String,
    pub(crate) user: Option<String>,
    pub(crate) payload: Payload,
    /// µs after the look began.
    pub(crate) delay: i64,
}

/// A recording that a machine can repeat.
#[derive(Debug)]
pub(crate) struct Recording {
    /// What all monitors said at one time, in order.
    pub(crate) looks: Vec<Vec<Seen>>,
    /// Single events, in order.
    pub(crate) events: Vec<Seen>,
}

/// Asks this machine's monitors `looks` times. Events of programs come from the file if there is one: lines of JSON as
/// Sysmon writes them (1, 3, 5, 11), perhaps packed by gzip. Otherwise each program that runs counts as started.
pub(crate) fn record(looks: usize, windows: Option<&Path>) -> Recording {
    let config = MonitorsConfig {
        system: SystemConfig { cpu_interval: STEP, memory_interval: STEP, ..SystemConfig::default() },
        process: ProcessConfig {
            interval: STEP,
            sample_interval: STEP * SAMPLED,
            ..ProcessConfig::default()
        },
        ..MonitorsConfig::default()
    };
    let state = tempfile::tempdir().expect("a folder");
    let mut monitors = monitors::build(&config, state.path());
    let (mut recorded, mut started, began) = (Vec::new(), Vec::new(), Instant::now());
    // the first looks have nothing to compare with
    while recorded.len() < looks + 2 {
        let look = Instant::now();
        let mut seen = Vec::new();
        for monitor in &mut monitors {
            let now = began.elapsed().as_micros() as i64 + 1_600_000_000_000_000;
            let delay = look.elapsed().as_micros() as i64;
            seen.extend(monitor.sample(now).into_iter().map(|one| Seen {
                event_type: one.event_type.into_owned(),
                source: one.source.into_owned(),
                user: one.user.map(|user| user.to_string()),
                payload: one.payload,
                delay,
            }));
        }
        let (metrics, others): (Vec<Seen>, Vec<Seen>) = seen
            .into_iter()
            .partition(|one| matches!(one.payload, Payload::HostMetrics(_) | Payload::ProcessSample(_)));
        recorded.push(metrics);
        started.extend(others);
        std::thread::sleep(STEP.saturating_sub(look.elapsed()));
    }
    recorded.drain(..2);
    let mut events = match windows {
        Some(file) => of_windows(file),
        None => started,
    };
    if events.is_empty() {
        events = running();
    }
    Recording { looks: recorded, events }
}

fn single(kind: &str, source: &str, user: Option<String>, payload: Payload) -> Seen {
    Seen { event_type: kind.to_owned(), source: source.to_owned(), user, payload, delay: 0 }
}

/// Programs that run now, as if each had just begun.
fn running() -> Vec<Seen> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let Ok(path) = fs_err::read_link(format!("/proc/{pid}/exe")) else { continue };
        let line = fs_err::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let event = ProcessEvent {
            pid: pid.parse().ok(),
            parent_pid: Some(1),
            name: path.file_name().map(|name| name.to_string_lossy().into_owned()),
            path: Some(path.to_string_lossy().into_owned()),
            command_line: Some(line.replace('\0', " ").chars().take(400).collect()),
            ..ProcessEvent::default()
        };
        found.push(single(event_type::PROCESS_STARTED, "process/procfs", None, Payload::ProcessEvent(event)));
    }
    found
}

fn of_windows(file: &Path) -> Vec<Seen> {
    let bytes = fs_err::File::open(file).unwrap();
    let is_packed = file.extension().is_some_and(|extension| extension == "gz");
    let text: Box<dyn Read> =
        if is_packed { Box::new(flate2::read::MultiGzDecoder::new(bytes)) } else { Box::new(bytes) };
    let lines = BufReader::new(text).lines().map(Result::unwrap);
    let events = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    events.filter_map(|event| of_sysmon(&event)).collect()
}

fn of_sysmon(event: &Value) -> Option<Seen> {
    let text = |name: &str| event[name].as_str().filter(|text| *text != "-").map(str::to_owned);
    let number = |name: &str| event[name].as_str().and_then(|text| text.parse::<i64>().ok());
    let file_name = |path: &str| path.rsplit('\\').next().unwrap_or_default().to_owned();
    let image = text("Image");
    let name = image.as_deref().map(file_name);
    let (kind, payload) = match event["EventID"].as_i64()? {
        id @ (1 | 5) => {
            let program = ProcessEvent {
                pid: number("ProcessId"),
                parent_pid: number("ParentProcessId"),
                parent_name: text("ParentImage").as_deref().map(file_name),
                name,
                path: image,
                command_line: text("CommandLine"),
                hash: text("Hashes"),
                ..ProcessEvent::default()
            };
            let kind = if id == 1 { event_type::PROCESS_STARTED } else { event_type::PROCESS_STOPPED };
            (kind, Payload::ProcessEvent(program))
        }
        3 => {
            let connection = NetworkEvent {
                remote_address: text("DestinationIp"),
                remote_port: number("DestinationPort").and_then(|port| port.try_into().ok()),
                protocol: text("Protocol"),
                process_name: name,
                pid: number("ProcessId"),
                ..NetworkEvent::default()
            };
            (event_type::CONNECTION, Payload::NetworkEvent(connection))
        }
        11 => {
            let path = text("TargetFilename");
            let file =
                FileEvent { path, process_name: name, pid: number("ProcessId"), ..FileEvent::default() };
            (event_type::FILE_CREATED, Payload::FileEvent(file))
        }
        _ => return None,
    };
    Some(single(kind, "replay/sysmon", text("User"), payload))
}

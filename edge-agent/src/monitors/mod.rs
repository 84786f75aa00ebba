//! What watches the machine: one trait, one file or folder for each thing that is watched.
//!
//! A monitor only looks; it numbers nothing, stores nothing and knows no network. It reads with the
//! rights it has: what it may not see it reports as missing and leaves out.

mod cpu;
mod disk;
mod input;
mod memory;
mod network;
pub mod process;
#[cfg(target_os = "linux")]
mod users;

use std::path::Path;
use std::time::Duration;

use runtime::config::{Check, Problems, key};
use serde::Deserialize;

use crate::observation::Observation;
pub use process::ProcessConfig;

/// Whether a monitor can see what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// It can.
    Present,
    /// It cannot, and why: no display, no right, not built in.
    Missing(String),
}

/// Something that looks at the machine at intervals.
///
/// The scheduler calls `sample` on one thread, never twice at the same `now`.
pub trait Monitor: Send {
    /// Name, unique within the agent; the key of its cursor and capability.
    fn name(&self) -> &'static str;

    /// Which monitor and method sees it, e.g. `process/procfs`: the `source` of its events.
    fn source(&self) -> &'static str;

    /// Whether it can see anything here; may change while running.
    fn capability(&self) -> Capability;

    /// How often it wants to be asked.
    fn interval(&self) -> Duration;

    /// Looks now (µs since 1970-01-01 UTC, later than every `now` before) and returns what it saw,
    /// in order. Must not wait for anything but the kernel.
    fn sample(&mut self, now: i64) -> Vec<Observation>;

    /// Event time such that no later `sample` returns anything at or before it. `now` is a reading
    /// of the same clock after the last sample. Whoever stamps observations with the `now` of
    /// their sample can leave it as it is.
    fn low_water(&self, now: i64) -> i64 {
        now
    }

    /// How far it has got, for a source that continues exactly where it was: saved in the
    /// transaction that stores the observations of the last sample.
    fn cursor(&self) -> Option<i64> {
        None
    }

    /// Called before the first sample with the cursor that was saved last.
    fn resume(&mut self, _cursor: i64) {}
}

/// Which monitors run and how often they look.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MonitorsConfig {
    /// CPU, memory, disks, network.
    pub system: SystemConfig,
    /// Start and stop of programs, and what they consume.
    pub process: ProcessConfig,
    /// Whether keyboard and mouse are in use.
    pub input: InputConfig,
}

/// Intervals of the system monitors; zero switches one off.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SystemConfig {
    /// Processor load and load average.
    #[serde(with = "humantime_serde")]
    pub cpu_interval: Duration,
    /// Memory and swap.
    #[serde(with = "humantime_serde")]
    pub memory_interval: Duration,
    /// Space and traffic of disks.
    #[serde(with = "humantime_serde")]
    pub disk_interval: Duration,
    /// Traffic and state of network interfaces.
    #[serde(with = "humantime_serde")]
    pub network_interval: Duration,
    /// Interfaces left out; a trailing `*` stands for anything.
    pub ignore_interfaces: Vec<String>,
}

impl Default for SystemConfig {
    fn default() -> Self {
        Self {
            cpu_interval: Duration::from_secs(1),
            memory_interval: Duration::from_secs(5),
            disk_interval: Duration::from_mins(1),
            network_interval: Duration::from_secs(5),
            ignore_interfaces: ["lo", "veth*", "br-*", "docker*"].map(str::to_owned).to_vec(),
        }
    }
}

/// The input monitor counts; it never sees which key.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputConfig {
    /// Off leaves the capability out.
    pub enabled: bool,
    /// Counting interval.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

impl Default for InputConfig {
    fn default() -> Self {
        Self { enabled: true, interval: Duration::from_secs(10) }
    }
}

/// Shortest interval of any monitor.
const SHORTEST: Duration = Duration::from_millis(100);

pub(crate) fn check_interval(at: &str, name: &str, interval: Duration, problems: &mut Problems) {
    if !interval.is_zero() && interval < SHORTEST {
        problems.add(key(at, name), "is shorter than 100ms", Some("0s switches it off".to_owned()));
    }
}

impl Check for MonitorsConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        let system = key(at, "system");
        check_interval(&system, "cpu_interval", self.system.cpu_interval, problems);
        check_interval(&system, "memory_interval", self.system.memory_interval, problems);
        check_interval(&system, "disk_interval", self.system.disk_interval, problems);
        check_interval(&system, "network_interval", self.system.network_interval, problems);
        self.process.check(&key(at, "process"), problems);
        if self.input.interval < Duration::from_secs(1) {
            problems.add(key(&key(at, "input"), "interval"), "is shorter than 1s", None);
        }
    }
}

/// The monitors that the configuration asks for; what they remember over restarts is in `state_dir`. One that cannot start is left out with a warning:
/// the others still see.
pub fn build(config: &MonitorsConfig, state_dir: &Path) -> Vec<Box<dyn Monitor>> {
    let system = &config.system;
    let mut monitors: Vec<Box<dyn Monitor>> = Vec::new();
    if !system.cpu_interval.is_zero() {
        keep(&mut monitors, "cpu", cpu::CpuMonitor::open(system.cpu_interval));
    }
    if !system.memory_interval.is_zero() {
        keep(&mut monitors, "memory", memory::MemoryMonitor::open(system.memory_interval));
    }
    if !system.disk_interval.is_zero() {
        keep(&mut monitors, "disk", disk::DiskMonitor::open(system.disk_interval));
    }
    if !system.network_interval.is_zero() {
        let ignored = system.ignore_interfaces.clone();
        keep(&mut monitors, "network", network::NetworkMonitor::open(system.network_interval, ignored));
    }
    if !config.process.interval.is_zero() {
        keep(&mut monitors, "process", process::open(&config.process, state_dir));
    }
    if config.input.enabled {
        monitors.push(Box::new(input::InputMonitor::start(config.input.interval)));
    }
    monitors
}

fn keep<M: Monitor + 'static, E: std::fmt::Display>(
    monitors: &mut Vec<Box<dyn Monitor>>,
    name: &str,
    opened: Result<M, E>,
) {
    match opened {
        Ok(monitor) => monitors.push(Box::new(monitor)),
        Err(error) => tracing::warn!(monitor = name, %error, "monitor cannot run here"),
    }
}

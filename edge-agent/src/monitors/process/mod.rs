//! Programs that start and stop, and what they consume.
//!
//! Start and stop are the difference of two polls; a process is known by pid and birth, so a pid
//! that was given away again is a stop and a start. A program that begins and ends between two
//! polls is not seen: that takes an event source of the kernel, which needs rights that this agent
//! does not ask for. Kernel threads are left out. What runs when the agent starts is the baseline
//! and makes no events.
//!
//! ```text
//! poll      ├───────────┼───────────┼──────▶      event time of a start: its own start time,
//!           1 s         1 s                        kept within the poll interval that found it
//! samples   ├───────── sample_interval ────▶      all statistics, grouped by program
//! ```

#[cfg(any(not(target_os = "linux"), test))]
mod portable;
#[cfg(target_os = "linux")]
mod procfs;
mod programs;
mod sampling;
pub mod scrub;
mod source;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use runtime::config::{ByteSize, Check, Problems, key};
use schemas::event::{Payload, ProcessEvent, event_type};
use schemas::identity::Lane;
use serde::Deserialize;

use super::{Capability, Monitor, check_interval};
use crate::observation::Observation;
pub use programs::Programs;
use sampling::{Pick, Usage};
pub use source::{Details, ProcessSource, Stat};

/// What is told about processes.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessConfig {
    /// How often processes are listed; zero switches the monitor off.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How often load and memory are sampled; zero switches the samples off.
    #[serde(with = "humantime_serde")]
    pub sample_interval: Duration,
    /// So many programs by load, and by memory, are in each sample.
    pub top: usize,
    /// Every program above this load is in it too, in percent of one processor.
    pub cpu_percent: f64,
    /// Every program above this memory is in it too.
    pub memory: ByteSize,
    /// Whether the command line is told; it is always scrubbed of secrets.
    pub command_line: bool,
    /// Programs whose start and stop are critical because work depends on them.
    pub important: Vec<String>,
    /// Programs whose start and stop are critical because they are not allowed.
    pub forbidden: Vec<String>,
    /// Programs that are never told, e.g. parts of the system.
    pub exclude: Vec<String>,
    /// If not empty, start and stop of these programs only.
    pub only: Vec<String>,
    /// For so long after the first start of all no program is called new: they all are.
    #[serde(with = "humantime_serde")]
    pub learn: Duration,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            sample_interval: Duration::from_secs(30),
            top: 10,
            cpu_percent: 20.0,
            memory: ByteSize::gib(1),
            command_line: true,
            important: Vec::new(),
            forbidden: Vec::new(),
            exclude: Vec::new(),
            only: Vec::new(),
            learn: Duration::from_hours(7 * 24),
        }
    }
}

impl Check for ProcessConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        check_interval(at, "interval", self.interval, problems);
        check_interval(at, "sample_interval", self.sample_interval, problems);
        if self.cpu_percent.is_nan() || self.cpu_percent <= 0.0 {
            problems.add(key(at, "cpu_percent"), "is not above 0", None);
        }
        for name in &self.important {
            if self.forbidden.contains(name) {
                problems.add(key(at, "forbidden"), format!("`{name}` is important as well"), None);
            }
        }
    }
}

/// File of the programs that were seen, in the folder of the agent's state.
const PROGRAMS: &str = "programs";

/// The monitor over this system's processes.
pub(super) fn open(config: &ProcessConfig, state_dir: &Path) -> io::Result<ProcessMonitor> {
    #[cfg(target_os = "linux")]
    let source = procfs::ProcFs::open(std::path::Path::new("/proc"))?;
    #[cfg(not(target_os = "linux"))]
    let source = portable::Portable::open()?;
    let programs = Programs::open(&state_dir.join(PROGRAMS), config.learn);
    Ok(ProcessMonitor::new(config, Box::new(source), programs))
}

#[derive(Debug)]
struct Known {
    birth: u64,
    started_at: i64,
    parent: u32,
    /// As the system tells it, possibly shortened.
    short_name: String,
    name: String,
    path: Option<String>,
    user: Option<Arc<str>>,
    kernel: bool,
    /// Processor time at the last sample, in µs.
    cpu_us: u64,
    /// Seen for the first time in the last poll: it may not yet have become what it will be.
    young: bool,
}

/// See the module's description.
pub struct ProcessMonitor {
    source: Box<dyn ProcessSource>,
    programs: Programs,
    interval: Duration,
    sample_us: Option<i64>,
    pick: Pick,
    tell: Tell,
    known: HashMap<u32, Known>,
    last_poll: Option<i64>,
    last_sample: Option<i64>,
    broken: Option<String>,
}

impl ProcessMonitor {
    /// A monitor over any list of processes.
    pub fn new(config: &ProcessConfig, source: Box<dyn ProcessSource>, programs: Programs) -> Self {
        let sample_us = i64::try_from(config.sample_interval.as_micros()).ok().filter(|us| *us > 0);
        Self {
            source,
            programs,
            interval: config.interval,
            sample_us,
            pick: Pick {
                top: config.top,
                cpu_percent: config.cpu_percent,
                memory_bytes: config.memory.bytes(),
            },
            tell: Tell::new(config),
            known: HashMap::new(),
            last_poll: None,
            last_sample: None,
            broken: None,
        }
    }

    fn poll(&mut self, now: i64) -> io::Result<Vec<Observation>> {
        let pids = self.source.pids()?;
        let repeats = self.source.pids_may_repeat();
        let alive: HashSet<u32> = pids.iter().copied().collect();
        let window = self.last_poll.map(|last| (last + 1, now));
        let mut seen = Vec::new();

        let gone: Vec<u32> = self.known.keys().filter(|pid| !alive.contains(pid)).copied().collect();
        for pid in gone {
            self.stopped(pid, window, &mut seen);
        }
        for pid in pids {
            let is_young = match self.known.get(&pid) {
                Some(known) if !known.young && !repeats => continue,
                Some(known) => known.young,
                None => false,
            };
            let Some(stat) = self.source.stat(pid) else {
                continue;
            };
            match self.known.get_mut(&pid) {
                Some(known) if known.birth == stat.birth => {
                    known.young = false;
                    // Between fork and exec a process still has its parent's name.
                    if !is_young || known.short_name == stat.name {
                        continue;
                    }
                }
                Some(_) => self.stopped(pid, window, &mut seen),
                None => {}
            }
            self.started(pid, stat, (window, now), &mut seen);
        }
        seen.sort_by_key(|event| event.event_time);
        Ok(seen)
    }

    fn started(
        &mut self,
        pid: u32,
        stat: Stat,
        (window, now): (Option<(i64, i64)>, i64),
        seen: &mut Vec<Observation>,
    ) {
        let mut details = if stat.kernel { Details::default() } else { self.source.details(pid) };
        let name = full_name(&stat.name, details.path.as_deref());
        let again = self.known.contains_key(&pid);
        // What runs when the agent starts is nothing new either.
        let first_seen = details.path.as_deref().and_then(|path| self.programs.meet(path, now));
        if let Some((from, to)) = window
            && !stat.kernel
        {
            let parent_name = self.known.get(&stat.parent).map(|parent| parent.name.clone());
            let arguments = std::mem::take(&mut details.arguments);
            let event = ProcessEvent {
                pid: Some(i64::from(pid)),
                parent_pid: Some(i64::from(stat.parent)),
                parent_name,
                name: Some(name.clone()),
                path: details.path.clone(),
                command_line: (self.tell.command_line && !arguments.is_empty())
                    .then(|| scrub::command_line(&arguments)),
                started_at: Some(stat.started_at),
                first_seen,
                ..ProcessEvent::default()
            };
            let time = if again { to } else { stat.started_at.clamp(from, to) };
            let user = details.user.clone();
            seen.extend(self.event(event_type::PROCESS_STARTED, time, &name, user, event));
        }
        let known = Known {
            birth: stat.birth,
            started_at: stat.started_at,
            parent: stat.parent,
            short_name: stat.name,
            name,
            path: details.path,
            user: details.user,
            kernel: stat.kernel,
            cpu_us: stat.cpu_us,
            young: window.is_some() && !again,
        };
        self.known.insert(pid, known);
    }

    fn stopped(&mut self, pid: u32, window: Option<(i64, i64)>, seen: &mut Vec<Observation>) {
        let Some(known) = self.known.remove(&pid) else {
            return;
        };
        let Some((_, to)) = window.filter(|_| !known.kernel) else {
            return;
        };
        let event = ProcessEvent {
            pid: Some(i64::from(pid)),
            parent_pid: Some(i64::from(known.parent)),
            name: Some(known.name.clone()),
            path: known.path,
            started_at: Some(known.started_at),
            ..ProcessEvent::default()
        };
        seen.extend(self.event(event_type::PROCESS_STOPPED, to, &known.name, known.user, event));
    }

    fn event(
        &self,
        event_type: &'static str,
        time: i64,
        name: &str,
        user: Option<Arc<str>>,
        event: ProcessEvent,
    ) -> Option<Observation> {
        let lane = self.tell.lane(name)?;
        let source = self.source.label();
        Some(Observation::new(time, lane, event_type, source, Payload::ProcessEvent(event)).with_user(user))
    }

    fn sample_usage(&mut self, now: i64) -> Vec<Observation> {
        let elapsed_us = self.last_sample.replace(now).map(|last| now - last);
        let mut usages = Vec::with_capacity(self.known.len());
        for (pid, known) in &mut self.known {
            if known.kernel {
                continue;
            }
            let Some(stat) = self.source.stat(*pid).filter(|stat| stat.birth == known.birth) else {
                continue;
            };
            let used = stat.cpu_us.saturating_sub(known.cpu_us);
            known.cpu_us = stat.cpu_us;
            let Some(elapsed_us) = elapsed_us.filter(|us| *us > 0) else {
                continue;
            };
            if self.tell.exclude.contains(&fold(&known.name)) {
                continue;
            }
            usages.push(Usage {
                pid: *pid,
                name: known.name.clone(),
                path: known.path.clone(),
                cpu_percent: used as f64 / elapsed_us as f64 * 100.0,
                memory_bytes: stat.memory_bytes,
            });
        }
        let source = self.source.label();
        let rows = sampling::sample(usages, self.pick, now).into_iter();
        rows.map(|row| {
            Observation::new(now, Lane::Bulk, event_type::PROCESS_SAMPLE, source, Payload::ProcessSample(row))
        })
        .collect()
    }
}

impl Monitor for ProcessMonitor {
    fn name(&self) -> &'static str {
        "process"
    }

    fn source(&self) -> &'static str {
        self.source.label()
    }

    fn capability(&self) -> Capability {
        match &self.broken {
            Some(why) => Capability::Missing(why.clone()),
            None => Capability::Present,
        }
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn sample(&mut self, now: i64) -> Vec<Observation> {
        self.programs.keep(now);
        let mut seen = match self.poll(now) {
            Ok(seen) => seen,
            Err(error) => {
                if self.broken.is_none() {
                    tracing::warn!(%error, "processes cannot be listed");
                }
                self.broken = Some(error.to_string());
                // What is found later is told from here on: lane marks must not stand still.
                self.last_poll = self.last_poll.map(|_| now);
                return Vec::new();
            }
        };
        self.broken = None;
        self.last_poll = Some(now);
        // A poll may come a little early: half an interval of grace keeps the rhythm.
        let grace = i64::try_from(self.interval.as_micros() / 2).unwrap_or(0);
        if let Some(sample_us) = self.sample_us
            && self.last_sample.is_none_or(|last| now - last + grace >= sample_us)
        {
            seen.extend(self.sample_usage(now));
        }
        seen
    }

    /// A start found by the next poll may lie anywhere after the last one.
    fn low_water(&self, now: i64) -> i64 {
        self.last_poll.unwrap_or(now)
    }
}

/// Which programs are told, and how urgently; names are compared without case and `.exe`.
#[derive(Debug)]
struct Tell {
    command_line: bool,
    critical: HashSet<String>,
    exclude: HashSet<String>,
    only: HashSet<String>,
}

impl Tell {
    fn new(config: &ProcessConfig) -> Self {
        let set = |names: &[String]| names.iter().map(|name| fold(name)).collect::<HashSet<_>>();
        let mut critical = set(&config.important);
        critical.extend(set(&config.forbidden));
        Self {
            command_line: config.command_line,
            critical,
            exclude: set(&config.exclude),
            only: set(&config.only),
        }
    }

    fn lane(&self, name: &str) -> Option<Lane> {
        let name = fold(name);
        if self.critical.contains(&name) {
            return Some(Lane::Critical);
        }
        let told = !self.exclude.contains(&name) && (self.only.is_empty() || self.only.contains(&name));
        told.then_some(Lane::Normal)
    }
}

fn fold(name: &str) -> String {
    let name = name.to_lowercase();
    name.strip_suffix(".exe").map_or(name.clone(), str::to_owned)
}

/// Linux keeps 15 bytes of a name; the path may know the rest.
fn full_name(name: &str, path: Option<&str>) -> String {
    let base = path.and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    if name.len() >= 15 && base.starts_with(name) { base.to_owned() } else { name.to_owned() }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

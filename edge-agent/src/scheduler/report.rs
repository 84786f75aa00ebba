//! What the agent says about itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use schemas::event::{AgentStatus, Payload, event_type};
use schemas::identity::Lane;
use schemas::status::{LaneMark, Tails};

use crate::monitors::{Capability, Monitor};
use crate::observation::Observation;
use crate::outbox::{LANES, SessionStart, Stats};
use crate::publisher::Link;

const SOURCE: &str = "agent/self";

/// After so long without a new row a lane is marked again.
const EMPTY_LANE: Duration = Duration::from_secs(10);

/// The first event of a session: what the machine is, what can be seen, where the last session ended.
pub(crate) fn started(
    start: &SessionStart,
    monitors: &[Box<dyn Monitor>],
    interval: Duration,
    now: i64,
) -> Observation {
    let tails: Tails = start.previous.tails.iter().copied().collect();
    let status = AgentStatus {
        agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        os: sysinfo::System::name().ok().or_else(|| Some(std::env::consts::OS.to_owned())),
        os_version: sysinfo::System::os_version().ok(),
        time_zone: time_zone(),
        previous_session: start.previous.session,
        tails: (!tails.is_empty()).then(|| json(&tails)),
        lanes: Some(json(&LANES)),
        interval_s: Some(interval.as_secs_f64()),
        capabilities: Some(json(&capabilities(monitors.iter().map(AsRef::as_ref)))),
        ..AgentStatus::default()
    };
    Observation::new(now, Lane::Critical, event_type::AGENT_STARTED, SOURCE, Payload::AgentStatus(status))
}

/// The last event of a session that ends cleanly.
pub(super) fn stopped(stats: &Stats, now: i64) -> Observation {
    let status = AgentStatus {
        reason: Some("asked to stop".to_owned()),
        queue_rows: Some(stats.all_rows() as i64),
        ..AgentStatus::default()
    };
    Observation::new(now, Lane::Critical, event_type::AGENT_STOPPED, SOURCE, Payload::AgentStatus(status))
}

/// Health, with the lane marks.
pub(super) fn health(
    stats: &Stats,
    capabilities: Option<&BTreeMap<&'static str, String>>,
    interval: Duration,
    link: &Link,
    usage: Usage,
    now: i64,
) -> Observation {
    let marks = stats.marks.map(|marks| {
        let of_lane =
            |(lane, mark): (Lane, crate::outbox::Mark)| LaneMark { lane, seq: mark.seq, time: mark.time };
        LANES.into_iter().zip(marks).map(of_lane).collect::<Vec<_>>()
    });
    let status = AgentStatus {
        marks: marks.map(|marks| json(&marks)),
        lanes: Some(json(&LANES)),
        interval_s: Some(interval.as_secs_f64()),
        oldest_event_time: stats.oldest,
        queue_rows: Some(stats.all_rows() as i64),
        queue_bytes: Some(stats.bytes.iter().sum::<u64>() as i64),
        queue_limit_bytes: Some(stats.limit as i64),
        shed_total: Some(stats.shed_total as i64),
        cpu_percent: usage.cpu_percent,
        memory_bytes: usage.memory_bytes,
        capabilities: capabilities.map(json),
        connection: Some(link.connection()),
        ..AgentStatus::default()
    };
    Observation::new(now, Lane::Normal, event_type::AGENT_HEALTH, SOURCE, Payload::AgentStatus(status))
}

/// Each monitor with `ok` or what it is missing.
pub(super) fn capabilities<'a>(
    monitors: impl Iterator<Item = &'a dyn Monitor>,
) -> BTreeMap<&'static str, String> {
    let text = |capability| match capability {
        Capability::Present => "ok".to_owned(),
        Capability::Missing(why) => format!("missing: {why}"),
    };
    monitors.map(|monitor| (monitor.name(), text(monitor.capability()))).collect()
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The zone's IANA name, where the system keeps one.
fn time_zone() -> Option<String> {
    if let Ok(zone) = std::env::var("TZ")
        && !zone.is_empty()
    {
        return Some(zone.trim_start_matches(':').to_owned());
    }
    if let Ok(target) = std::fs::read_link("/etc/localtime")
        && let Some((_, zone)) = target.to_string_lossy().split_once("zoneinfo/")
    {
        return Some(zone.to_owned());
    }
    let text = std::fs::read_to_string("/etc/timezone").ok()?;
    Some(text.trim().to_owned()).filter(|zone| !zone.is_empty())
}

/// What the agent itself costs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    /// Percent of one processor since the last reading.
    pub(super) cpu_percent: Option<f64>,
    /// Resident memory in bytes.
    pub(super) memory_bytes: Option<i64>,
}

/// Measures the agent itself, where the system tells.
#[derive(Debug, Default)]
pub(super) struct SelfUsage {
    last: Option<(Instant, u64)>,
}

impl SelfUsage {
    pub(super) fn read(&mut self) -> Usage {
        let at = Instant::now();
        let Some((cpu_us, memory_bytes)) = read_self() else {
            return Usage::default();
        };
        let cpu_percent = self.last.replace((at, cpu_us)).map(|(then, before)| {
            let elapsed_us = at.duration_since(then).as_micros().max(1) as f64;
            (cpu_us.saturating_sub(before) as f64 / elapsed_us * 10_000.0).round() / 100.0
        });
        Usage { cpu_percent, memory_bytes: Some(memory_bytes) }
    }
}

/// Processor time in µs and resident bytes of this process, from `/proc/self/stat` and `status`.
fn read_self() -> Option<(u64, i64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some((ticks * 10_000, kib * 1024))
}

/// When the next health report is due.
#[derive(Debug)]
pub(super) struct ReportClock {
    interval: Duration,
    offline_interval: Duration,
    last: Option<Instant>,
    last_seq: [i64; 3],
    /// When each lane last had a new row.
    grown_at: [Instant; 3],
}

impl ReportClock {
    pub(super) fn new(interval: Duration, offline_interval: Duration, now: Instant) -> Self {
        Self { interval, offline_interval, last: None, last_seq: [-1; 3], grown_at: [now; 3] }
    }

    /// Whether to report now: at intervals, and when a lane has been empty for 10 s since its last
    /// row or the last report; rarely while there is no broker.
    pub(super) fn is_due(&mut self, last_seq: [i64; 3], connected: bool, now: Instant) -> bool {
        for ((seq, before), grown_at) in last_seq.iter().zip(self.last_seq).zip(&mut self.grown_at) {
            if *seq != before {
                *grown_at = now;
            }
        }
        self.last_seq = last_seq;
        let Some(last) = self.last else {
            self.last = Some(now);
            return false;
        };
        let interval = if connected { self.interval } else { self.offline_interval };
        let is_empty = |grown: &Instant| now.duration_since((*grown).max(last)) >= EMPTY_LANE;
        let due = now.duration_since(last) >= interval || connected && self.grown_at.iter().any(is_empty);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::{Mark, Previous};

    #[test]
    fn the_first_event_names_the_tails_of_the_session_before() {
        let previous = Previous { session: Some(7), tails: vec![(Lane::Critical, 3), (Lane::Bulk, 90)] };
        let start = SessionStart { session: 8, previous, cursors: Vec::new() };
        let event = started(&start, &[], Duration::from_secs(10), 9);
        let Payload::AgentStatus(status) = event.payload else { panic!("not a status") };
        assert_eq!(status.previous_session, Some(7));
        assert_eq!(status.tails.as_deref(), Some(r#"{"critical":3,"bulk":90}"#));
        assert_eq!(status.lanes.as_deref(), Some(r#"["critical","normal","bulk"]"#));
        assert_eq!(event.lane, Lane::Critical);
    }

    #[test]
    fn health_carries_the_marks() {
        let mark = |seq| Mark { seq, time: 55 };
        let stats = Stats {
            session: 8,
            rows: [1, 2, 3],
            bytes: [10, 20, 30],
            limit: 1000,
            last_seq: [1, 2, 3],
            marks: Some([mark(1), mark(2), mark(-1)]),
            shed_total: 4,
            oldest: Some(44),
        };
        let event = health(&stats, None, Duration::from_secs(10), &Link::default(), Usage::default(), 60);
        let Payload::AgentStatus(status) = event.payload else { panic!("not a status") };
        let marks: Vec<LaneMark> = serde_json::from_str(status.marks.as_deref().unwrap()).unwrap();
        assert_eq!(marks[1], LaneMark { lane: Lane::Normal, seq: 2, time: 55 });
        assert_eq!(marks.len(), 3);
        assert_eq!(
            (status.queue_rows, status.queue_bytes, status.oldest_event_time),
            (Some(6), Some(60), Some(44))
        );
    }

    #[test]
    fn reports_come_at_intervals_when_a_lane_is_empty_and_rarely_offline() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut clock = ReportClock::new(Duration::from_mins(1), Duration::from_mins(5), start);
        assert!(!clock.is_due([0, 0, 0], true, at(0)));
        assert!(!clock.is_due([1, 1, 1], true, at(9)));
        assert!(!clock.is_due([2, 1, 2], true, at(18)));
        assert!(clock.is_due([3, 1, 3], true, at(19)), "normal has been empty for 10 s");
        assert!(!clock.is_due([4, 2, 4], true, at(28)));
        assert!(clock.is_due([4, 2, 4], true, at(38)), "all empty since 28");
        assert!(!clock.is_due([4, 2, 4], false, at(200)));
        assert!(clock.is_due([4, 2, 4], false, at(338)));
    }

    #[test]
    fn the_agent_measures_itself() {
        let mut usage = SelfUsage::default();
        assert_eq!(usage.read().cpu_percent, None);
        let second = usage.read();
        assert!(second.cpu_percent.unwrap() >= 0.0 && second.memory_bytes.unwrap() > 1_000_000);
    }
}

//! Processor load of the machine and its load average.

use std::time::Duration;

use schemas::event::{HostMetrics, Payload, event_type};
use schemas::identity::Lane;
use sysinfo::{CpuRefreshKind, System};

use super::{Capability, Monitor};
use crate::observation::{Gauge, Observation};

const SOURCE: &str = "cpu/sysinfo";

pub(super) struct CpuMonitor {
    system: System,
    interval: Duration,
    processors: i32,
    /// The first reading has nothing to compare with.
    primed: bool,
}

impl CpuMonitor {
    pub(super) fn open(interval: Duration) -> Result<Self, sysinfo::Error> {
        let mut system = System::new()?;
        system.refresh_cpu_list(CpuRefreshKind::nothing().with_usage());
        let processors = i32::try_from(system.cpus().len()).unwrap_or(i32::MAX);
        Ok(Self { system, interval, processors, primed: false })
    }
}

impl Monitor for CpuMonitor {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn source(&self) -> &'static str {
        SOURCE
    }

    fn capability(&self) -> Capability {
        Capability::Present
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn sample(&mut self, now: i64) -> Vec<Observation> {
        self.system.refresh_cpu_usage();
        if !std::mem::replace(&mut self.primed, true) {
            return Vec::new();
        }
        let percent = f64::from(self.system.global_cpu_usage());
        let load = System::load_average().ok();
        let metrics = HostMetrics {
            cpu_percent: Some(round(percent)),
            cpu_count: Some(self.processors),
            load_1: load.as_ref().map(|load| load.one),
            load_5: load.as_ref().map(|load| load.five),
            load_15: load.as_ref().map(|load| load.fifteen),
            ..HostMetrics::default()
        };
        let seen =
            Observation::new(now, Lane::Normal, event_type::CPU_USAGE, SOURCE, Payload::HostMetrics(metrics));
        vec![seen.with_gauge(Gauge { series: "".into(), value: percent, set: set_percent })]
    }
}

fn set_percent(payload: &mut Payload, percent: f64) {
    if let Payload::HostMetrics(metrics) = payload {
        metrics.cpu_percent = Some(round(percent));
    }
}

fn round(percent: f64) -> f64 {
    (percent * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_machine_from_the_second_sample_on() {
        let mut monitor = CpuMonitor::open(Duration::from_secs(1)).unwrap();
        assert!(monitor.sample(1).is_empty());
        let seen = monitor.sample(2);
        let Payload::HostMetrics(metrics) = &seen[0].payload else { panic!("not host metrics") };
        assert!((0.0..=100.0).contains(&metrics.cpu_percent.unwrap()));
        assert!(metrics.cpu_count.unwrap() >= 1);
    }
}

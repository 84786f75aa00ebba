//! Memory and swap of the machine.

use std::time::Duration;

use schemas::event::{HostMetrics, Payload, event_type};
use schemas::identity::Lane;
use sysinfo::System;

use super::{Capability, Monitor};
use crate::observation::{Gauge, Observation};

const SOURCE: &str = "memory/sysinfo";

pub(super) struct MemoryMonitor {
    system: System,
    interval: Duration,
}

impl MemoryMonitor {
    pub(super) fn open(interval: Duration) -> Result<Self, sysinfo::Error> {
        Ok(Self { system: System::new()?, interval })
    }
}

impl Monitor for MemoryMonitor {
    fn name(&self) -> &'static str {
        "memory"
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
        self.system.refresh_memory();
        let (used, total) = (self.system.used_memory(), self.system.total_memory());
        if total == 0 {
            return Vec::new();
        }
        let metrics = HostMetrics {
            mem_used_bytes: Some(used as i64),
            mem_total_bytes: Some(total as i64),
            swap_used_bytes: Some(self.system.used_swap() as i64),
            swap_total_bytes: Some(self.system.total_swap() as i64),
            ..HostMetrics::default()
        };
        let seen =
            Observation::new(now, Lane::Normal, event_type::MEM_USAGE, SOURCE, Payload::HostMetrics(metrics));
        // Judged as percent of the whole; the columns stay bytes.
        let value = used as f64 / total as f64 * 100.0;
        vec![seen.with_gauge(Gauge { series: "".into(), value, set: set_percent })]
    }
}

fn set_percent(payload: &mut Payload, percent: f64) {
    if let Payload::HostMetrics(metrics) = payload {
        let total = metrics.mem_total_bytes.unwrap_or_default() as f64;
        metrics.mem_used_bytes = Some((percent / 100.0 * total).round() as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_machine() {
        let mut monitor = MemoryMonitor::open(Duration::from_secs(5)).unwrap();
        let seen = monitor.sample(1);
        let Payload::HostMetrics(metrics) = &seen[0].payload else { panic!("not host metrics") };
        assert!(metrics.mem_used_bytes.unwrap() <= metrics.mem_total_bytes.unwrap());
        assert!(seen[0].gauge.as_ref().unwrap().value > 0.0);
    }

    #[test]
    fn a_mean_is_told_in_bytes_of_the_whole() {
        let metrics =
            HostMetrics { mem_used_bytes: Some(1), mem_total_bytes: Some(4_000), ..HostMetrics::default() };
        let mut payload = Payload::HostMetrics(metrics);
        set_percent(&mut payload, 62.5);
        let Payload::HostMetrics(metrics) = payload else { panic!("not host metrics") };
        assert_eq!((metrics.mem_used_bytes, metrics.mem_total_bytes), (Some(2_500), Some(4_000)));
    }
}

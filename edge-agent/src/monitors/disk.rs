//! Space and traffic of the machine's disks.

use std::collections::HashSet;
use std::time::Duration;

use schemas::event::{HostMetrics, Payload, event_type};
use schemas::identity::Lane;
use sysinfo::{DiskRefreshKind, Disks};

use super::{Capability, Monitor};
use crate::observation::{Gauge, Observation};

const SOURCE: &str = "disk/sysinfo";

/// File systems of the network: asking them may block for as long as their server is away.
const REMOTE: [&str; 8] = ["nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "ceph"];

pub(super) struct DiskMonitor {
    disks: Disks,
    interval: Duration,
    last: Option<i64>,
}

impl DiskMonitor {
    pub(super) fn open(interval: Duration) -> Result<Self, sysinfo::Error> {
        Ok(Self { disks: Disks::new()?, interval, last: None })
    }
}

impl Monitor for DiskMonitor {
    fn name(&self) -> &'static str {
        "disk"
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
        self.disks.refresh_specifics(true, DiskRefreshKind::nothing().with_storage().with_io_usage());
        let elapsed = self.last.replace(now).map(|last| (now - last) as f64 / 1e6).filter(|s| *s > 0.0);
        let mut devices = HashSet::new();
        let mut seen = Vec::new();
        for disk in &self.disks {
            let file_system = disk.file_system().to_string_lossy();
            // One device is often mounted in several places.
            if disk.total_space() == 0
                || REMOTE.contains(&file_system.as_ref())
                || !devices.insert(disk.name().to_owned())
            {
                continue;
            }
            let mount = disk.mount_point().to_string_lossy().into_owned();
            let used = disk.total_space().saturating_sub(disk.available_space());
            let traffic = disk.usage();
            let metrics = HostMetrics {
                disk: Some(mount.clone()),
                disk_used_bytes: Some(used as i64),
                disk_total_bytes: Some(disk.total_space() as i64),
                disk_read_bytes_per_s: elapsed.map(|s| (traffic.read_bytes as f64 / s).round()),
                disk_write_bytes_per_s: elapsed.map(|s| (traffic.written_bytes as f64 / s).round()),
                ..HostMetrics::default()
            };
            let value = used as f64 / disk.total_space() as f64 * 100.0;
            let event = Observation::new(
                now,
                Lane::Normal,
                event_type::DISK_USAGE,
                SOURCE,
                Payload::HostMetrics(metrics),
            );
            seen.push(event.with_gauge(Gauge { series: mount.into(), value, set: set_percent }));
        }
        seen
    }
}

fn set_percent(payload: &mut Payload, percent: f64) {
    if let Payload::HostMetrics(metrics) = payload {
        let total = metrics.disk_total_bytes.unwrap_or_default() as f64;
        metrics.disk_used_bytes = Some((percent / 100.0 * total).round() as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_is_named_once_and_rates_need_two_samples() {
        let mut monitor = DiskMonitor::open(Duration::from_mins(1)).unwrap();
        for event in monitor.sample(1_000_000) {
            let (mut payload, gauge) = (event.payload, event.gauge.unwrap());
            (gauge.set)(&mut payload, 50.0);
            let Payload::HostMetrics(metrics) = payload else { panic!("not host metrics") };
            assert_eq!(metrics.disk_read_bytes_per_s, None);
            let (mean, total) = (metrics.disk_used_bytes.unwrap(), metrics.disk_total_bytes.unwrap());
            assert!((2 * mean - total).abs() <= 1, "half of the whole, in bytes: {mean} of {total}");
        }
        let second = monitor.sample(2_000_000);
        for event in &second {
            let Payload::HostMetrics(metrics) = &event.payload else { panic!("not host metrics") };
            assert!(
                metrics.disk_read_bytes_per_s.unwrap() >= 0.0
                    && metrics.disk_write_bytes_per_s.unwrap() >= 0.0
            );
            assert!(metrics.disk_used_bytes.unwrap() <= metrics.disk_total_bytes.unwrap());
        }
        let names: HashSet<_> =
            second.iter().map(|event| event.gauge.as_ref().unwrap().series.clone()).collect();
        assert_eq!(names.len(), second.len());
    }
}

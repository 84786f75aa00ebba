//! The event mix of benchmarks and crash tests: 60 % host metrics, 20 % process samples, 15 % process events,
//! 5 % rest. Every event carries its number in a column of its family, so that the payload tells which it is.

use schemas::event::{
    FileEvent, HostMetrics, Payload, ProcessEvent, ProcessSample, UserActivity, event_type,
};
use schemas::identity::Lane;

/// How numbers become events.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Event time of event 0, µs.
    pub base: i64,
    /// Event time between two events, µs.
    pub step: i64,
    /// Every so many process events one starts from a temporary folder, which is an alert; 0: none.
    pub suspicious_every: u64,
    /// Event `n` is of machine `n % machines`; half of them are busy at any time, each for four minutes of eight. 1: all
    /// events are busy in the same minutes.
    pub machines: u64,
}

/// One event of the load, without identity.
#[derive(Clone, Debug)]
pub struct Made {
    /// When, µs.
    pub event_time: i64,
    /// In which lane.
    pub lane: Lane,
    /// Its type.
    pub event_type: &'static str,
    /// Its user.
    pub user: Option<&'static str>,
    /// Its payload; the number is in it.
    pub payload: Payload,
}

const PROGRAMS: [(&str, &str); 8] = [
    ("chrome.exe", r"C:\Program Files\Google\Chrome\Application\chrome.exe"),
    ("explorer.exe", r"C:\Windows\explorer.exe"),
    ("svchost.exe", r"C:\Windows\System32\svchost.exe"),
    ("teams.exe", r"C:\Program Files\Teams\teams.exe"),
    ("bash", "/usr/bin/bash"),
    ("python3", "/usr/bin/python3"),
    ("sshd", "/usr/sbin/sshd"),
    ("code", "/usr/share/code/code"),
];
const MINUTE: i64 = 60_000_000;
const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

impl Mix {
    /// Event number `n`.
    pub fn event(&self, n: u64) -> Made {
        let noise = mixed(n);
        let event_time = self.base + n as i64 * self.step;
        let user = Some(USERS[(noise >> 8) as usize % USERS.len()]);
        // a hundred slots in an order that interleaves the families
        let slot = (n * 37) % 100;
        let (lane, event_type, user, payload) = match slot {
            0..60 => {
                let turn = (n % self.machines) as i64;
                let busy = (event_time.div_euclid(MINUTE) + turn).rem_euclid(8) < 4;
                (Lane::Bulk, kind_of_metric(slot), None, host_metrics(n, slot, noise, busy))
            }
            60..80 => (Lane::Bulk, event_type::PROCESS_SAMPLE, None, process_sample(n, noise)),
            80..95 => self.process_event(n, noise, user),
            95..98 => (Lane::Normal, event_type::USER_ACTIVITY, user, user_activity(n, noise)),
            _ => (Lane::Normal, event_type::FILE_CREATED, user, file_event(n, noise)),
        };
        Made { event_time, lane, event_type, user, payload }
    }

    /// The number that a payload carries, if it is one of ours.
    pub fn number(payload: &Payload) -> Option<u64> {
        let number = match payload {
            Payload::HostMetrics(host) => host.samples.map(i64::from),
            Payload::ProcessSample(sample) => sample.snapshot_id,
            Payload::ProcessEvent(process) => process.pid,
            Payload::UserActivity(activity) => activity.mouse_events,
            Payload::FileEvent(file) => file.size_bytes,
            _ => None,
        };
        number.and_then(|number| u64::try_from(number).ok())
    }

    fn process_event(
        &self,
        n: u64,
        noise: u64,
        user: Option<&'static str>,
    ) -> (Lane, &'static str, Option<&'static str>, Payload) {
        let (name, path) = PROGRAMS[(noise >> 16) as usize % PROGRAMS.len()];
        // fifteen process events in a hundred; count them to choose the suspicious ones evenly
        let suspicious = self.suspicious_every > 0 && (n * 15 / 100).is_multiple_of(self.suspicious_every);
        // each from a folder of its own: rules keep quiet about what starts from the same path again and again
        let unpacked = format!(r"C:\Users\alice\AppData\Local\Temp\{n}\viewer.exe");
        let (name, path) = if suspicious { ("viewer.exe", unpacked.as_str()) } else { (name, path) };
        let started = suspicious || !noise.is_multiple_of(3);
        let payload = Payload::ProcessEvent(ProcessEvent {
            pid: Some(n as i64),
            parent_pid: Some(4),
            parent_name: Some("explorer.exe".into()),
            name: Some(name.into()),
            path: Some(path.into()),
            command_line: Some(format!("\"{path}\" --instance {}", noise % 1000)),
            exit_code: (!started).then_some(0),
            ..ProcessEvent::default()
        });
        let kind = if started { event_type::PROCESS_STARTED } else { event_type::PROCESS_STOPPED };
        (Lane::Normal, kind, user, payload)
    }
}

fn kind_of_metric(slot: u64) -> &'static str {
    match slot % 4 {
        0 | 1 => event_type::CPU_USAGE,
        2 => event_type::MEM_USAGE,
        _ => event_type::NET_USAGE,
    }
}

/// `busy`: the processors are, in four of eight minutes; sustained load is an alert.
fn host_metrics(n: u64, slot: u64, noise: u64, busy: bool) -> Payload {
    let number = i32::try_from(n % (i32::MAX as u64)).ok();
    let value = |shift: u32| ((noise >> shift) % 10_000) as f64 / 100.0;
    Payload::HostMetrics(match slot % 4 {
        0 | 1 => HostMetrics {
            samples: number,
            cpu_percent: Some(if busy { 90.0 + value(0) / 10.0 } else { value(0) }),
            cpu_count: Some(8),
            load_1: Some(value(10) / 10.0),
            load_5: Some(value(20) / 10.0),
            load_15: Some(value(30) / 10.0),
            ..HostMetrics::default()
        },
        2 => HostMetrics {
            samples: number,
            mem_used_bytes: Some(4_000_000_000 + (noise % 4_000_000_000) as i64),
            mem_total_bytes: Some(16_000_000_000),
            swap_used_bytes: Some(0),
            swap_total_bytes: Some(2_000_000_000),
            ..HostMetrics::default()
        },
        _ => HostMetrics {
            samples: number,
            net_interface: Some("eth0".into()),
            net_rx_bytes_per_s: Some(value(4) * 1000.0),
            net_tx_bytes_per_s: Some(value(24) * 100.0),
            net_up: Some(true),
            ..HostMetrics::default()
        },
    })
}

fn process_sample(n: u64, noise: u64) -> Payload {
    let (name, path) = PROGRAMS[(noise >> 16) as usize % PROGRAMS.len()];
    Payload::ProcessSample(ProcessSample {
        snapshot_id: Some(n as i64),
        pid: Some((noise % 30_000) as i64),
        name: Some(name.into()),
        path: Some(path.into()),
        cpu_percent: Some((noise % 1000) as f64 / 10.0),
        memory_bytes: Some((noise % 1_000_000_000) as i64),
        ..ProcessSample::default()
    })
}

fn user_activity(n: u64, noise: u64) -> Payload {
    Payload::UserActivity(UserActivity {
        mouse: Some(noise.is_multiple_of(2)),
        keyboard: Some(noise.is_multiple_of(3)),
        mouse_events: Some(n as i64),
        keyboard_events: Some((noise % 50) as i64),
        active_s: Some(5.0),
        idle_s: Some(5.0),
        ..UserActivity::default()
    })
}

fn file_event(n: u64, noise: u64) -> Payload {
    Payload::FileEvent(FileEvent {
        path: Some(format!("/home/alice/work/report-{}.odt", noise % 500)),
        size_bytes: Some(n as i64),
        process_name: Some("soffice.bin".into()),
        pid: Some((noise % 30_000) as i64),
        ..FileEvent::default()
    })
}

/// SplitMix64 (Steele, Lea, Flood 2014): a number that looks random and is always the same.
fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use schemas::family::Family;

    use super::*;

    const MIX: Mix = Mix { base: 1_700_000_000_000_000, step: 200, suspicious_every: 100, machines: 1 };

    #[test]
    fn the_shares_are_those_named() {
        let mut counts = std::collections::BTreeMap::new();
        for n in 0..10_000 {
            *counts.entry(Family::of_event_type(MIX.event(n).event_type)).or_insert(0) += 1;
        }
        assert_eq!(counts[&Family::HostMetrics], 6000);
        assert_eq!(counts[&Family::ProcessSample], 2000);
        assert_eq!(counts[&Family::ProcessEvent], 1500);
        assert_eq!(counts[&Family::UserActivity] + counts[&Family::FileEvent], 500);
    }

    #[test]
    fn every_event_carries_its_number() {
        for n in 0..1000 {
            assert_eq!(Mix::number(&MIX.event(n).payload), Some(n), "{n}");
        }
    }
}

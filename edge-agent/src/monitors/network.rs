//! Traffic of the network interfaces, and whether they are up.

use std::collections::HashMap;
use std::time::Duration;

use schemas::event::{HostMetrics, NetworkEvent, Payload, event_type};
use schemas::identity::Lane;
use sysinfo::{InterfaceOperationalState, Networks};

use super::{Capability, Monitor};
use crate::observation::{Gauge, Observation};

const SOURCE: &str = "network/sysinfo";

pub(super) struct NetworkMonitor {
    networks: Networks,
    interval: Duration,
    ignored: Vec<String>,
    last: Option<i64>,
    up: HashMap<String, bool>,
}

impl NetworkMonitor {
    pub(super) fn open(interval: Duration, ignored: Vec<String>) -> Result<Self, sysinfo::Error> {
        Ok(Self { networks: Networks::new()?, interval, ignored, last: None, up: HashMap::new() })
    }
}

impl Monitor for NetworkMonitor {
    fn name(&self) -> &'static str {
        "network"
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
        self.networks.refresh(true);
        let elapsed = self.last.replace(now).map(|last| (now - last) as f64 / 1e6).filter(|s| *s > 0.0);
        let mut seen = Vec::new();
        let mut links = HashMap::new();
        for (name, interface) in &self.networks {
            let name = name.to_string_lossy().into_owned();
            if is_ignored(&self.ignored, &name) {
                continue;
            }
            let up = !matches!(interface.operational_state(), InterfaceOperationalState::Down);
            links.insert(name.clone(), up);
            let Some(elapsed) = elapsed else { continue };
            let received = (interface.received() as f64 / elapsed).round();
            let transmitted = (interface.transmitted() as f64 / elapsed).round();
            let metrics = HostMetrics {
                net_interface: Some(name.clone()),
                net_rx_bytes_per_s: Some(received),
                net_tx_bytes_per_s: Some(transmitted),
                net_up: Some(up),
                ..HostMetrics::default()
            };
            let event = Observation::new(
                now,
                Lane::Normal,
                event_type::NET_USAGE,
                SOURCE,
                Payload::HostMetrics(metrics),
            );
            seen.push(event.with_gauge(Gauge {
                series: name.into(),
                value: received + transmitted,
                // Of two rates there is no one mean: `check` refuses to be asked for it.
                set: |_, _| {},
            }));
        }
        let changes = changed_links(&self.up, &links);
        if elapsed.is_some() {
            seen.extend(changes.into_iter().map(|(name, up)| {
                let change = NetworkEvent { interface: Some(name), up: Some(up), ..NetworkEvent::default() };
                Observation::new(
                    now,
                    Lane::Normal,
                    event_type::LINK_CHANGED,
                    SOURCE,
                    Payload::NetworkEvent(change),
                )
            }));
        }
        self.up = links;
        seen
    }
}

/// Interfaces whose state differs; one that vanished is down, one that is new and up has come up.
fn changed_links(before: &HashMap<String, bool>, now: &HashMap<String, bool>) -> Vec<(String, bool)> {
    let mut changes: Vec<(String, bool)> = now
        .iter()
        .filter(|(name, up)| before.get(*name).copied().unwrap_or(false) != **up)
        .map(|(name, up)| (name.clone(), *up))
        .collect();
    let gone = before.iter().filter(|(name, up)| **up && !now.contains_key(*name));
    changes.extend(gone.map(|(name, _)| (name.clone(), false)));
    changes.sort();
    changes
}

fn is_ignored(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_interfaces() {
        let patterns = ["lo".to_owned(), "veth*".to_owned()];
        assert!(is_ignored(&patterns, "lo") && is_ignored(&patterns, "veth12"));
        assert!(!is_ignored(&patterns, "lo1") && !is_ignored(&patterns, "eth0"));
    }

    #[test]
    fn links_that_change_are_told() {
        let links = |list: &[(&str, bool)]| list.iter().map(|(n, up)| ((*n).to_owned(), *up)).collect();
        let before = links(&[("eth0", true), ("wlan0", true), ("usb0", false), ("vpn", true)]);
        let now = links(&[("eth0", false), ("wlan0", true), ("usb0", true), ("tun", false)]);
        let changed = changed_links(&before, &now);
        let expected = [("eth0", false), ("usb0", true), ("vpn", false)].map(|(n, up)| (n.to_owned(), up));
        assert_eq!(changed, expected);
    }
}

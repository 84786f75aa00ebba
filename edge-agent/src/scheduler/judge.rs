//! Judges each observation: excluded, too old, seen before, nothing new, or worth a row.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use runtime::config::{Check, Problems, key};
use schemas::event::{Payload, event_type};
use schemas::identity::Lane;
use serde::Deserialize;

use super::gauge::{Aggregate, GaugeRule, Gauges, Reading, Verdict};
use crate::observation::Observation;

/// What becomes of observations.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// How often the agent reports its health and its lane marks; a lane that was empty for 10 s
    /// is marked at the latest then.
    #[serde(with = "humantime_serde")]
    pub report_interval: Duration,
    /// The same while there is no broker: reports pile up in the outbox.
    #[serde(with = "humantime_serde")]
    pub offline_report_interval: Duration,
    /// A measurement older than this is no news any more and dropped; facts are never too old.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Event types that are not told at all; what the agent says about itself always is.
    pub exclude: Vec<String>,
    /// How measurements are thinned out, by event type.
    pub gauges: HashMap<String, GaugeRule>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            report_interval: Duration::from_secs(10),
            offline_report_interval: Duration::from_mins(5),
            max_age: Duration::from_secs(30),
            exclude: Vec::new(),
            gauges: HashMap::new(),
        }
    }
}

impl Check for SchedulerConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        for (name, interval) in [
            ("report_interval", self.report_interval),
            ("offline_report_interval", self.offline_report_interval),
        ] {
            if interval < Duration::from_secs(1) {
                problems.add(key(at, name), "is shorter than 1s", None);
            }
        }
        for (event_type, rule) in &self.gauges {
            let at = key(&key(at, "gauges"), event_type);
            rule.check(&at, problems);
            if event_type == event_type::NET_USAGE && rule.aggregate == Aggregate::Mean {
                let what = "is not known of two rates, received and sent, that are judged by their sum";
                problems.add(key(&at, "aggregate"), what, Some("leave it out".to_owned()));
            }
        }
    }
}

impl SchedulerConfig {
    /// The rule of an event type: configured, or what suits it.
    pub(crate) fn rule(&self, event_type: &str) -> GaugeRule {
        if let Some(rule) = self.gauges.get(event_type) {
            return *rule;
        }
        let base = GaugeRule::default();
        match event_type {
            event_type::CPU_USAGE => GaugeRule {
                dead_band: 5.0,
                aggregate: Aggregate::Mean,
                high: Some(90.0),
                clear: Some(75.0),
                ..base
            },
            event_type::MEM_USAGE => {
                GaugeRule { dead_band: 2.0, high: Some(90.0), clear: Some(85.0), ..base }
            }
            event_type::DISK_USAGE => GaugeRule {
                dead_band: 1.0,
                heartbeat: Duration::from_mins(5),
                high: Some(90.0),
                clear: Some(88.0),
                ..base
            },
            event_type::NET_USAGE => GaugeRule { dead_band: 100_000.0, ..base },
            _ => base,
        }
    }
}

/// How many observations went no further, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) excluded: u64,
    pub(super) unchanged: u64,
    pub(super) stale: u64,
    pub(super) repeated: u64,
}

/// Unique facts remembered.
const MEMORY: usize = 1024;

pub(super) struct Judge {
    config: SchedulerConfig,
    excluded: HashSet<String>,
    gauges: Gauges,
    rules: HashMap<String, GaugeRule>,
    recent: HashSet<String>,
    order: VecDeque<String>,
    pub(super) dropped: Dropped,
}

impl Judge {
    pub(super) fn new(config: &SchedulerConfig) -> Self {
        Self {
            config: config.clone(),
            excluded: config.exclude.iter().cloned().collect(),
            gauges: Gauges::default(),
            rules: HashMap::new(),
            recent: HashSet::new(),
            order: VecDeque::new(),
            dropped: Dropped::default(),
        }
    }

    /// The observation as it shall be stored, or `None`.
    pub(super) fn judge(&mut self, mut seen: Observation, now: i64) -> Option<Observation> {
        if !self.excluded.is_empty() && self.excluded.contains(seen.event_type.as_ref()) {
            self.dropped.excluded += 1;
            return None;
        }
        if let Some(unique) = seen.unique.take()
            && !self.is_new(unique)
        {
            self.dropped.repeated += 1;
            return None;
        }
        let Some(gauge) = seen.gauge.take() else {
            return Some(seen);
        };
        let max_age = i64::try_from(self.config.max_age.as_micros()).unwrap_or(i64::MAX);
        if now.saturating_sub(seen.event_time) > max_age {
            self.dropped.stale += 1;
            return None;
        }
        if !self.rules.contains_key(seen.event_type.as_ref()) {
            self.rules.insert(seen.event_type.to_string(), self.config.rule(&seen.event_type));
        }
        let rule = self.rules.get(seen.event_type.as_ref())?;
        match self.gauges.judge(rule, (seen.event_type.clone(), gauge.series), gauge.value, seen.event_time) {
            Verdict::Skip => {
                self.dropped.unchanged += 1;
                return None;
            }
            Verdict::Send(reading) => describe(&mut seen.payload, gauge.set, reading, None),
            Verdict::Alarm(reading, threshold) => {
                seen.lane = Lane::Critical;
                describe(&mut seen.payload, gauge.set, reading, Some(threshold));
            }
        }
        Some(seen)
    }

    fn is_new(&mut self, unique: String) -> bool {
        if self.recent.contains(&unique) {
            return false;
        }
        if self.order.len() >= MEMORY
            && let Some(oldest) = self.order.pop_front()
        {
            self.recent.remove(&oldest);
        }
        self.order.push_back(unique.clone());
        self.recent.insert(unique);
        true
    }
}

fn describe(payload: &mut Payload, set: fn(&mut Payload, f64), reading: Reading, threshold: Option<String>) {
    set(payload, reading.value);
    if let Payload::HostMetrics(metrics) = payload {
        metrics.samples = Some(reading.samples);
        metrics.interval_s = reading.interval_s;
        metrics.threshold = threshold;
    }
}

#[cfg(test)]
mod tests {
    use schemas::event::HostMetrics;

    use super::*;
    use crate::observation::Gauge;

    #[test]
    fn a_mean_of_two_rates_is_refused() {
        let mean = GaugeRule { aggregate: Aggregate::Mean, ..GaugeRule::default() };
        let gauges = [event_type::NET_USAGE, event_type::DISK_USAGE].map(|of| (of.to_owned(), mean));
        let config = SchedulerConfig { gauges: HashMap::from(gauges), ..SchedulerConfig::default() };
        let mut problems = Problems::default();
        config.check("scheduler", &mut problems);
        let at: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        assert_eq!(at, ["scheduler.gauges.net_usage.aggregate"]);
    }

    fn cpu(at_s: i64, percent: f64) -> Observation {
        let metrics = HostMetrics { cpu_percent: Some(percent), ..HostMetrics::default() };
        let seen = Observation::new(
            at_s * 1_000_000,
            Lane::Normal,
            event_type::CPU_USAGE,
            "cpu/test",
            Payload::HostMetrics(metrics),
        );
        seen.with_gauge(Gauge { series: "".into(), value: percent, set: |_, _| {} })
    }

    #[test]
    fn a_crossing_becomes_critical_and_says_so() {
        let mut judge = Judge::new(&SchedulerConfig::default());
        let calm = judge.judge(cpu(1, 20.0), 1_000_000).unwrap();
        assert_eq!(calm.lane, Lane::Normal);
        let alarm = judge.judge(cpu(2, 95.0), 2_000_000).unwrap();
        assert_eq!(alarm.lane, Lane::Critical);
        let Payload::HostMetrics(metrics) = alarm.payload else { panic!("not host metrics") };
        assert_eq!((metrics.threshold.as_deref(), metrics.samples), (Some("reached 90"), Some(1)));
        assert_eq!(metrics.interval_s, Some(1.0));
        assert!(judge.judge(cpu(3, 94.0), 3_000_000).is_none());
        assert_eq!(judge.dropped.unchanged, 1);
    }

    #[test]
    fn measurements_grow_stale_and_facts_do_not() {
        let mut judge = Judge::new(&SchedulerConfig::default());
        assert!(judge.judge(cpu(1, 20.0), 60_000_000).is_none());
        assert_eq!(judge.dropped.stale, 1);
        let mut fact = cpu(1, 20.0);
        fact.gauge = None;
        assert!(judge.judge(fact, 60_000_000).is_some());
    }

    #[test]
    fn excluded_types_and_repeated_facts_are_dropped_and_counted() {
        let config = SchedulerConfig { exclude: vec!["net_usage".to_owned()], ..SchedulerConfig::default() };
        let mut judge = Judge::new(&config);
        let fact = |event_type: &'static str, unique: &str| {
            let payload = Payload::Custom(serde_json::Value::Null);
            let mut fact = Observation::new(1, Lane::Normal, event_type, "test", payload);
            fact.unique = Some(unique.to_owned());
            fact
        };
        assert!(judge.judge(fact("net_usage", "a"), 1).is_none());
        assert!(judge.judge(fact("other", "a"), 1).is_some());
        assert!(judge.judge(fact("other", "a"), 1).is_none());
        assert_eq!((judge.dropped.excluded, judge.dropped.repeated), (1, 1));
        for n in 0..=MEMORY {
            judge.judge(fact("other", &n.to_string()), 1);
        }
        assert!(judge.judge(fact("other", "a"), 1).is_some(), "forgotten after enough others");
        assert!(judge.recent.len() <= MEMORY && judge.order.len() <= MEMORY);
    }

    #[test]
    fn a_configured_rule_replaces_the_built_in_one() {
        let rule = GaugeRule { dead_band: -1.0, ..GaugeRule::default() };
        let gauges = HashMap::from([("cpu_usage".to_owned(), rule)]);
        let mut judge = Judge::new(&SchedulerConfig { gauges, ..SchedulerConfig::default() });
        for at in 1..5 {
            let told = judge.judge(cpu(at, 95.0), at * 1_000_000).unwrap();
            assert_eq!(told.lane, Lane::Normal, "no bound, no dead-band");
        }
    }
}

//! Alerts on topics that the broker does not let us publish to: they wait while a person mends its access list, and
//! those on other topics go.
//!
//! The offsets of what waits are not stored, so whoever reads the partition next reads it again. It is bounded in number,
//! in bytes and in time; what is beyond goes to the dead letters, the oldest first.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use eventlog::TopicPartition;
use runtime::health::{Component, Health};

use super::{publisher::Message, refusal::Origin};
use crate::pending::is_among;

/// Alerts that wait at most …
const MOST: usize = 1000;
/// … and bytes of their payloads.
const MOST_BYTES: usize = 16 << 20;
/// How often it is tried whether the broker has changed its mind.
const RETRY: Duration = Duration::from_secs(10);

pub(super) struct Barred {
    waiting: VecDeque<(Message, Origin)>,
    bytes: usize,
    /// Longest wait of an alert.
    patience: Duration,
    pub(super) retry: Duration,
    pub(super) retry_at: Instant,
    pub(super) health: Health,
    /// There is one since the first alert was barred.
    component: Option<Component>,
}

impl Barred {
    pub(super) fn new(patience: Duration, health: Health) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            patience,
            retry: RETRY.min(patience),
            retry_at: Instant::now(),
            health,
            component: None,
        }
    }

    /// Whether alerts on this topic wait: younger ones wait behind them.
    pub(super) fn has(&self, topic: &str) -> bool {
        self.waiting.iter().any(|(message, _)| message.topic == topic)
    }

    /// Takes an alert that the broker does not let us publish.
    pub(super) fn hold(&mut self, message: Message, mut origin: Origin) {
        let now = Instant::now();
        if self.waiting.is_empty() {
            self.retry_at = now + self.retry;
        }
        origin.barred_since.get_or_insert(now);
        self.bytes += message.payload.len();
        self.waiting.push_back((message, origin));
    }

    /// When to look again.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.retry_at)
    }

    /// All that waits, in its order, if it is time to try again.
    pub(super) fn release(&mut self) -> Vec<(Message, Origin)> {
        if self.due().is_none_or(|at| at > Instant::now()) {
            return Vec::new();
        }
        self.bytes = 0;
        self.waiting.drain(..).collect()
    }

    /// What waits no longer: it is too much, or too old.
    pub(super) fn give_up(&mut self) -> Vec<Origin> {
        let now = Instant::now();
        let mut given_up = Vec::new();
        while let Some((message, origin)) = self.waiting.front() {
            let waited = origin.barred_since.map_or(Duration::ZERO, |since| now - since);
            if self.waiting.len() <= MOST && self.bytes <= MOST_BYTES && waited < self.patience {
                break;
            }
            self.bytes -= message.payload.len();
            given_up.extend(self.waiting.pop_front().map(|(_, origin)| origin));
        }
        given_up
    }

    /// The first offset that waits, of each partition.
    pub(super) fn first_offsets(&self) -> BTreeMap<(Arc<str>, i32), i64> {
        let mut first = BTreeMap::new();
        for (_, origin) in &self.waiting {
            let at = first.entry((Arc::clone(&origin.topic), origin.partition)).or_insert(origin.offset);
            *at = origin.offset.min(*at);
        }
        first
    }

    pub(super) fn discard(&mut self, of: &[TopicPartition]) {
        self.waiting.retain(|(_, origin)| !is_among(of, &origin.topic, origin.partition));
        self.bytes = self.waiting.iter().map(|(message, _)| message.payload.len()).sum();
    }

    /// Says in health what waits.
    pub(super) fn tell(&mut self) {
        metrics::gauge!("varta_sinks_mqtt_barred_alerts").set(self.waiting.len() as f64);
        let topics: BTreeSet<&str> = self.waiting.iter().map(|(message, _)| message.topic.as_str()).collect();
        let Some(first) = topics.first() else {
            if let Some(component) = &self.component {
                component.ready();
            }
            return;
        };
        let others = match topics.len() - 1 {
            0 => String::new(),
            others => format!(" and {others} other topics"),
        };
        let alerts = self.waiting.len();
        let why = format!("the broker does not let us publish to {first}{others}: {alerts} alerts wait");
        if self.component.is_none() {
            tracing::error!(alerts, topic = first, "the broker's access list keeps alerts from the bus");
        }
        self.component.get_or_insert_with(|| self.health.component("mqtt.access")).waiting(why);
    }
}

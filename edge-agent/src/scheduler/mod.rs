//! Asks the monitors at their intervals, judges what they saw and stores what is worth it.
//!
//! One thread. After each round the rows, the cursors of the monitors and the *low-water mark* go
//! to the outbox as one batch: the least event time that any monitor may still produce, less one.
//! A monitor that hangs therefore holds the marks back instead of making them untrue.
//!
//! If the outbox cannot store a batch (disk full), the batch is kept and tried again and nothing
//! more is sampled meanwhile: no number was given to what could not be written.

mod gauge;
mod judge;
mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

pub use gauge::{Aggregate, GaugeRule};
pub use judge::SchedulerConfig;
pub(crate) use report::started;

use crate::clock::EventClock;
use crate::monitors::Monitor;
use crate::observation::Observation;
use crate::outbox::{Batch, NewRow, Outbox, OutboxError};
use crate::publisher::Link;
use judge::Judge;
use report::{ReportClock, SelfUsage};

/// Monitors due within this are asked together: one waking instead of two.
const TOGETHER: Duration = Duration::from_millis(20);

/// Pause before a failed batch is tried again.
const RETRY: Duration = Duration::from_secs(1);

struct Slot {
    monitor: Box<dyn Monitor>,
    due: Instant,
}

/// See the module's description.
pub struct Scheduler {
    slots: Vec<Slot>,
    judge: Judge,
    outbox: Outbox,
    clock: EventClock,
    host: Arc<str>,
    link: Link,
    report_interval: Duration,
    reports: ReportClock,
    usage: SelfUsage,
    capabilities: BTreeMap<&'static str, String>,
}

impl Scheduler {
    /// Hands saved cursors to their monitors; the first round is due at once.
    pub fn new(
        config: &SchedulerConfig,
        mut monitors: Vec<Box<dyn Monitor>>,
        cursors: &[(String, i64)],
        outbox: Outbox,
        clock: EventClock,
        host: Arc<str>,
        link: Link,
    ) -> Self {
        for monitor in &mut monitors {
            if let Some((_, cursor)) = cursors.iter().find(|(name, _)| name == monitor.name()) {
                monitor.resume(*cursor);
            }
        }
        let now = Instant::now();
        Self {
            capabilities: report::capabilities(monitors.iter().map(AsRef::as_ref)),
            slots: monitors.into_iter().map(|monitor| Slot { monitor, due: now }).collect(),
            judge: Judge::new(config),
            outbox,
            clock,
            host,
            link,
            report_interval: config.report_interval,
            reports: ReportClock::new(config.report_interval, config.offline_report_interval, now),
            usage: SelfUsage::default(),
        }
    }

    /// Runs until `stop` receives or closes, then stores `agent_stopped`.
    pub fn run(mut self, stop: &Receiver<()>) -> Result<(), OutboxError> {
        loop {
            let mut batch = self.round();
            self.report(&mut batch);
            if !self.store(batch, stop)? {
                return Ok(());
            }
            let due = self.slots.iter().map(|slot| slot.due).min();
            let longest = Instant::now() + Duration::from_secs(1);
            let until = due.map_or(longest, |due| due.min(longest));
            if stopped_within(stop, until.saturating_duration_since(Instant::now())) {
                break;
            }
        }
        let mut batch = Batch::default();
        let farewell = report::stopped(&self.outbox.stats(), self.clock.now());
        self.keep(&farewell, &mut batch);
        batch.low_water = Some(self.clock.now());
        self.store(batch, stop).map(drop)
    }

    fn round(&mut self) -> Batch {
        let mut batch = Batch::default();
        let started = Instant::now();
        let horizon = started + TOGETHER;
        let mut slots = std::mem::take(&mut self.slots);
        for slot in &mut slots {
            if slot.due > horizon {
                continue;
            }
            let now = self.clock.now();
            for seen in slot.monitor.sample(now) {
                if let Some(kept) = self.judge.judge(seen, now) {
                    self.keep(&kept, &mut batch);
                }
            }
            if let Some(cursor) = slot.monitor.cursor() {
                batch.cursors.push((slot.monitor.name().to_owned(), cursor));
            }
            let interval = slot.monitor.interval().max(Duration::from_millis(1));
            slot.due += interval;
            if slot.due <= started {
                // The machine slept, or the monitor takes longer than its interval.
                slot.due = started + interval;
            }
        }
        let now = self.clock.now();
        let low_water = slots.iter().map(|slot| slot.monitor.low_water(now)).min();
        batch.low_water = Some(low_water.unwrap_or(now).min(now));
        self.slots = slots;
        batch
    }

    fn keep(&self, seen: &Observation, batch: &mut Batch) {
        match NewRow::new(seen, &self.host) {
            Ok(row) => batch.rows.push(row),
            Err(error) => tracing::error!(%error, event_type = %seen.event_type, "observation dropped"),
        }
    }

    fn report(&mut self, batch: &mut Batch) {
        let stats = self.outbox.stats();
        if !self.reports.is_due(stats.last_seq, self.link.is_connected(), Instant::now()) {
            return;
        }
        let monitors = report::capabilities(self.slots.iter().map(|slot| slot.monitor.as_ref()));
        let changed = monitors != self.capabilities;
        if changed {
            tracing::warn!(capabilities = ?monitors, "what can be seen has changed");
            self.capabilities = monitors;
        }
        tracing::debug!(dropped = ?self.judge.dropped, queued_rows = stats.all_rows(), "health");
        let told = changed.then_some(&self.capabilities);
        let usage = self.usage.read();
        let health = report::health(&stats, told, self.report_interval, &self.link, usage, self.clock.now());
        self.keep(&health, batch);
    }

    /// Stores a batch, however long that takes; false if the agent stops before it could.
    fn store(&self, batch: Batch, stop: &Receiver<()>) -> Result<bool, OutboxError> {
        let batch = Arc::new(batch);
        loop {
            match self.outbox.append(Arc::clone(&batch)) {
                Ok(()) => return Ok(true),
                Err(error) if matches!(*error, OutboxError::Closed) => return Err(OutboxError::Closed),
                Err(error) => {
                    tracing::error!(%error, rows = batch.rows.len(), "events cannot be stored, sampling waits");
                }
            }
            if stopped_within(stop, RETRY) {
                tracing::error!(rows = batch.rows.len(), "stopped with events that could not be stored");
                return Ok(false);
            }
        }
    }
}

fn stopped_within(stop: &Receiver<()>, time: Duration) -> bool {
    !matches!(stop.recv_timeout(time), Err(RecvTimeoutError::Timeout))
}

#[cfg(test)]
mod tests;

//! What a partition's state amounts to, as gauges.

use metrics::{Gauge, gauge};

use crate::event_time::{Census, Tracker};

/// The log's clock (µs) moves at least so far between two counts: counting looks at every agent.
const PAUSE: i64 = 60_000_000;

/// The gauges of one partition; they go back to 0 when it is given away.
pub(super) struct Gauges {
    agents: Gauge,
    silent: Gauge,
    sessions: Gauge,
    intervals: Gauge,
    floors: Gauge,
    open_windows: Gauge,
    least_lag: Gauge,
    most_lag: Gauge,
    /// The log's clock when they were last set.
    shown: Option<i64>,
}

impl Gauges {
    pub(super) fn new(partition: i32) -> Self {
        let of = partition.to_string();
        let lag = |agent: &'static str| gauge!("varta_processors_watermark_lag_seconds", "partition" => of.clone(), "agent" => agent);
        Self {
            agents: gauge!("varta_processors_agents", "partition" => of.clone()),
            silent: gauge!("varta_processors_silent_agents", "partition" => of.clone()),
            sessions: gauge!("varta_processors_sessions", "partition" => of.clone()),
            intervals: gauge!("varta_processors_intervals", "partition" => of.clone()),
            floors: gauge!("varta_processors_floors", "partition" => of.clone()),
            open_windows: gauge!("varta_processors_open_windows", "partition" => of.clone()),
            least_lag: lag("foremost"),
            most_lag: lag("hindmost"),
            shown: None,
        }
    }

    /// Counts anew if the log's clock has moved far enough.
    pub(super) fn show(&mut self, tracker: &Tracker, open_windows: impl FnOnce() -> usize) {
        let now = tracker.now();
        if self.shown.is_some_and(|shown| now - shown < PAUSE) {
            return;
        }
        self.shown = Some(now);
        self.set(&tracker.census());
        self.open_windows.set(open_windows() as f64);
    }

    fn set(&self, census: &Census) {
        self.agents.set(census.agents as f64);
        self.silent.set(census.silent as f64);
        self.sessions.set(census.sessions as f64);
        self.intervals.set(census.intervals as f64);
        self.floors.set(census.floors as f64);
        let (least, most) = census.lag.unwrap_or_default();
        self.least_lag.set(least as f64 / 1e6);
        self.most_lag.set(most as f64 / 1e6);
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.set(&Census::default());
        self.open_windows.set(0.0);
    }
}

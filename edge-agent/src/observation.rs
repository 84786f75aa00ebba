//! What a monitor saw, before the scheduler has judged it and the outbox has numbered it.

use std::borrow::Cow;
use std::sync::Arc;

use schemas::event::Payload;
use schemas::identity::Lane;

/// One fact about the machine, without identity: session and seq are given by the outbox.
#[derive(Debug, Clone)]
pub struct Observation {
    /// When it happened, in microseconds since 1970-01-01 UTC.
    pub event_time: i64,
    /// The lane it travels in; the scheduler may raise it to critical. `Foreign` is not an agent's
    /// lane and becomes `Normal`.
    pub lane: Lane,
    /// Event type, e.g. `cpu_usage`; also the last level of the MQTT topic.
    pub event_type: Cow<'static, str>,
    /// Which monitor and method saw it, e.g. `process/poll`.
    pub source: Cow<'static, str>,
    /// Host it happened on; `None` means the agent's own.
    pub host: Option<Arc<str>>,
    /// Account on whose behalf it happened, where there is one.
    pub user: Option<Arc<str>>,
    /// The columns of its family.
    pub payload: Payload,
    /// Set for a measured value that repeats: dead-band, thresholds and freshness apply to it.
    pub gauge: Option<Gauge>,
    /// Set for a fact that might be seen twice: a second one with the same text is dropped.
    pub unique: Option<String>,
}

impl Observation {
    /// A plain fact of the agent's own host: no gauge, no uniqueness check.
    pub fn new(
        event_time: i64,
        lane: Lane,
        event_type: impl Into<Cow<'static, str>>,
        source: impl Into<Cow<'static, str>>,
        payload: Payload,
    ) -> Self {
        Self {
            event_time,
            lane,
            event_type: event_type.into(),
            source: source.into(),
            host: None,
            user: None,
            payload,
            gauge: None,
            unique: None,
        }
    }

    /// Adds the headline value that dead-band and thresholds look at.
    #[must_use]
    pub fn with_gauge(mut self, gauge: Gauge) -> Self {
        self.gauge = Some(gauge);
        self
    }

    /// Names the account.
    #[must_use]
    pub fn with_user(mut self, user: Option<Arc<str>>) -> Self {
        self.user = user;
        self
    }
}

/// The headline value of a repeated measurement.
#[derive(Debug, Clone)]
pub struct Gauge {
    /// Which series the value continues, unique within the event type: a disk, an interface, or
    /// empty where there is only one.
    pub series: Cow<'static, str>,
    /// The value, in the unit of the column that `set` writes.
    pub value: f64,
    /// Writes a value into that column: used when the scheduler sends a mean.
    pub set: fn(&mut Payload, f64),
}

//! Rows of the outbox and what is asked about them.

use bytes::Bytes;
use schemas::identity::Lane;
use serde::Serialize;

use super::OutboxError;
use crate::observation::Observation;

/// The lanes an agent has, in the order in which they are sent; shedding goes backwards.
pub const LANES: [Lane; 3] = [Lane::Critical, Lane::Normal, Lane::Bulk];

/// Position of a lane in [`LANES`]; `Foreign` counts as normal.
pub fn lane_index(lane: Lane) -> usize {
    match lane {
        Lane::Critical => 0,
        Lane::Normal | Lane::Foreign => 1,
        Lane::Bulk => 2,
    }
}

/// What one row costs beside its body: key, time, type and page overhead, in bytes.
pub const ROW_OVERHEAD: u64 = 48;

/// Where a row stands within its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Session that numbered the row.
    pub session: i64,
    /// Its seq within session and lane.
    pub seq: i64,
}

impl Place {
    /// Before every row.
    pub const START: Self = Self { session: i64::MIN, seq: i64::MIN };
}

/// One stored event, ready to be put behind its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Session and seq.
    pub place: Place,
    /// Event time in microseconds since 1970-01-01 UTC.
    pub event_time: i64,
    /// Event type, the last level of its topic.
    pub event_type: String,
    /// JSON members that follow the identity, with the closing brace.
    pub body: Bytes,
}

/// Rows of one lane and session, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaneRange {
    /// The lane.
    pub lane: Lane,
    /// The session that numbered the rows.
    pub session: i64,
    /// First seq.
    pub from: i64,
    /// Last seq.
    pub to: i64,
}

/// Which rows to read; they come in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRequest {
    /// The lane.
    pub lane: Lane,
    /// Rows after this place only.
    pub after: Place,
    /// Rows up to this place only.
    pub up_to: Place,
    /// At most so many rows.
    pub max_rows: usize,
    /// Stop before the bodies exceed so many bytes; the first row comes whatever its size.
    pub max_bytes: usize,
}

/// Place after every row.
pub const END: Place = Place { session: i64::MAX, seq: i64::MAX };

/// An observation turned into the bytes that will be stored.
#[derive(Debug, Clone)]
pub struct NewRow {
    pub(crate) lane: usize,
    pub(crate) event_time: i64,
    pub(crate) event_type: String,
    pub(crate) body: Vec<u8>,
    pub(crate) guard: bool,
}

impl NewRow {
    /// Serialises an observation; `host` stands in where it names none.
    pub fn new(seen: &Observation, host: &str) -> Result<Self, OutboxError> {
        let members = Members {
            event_time: seen.event_time,
            event_type: &seen.event_type,
            source: &seen.source,
            host: seen.host.as_deref().unwrap_or(host),
            user: seen.user.as_deref(),
            payload: &seen.payload,
        };
        let mut body = serde_json::to_vec(&members).map_err(OutboxError::Unserialisable)?;
        body.remove(0);
        Ok(Self {
            lane: lane_index(seen.lane),
            event_time: seen.event_time,
            event_type: seen.event_type.clone().into_owned(),
            body,
            guard: false,
        })
    }

    pub(crate) fn guarded(mut self) -> Self {
        self.guard = true;
        self
    }

    pub(crate) fn cost(&self) -> u64 {
        self.body.len() as u64 + ROW_OVERHEAD
    }
}

#[derive(Serialize)]
struct Members<'a> {
    event_time: i64,
    event_type: &'a str,
    source: &'a str,
    host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    payload: &'a schemas::event::Payload,
}

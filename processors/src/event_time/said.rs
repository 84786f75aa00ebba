//! What the scan gives to the tracker, and what the tracker decides.

use std::sync::Arc;

use schemas::identity::Lane;

/// What the scan knows of one event.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Number of the agent, from [`super::Tracker::intern`].
    pub agent: u32,
    /// Session.
    pub session: i64,
    /// Lane.
    pub lane: Lane,
    /// Number within agent, session, lane.
    pub seq: i64,
    /// Own id, of events without a sequence.
    pub event_id: Option<&'a str>,
    /// µs.
    pub event_time: i64,
    /// µs.
    pub received_at: i64,
    /// Sent again after an outage.
    pub replayed: bool,
    /// Told about the agent outside its sequences, by its status topic or by the broker in its place: says neither that
    /// it lives nor how far its events have come, for an outbox full of older ones may follow.
    pub hearsay: bool,
    /// It is a status, and [`super::Tracker::status`] follows with what it says: its own time counts only beside that.
    pub speaks: bool,
}

/// Whether an event goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New.
    Fresh,
    /// Perhaps a repeat; goes on with a flag.
    Uncertain,
    /// A repeat; goes no further.
    Duplicate,
}

/// What was decided about one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it goes on.
    pub verdict: Verdict,
    /// The event time to judge by: its own, or its arrival if its own lies in the future.
    pub time: i64,
    /// Whether its own time was not believed.
    pub in_future: bool,
    /// The agent's watermark before this event.
    pub watermark: i64,
}

/// One id, two machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clone {
    /// The agent id that both use.
    pub agent: Arc<str>,
    /// The older session.
    pub older: i64,
    /// The newer one.
    pub newer: i64,
    /// Identity of the event that gave it away.
    pub lane: Lane,
    /// Its number.
    pub seq: i64,
    /// Its time.
    pub event_time: i64,
}

/// Something about an agent that rules may ask about, in the order of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// One id, two machines.
    Clone(Clone),
    /// Numbers that were given up: holes that stayed open.
    Gap {
        /// Number of the agent.
        agent: u32,
        /// How many.
        missing: i64,
        /// The log's clock, µs.
        now: i64,
    },
    /// An agent that was silent is heard again.
    Back {
        /// Number of the agent.
        agent: u32,
        /// The log's clock, µs.
        now: i64,
    },
}

/// Numbers of one agent that were given up: holes that stayed open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Number of the agent.
    pub agent: u32,
    /// How many numbers.
    pub count: i64,
    /// The agent's watermark while it still waited for them; if it had none, the one that it has since; `i64::MIN` if
    /// it has none either.
    pub watermark: i64,
}

/// What an `agent_status` event says about sequences and time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// The session before this one, and the last number of each of its lanes.
    pub tails: Option<(i64, Vec<(Lane, i64)>)>,
    /// (lane, number, complete up to).
    pub marks: Vec<(Lane, i64, i64)>,
    /// Lanes in use.
    pub lanes: Option<Vec<Lane>>,
    /// Reporting interval, µs.
    pub interval: Option<i64>,
    /// Whether it is a report of health: without an oldest row the outbox is then empty.
    pub is_health: bool,
    /// Oldest row in the outbox.
    pub oldest: Option<i64>,
    /// Numbers that will not come: session, lane, first, last.
    pub shed: Option<(i64, Lane, i64, i64)>,
}

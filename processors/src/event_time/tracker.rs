//! Row by row, in offset order, over all record types: what is new, what is late, what time it is.
//!
//! Everything here depends on the order of the log alone, never on how it is cut into batches.

use std::sync::Arc;

use crate::dedup::{Agent, Agents, ForeignIds, Seen, Sequence, Session, UNTOLD};
use crate::engine::operator::Operator;
use schemas::identity::Lane;
use schemas::translate::MAX_NUMBER;

use super::clock::Clock;

const SECOND: i64 = 1_000_000;
/// Lane time passes a hole that is this old on the quiet clock.
const HOLE: i64 = 30 * SECOND;
/// A session before the newest is no longer waited for when nothing of it came for this long.
const SESSION: i64 = 30 * SECOND;
/// A lane in use that neither moved nor was marked for this long no longer holds back.
const IDLE_LANE: i64 = 300 * SECOND;
/// Silence is never assumed before this long.
const LEAST_SILENCE: i64 = 60 * SECOND;
/// A declared oldest row further back than this is a backlog; less is only what is on its way.
const BACKLOG: i64 = 30 * SECOND;
/// Events without a sequence may be this much out of order.
const FOREIGN: i64 = 30 * SECOND;
/// An event time further ahead of its arrival than this is not believed.
const FUTURE: i64 = 600 * SECOND;
/// Turns between two sessions that are both alive before they are called two machines.
const TURNS: u8 = 3;

/// What the scan knows of one event.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Number of the agent, from [`Tracker::intern`].
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
    /// Oldest row in the outbox.
    pub oldest: Option<i64>,
    /// Numbers that will not come: session, lane, first, last.
    pub shed: Option<(i64, Lane, i64, i64)>,
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

/// How long windows wait for what is out of order, µs.
#[derive(Clone, Copy, Debug)]
pub struct Lateness(pub i64);

/// State of the scan of one partition.
#[derive(Debug)]
pub struct Tracker {
    agents: Agents,
    foreign: ForeignIds,
    clock: Clock,
    lateness: i64,
    advanced: Vec<(u32, i64)>,
    noticed: Vec<Noticed>,
    lost: Vec<Lost>,
}

impl Tracker {
    /// Nothing seen yet.
    pub fn new(lateness: Lateness) -> Self {
        Self {
            agents: Agents::default(),
            foreign: ForeignIds::default(),
            clock: Clock::default(),
            lateness: lateness.0,
            advanced: Vec::new(),
            noticed: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// Its keyed state.
    pub fn operators(&mut self) -> [&mut dyn Operator; 3] {
        [&mut self.clock, &mut self.agents, &mut self.foreign]
    }

    /// The number of an agent.
    pub fn intern(&mut self, id: &str) -> u32 {
        self.agents.intern(id, self.clock.quiet())
    }

    /// An agent.
    pub fn agent(&self, number: u32) -> &Agent {
        self.agents.get(number)
    }

    /// An agent, to change.
    pub fn agent_mut(&mut self, number: u32) -> &mut Agent {
        self.agents.change(number)
    }

    /// The agent of this name, if it is known.
    pub fn find(&self, id: &str) -> Option<&Agent> {
        self.agents.find(id)
    }

    /// The log's clock, µs.
    pub fn now(&self) -> i64 {
        self.clock.now()
    }

    /// The clock that silence is measured by, µs.
    pub fn quiet(&self) -> i64 {
        self.clock.quiet()
    }

    /// How many agents are known.
    pub fn agents(&self) -> usize {
        self.agents.len()
    }

    /// Agents whose watermark moved since the last call, each once, with the watermark it had before.
    pub fn take_advanced(&mut self) -> Vec<(u32, i64)> {
        let mut advanced = std::mem::take(&mut self.advanced);
        advanced.sort_unstable();
        advanced.dedup_by_key(|(number, _)| *number);
        advanced
    }

    /// What was noticed since the last call.
    pub fn take_noticed(&mut self) -> Vec<Noticed> {
        // called for every record, and there is nearly always nothing
        if self.noticed.is_empty() { Vec::new() } else { std::mem::take(&mut self.noticed) }
    }

    /// Numbers given up since the last call: holes that stayed open.
    pub fn take_lost(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.lost)
    }

    /// Judges one event.
    pub fn event(&mut self, row: &Row<'_>) -> Decision {
        let quiet = self.clock.quiet();
        let in_future = row.event_time > row.received_at.saturating_add(FUTURE);
        let time = if in_future { row.received_at } else { row.event_time };
        let watermark = self.agents.get(row.agent).watermark;
        let decided = |verdict| Decision { verdict, time, in_future, watermark };
        let agent = self.agents.change(row.agent);
        agent.heard = quiet;
        if std::mem::take(&mut agent.silent) {
            self.noticed.push(Noticed::Back { agent: row.agent, now: self.clock.now() });
        }
        let Some(lane) = lane_index(row.lane) else {
            let fresh = row
                .event_id
                .is_none_or(|id| self.foreign.is_fresh(&self.agents.get(row.agent).id, id, self.clock.now()));
            if fresh {
                let agent = self.agents.change(row.agent);
                agent.foreign_time = agent.foreign_time.max(time);
                self.advance(row.agent);
            }
            return decided(if fresh { Verdict::Fresh } else { Verdict::Duplicate });
        };
        if !is_session(row.session) || !(0..=MAX_NUMBER).contains(&row.seq) {
            return decided(Verdict::Uncertain);
        }
        if row.session <= agent.forgotten {
            return decided(Verdict::Duplicate);
        }
        if row.session <= agent.uncertain {
            return decided(Verdict::Uncertain);
        }
        let session = agent.session(row.session, quiet);
        session.moved = quiet;
        session.in_use |= 1 << lane;
        let sequence = session.lanes[lane].get_or_insert_with(|| Box::new(Sequence::new(quiet)));
        let seen = sequence.see(row.seq, time, quiet);
        if seen == Seen::Duplicate {
            return decided(Verdict::Duplicate);
        }
        self.watch_for_clone(row, time);
        self.advance(row.agent);
        decided(if seen == Seen::Fresh { Verdict::Fresh } else { Verdict::Uncertain })
    }

    /// Applies what an agent said about itself in an event that happened at `event_time` and arrived at
    /// `received_at`. A mark further ahead of its arrival than an event may be counts as that far ahead: otherwise
    /// one mark would make everything late that the agent ever sends.
    pub fn status(&mut self, number: u32, session: i64, event_time: i64, received_at: i64, status: &Status) {
        if !is_session(session) {
            return;
        }
        let latest = received_at.saturating_add(FUTURE);
        let quiet = self.clock.quiet();
        let agent = self.agents.change(number);
        if let Some((previous, tails)) = &status.tails
            && *previous > agent.forgotten.max(agent.uncertain)
            && (1..session).contains(previous)
        {
            let known = agent.session(*previous, quiet);
            known.tails = [-1; 3];
            known.moved = quiet;
            for (lane, tail) in tails {
                if let Some(lane) = lane_index(*lane) {
                    known.tails[lane] = *tail;
                }
            }
        }
        if let Some((of, lane, from, to)) = status.shed
            && of > agent.forgotten.max(agent.uncertain)
            && (1..=session).contains(&of)
            && let Some(lane) = lane_index(lane)
        {
            let shed = agent.session(of, quiet);
            shed.lanes[lane]
                .get_or_insert_with(|| Box::new(Sequence::new(quiet)))
                .explain(from, to, true, quiet);
        }
        if session > agent.forgotten.max(agent.uncertain) {
            let own = agent.session(session, quiet);
            if let Some(lanes) = &status.lanes {
                own.in_use =
                    lanes.iter().filter_map(|lane| lane_index(*lane)).fold(0, |bits, lane| bits | 1 << lane);
            }
            for (lane, seq, time) in &status.marks {
                if let Some(lane) = lane_index(*lane) {
                    let sequence = own.lanes[lane].get_or_insert_with(|| Box::new(Sequence::new(quiet)));
                    sequence.mark(*seq, latest.min(*time), quiet);
                }
            }
        }
        let is_newest = agent.sessions.last().is_none_or(|newest| newest.session <= session);
        if is_newest {
            if let Some(interval) = status.interval {
                agent.interval = interval;
            }
            agent.backlog = status
                .oldest
                .filter(|oldest| *oldest < event_time.saturating_sub(BACKLOG))
                .unwrap_or(i64::MAX);
            if status.oldest.is_some_and(|oldest| oldest >= session) {
                agent.forget_complete();
            }
        }
        self.advance(number);
    }

    /// The bridge could not read this event; its bytes are in the dead letters.
    pub fn rejected(&mut self, number: u32, session: i64, lane: Lane, seq: i64) {
        let quiet = self.clock.quiet();
        let agent = self.agents.change(number);
        if !is_session(session) || session <= agent.forgotten.max(agent.uncertain) {
            return;
        }
        if let Some(lane) = lane_index(lane) {
            let known = agent.session(session, quiet);
            known.lanes[lane]
                .get_or_insert_with(|| Box::new(Sequence::new(quiet)))
                .explain(seq, seq, false, quiet);
            self.advance(number);
        }
    }

    /// A clock record: holes and sessions that were waited for long enough are passed. Returns agents that
    /// have just become silent; their open windows are to be emitted as they stand *at this record*.
    pub fn tick(&mut self, bridge: &str, appended: i64, connected: bool, goodbye: bool) -> Vec<u32> {
        let before = self.clock.quiet();
        self.clock.tick(bridge, appended, connected, goodbye);
        self.foreign.expire(self.clock.now());
        let quiet = self.clock.quiet();
        if quiet == before {
            return Vec::new();
        }
        let mut silent = Vec::new();
        for number in 0..self.agents.len() as u32 {
            let agent = self.agents.get(number);
            let is_silent =
                !agent.silent && quiet - agent.heard > LEAST_SILENCE.max(agent.interval.saturating_mul(3));
            let releases = waited(agent, quiet);
            let idle = newest(agent).is_some_and(|session| has_idle_lane(session, quiet));
            if is_silent {
                self.agents.change(number).silent = true;
                silent.push(number);
            }
            let waited_at = self.agents.get(number).watermark;
            let count = if releases { release(self.agents.change(number), quiet) } else { 0 };
            if count > 0 {
                self.noticed.push(Noticed::Gap { agent: number, missing: count, now: self.clock.now() });
            }
            if releases || idle {
                self.advance(number);
            }
            if count > 0 {
                // An agent that had no time yet lost them before the time that it has now.
                let now = self.agents.get(number).watermark;
                let watermark = if waited_at == i64::MIN { now } else { waited_at };
                self.lost.push(Lost { agent: number, count, watermark });
            }
        }
        silent
    }

    fn advance(&mut self, number: u32) {
        let quiet = self.clock.quiet();
        let agent = self.agents.get(number);
        let Some(reached) = reached(agent, quiet) else {
            return;
        };
        let watermark = reached.saturating_sub(self.lateness);
        if watermark > agent.watermark {
            let before = agent.watermark;
            self.agents.change(number).watermark = watermark;
            if self.advanced.last().is_none_or(|(last, _)| *last != number) {
                self.advanced.push((number, before));
            }
        }
    }

    /// Rows of an older session that happened after the newer one began, turn by turn with rows of that one.
    fn watch_for_clone(&mut self, row: &Row<'_>, time: i64) {
        let agent = self.agents.change(row.agent);
        if agent.last_session == row.session {
            return;
        }
        let newest = agent.sessions.last().map_or(row.session, |newest| newest.session);
        let turned = agent.last_session == newest
            && row.session < newest
            && time > newest.saturating_add(5 * SECOND)
            && !row.replayed;
        agent.last_session = row.session;
        if !turned || agent.turns >= TURNS {
            return;
        }
        agent.turns += 1;
        if agent.turns == TURNS {
            let found = Clone {
                agent: Arc::clone(&agent.id),
                older: row.session,
                newer: newest,
                lane: row.lane,
                seq: row.seq,
                event_time: time,
            };
            self.noticed.push(Noticed::Clone(found));
        }
    }
}

/// Whether an agent can have started then. Records of before the bridge knew the bound may say otherwise.
fn is_session(session: i64) -> bool {
    (1..=MAX_NUMBER).contains(&session)
}

/// Position of a lane that has sequences.
fn lane_index(lane: Lane) -> Option<usize> {
    match lane {
        Lane::Critical => Some(0),
        Lane::Normal => Some(1),
        Lane::Bulk => Some(2),
        Lane::Foreign => None,
    }
}

fn newest(agent: &Agent) -> Option<&Session> {
    agent.sessions.last()
}

/// Whether something of this agent was waited for long enough.
fn waited(agent: &Agent, quiet: i64) -> bool {
    let last = agent.sessions.len().saturating_sub(1);
    agent.sessions.iter().enumerate().any(|(at, session)| {
        session.lanes.iter().flatten().any(|sequence| sequence.is_due(quiet - HOLE))
            || (at < last && !session.released && quiet - session.moved > SESSION)
    })
}

fn has_idle_lane(session: &Session, quiet: i64) -> bool {
    session.lanes.iter().flatten().any(|sequence| quiet - sequence.moved() > IDLE_LANE)
}

/// Lets time pass what was waited for long enough; returns how many numbers were given up.
fn release(agent: &mut Agent, quiet: i64) -> i64 {
    let last = agent.sessions.len().saturating_sub(1);
    let mut lost = 0_i64;
    for (at, session) in agent.sessions.iter_mut().enumerate() {
        for sequence in session.lanes.iter_mut().flatten() {
            lost = lost.saturating_add(sequence.release(quiet - HOLE));
        }
        if at < last && quiet - session.moved > SESSION {
            session.released = true;
        }
    }
    lost
}

/// Event time up to which everything of this agent is here, if that is known.
fn reached(agent: &Agent, quiet: i64) -> Option<i64> {
    let last = agent.sessions.len().checked_sub(1);
    let Some(last) = last else {
        return (agent.foreign_time > i64::MIN).then(|| agent.foreign_time.saturating_sub(FOREIGN));
    };
    let mut least = i64::MAX;
    for (at, session) in agent.sessions.iter().enumerate() {
        let is_newest = at == last;
        if !is_newest && (session.released || session.is_drained()) {
            continue;
        }
        for (lane, sequence) in session.lanes.iter().enumerate() {
            let tail = session.tails[lane];
            let wanted = if is_newest { session.in_use & (1 << lane) != 0 } else { tail >= 0 };
            match sequence {
                Some(sequence) if is_newest && quiet - sequence.moved() > IDLE_LANE => {}
                Some(sequence) if !is_newest && tail != UNTOLD && sequence.has_reached(tail) => {}
                Some(sequence) => least = least.min(sequence.time()),
                // A lane in use of which nothing came yet holds everything back, for a while.
                None if wanted && quiet - session.moved <= IDLE_LANE => return None,
                None => {}
            }
        }
    }
    let least = least.min(agent.backlog);
    (least > i64::MIN && least < i64::MAX).then_some(least)
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;

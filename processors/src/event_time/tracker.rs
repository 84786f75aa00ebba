//! Row by row, in offset order, over all record types: what is new, what is late, what time it is.
//!
//! Everything here depends on the order of the log alone, never on how it is cut into batches. What happens because
//! time passes is in [`super::passing`].

use std::sync::Arc;

use crate::dedup::{Agent, Agents, ForeignIds, Seen};
use crate::engine::operator::Operator;
use schemas::identity::Lane;
use schemas::translate::MAX_NUMBER;

use super::clock::Clock;
use super::deadlines::Deadlines;
use super::said::{Clone, Decision, Lost, Noticed, Row, Status, Verdict};

pub(super) const SECOND: i64 = 1_000_000;
/// A declared oldest row further back than this is a backlog, and an event that was under way for longer was kept;
/// less is only what is on its way.
const BACKLOG: i64 = 30 * SECOND;
/// An event time further ahead of its arrival than this is not believed.
const FUTURE: i64 = 600 * SECOND;
/// Windows of one agent that are open lie within this time, or twice the hold if that is longer. Whatever an agent says
/// of its lanes and its outbox, what is older than that is late.
const SPAN: i64 = 60 * 24 * 3_600 * SECOND;
/// Lanes that an agent has not spoken of may still come: what is first heard of it may be the end of one lane of an
/// outbox that is full of others.
const UNTOLD_LANES: i64 = 30 * SECOND;
/// Turns between two sessions that are both alive before they are called two machines.
const TURNS: u8 = 3;

/// How long windows wait for what is out of order, µs.
#[derive(Clone, Copy, Debug)]
pub struct Lateness(pub i64);

/// How long an agent may be unheard of before it is dropped and only a floor of it stays, µs of the quiet clock: an
/// outage of ours does not count. Whatever it is, an agent falls silent before.
#[derive(Clone, Copy, Debug)]
pub struct Hold(pub i64);

/// State of the scan of one partition.
#[derive(Debug)]
pub struct Tracker {
    pub(super) agents: Agents,
    pub(super) foreign: ForeignIds,
    pub(super) clock: Clock,
    pub(super) deadlines: Deadlines,
    pub(super) lateness: i64,
    pub(super) hold: i64,
    /// How long (µs of the quiet clock) lanes are waited for of which an agent has said nothing yet.
    pub(super) untold: i64,
    pub(super) advanced: Vec<(u32, i64)>,
    pub(super) expired: Vec<u32>,
    pub(super) noticed: Vec<Noticed>,
    pub(super) lost: Vec<Lost>,
    refused: u64,
}

impl Tracker {
    /// Nothing seen yet.
    pub fn new(lateness: Lateness, hold: Hold) -> Self {
        Self {
            agents: Agents::default(),
            foreign: ForeignIds::default(),
            clock: Clock::default(),
            deadlines: Deadlines::default(),
            lateness: lateness.0,
            hold: hold.0,
            untold: UNTOLD_LANES,
            advanced: Vec::new(),
            expired: Vec::new(),
            noticed: Vec::new(),
            lost: Vec::new(),
            refused: 0,
        }
    }

    /// Does not wait for an agent to say which lanes it uses: where events come in order anyway.
    #[must_use]
    pub fn eager(mut self) -> Self {
        self.untold = -1;
        self
    }

    /// Its keyed state.
    pub fn operators(&mut self) -> [&mut dyn Operator; 3] {
        [&mut self.clock, &mut self.agents, &mut self.foreign]
    }

    /// The number of an agent; it has it until [`Tracker::forget`].
    pub fn intern(&mut self, id: &str) -> u32 {
        if self.clock.take_restored() && !self.agents.was_restored() {
            // Their state was of another definition and has been dropped: their sessions began before, as far as we
            // know, and what comes of those may have been delivered.
            self.agents.begin_above(self.clock.now());
        }
        let number = self.agents.intern(id, self.clock.quiet());
        if !self.deadlines.has(number) {
            self.watch(number);
        }
        number
    }

    /// An agent.
    pub fn agent(&self, number: u32) -> &Agent {
        self.agents.get(number)
    }

    /// An agent, to change.
    pub fn agent_mut(&mut self, number: u32) -> &mut Agent {
        self.agents.change(number)
    }

    /// All agents with their numbers.
    pub fn agents(&self) -> impl Iterator<Item = (u32, &Agent)> {
        self.agents.iter()
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

    /// Agents that are silent, by number.
    pub fn silent(&self) -> impl Iterator<Item = u32> {
        self.agents.iter().filter(|(_, agent)| agent.silent).map(|(number, _)| number)
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

    /// Claims about numbers since the last call that could not be believed, wholly or in part.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// Whether [`Tracker::take_expired`] has an answer.
    pub fn has_expired(&self) -> bool {
        !self.expired.is_empty()
    }

    /// Agents that nobody heard of for the whole hold, by name. Whoever asks closes their windows and then calls
    /// [`Tracker::forget`] for each, before any other row.
    pub fn take_expired(&mut self) -> Vec<u32> {
        let mut expired = std::mem::take(&mut self.expired);
        expired.sort_unstable_by(|a, b| self.agents.get(*a).id.cmp(&self.agents.get(*b).id));
        expired.dedup();
        expired
    }

    /// Drops an agent. `closed`: the latest end of its windows that were closed with it (µs), `i64::MIN` if none was.
    /// What comes of it in windows up to there is late, and what comes of sessions known so far is uncertain. Answers
    /// how many floors of others had to go.
    pub fn forget(&mut self, number: u32, closed: i64) -> u64 {
        self.deadlines.remove(number);
        let latest = self.clock.now().saturating_sub(self.hold);
        self.agents.expire(number, closed, self.clock.quiet(), latest)
    }

    /// Judges one event.
    pub fn event(&mut self, row: &Row<'_>) -> Decision {
        let in_future = row.event_time > row.received_at.saturating_add(FUTURE);
        let time = if in_future { row.received_at } else { row.event_time };
        if !row.hearsay {
            self.bound_span(row.agent, time);
        }
        let watermark = self.agents.get(row.agent).watermark;
        let verdict = self.judge(row, time);
        self.watch(row.agent);
        Decision { verdict, time, in_future, watermark }
    }

    /// Ends what is too far behind the latest event; where nothing is known to have ended, only if there is such.
    fn bound_span(&mut self, number: u32, time: i64) {
        let agent = self.agents.change(number);
        agent.earliest = agent.earliest.min(time);
        agent.latest = agent.latest.max(time);
        let floor = agent.latest.saturating_sub(SPAN.max(self.hold.saturating_mul(2)));
        if agent.watermark > i64::MIN || agent.earliest < floor {
            self.raise(number, floor);
        }
    }

    fn judge(&mut self, row: &Row<'_>, time: i64) -> Verdict {
        let quiet = self.clock.quiet();
        let agent = self.agents.change(row.agent);
        if !row.hearsay {
            agent.heard = quiet;
            let was_silent = std::mem::take(&mut agent.silent);
            if was_silent || row.received_at.saturating_sub(time) > BACKLOG {
                agent.back = quiet;
            }
            if was_silent {
                self.noticed.push(Noticed::Back { agent: row.agent, now: self.clock.now() });
            }
        }
        let Some(lane) = lane_index(row.lane) else {
            let seen = match row.event_id {
                Some(id) => self.foreign.see(&agent.id, id, self.clock.now(), &mut agent.foreign_ids),
                None => Seen::Fresh,
            };
            if seen == Seen::Duplicate {
                return Verdict::Duplicate;
            }
            if !row.hearsay {
                agent.foreign_time = agent.foreign_time.max(time);
                self.advance(row.agent);
            }
            return if seen == Seen::Fresh { Verdict::Fresh } else { Verdict::Uncertain };
        };
        if !is_session(row.session) || !(0..=MAX_NUMBER).contains(&row.seq) {
            return Verdict::Uncertain;
        }
        if agent.has_forgotten(row.session) {
            return Verdict::Duplicate;
        }
        if !agent.is_open(row.session) {
            self.watch_for_clone(row, time);
            return Verdict::Uncertain;
        }
        let Some(session) = agent.session(row.session, quiet) else { return Verdict::Uncertain };
        session.moved = quiet;
        session.in_use |= 1 << lane;
        let unsure = session.unsure;
        let sequence = session.lane(lane, row.seq, quiet);
        let seen = sequence.see(row.seq, time, quiet);
        if seen == Seen::Duplicate {
            return Verdict::Duplicate;
        }
        let grown = sequence.intervals();
        agent.bound_intervals(grown);
        self.watch_for_clone(row, time);
        if !row.speaks {
            self.advance(row.agent);
        }
        if seen == Seen::Fresh && !unsure { Verdict::Fresh } else { Verdict::Uncertain }
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
        let mut refused = 0;
        if let Some((previous, tails)) = &status.tails
            && agent.is_open(*previous)
            && (1..session).contains(previous)
            && let Some(known) = agent.session(*previous, quiet)
        {
            let told = tails.iter().filter_map(|(lane, tail)| Some((lane_index(*lane)?, *tail)));
            refused += known.set_tails(told);
            known.moved = quiet;
        }
        if let Some((of, lane, from, to)) = status.shed
            && agent.is_open(of)
            && (1..=session).contains(&of)
            && let Some(lane) = lane_index(lane)
            && let Some(shed) = agent.session(of, quiet)
        {
            let sequence = shed.lane(lane, from, quiet);
            refused += u64::from(!sequence.explain(from, to, true, quiet));
            let grown = sequence.intervals();
            agent.bound_intervals(grown);
        }
        if agent.is_open(session)
            && let Some(own) = agent.session(session, quiet)
        {
            if let Some(lanes) = &status.lanes {
                own.told = true;
                own.in_use =
                    lanes.iter().filter_map(|lane| lane_index(*lane)).fold(0, |bits, lane| bits | 1 << lane);
            }
            for (lane, seq, time) in &status.marks {
                if let Some(lane) = lane_index(*lane) {
                    let sequence = own.lane(lane, seq.saturating_add(1), quiet);
                    refused += u64::from(!sequence.mark(*seq, latest.min(*time), quiet));
                }
            }
        }
        let is_newest = agent.sessions.last().is_none_or(|newest| newest.session <= session);
        if is_newest {
            if let Some(interval) = status.interval {
                agent.interval = interval;
            }
            if status.is_health {
                let is_backlog = |oldest: &i64| *oldest < event_time.saturating_sub(BACKLOG);
                agent.backlog = status.oldest.filter(is_backlog).unwrap_or(i64::MAX);
                if status.oldest.is_none_or(|oldest| oldest >= session) {
                    agent.forget_complete();
                }
            }
        }
        self.refused += refused;
        self.advance(number);
        self.watch(number);
    }

    /// The bridge could not read this event; its bytes are in the dead letters.
    pub fn rejected(&mut self, number: u32, session: i64, lane: Lane, seq: i64) {
        let quiet = self.clock.quiet();
        let agent = self.agents.change(number);
        if !is_session(session) || !agent.is_open(session) {
            return;
        }
        if let Some(lane) = lane_index(lane)
            && let Some(known) = agent.session(session, quiet)
        {
            let sequence = known.lane(lane, seq, quiet);
            let is_believed = sequence.explain(seq, seq, false, quiet);
            let grown = sequence.intervals();
            agent.bound_intervals(grown);
            self.refused += u64::from(!is_believed);
            self.advance(number);
        }
        self.watch(number);
    }

    /// Rows of older sessions that happened after the newer one began, turn by turn with rows of that one.
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

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;

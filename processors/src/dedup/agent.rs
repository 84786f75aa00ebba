//! One agent: its sessions and lanes, and where its event time stands.

use std::sync::Arc;

use super::codec::{put, put_unsigned, take, take_unsigned};
use super::floors::Floor;
use super::foreign::Share;
use super::sequence::{MAX_AHEAD, Sequence};

/// More sessions of one agent than this are not kept; rows of older ones pass flagged.
pub const MAX_SESSIONS: usize = 16;
/// More intervals of one agent, over all its sessions and lanes, are not kept: the lane that has most gives up its
/// lowest hole, and what falls into it later is uncertain. While one of two bridges is away every second event of a
/// lane may be missing, and an agent sends up to 20,000 before the first is confirmed, so 10,000 holes are an ordinary
/// outage. With any more, one agent's row would not fit into a chunk of the changelog.
pub const MAX_INTERVALS: usize = 16_384;

/// More sessions that have arrived completely are not told from those that were given up.
pub const MAX_FORGOTTEN: usize = 32;

/// Lanes that have sequences: critical, normal, bulk.
pub(super) const LANES: usize = 3;
/// A lane with fewer intervals cannot be what makes an agent's too many.
const FEW_INTERVALS: usize = MAX_INTERVALS / (MAX_SESSIONS * LANES);
/// A tail that nobody told yet.
pub const UNTOLD: i64 = -2;

/// One run of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its identity: the start time in µs.
    pub session: i64,
    /// What was seen, by lane.
    pub lanes: [Option<Box<Sequence>>; LANES],
    /// Last number of each lane, once the next session told it: -1 if the lane was never used, [`UNTOLD`] before.
    pub tails: [i64; LANES],
    /// Bits of the lanes that the agent said it uses, and of those that were seen.
    pub in_use: u8,
    /// Whether it has said which lanes it uses; before, others may be on their way.
    pub told: bool,
    /// Quiet clock when it was first heard of.
    pub began: i64,
    /// No longer waited for.
    pub released: bool,
    /// What was seen of it before is forgotten: whatever comes may be a repeat.
    pub unsure: bool,
    /// Quiet clock when this session was last heard of.
    pub moved: i64,
}

impl Session {
    fn new(session: i64, quiet: i64) -> Self {
        Self {
            session,
            lanes: Default::default(),
            tails: [UNTOLD; LANES],
            in_use: 0,
            told: false,
            began: quiet,
            released: false,
            unsure: false,
            moved: quiet,
        }
    }

    /// A lane, made if it is new. `first` is the first number heard of: below it nothing is missed in a session of
    /// which the beginning is forgotten.
    pub fn lane(&mut self, lane: usize, first: i64, quiet: i64) -> &mut Sequence {
        let unsure = self.unsure;
        self.lanes[lane].get_or_insert_with(|| {
            let first = first.min(MAX_AHEAD);
            Box::new(if unsure { Sequence::starting_at(first, quiet) } else { Sequence::new(quiet) })
        })
    }

    /// Takes the last numbers that the next session told; lanes that it does not name were never used. A tail below
    /// what was seen is not the last. What is new of this is waited for anew. Answers how many could not be believed.
    pub fn set_tails(&mut self, told: impl Iterator<Item = (usize, i64)>) -> u64 {
        let highest = |lane: &Option<Box<Sequence>>| lane.as_ref().map_or(-1, |lane| lane.highest());
        let mut refused = 0;
        let before = std::mem::replace(&mut self.tails, [-1; LANES]);
        for (lane, tail) in told {
            let limit =
                self.lanes[lane].as_ref().map_or_else(|| Sequence::new(0).limit(), |lane| lane.limit());
            let is_believed = self.unsure || (-1..=limit).contains(&tail);
            self.tails[lane] = if is_believed { tail.max(-1) } else { UNTOLD };
            refused += u64::from(!is_believed);
        }
        for (tail, lane) in self.tails.iter_mut().zip(&self.lanes) {
            if *tail != UNTOLD {
                *tail = (*tail).max(highest(lane));
            }
        }
        self.released &= self.tails == before;
        refused
    }

    /// How many numbers below the tails that were told never came. What is missing below others is a hole.
    pub fn missing_at_the_end(&self) -> i64 {
        let missing = |(lane, tail): (&Option<Box<Sequence>>, i64)| match lane {
            Some(sequence) => tail - sequence.highest(),
            None if self.unsure => 0,
            None => tail + 1,
        };
        self.lanes.iter().zip(self.tails).map(missing).map(|missing| missing.max(0)).sum()
    }

    /// Whether the agent told the end of each lane and everything up to it has arrived or was given up.
    pub fn is_drained(&self) -> bool {
        self.lanes.iter().zip(self.tails).all(|(lane, tail)| match lane {
            _ if tail == UNTOLD => false,
            Some(sequence) => sequence.has_reached(tail),
            None => tail < 0,
        })
    }

    /// Whether nothing of this session can still be missing.
    fn is_complete(&self) -> bool {
        self.is_drained() && self.lanes.iter().flatten().all(|lane| lane.has_no_holes())
    }

    /// Whether everything that was seen of it is known exactly.
    fn is_exact(&self) -> bool {
        !self.unsure && self.lanes.iter().flatten().all(|lane| lane.is_exact())
    }

    fn intervals(&self) -> usize {
        self.lanes.iter().flatten().map(|lane| lane.intervals()).sum()
    }
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its name.
    pub id: Arc<str>,
    /// Oldest first.
    pub sessions: Vec<Session>,
    /// Sessions that have arrived completely, oldest first: what comes of them is a repeat.
    pub forgotten: Vec<i64>,
    /// Of sessions up to here some were given up, for lack of room or exactness: what comes of those that are not known
    /// passes flagged.
    pub uncertain: i64,
    /// Sessions up to here may have been seen before the agent was dropped: what comes of them passes flagged.
    pub floor: i64,
    /// Event time (µs) up to which everything of this agent has been seen; only ever grows.
    pub watermark: i64,
    /// Event times (µs) of its earliest and its latest event; `i64::MAX` and `i64::MIN` before the first.
    pub earliest: i64,
    /// See `earliest`.
    pub latest: i64,
    /// Latest event time of events without a sequence.
    pub foreign_time: i64,
    /// How many ids of events without a sequence were kept of late.
    pub foreign_ids: Share,
    /// Oldest row that the agent said it still holds, if that is a backlog.
    pub backlog: i64,
    /// The agent's own reporting interval in µs; 0 if never told.
    pub interval: i64,
    /// Quiet clock when the agent was last heard.
    pub heard: i64,
    /// Quiet clock when it was last heard after an absence, or by an event that was old when it arrived: what an
    /// outage kept may still be on its way, and time in which it could not speak says nothing of its lanes.
    pub back: i64,
    /// Whether its open windows were emitted because it is silent.
    pub silent: bool,
    /// Turns between sessions that are both alive; a clone once there are enough, and then for as long as the newest
    /// stays and none of the others goes.
    pub turns: u8,
    /// The session heard last.
    pub last_session: i64,
    pub(super) dirty: bool,
    /// Its place in the list is free.
    pub(super) vacant: bool,
}

impl Agent {
    pub(super) fn new(id: Arc<str>, quiet: i64) -> Self {
        Self {
            id,
            sessions: Vec::with_capacity(1),
            forgotten: Vec::new(),
            uncertain: i64::MIN,
            floor: i64::MIN,
            watermark: i64::MIN,
            earliest: i64::MAX,
            latest: i64::MIN,
            foreign_time: i64::MIN,
            foreign_ids: Share::default(),
            backlog: i64::MAX,
            interval: 0,
            heard: quiet,
            back: quiet,
            silent: false,
            turns: 0,
            last_session: i64::MIN,
            dirty: false,
            vacant: false,
        }
    }

    /// A place in the list that nobody has.
    pub(super) fn vacant() -> Self {
        Self { sessions: Vec::new(), vacant: true, ..Self::new(Arc::from(""), 0) }
    }

    /// What stays of it at `quiet` once its windows up to `closed` are closed; nothing if there is nothing to keep.
    pub(super) fn to_floor(&self, closed: i64, quiet: i64) -> Option<Floor> {
        let newest = self.sessions.last().map_or(i64::MIN, |newest| newest.session);
        let forgotten = self.forgotten.last().copied().unwrap_or(i64::MIN);
        let session = newest.max(forgotten).max(self.uncertain).max(self.floor);
        let watermark = self.watermark.max(closed);
        (session > i64::MIN || watermark > i64::MIN).then_some(Floor { session, watermark, since: quiet })
    }

    /// Whether rows of this session are judged by their numbers: it is known, or was never heard of.
    pub fn is_open(&self, session: i64) -> bool {
        self.sessions.last().is_some_and(|newest| newest.session == session)
            || self.sessions.iter().any(|known| known.session == session)
            || (session > self.uncertain && !self.has_forgotten(session))
    }

    /// Whether everything of this session has been seen.
    pub fn has_forgotten(&self, session: i64) -> bool {
        self.forgotten.binary_search(&session).is_ok()
    }

    /// The session with this start time, made if it is new. `None` if there is no room for it, as it is older than
    /// all the others.
    pub fn session(&mut self, session: i64, quiet: i64) -> Option<&mut Session> {
        let at = match self.sessions.last() {
            Some(last) if last.session == session => self.sessions.len() - 1,
            _ => match self.sessions.binary_search_by_key(&session, |known| known.session) {
                Ok(at) => at,
                Err(at) => self.admit(at, session, quiet)?,
            },
        };
        Some(&mut self.sessions[at])
    }

    fn admit(&mut self, at: usize, session: i64, quiet: i64) -> Option<usize> {
        let mut at = at;
        if self.sessions.len() >= MAX_SESSIONS {
            let Some(before) = at.checked_sub(1) else {
                self.uncertain = self.uncertain.max(session);
                return None;
            };
            self.forget(0);
            at = before;
        }
        let mut made = Session::new(session, quiet);
        made.unsure = session <= self.floor;
        if at > 0 {
            // Until it says otherwise a new session uses the lanes of the one before.
            made.in_use = self.sessions[at - 1].in_use;
            made.told = self.sessions[at - 1].told;
        }
        if at == self.sessions.len() {
            self.turns = 0;
        }
        self.sessions.insert(at, made);
        Some(at)
    }

    /// Gives up holes until there are no more than are kept; `grown` intervals are in the lane that changed.
    pub fn bound_intervals(&mut self, grown: usize) {
        if grown <= FEW_INTERVALS {
            return;
        }
        let mut all: usize = self.sessions.iter().map(Session::intervals).sum();
        while all > MAX_INTERVALS {
            let lanes = self.sessions.iter_mut().flat_map(|session| &mut session.lanes).flatten();
            let Some(most) = lanes.max_by_key(|lane| lane.intervals()) else { return };
            let before = most.intervals();
            most.give_up();
            all -= before - most.intervals();
        }
    }

    /// Drops the sessions before the newest of which nothing can come any more.
    pub fn forget_complete(&mut self) {
        for at in (0..self.sessions.len().saturating_sub(1)).rev() {
            if self.sessions[at].is_complete() {
                self.forget(at);
            }
        }
    }

    /// Drops a session. What comes of it is a repeat if all of it is here and known exactly.
    fn forget(&mut self, at: usize) {
        let gone = self.sessions.remove(at);
        self.turns = 0;
        if !(gone.is_complete() && gone.is_exact()) {
            self.uncertain = self.uncertain.max(gone.session);
            return;
        }
        if let Err(at) = self.forgotten.binary_search(&gone.session) {
            self.forgotten.insert(at, gone.session);
        }
        if self.forgotten.len() > MAX_FORGOTTEN {
            self.uncertain = self.uncertain.max(self.forgotten.remove(0));
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for value in [self.uncertain, self.floor, self.watermark, self.foreign_time, self.backlog] {
            put(out, value);
        }
        for value in [self.interval, self.heard, self.back, self.last_session, i64::from(self.turns)] {
            put(out, value);
        }
        for value in [self.earliest, self.latest, self.foreign_ids.hour] {
            put(out, value);
        }
        put_unsigned(out, u64::from(self.foreign_ids.kept));
        put_unsigned(out, self.forgotten.len() as u64);
        let mut before = 0;
        for session in &self.forgotten {
            put_unsigned(out, (session - before) as u64);
            before = *session;
        }
        put_unsigned(out, u64::from(self.silent));
        put_unsigned(out, self.sessions.len() as u64);
        for session in &self.sessions {
            put(out, session.session);
            session.tails.iter().for_each(|tail| put(out, *tail));
            let flags =
                u64::from(session.released) | u64::from(session.unsure) << 1 | u64::from(session.told) << 2;
            put_unsigned(out, u64::from(session.in_use) << 3 | flags);
            put(out, session.began);
            put(out, session.moved);
            for lane in &session.lanes {
                put_unsigned(out, u64::from(lane.is_some()));
                if let Some(sequence) = lane {
                    sequence.write(out);
                }
            }
        }
    }

    pub(super) fn read(id: Arc<str>, mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let mut agent = Self::new(id, 0);
        agent.uncertain = take(bytes)?;
        agent.floor = take(bytes)?;
        agent.watermark = take(bytes)?;
        agent.foreign_time = take(bytes)?;
        agent.backlog = take(bytes)?;
        agent.interval = take(bytes)?;
        agent.heard = take(bytes)?;
        agent.back = take(bytes)?;
        agent.last_session = take(bytes)?;
        agent.turns = u8::try_from(take(bytes)?).ok()?;
        agent.earliest = take(bytes)?;
        agent.latest = take(bytes)?;
        agent.foreign_ids = Share { hour: take(bytes)?, kept: u32::try_from(take_unsigned(bytes)?).ok()? };
        let mut before = 0_i64;
        for _ in 0..take_unsigned(bytes)? {
            before = before.checked_add(i64::try_from(take_unsigned(bytes)?).ok()?)?;
            agent.forgotten.push(before);
        }
        agent.silent = take_unsigned(bytes)? == 1;
        for _ in 0..take_unsigned(bytes)? {
            let mut session = Session::new(take(bytes)?, 0);
            for tail in &mut session.tails {
                *tail = take(bytes)?;
            }
            let flags = take_unsigned(bytes)?;
            session.released = flags & 1 == 1;
            session.unsure = flags & 2 == 2;
            session.told = flags & 4 == 4;
            session.in_use = u8::try_from(flags >> 3).ok()?;
            session.began = take(bytes)?;
            session.moved = take(bytes)?;
            for lane in &mut session.lanes {
                if take_unsigned(bytes)? == 1 {
                    *lane = Some(Box::new(Sequence::read(bytes)?));
                }
            }
            agent.sessions.push(session);
        }
        bytes.is_empty().then_some(agent)
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;

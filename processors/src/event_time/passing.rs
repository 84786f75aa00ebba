//! What changes because time passes: holes and sessions that were waited for long enough, lanes that no longer hold
//! back, agents that fall silent, and those that nobody heard of for so long that they are dropped.

use crate::dedup::{Agent, UNTOLD};

use super::said::{Lost, Noticed};
use super::tracker::{SECOND, Tracker};

/// Lane time passes a hole that is this old on the quiet clock.
const HOLE: i64 = 30 * SECOND;
/// A session before the newest is no longer waited for when nothing of it came for this long, and nothing old either.
const SESSION: i64 = 30 * SECOND;
/// A lane in use that neither moved nor was marked for this long no longer holds back, if the agent was there all the
/// time and what came of it was not old.
const IDLE_LANE: i64 = 300 * SECOND;
/// Silence is never assumed before this long.
const LEAST_SILENCE: i64 = 60 * SECOND;
/// Events without a sequence may be this much out of order.
const FOREIGN: i64 = 30 * SECOND;

impl Tracker {
    /// A clock record: holes and sessions that were waited for long enough are passed. Returns agents that
    /// have just become silent; their open windows are to be emitted as they stand *at this record*.
    /// [`Tracker::take_expired`] tells those that are to be dropped at this record.
    ///
    /// Work follows what is due, not how many agents there are.
    pub fn tick(&mut self, bridge: &str, appended: i64, connected: bool, goodbye: bool) -> Vec<u32> {
        if self.agents.take_restored() {
            // By the clock of before this record: what falls due with it must not be taken for past.
            self.set_deadlines();
        }
        let Some(quiet) = self.pass_to(bridge, appended, connected, goodbye) else { return Vec::new() };
        let mut silent = Vec::new();
        for number in self.deadlines.take_due(quiet) {
            self.pass(number, quiet, &mut silent);
            self.watch(number);
        }
        silent
    }

    /// Moves the clock; answers the quiet clock if that moved.
    pub(super) fn pass_to(
        &mut self,
        bridge: &str,
        appended: i64,
        connected: bool,
        goodbye: bool,
    ) -> Option<i64> {
        let before = self.clock.quiet();
        self.clock.tick(bridge, appended, connected, goodbye);
        self.foreign.expire(self.clock.now());
        Some(self.clock.quiet()).filter(|quiet| *quiet > before)
    }

    /// Looks at one agent at `quiet`. Nothing happens before its deadline, however often it is called.
    pub(super) fn pass(&mut self, number: u32, quiet: i64, silent: &mut Vec<u32>) {
        let agent = self.agents.get(number);
        let unheard = quiet - agent.heard;
        if agent.silent && unheard > self.hold.max(patience(agent)) {
            self.expired.push(number);
            return;
        }
        let is_silent = !agent.silent && unheard > patience(agent);
        let releases = waited(agent, quiet);
        if is_silent {
            self.agents.change(number).silent = true;
            silent.push(number);
        }
        let waited_at = self.agents.get(number).watermark;
        let count = if releases { release(self.agents.change(number), quiet) } else { 0 };
        if count > 0 {
            self.noticed.push(Noticed::Gap { agent: number, missing: count, now: self.clock.now() });
        }
        self.advance(number);
        if count > 0 {
            // An agent that had no time yet lost them before the time that it has now.
            let now = self.agents.get(number).watermark;
            let watermark = if waited_at == i64::MIN { now } else { waited_at };
            self.lost.push(Lost { agent: number, count, watermark });
        }
    }

    /// Gives an agent its deadline.
    pub(super) fn watch(&mut self, number: u32) {
        let due = self.due(self.agents.get(number), self.clock.quiet());
        self.deadlines.at_most(number, due);
    }

    fn set_deadlines(&mut self) {
        self.deadlines.clear();
        let quiet = self.clock.quiet();
        for (number, agent) in self.agents.iter() {
            let due = self.due(agent, quiet);
            self.deadlines.at_most(number, due);
        }
    }

    /// The first moment after `quiet` at which [`Self::pass`] may do something, if nothing of the agent comes before.
    fn due(&self, agent: &Agent, quiet: i64) -> i64 {
        let patience = patience(agent);
        let unheard = if agent.silent { self.hold.max(patience) } else { patience };
        let mut due = agent.heard.saturating_add(unheard).saturating_add(1);
        let idle = idle_lane(agent);
        for (at, session) in agent.sessions.iter().enumerate() {
            if may_be_given_up(agent, at) {
                due = due.min(session.moved.max(agent.back) + SESSION + 1);
            }
            // Lanes that hold back for a while: once that is over, it is over.
            let mut over = |since: i64, patience: i64| {
                let at = since.saturating_add(patience).saturating_add(1);
                due = if at > quiet { due.min(at) } else { due };
            };
            if !session.told {
                over(session.began, self.untold);
            }
            over(session.began.max(agent.back), idle);
            for sequence in session.lanes.iter().flatten() {
                over(sequence.moved().max(agent.back), idle);
            }
            for since in session.lanes.iter().flatten().filter_map(|sequence| sequence.held_since()) {
                due = due.min(since + HOLE);
            }
        }
        due
    }

    /// The watermark follows what has been reached.
    pub(super) fn advance(&mut self, number: u32) {
        let quiet = self.clock.quiet();
        if let Some(reached) = reached(self.agents.get(number), quiet, self.untold) {
            self.raise(number, reached.saturating_sub(self.lateness));
        }
    }

    /// Lets the watermark of an agent be no less than this.
    pub(super) fn raise(&mut self, number: u32, watermark: i64) {
        let before = self.agents.get(number).watermark;
        if watermark > before {
            self.agents.change(number).watermark = watermark;
            if self.advanced.last().is_none_or(|(last, _)| *last != number) {
                self.advanced.push((number, before));
            }
        }
    }
}

/// How long an agent may say nothing before it counts as silent.
fn patience(agent: &Agent) -> i64 {
    LEAST_SILENCE.max(agent.interval.saturating_mul(3))
}

/// How long (µs) a lane of an agent that is there may be idle before it no longer holds back. Whoever reports rarely may
/// be away for longer without being silent, and marks its lanes more rarely.
fn idle_lane(agent: &Agent) -> i64 {
    IDLE_LANE.max(patience(agent).saturating_mul(2))
}

/// Whether this is a session before the newest that is still waited for, and no row of its time is in the agent's outbox.
fn may_be_given_up(agent: &Agent, at: usize) -> bool {
    let next = agent.sessions.get(at + 1);
    next.is_some_and(|next| !agent.sessions[at].released && agent.backlog >= next.session)
}

/// Whether something of this agent was waited for long enough.
fn waited(agent: &Agent, quiet: i64) -> bool {
    agent.sessions.iter().enumerate().any(|(at, session)| {
        let mut held = session.lanes.iter().flatten().filter_map(|sequence| sequence.held_since());
        held.any(|since| since <= quiet - HOLE) || is_given_up(agent, at, quiet)
    })
}

fn is_given_up(agent: &Agent, at: usize, quiet: i64) -> bool {
    may_be_given_up(agent, at) && quiet - agent.sessions[at].moved.max(agent.back) > SESSION
}

/// Lets time pass what was waited for long enough; returns how many numbers were given up.
fn release(agent: &mut Agent, quiet: i64) -> i64 {
    let mut lost = 0_i64;
    for at in 0..agent.sessions.len() {
        let is_given_up = is_given_up(agent, at, quiet);
        let session = &mut agent.sessions[at];
        for (sequence, tail) in session.lanes.iter_mut().zip(session.tails) {
            let Some(sequence) = sequence else { continue };
            let missing = sequence.release(quiet - HOLE);
            // What is missing of an end that was given up has been counted.
            if !session.released || tail == UNTOLD {
                lost = lost.saturating_add(missing);
            }
        }
        if is_given_up {
            session.released = true;
            lost = lost.saturating_add(session.missing_at_the_end());
            agent.turns = 0;
        }
    }
    lost
}

/// Event time up to which everything of this agent is here, if that is known.
fn reached(agent: &Agent, quiet: i64, untold: i64) -> Option<i64> {
    let last = agent.sessions.len().checked_sub(1);
    let Some(last) = last else {
        return (agent.foreign_time > i64::MIN).then(|| agent.foreign_time.saturating_sub(FOREIGN));
    };
    let (mut least, idle) = (i64::MAX, idle_lane(agent));
    let is_idle = |since: i64| quiet - since.max(agent.back) > idle;
    for (at, session) in agent.sessions.iter().enumerate() {
        let is_newest = at == last;
        let may_have_more = is_newest && !session.told && quiet - session.began <= untold;
        if !is_newest && (session.released || session.is_drained()) {
            continue;
        }
        for (lane, sequence) in session.lanes.iter().enumerate() {
            let tail = session.tails[lane];
            let wanted = if is_newest { session.in_use & (1 << lane) != 0 } else { tail >= 0 };
            match sequence {
                None if may_have_more => return None,
                Some(sequence) if is_idle(sequence.moved()) => {}
                Some(sequence) if !is_newest && tail != UNTOLD && sequence.has_reached(tail) => {}
                Some(sequence) => least = least.min(sequence.time()),
                // A lane in use of which nothing came yet holds everything back, for a while.
                None if wanted && !(is_newest && is_idle(session.began)) => return None,
                None => {}
            }
        }
    }
    let least = least.min(agent.backlog);
    (least > i64::MIN && least < i64::MAX).then_some(least)
}

#[cfg(test)]
#[path = "passing_tests.rs"]
mod tests;

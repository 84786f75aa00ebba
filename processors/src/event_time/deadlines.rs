//! When each agent must be looked at although nothing of it comes.

use std::collections::BTreeSet;

/// No deadline.
const NEVER: i64 = i64::MAX;

/// For each agent (by number) a moment of the quiet clock (µs) before which nothing about it changes by itself.
///
/// It may be earlier than need be: an agent that speaks puts its deadlines off, and that is noticed when the old one
/// comes. So an event costs a comparison, and the order changes only when something falls due sooner than was known.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    order: BTreeSet<(i64, u32)>,
    of: Vec<i64>,
}

impl Deadlines {
    /// Looks at this agent at `at`, if not sooner.
    pub(super) fn at_most(&mut self, number: u32, at: i64) {
        let index = number as usize;
        if self.of.len() <= index {
            self.of.resize(index + 1, NEVER);
        }
        let known = self.of[index];
        if at < known {
            self.order.remove(&(known, number));
            self.order.insert((at, number));
            self.of[index] = at;
        }
    }

    /// Whether this agent has a deadline.
    pub(super) fn has(&self, number: u32) -> bool {
        self.of.get(number as usize).is_some_and(|at| *at < NEVER)
    }

    /// The agents whose deadline has come, by number. They have none until they are given one again.
    pub(super) fn take_due(&mut self, quiet: i64) -> Vec<u32> {
        let mut due = Vec::new();
        while let Some((at, number)) = self.order.first().copied()
            && at <= quiet
        {
            self.order.pop_first();
            self.of[number as usize] = NEVER;
            due.push(number);
        }
        due.sort_unstable();
        due
    }

    /// Forgets an agent.
    pub(super) fn remove(&mut self, number: u32) {
        if let Some(at) = self.of.get_mut(number as usize) {
            self.order.remove(&(std::mem::replace(at, NEVER), number));
        }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.order.clear();
        self.of.clear();
    }
}

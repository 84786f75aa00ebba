//! Sequences: rows of one agent that follow each other within a time.
//!
//! ```text
//!  event time   1 ──── 2 ─ 1 ─────── 2 ───── 3        within: first to last
//!                          └─────────┴───────┘        told: the shortest chain that the new row completes
//! ```
//!
//! Rows are taken in the order of the log, and chained by their event time: lanes and bridges may bring them out of
//! order, and an outage may bring them a week later. So a row waits, until the agent's watermark says that nothing
//! comes any more that it could be chained with; what has waited so long is not there any more, however the state was
//! swept meanwhile. A chain is told once: the rows up to its end that waited for it are gone with it.

use serde::{Deserialize, Serialize};

use super::keyed::{InParts, Key, Keyed, MOST_OF_ROW};
use crate::alerts::Evidence;
use crate::engine::operator::Operator;
use crate::event_time::Tracker;

/// More rows of one key do not wait: the earliest goes.
const MOST_WAITING: usize = 16;
/// More keys of one agent and rule do not wait: the one that waits longest goes.
const MOST_KEYS: usize = 64;

/// A row that waits for others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// Which step it is, from 0.
    pub(crate) step: usize,
    /// When it happened, µs.
    pub(crate) time: i64,
    /// Its identity: a row is no successor of itself.
    pub(crate) id: String,
    /// The row, for evidence.
    pub(crate) row: Evidence,
    /// Of the rows of a key those that came later have higher numbers.
    #[serde(skip)]
    number: u64,
    /// What it takes, in bytes; known once it is numbered.
    #[serde(skip)]
    bytes: usize,
}

impl Waiting {
    /// A row that has not been seen.
    pub(super) fn new(step: usize, time: i64, id: String, row: Evidence) -> Self {
        Self { step, time, id, row, number: 0, bytes: 0 }
    }

    fn numbered(self, number: u64) -> Self {
        // An id may need escapes in the changelog; the row is written as it is.
        let escapes =
            self.id.as_bytes().iter().filter(|byte| **byte < b' ' || b"\"\\".contains(byte)).count();
        let bytes = size_of::<Self>() + self.id.len() + 5 * escapes + self.row.bytes();
        Self { number, bytes, ..self }
    }
}

/// In the order of their numbers. Most rows come and go while others of their key stay: each is written by itself.
impl InParts for Vec<Waiting> {
    type Part = Waiting;

    fn bytes(&self) -> usize {
        self.iter().map(|row| row.bytes).sum()
    }

    fn parts(&self) -> impl Iterator<Item = (u64, &Waiting)> {
        self.iter().map(|row| (row.number, row))
    }

    fn part(&self, number: u64) -> Option<&Waiting> {
        self.iter().find(|row| row.number == number)
    }

    fn of(number: u64, part: Waiting) -> Self {
        vec![part.numbered(number)]
    }

    fn put(&mut self, number: u64, part: Waiting) {
        let at = self.partition_point(|row| row.number < number);
        if self.get(at).is_some_and(|row| row.number == number) {
            self.remove(at);
        }
        self.insert(at, part.numbered(number));
    }

    fn has_without(&mut self, number: u64) -> bool {
        self.retain(|row| row.number != number);
        !self.is_empty()
    }
}

/// What a sequence asks of its rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'a> {
    /// Whether a row of each step waits for earlier ones; one entry a step.
    pub(super) waits: &'a [bool],
    /// From the first step to the last, µs.
    pub(super) within: i64,
}

impl Shape<'_> {
    fn last(&self) -> usize {
        self.waits.len() - 1
    }

    /// Whether a row that completes nothing waits for what it could be chained with.
    fn keeps(&self, row: &Waiting, watermark: i64) -> bool {
        (row.step == 0 || self.waits[row.step]) && !self.is_over(row, watermark)
    }

    /// Whether nothing that is still to come could be chained with the row.
    fn is_over(&self, row: &Waiting, watermark: i64) -> bool {
        let end = if row.step == self.last() { row.time } else { row.time.saturating_add(self.within) };
        end < watermark
    }
}

/// The rows of one partition that wait.
#[derive(Debug)]
pub(super) struct Sequences {
    rows: Keyed<Vec<Waiting>>,
}

impl Default for Sequences {
    fn default() -> Self {
        Self { rows: Keyed::new("sequences") }
    }
}

impl Sequences {
    /// Its keyed state.
    pub(super) fn operator(&mut self) -> &mut dyn Operator {
        &mut self.rows
    }

    /// Whether rows of this rule wait.
    pub(super) fn has_rule(&self, rule: &str) -> bool {
        self.rows.has_rule(rule)
    }

    /// Whether rows of this agent wait.
    pub(super) fn has_agent(&self, agent: &str) -> bool {
        self.rows.has_agent(agent)
    }

    /// Takes the next row of a key in the order of the log; answers the chain that it completes. `watermark` is the
    /// agent's before this row.
    pub(super) fn see(
        &mut self,
        agent: &str,
        key: &Key,
        shape: Shape<'_>,
        row: Waiting,
        watermark: i64,
    ) -> Option<Vec<Waiting>> {
        let last = |waiting: &Vec<Waiting>| waiting.iter().map(|row| row.time).max();
        let Some(mut waiting) = self.rows.take(agent, key) else {
            let age = |waiting: &Vec<Waiting>| {
                (last(waiting), waiting.iter().all(|row| shape.is_over(row, watermark)))
            };
            let row = row.numbered(0);
            if row.bytes > MOST_OF_ROW {
                self.rows.has_dropped();
            } else if shape.keeps(&row, watermark)
                && self.rows.has_room(agent, &key.rule, MOST_KEYS, age)
                && self.rows.has_bytes_for(agent, key, row.bytes, last)
            {
                self.rows.put(agent, key.clone(), vec![row]);
            }
            return None;
        };
        let before: Vec<u64> = waiting.iter().map(|row| row.number).collect();
        let new = before.last().map_or(0, |last| last + 1);
        let row = row.numbered(new);
        waiting.retain(|other| !shape.is_over(other, watermark));
        let chain = chain(&waiting, &row, shape);
        if let Some(chain) = &chain {
            let end = chain.last().map_or(row.time, |last| last.time);
            waiting.retain(|other| {
                let is_told = chain.iter().any(|told| told.id == other.id && told.step == other.step);
                !is_told && (other.step == shape.last() || other.time > end)
            });
        } else if shape.keeps(&row, watermark)
            && self.rows.has_bytes_for(agent, key, waiting.bytes() + row.bytes, last)
        {
            waiting.push(row);
            supersede(&mut waiting, shape, watermark);
            while (waiting.len() > MOST_WAITING || waiting.bytes() > MOST_OF_ROW)
                && let Some(earliest) = (0..waiting.len()).min_by_key(|index| waiting[*index].time)
            {
                waiting.remove(earliest);
                self.rows.has_dropped();
            }
        }
        let (is_over, mut changed) = (waiting.is_empty(), before);
        changed.retain(|number| waiting.part(*number).is_none());
        changed.extend(waiting.part(new).map(|row| row.number));
        self.rows.put_back(agent, key, waiting, &changed);
        if is_over {
            self.rows.remove(agent, key);
        }
        chain
    }

    /// Forgets what is over, and agents that are gone; called at fixed places of the log.
    pub(super) fn sweep<'a>(&mut self, tracker: &Tracker, shape_of: impl Fn(&str) -> Option<Shape<'a>>) {
        self.rows.remove_where(|agent, key, waiting| {
            let watermark = tracker.find(agent).map(|agent| agent.watermark);
            match (watermark, shape_of(&key.rule)) {
                (Some(watermark), Some(shape)) => waiting.iter().all(|row| shape.is_over(row, watermark)),
                _ => true,
            }
        });
    }

    /// Forgets everything of rules that are gone.
    pub(super) fn forget(&mut self, is_gone: &dyn Fn(&str) -> bool) {
        self.rows.remove_where(|_, key, _| is_gone(&key.rule));
    }
}

/// The shortest chain of waiting rows with the new one in it.
///
/// Before it the latest possible row of each step, after it the earliest: any other choice makes the chain longer.
fn chain(waiting: &[Waiting], row: &Waiting, shape: Shape<'_>) -> Option<Vec<Waiting>> {
    let mut chain = std::collections::VecDeque::from([row]);
    for step in (0..row.step).rev() {
        let (ids, next) = (chain.clone(), chain.front()?.time);
        let fits = |other: &&Waiting| {
            other.step == step && other.time <= next && ids.iter().all(|used| used.id != other.id)
        };
        chain.push_front(waiting.iter().filter(fits).max_by_key(|other| other.time)?);
    }
    for step in row.step + 1..=shape.last() {
        let (ids, before) = (chain.clone(), chain.back()?.time);
        let fits = |other: &&Waiting| {
            other.step == step && other.time >= before && ids.iter().all(|used| used.id != other.id)
        };
        chain.push_back(waiting.iter().filter(fits).min_by_key(|other| other.time)?);
    }
    let (first, last) = (chain.front()?.time, chain.back()?.time);
    (last.saturating_sub(first) <= shape.within).then(|| chain.into_iter().cloned().collect())
}

/// Drops rows that a later one of their step stands for: whatever is still to come is after both, and nothing that
/// waits needs the earlier one.
fn supersede(waiting: &mut Vec<Waiting>, shape: Shape<'_>, watermark: i64) {
    let is_needed = |row: &Waiting, later: &Waiting, waiting: &[Waiting]| {
        waiting.iter().any(|next| next.step == row.step + 1 && (row.time..later.time).contains(&next.time))
    };
    let mut index = 0;
    while index < waiting.len() {
        let row = &waiting[index];
        let stands_for = |(other, later): (usize, &Waiting)| {
            let is_later = later.time > row.time || (later.time == row.time && other > index);
            later.step == row.step && is_later && later.time <= watermark && !is_needed(row, later, waiting)
        };
        if row.step < shape.last() && waiting.iter().enumerate().any(stands_for) {
            waiting.remove(index);
        } else {
            index += 1;
        }
    }
}

#[cfg(test)]
#[path = "sequence_tests.rs"]
mod tests;

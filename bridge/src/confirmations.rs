//! What the agents are told: which of their events are in Kafka.
//!
//! Ranges of sequence numbers are gathered per agent for a short while and merged, so that a busy agent gets a
//! few messages a second however many events it sends. Losing a confirmation is harmless: the agent sends again
//! and the repetition is dropped downstream. So what cannot be kept within the bound is forgotten, and counted.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use schemas::confirmation::{Confirmation, LaneAck};
use schemas::identity::{AgentId, Lane};

/// Consecutive sequence numbers of one lane, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) session: i64,
    pub(crate) lane: Lane,
    pub(crate) first: i64,
    pub(crate) last: i64,
}

/// Adds one sequence number to spans that grow mostly at their end.
pub(crate) fn extend(spans: &mut Vec<Span>, session: i64, lane: Lane, seq: i64) {
    if let Some(last) = spans.last_mut()
        && last.session == session
        && last.lane == lane
        && last.last.checked_add(1) == Some(seq)
    {
        last.last = seq;
        return;
    }
    spans.push(Span { session, lane, first: seq, last: seq });
}

/// Disjoint, ascending ranges that never touch; both ends included.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Ranges(Vec<(i64, i64)>);

impl Ranges {
    fn insert(&mut self, first: i64, last: i64) {
        // Those that end before `first - 1` neither overlap nor touch.
        let start = self.0.partition_point(|&(_, end)| end < first.saturating_sub(1));
        let end = start + self.0[start..].partition_point(|&(begin, _)| begin <= last.saturating_add(1));
        if start == end {
            self.0.insert(start, (first, last));
            return;
        }
        let merged = (self.0[start].0.min(first), self.0[end - 1].1.max(last));
        self.0[start] = merged;
        self.0.drain(start + 1..end);
    }
}

#[derive(Debug)]
struct Pending {
    since: Instant,
    lanes: Vec<(i64, Lane, Ranges)>,
}

impl Pending {
    fn ranges(&self) -> usize {
        self.lanes.iter().map(|(_, _, ranges)| ranges.0.len()).sum()
    }
}

/// Confirmations not yet published, by agent.
#[derive(Debug)]
pub(crate) struct Confirmations {
    bridge: String,
    gather: Duration,
    max_ranges: usize,
    agents: HashMap<AgentId, Pending>,
    /// Agents in the order in which they began to wait.
    queue: VecDeque<AgentId>,
    ranges: usize,
    forgotten: u64,
}

impl Confirmations {
    /// Each agent waits for at most `gather`; at most `max_ranges` ranges are kept over all agents.
    pub(crate) fn new(bridge: &str, gather: Duration, max_ranges: usize) -> Self {
        Self {
            bridge: bridge.to_owned(),
            gather,
            max_ranges,
            agents: HashMap::new(),
            queue: VecDeque::new(),
            ranges: 0,
            forgotten: 0,
        }
    }

    /// These events of the agent are in Kafka.
    pub(crate) fn add(&mut self, agent: &AgentId, spans: &[Span], now: Instant) {
        if spans.is_empty() {
            return;
        }
        if !self.agents.contains_key(agent) {
            self.queue.push_back(AgentId::clone(agent));
            self.agents.insert(AgentId::clone(agent), Pending { since: now, lanes: Vec::new() });
        }
        let Some(pending) = self.agents.get_mut(agent) else {
            return;
        };
        let before = pending.ranges();
        for span in spans {
            let found = pending.lanes.iter().position(|(s, l, _)| *s == span.session && *l == span.lane);
            let index = found.unwrap_or_else(|| {
                pending.lanes.push((span.session, span.lane, Ranges::default()));
                pending.lanes.len() - 1
            });
            pending.lanes[index].2.insert(span.first, span.last);
        }
        self.ranges = self.ranges + pending.ranges() - before;
        while self.ranges > self.max_ranges {
            let Some((_, pending)) = self.take_oldest() else {
                return;
            };
            self.forgotten += pending.ranges() as u64;
        }
    }

    /// When the next agent is due; `None` when nobody waits.
    fn next_due(&self) -> Option<Instant> {
        let oldest = self.agents.get(self.queue.front()?)?;
        Some(oldest.since + self.gather)
    }

    /// Hands every agent that has waited long enough to `publish`, until that refuses; the refused one is kept.
    /// Answers how many went.
    pub(crate) fn publish_due(
        &mut self,
        now: Instant,
        publish: impl FnMut(&AgentId, &Confirmation) -> bool,
    ) -> usize {
        self.publish_while(|confirmations| confirmations.next_due().is_some_and(|due| due <= now), publish)
    }

    /// As [`Self::publish_due`], of everybody.
    pub(crate) fn publish_all(&mut self, publish: impl FnMut(&AgentId, &Confirmation) -> bool) -> usize {
        self.publish_while(|_| true, publish)
    }

    fn publish_while(
        &mut self,
        is_wanted: impl Fn(&Self) -> bool,
        mut publish: impl FnMut(&AgentId, &Confirmation) -> bool,
    ) -> usize {
        let mut published = 0;
        while is_wanted(self)
            && let Some((agent, pending)) = self.take_oldest()
        {
            if !publish(&agent, &confirmation(&self.bridge, &pending)) {
                self.ranges += pending.ranges();
                self.queue.push_front(AgentId::clone(&agent));
                self.agents.insert(agent, pending);
                break;
            }
            published += 1;
        }
        published
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }

    /// Ranges that were dropped because too many waited.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn take_oldest(&mut self) -> Option<(AgentId, Pending)> {
        let agent = self.queue.pop_front()?;
        let pending = self.agents.remove(&agent)?;
        self.ranges -= pending.ranges();
        Some((agent, pending))
    }
}

fn confirmation(bridge: &str, pending: &Pending) -> Confirmation {
    let acks = pending
        .lanes
        .iter()
        .map(|(session, lane, ranges)| LaneAck { session: *session, lane: *lane, ranges: ranges.0.clone() })
        .collect();
    Confirmation { bridge: bridge.to_owned(), acks }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn span(lane: Lane, first: i64, last: i64) -> Span {
        Span { session: 7, lane, first, last }
    }

    fn confirmations(max_ranges: usize) -> Confirmations {
        Confirmations::new("bridge-1", Duration::from_millis(100), max_ranges)
    }

    proptest! {
        #[test]
        fn ranges_are_the_set_in_the_fewest_pieces(inserts in proptest::collection::vec((0..200_i64, 0..9_i64), 0..80)) {
            let mut ranges = Ranges::default();
            let mut set = BTreeSet::new();
            for (first, length) in inserts {
                ranges.insert(first, first + length);
                set.extend(first..=first + length);
            }
            let unfolded: Vec<i64> = ranges.0.iter().flat_map(|&(first, last)| first..=last).collect();
            prop_assert_eq!(unfolded, set.into_iter().collect::<Vec<_>>());
            prop_assert!(ranges.0.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }

        #[test]
        fn extending_keeps_every_number(seqs in proptest::collection::vec(0..30_i64, 0..60)) {
            let mut spans = Vec::new();
            for &seq in &seqs {
                extend(&mut spans, 1, Lane::Bulk, seq);
            }
            let unfolded: Vec<i64> = spans.iter().flat_map(|span| span.first..=span.last).collect();
            prop_assert_eq!(unfolded, seqs);
        }
    }

    #[test]
    fn the_extremes_do_not_overflow() {
        let mut ranges = Ranges::default();
        ranges.insert(i64::MAX, i64::MAX);
        ranges.insert(i64::MIN, i64::MIN);
        ranges.insert(i64::MIN, i64::MAX);
        assert_eq!(ranges.0, [(i64::MIN, i64::MAX)]);
        let mut spans = Vec::new();
        extend(&mut spans, 1, Lane::Bulk, i64::MAX);
        extend(&mut spans, 1, Lane::Bulk, i64::MIN);
        assert_eq!(spans.len(), 2);
    }

    #[test]
    fn an_agent_waits_once_and_gets_all_its_lanes_merged() {
        let mut confirmations = confirmations(100);
        let (a, b) = (AgentId::from("a"), AgentId::from("b"));
        let start = Instant::now();
        confirmations.add(&a, &[span(Lane::Normal, 1, 3), span(Lane::Critical, 1, 1)], start);
        confirmations.add(&b, &[span(Lane::Normal, 9, 9)], start + Duration::from_millis(50));
        confirmations.add(&a, &[span(Lane::Normal, 4, 4)], start + Duration::from_millis(60));
        assert_eq!(confirmations.next_due(), Some(start + Duration::from_millis(100)));

        let mut published = Vec::new();
        let mut take = |agent: &AgentId, confirmation: &Confirmation| {
            published.push((AgentId::clone(agent), confirmation.clone()));
            true
        };
        assert_eq!(confirmations.publish_due(start + Duration::from_millis(99), &mut take), 0);
        assert_eq!(confirmations.publish_due(start + Duration::from_millis(100), &mut take), 1);
        assert_eq!(confirmations.publish_all(&mut take), 1);
        assert!(confirmations.is_empty());
        assert_eq!(published[0].0, a);
        let acks = &published[0].1.acks;
        assert_eq!(acks[0].ranges, [(1, 4)]);
        assert_eq!((acks[1].lane, acks[1].ranges.as_slice()), (Lane::Critical, [(1, 1)].as_slice()));
        assert_eq!(published[0].1.bridge, "bridge-1");
        assert_eq!(published[1].0, b);
    }

    #[test]
    fn what_cannot_be_published_is_kept_and_goes_on_growing() {
        let mut confirmations = confirmations(100);
        let a = AgentId::from("a");
        confirmations.add(&a, &[span(Lane::Normal, 1, 1)], Instant::now());
        assert_eq!(confirmations.publish_all(|_, _| false), 0);
        confirmations.add(&a, &[span(Lane::Normal, 2, 2)], Instant::now());
        let mut ranges = Vec::new();
        confirmations.publish_all(|_, confirmation| {
            ranges.clone_from(&confirmation.acks[0].ranges);
            true
        });
        assert_eq!(ranges, [(1, 2)]);
        assert_eq!(confirmations.ranges, 0);
    }

    #[test]
    fn too_many_ranges_are_forgotten_oldest_agent_first_and_counted() {
        let mut confirmations = confirmations(3);
        let now = Instant::now();
        confirmations.add(&AgentId::from("old"), &[span(Lane::Normal, 1, 1), span(Lane::Normal, 3, 3)], now);
        confirmations.add(&AgentId::from("new"), &[span(Lane::Normal, 1, 1), span(Lane::Normal, 3, 3)], now);
        assert_eq!(confirmations.forgotten(), 2);
        let mut left = Vec::new();
        confirmations.publish_all(|agent, _| {
            left.push(AgentId::clone(agent));
            true
        });
        assert_eq!(left, [AgentId::from("new")]);
    }
}

//! Agents whose windows have ended and are not closed yet.
//!
//! The whole fleet ends its minute at the same moment. Closing takes far longer than judging the rows that come
//! meanwhile, so it is spread over the commits that follow.

use std::collections::VecDeque;

use ahash::AHashMap;

use crate::engine::Share;

/// When so many wait that a commit would hardly lessen them, it closes this part of them.
const PART: usize = 32;

/// See the module. State tells it anew when it is restored: a window that is open and ended before its agent's
/// watermark is owed.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// In the order in which they came; who is no longer in `before` was served.
    order: VecDeque<u32>,
    /// Watermark when the agent's windows were last closed, µs.
    before: AHashMap<u32, i64>,
    /// Whoever was restored has been looked at.
    is_known: bool,
}

impl Owed {
    /// Whether what was restored is still to be looked at.
    pub(super) fn is_unknown(&self) -> bool {
        !self.is_known
    }

    /// These agents were restored with windows that have ended.
    pub(super) fn know(&mut self, ended: impl Iterator<Item = u32>) {
        ended.for_each(|number| self.note(number, i64::MIN));
        self.is_known = true;
    }

    /// An agent's windows have ended; its watermark was `before` when they were last closed.
    pub(super) fn note(&mut self, number: u32, before: i64) {
        let known = self.before.entry(number).or_insert_with(|| {
            self.order.push_back(number);
            before
        });
        *known = before.min(*known);
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.before.is_empty()
    }

    /// Takes those who have waited longest: of a share `at_least` so many.
    pub(super) fn take(&mut self, share: Share, at_least: usize) -> Vec<(u32, i64)> {
        let most = match share {
            Share::None => 0,
            Share::All => usize::MAX,
            Share::Some => at_least.max(self.before.len() / PART),
        };
        let mut taken = Vec::with_capacity(most.min(self.before.len()));
        while taken.len() < most
            && let Some(number) = self.order.pop_front()
        {
            taken.extend(self.before.remove(&number).map(|before| (number, before)));
        }
        taken
    }

    /// Takes some agents, of those who wait.
    pub(super) fn take_of(&mut self, numbers: &[u32]) -> Vec<(u32, i64)> {
        let mut one = |number: &u32| Some((*number, self.before.remove(number)?));
        numbers.iter().filter_map(&mut one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(taken: Vec<(u32, i64)>) -> Vec<u32> {
        taken.into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn who_waits_longest_is_served_first_and_each_once() {
        let mut owed = Owed::default();
        (0..5).for_each(|number| owed.note(number, 10));
        owed.note(0, 20);
        assert!(owed.take(Share::None, 2).is_empty());
        assert_eq!(numbers(owed.take(Share::Some, 2)), [0, 1]);
        owed.note(0, 30);
        assert_eq!(owed.take_of(&[3, 3, 9]), [(3, 10)]);
        owed.note(3, 40);
        assert_eq!(owed.take(Share::All, 1), [(2, 10), (3, 40), (4, 10), (0, 30)]);
        assert!(owed.is_empty() && owed.take(Share::All, 1).is_empty());
    }

    #[test]
    fn the_watermark_of_the_last_closing_counts() {
        let mut owed = Owed::default();
        owed.note(7, 10);
        owed.note(7, 20);
        assert!(owed.is_unknown());
        owed.know([7, 8].into_iter());
        assert!(!owed.is_unknown());
        assert_eq!(owed.take(Share::All, 1), [(7, i64::MIN), (8, i64::MIN)]);
    }

    #[test]
    fn very_many_are_served_in_parts_of_all() {
        let mut owed = Owed::default();
        (0..3_200).for_each(|number| owed.note(number, 0));
        assert_eq!(owed.take(Share::Some, 64).len(), 100);
        let mut commits = 1;
        while !owed.is_empty() {
            owed.take(Share::Some, 64);
            commits += 1;
        }
        assert!(commits < 60, "{commits}");
    }
}

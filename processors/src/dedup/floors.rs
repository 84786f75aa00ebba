//! What is left of agents that were dropped because nobody heard of them for long.

use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::AHashMap;

/// More floors of a partition than this are not kept: the oldest are dropped.
pub const MAX_FLOORS: usize = 65_536;

/// All that is remembered of an agent that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Newest session known: what comes of it or of an older one may be a repeat. `i64::MIN` if there was none.
    pub session: i64,
    /// Event time (µs) up to which its windows are closed for good.
    pub watermark: i64,
    /// Quiet clock when the agent was dropped.
    pub since: i64,
}

/// The floors of a partition.
#[derive(Debug)]
pub(super) struct Floors {
    of: AHashMap<Arc<str>, Floor>,
    oldest: BTreeSet<(i64, Arc<str>)>,
    /// Newest session of all floors that were dropped: what an unknown agent sends of it or of an older one may be a
    /// repeat.
    dropped: i64,
}

impl Default for Floors {
    fn default() -> Self {
        Self { of: AHashMap::new(), oldest: BTreeSet::new(), dropped: i64::MIN }
    }
}

impl Floors {
    /// Keeps a floor.
    pub(super) fn put(&mut self, id: Arc<str>, floor: Floor) {
        self.take(&id);
        self.oldest.insert((floor.since, Arc::clone(&id)));
        self.of.insert(id, floor);
    }

    /// The floor of an agent, which is kept no longer.
    pub(super) fn take(&mut self, id: &str) -> Option<Floor> {
        let (id, floor) = self.of.remove_entry(id)?;
        self.oldest.remove(&(floor.since, id));
        Some(floor)
    }

    /// The floor of an agent.
    pub(super) fn get(&self, id: &str) -> Option<&Floor> {
        self.of.get(id)
    }

    /// Drops the oldest if there are more than `most`. No honest session of it began after `latest`, so a later one
    /// does not make other agents uncertain.
    pub(super) fn drop_excess(&mut self, most: usize, latest: i64) -> Option<Arc<str>> {
        if self.of.len() <= most {
            return None;
        }
        let (_, id) = self.oldest.pop_first()?;
        let floor = self.of.remove(&id)?;
        self.dropped = self.dropped.max(floor.session.min(latest));
        Some(id)
    }

    /// Newest session of the floors that were dropped.
    pub(super) fn dropped(&self) -> i64 {
        self.dropped
    }

    /// Sets what [`Floors::dropped`] answers, while restoring.
    pub(super) fn set_dropped(&mut self, session: i64) {
        self.dropped = session;
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    /// Whose they are, oldest first.
    pub(super) fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.oldest.iter().map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_leave_one_bound_behind() {
        let mut floors = Floors::default();
        let floor = |session, since| Floor { session, watermark: 0, since };
        floors.put("b".into(), floor(70, 2));
        floors.put("a".into(), floor(90, 2));
        floors.put("c".into(), floor(20, 1));
        floors.put("c".into(), floor(30, 3));
        assert_eq!(floors.drop_excess(3, 80), None);
        assert_eq!(floors.drop_excess(2, 80).as_deref(), Some("a"));
        assert_eq!((floors.dropped(), floors.len()), (80, 2));
        assert_eq!(floors.drop_excess(1, 80).as_deref(), Some("b"));
        assert_eq!((floors.dropped(), floors.take("c")), (80, Some(floor(30, 3))));
        assert_eq!((floors.len(), floors.ids().count()), (0, 0));
    }
}

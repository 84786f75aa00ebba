//! How many values a tag may take.
//!
//! Each combination of tags is a series, and a server that holds too many of them fails for everybody. What an agent
//! calls its disks, interfaces, sensors and itself is its own choice, so each tag of each agent has a limit; the values
//! beyond are written as [`OTHER`]. Who was seen first is remembered only while the process runs: after a restart
//! others may be among them.

use std::collections::{HashMap, HashSet};

/// Stands for each value beyond the limit.
const OTHER: &str = "other";

/// The values seen of each tag of each agent.
pub(super) struct TagGuard {
    limit: usize,
    seen: HashMap<Box<str>, HashMap<&'static str, Values>>,
}

#[derive(Default)]
struct Values {
    seen: HashSet<Box<str>>,
    is_told: bool,
}

impl TagGuard {
    /// At most `limit` values for each tag of an agent.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, seen: HashMap::new() }
    }

    /// The value to write for this one.
    pub(super) fn admit<'v>(&mut self, agent: &str, tag: &'static str, value: &'v str) -> &'v str {
        if !self.seen.contains_key(agent) {
            self.seen.insert(agent.into(), HashMap::new());
        }
        let Some(tags) = self.seen.get_mut(agent) else { return value };
        let values = tags.entry(tag).or_default();
        if values.seen.contains(value) {
            return value;
        }
        if values.seen.len() < self.limit {
            values.seen.insert(value.into());
            return value;
        }
        if !std::mem::replace(&mut values.is_told, true) {
            tracing::warn!(
                agent, tag, limit = self.limit, %value,
                "a tag takes more values than `tag_values` allows; this and all further ones are written as `other`"
            );
        }
        metrics::counter!("varta_sinks_influx_tag_values_over_limit_total", "tag" => tag).increment(1);
        OTHER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_beyond_the_limit_are_one_and_those_before_stay() {
        let mut guard = TagGuard::new(2);
        assert_eq!(guard.admit("a", "disk", "sda"), "sda");
        assert_eq!(guard.admit("a", "disk", "sdb"), "sdb");
        assert_eq!(guard.admit("a", "disk", "sdc"), "other");
        assert_eq!(guard.admit("a", "disk", "sda"), "sda");
        assert_eq!(guard.admit("a", "sensor", "cpu"), "cpu");
        assert_eq!(guard.admit("b", "disk", "sdc"), "sdc");
    }
}

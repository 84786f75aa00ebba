//! How many series there are, and that there are not too many: each takes memory of the server for ever, and whoever
//! sends may invent hosts, disks and interfaces.

use std::{collections::HashSet, hash::Hasher as _};

use xxhash_rust::xxh3::Xxh3Default;

/// Series that this process has written since it began, by hash.
#[derive(Debug)]
pub(super) struct Series {
    most: usize,
    known: HashSet<u64>,
    /// Distinct values of each tag, by hash; never more than there are series.
    values: Vec<(&'static str, HashSet<u64>)>,
    is_told: bool,
}

impl Series {
    pub(super) fn new(most: usize) -> Self {
        Self { most, known: HashSet::new(), values: Vec::new(), is_told: false }
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Takes up the series of a row. The error says why it would be one too many, and which tag is likely at fault.
    pub(super) fn admit(&mut self, measurement: &str, tags: &[(&'static str, &str)]) -> Result<(), String> {
        let mut hash = Xxh3Default::new();
        hash.write(measurement.as_bytes());
        for (name, value) in tags {
            // a byte that is in no text stands between two
            for part in [name.as_bytes(), value.as_bytes()] {
                hash.write_u8(0xff);
                hash.write(part);
            }
        }
        let series = hash.finish();
        if self.known.contains(&series) {
            return Ok(());
        }
        if self.known.len() >= self.most {
            return Err(self.refusal(measurement));
        }
        self.known.insert(series);
        for (name, value) in tags {
            let at = self.values.iter().position(|(known, _)| known == name);
            let at = at.unwrap_or_else(|| {
                self.values.push((*name, HashSet::new()));
                self.values.len() - 1
            });
            let mut hash = Xxh3Default::new();
            hash.write(value.as_bytes());
            self.values[at].1.insert(hash.finish());
        }
        Ok(())
    }

    fn refusal(&mut self, measurement: &str) -> String {
        let worst = self.values.iter().max_by_key(|(_, values)| values.len());
        let (tag, count) = worst.map_or(("", 0), |(name, values)| (*name, values.len()));
        let reason = format!(
            "a new series of `{measurement}` beyond the {} of `sinks.influx.max_series`; the tag `{tag}` has most values, \
             {count}",
            self.most
        );
        if !self.is_told {
            self.is_told = true;
            tracing::error!(%reason, "rows of new series become dead letters until this process is started again");
        }
        reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_goes_on_and_what_would_be_too_many_is_refused_by_name() {
        let mut series = Series::new(3);
        let hosts: Vec<String> = (0..5).map(|host| format!("host-{host}")).collect();
        let mut outcomes = Vec::new();
        for host in &hosts {
            outcomes.push(series.admit("cpu", &[("agent_id", "a"), ("host", host)]));
        }
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3);
        let reason = outcomes.pop().unwrap().unwrap_err();
        for part in ["`cpu`", "the 3 of `sinks.influx.max_series`", "`host` has most values, 3"] {
            assert!(reason.contains(part), "{reason}");
        }
        assert_eq!(series.admit("cpu", &[("agent_id", "a"), ("host", "host-1")]), Ok(()));
        assert!(series.admit("mem", &[("agent_id", "a"), ("host", "host-1")]).is_err());
        assert_eq!(series.len(), 3);
    }

    #[test]
    fn tags_that_run_into_each_other_are_two_series() {
        let mut series = Series::new(10);
        for tags in [[("a", "xb"), ("c", "y")], [("a", "x"), ("c", "by")], [("a", "x"), ("b", "cy")]] {
            series.admit("m", &tags).unwrap();
        }
        assert_eq!(series.len(), 3);
    }
}

//! Where reading of newly assigned partitions begins.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use eventlog::{Consumer, Position, TopicPartition};
use runtime::backoff::Backoff;

use crate::{SinkError, Start};

/// Partitions whose beginning is known to the store and not yet to the log.
pub(super) struct Starting {
    pending: HashMap<TopicPartition, Start>,
    backoff: Backoff,
    not_before: Instant,
}

impl Starting {
    pub(super) fn new() -> Self {
        Self {
            pending: HashMap::new(),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            not_before: Instant::now(),
        }
    }

    pub(super) fn add(&mut self, starts: Vec<(TopicPartition, Start)>) {
        self.pending.extend(starts);
    }

    pub(super) fn clear(&mut self) {
        self.pending.clear();
    }

    /// One attempt, if there is anything to begin and enough time has passed since the last failure. What is not
    /// owned any more is forgotten. Returns where reading has begun.
    pub(super) fn attempt<C: Consumer>(
        &mut self,
        owned: &HashSet<TopicPartition>,
        consumer: &mut C,
    ) -> Result<Vec<Position>, SinkError> {
        self.pending.retain(|of, _| owned.contains(of));
        if self.pending.is_empty() || Instant::now() < self.not_before {
            return Ok(Vec::new());
        }
        match positions(&self.pending, consumer) {
            Ok(positions) => {
                self.pending.clear();
                self.backoff.reset();
                Ok(positions)
            }
            Err(error) => {
                self.not_before = Instant::now() + self.backoff.next_delay();
                Err(error)
            }
        }
    }
}

fn positions<C: Consumer>(
    pending: &HashMap<TopicPartition, Start>,
    consumer: &mut C,
) -> Result<Vec<Position>, SinkError> {
    let partitions: Vec<TopicPartition> = pending.keys().cloned().collect();
    let committed = if pending.values().any(|start| *start == Start::Committed) {
        consumer.committed(&partitions)?
    } else {
        vec![None; partitions.len()]
    };
    let mut positions = Vec::with_capacity(partitions.len());
    for (of, committed) in partitions.iter().zip(committed) {
        let bounds = consumer.bounds(of)?;
        let wanted = match pending.get(of) {
            Some(Start::At(offset)) => Some(*offset),
            Some(Start::Committed) => committed,
            Some(Start::Beginning) | None => None,
        };
        let offset = begin(of, wanted, bounds)?;
        if let Some(unread) = unread(wanted, offset) {
            // A first start, or offsets that the log has forgotten because the group was away for too long.
            tracing::warn!(partition = %of, ?unread, "no offset is known: begins at the oldest record there is");
            metrics::counter!("varta_sinks_unread_offsets_total", "topic" => of.topic.to_string())
                .increment((unread.end - unread.start) as u64);
        }
        positions.push(Position { topic: Arc::clone(&of.topic), partition: of.partition, offset });
    }
    consumer.start(&positions)?;
    Ok(positions)
}

/// Offsets that this group may never have read and that retention has removed: whoever has no offset cannot tell.
fn unread(wanted: Option<i64>, begins: i64) -> Option<Range<i64>> {
    (wanted.is_none() && begins > 0).then_some(0..begins)
}

/// Where reading begins, or why it cannot: never silently somewhere else.
fn begin(of: &TopicPartition, wanted: Option<i64>, (earliest, end): (i64, i64)) -> Result<i64, SinkError> {
    let at = format!("{}-{}", of.topic, of.partition);
    match wanted {
        None => Ok(earliest),
        Some(offset) if offset < earliest => Err(SinkError::Fatal(format!(
            "{at}: offsets {offset}..{earliest} were removed by retention before this sink had read them"
        ))),
        Some(offset) if offset > end => Err(SinkError::Fatal(format!(
            "{at}: the store has everything before offset {offset}, but the topic ends at {end}: was it made anew?"
        ))),
        Some(offset) => Ok(offset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_before_anybody_named_an_offset_is_told() {
        let of = TopicPartition::new("t", 0);
        for (wanted, bounds, expected) in [
            (None, (7, 9), Some(0..7)),
            (None, (0, 9), None),
            (Some(7), (7, 9), None),
            (Some(8), (7, 9), None),
        ] {
            let begins = begin(&of, wanted, bounds).unwrap();
            assert_eq!(unread(wanted, begins), expected, "{wanted:?} in {bounds:?}");
        }
    }
}

//! A worker that reads a stretch of its input and no further.

use std::sync::Arc;
use std::time::Duration;

use eventlog::{Consumer, Log, TopicPartition};

use super::{Job, Trouble, Worker};

/// How often a worker that has nothing left asks what the others have committed.
const ASK_EVERY: Duration = Duration::from_millis(500);

impl<L: Log, J: Job> Worker<L, J> {
    /// Stops reading a partition at the end of its stretch, and goes on if an abort took it back from there.
    pub(super) fn stop_at_end(&mut self, partition: i32, next: i64) {
        let (Some(span), Some(session)) = (&self.settings.span, &mut self.session) else { return };
        let of = [TopicPartition { topic: Arc::clone(&self.settings.input), partition }];
        if span.ends(partition, next) {
            session.consumer.pause(&of);
        } else {
            session.consumer.resume(&of);
        }
    }

    /// There is nothing to read. Partitions that others own are noted as they have committed them, so that each process
    /// sees by itself when all is done.
    pub(super) fn look_at_others(&mut self, now: Duration) -> Result<(), Trouble> {
        let (Some(span), Some(session)) = (&self.settings.span, &mut self.session) else {
            return Ok(());
        };
        let is_due = self.asked_at.is_none_or(|at| now.saturating_sub(at) >= ASK_EVERY);
        if session.open.is_some() || !is_due || span.is_done() {
            return Ok(());
        }
        self.asked_at = Some(now);
        let of: Vec<TopicPartition> = span
            .stretches()
            .map(|(partition, _)| TopicPartition { topic: Arc::clone(&self.settings.input), partition })
            .collect();
        for (of, next) in of.iter().zip(session.consumer.committed(&of)?) {
            span.reached(of.partition, next.unwrap_or(i64::MIN));
        }
        Ok(())
    }
}

//! Which partitions are ours, and what their state is when they come.

use std::sync::Arc;
use std::time::Duration;

use eventlog::{Consumer, Log, Polled, Position, TopicPartition};
use runtime::failpoint;

#[cfg(test)]
use super::Defect;
use super::{Active, Job, PartitionState, Slot, Step, Trouble, Worker, WorkerError};
use crate::engine::changelog::Changelog;
use crate::engine::restore::{self, Attempt, ReadTo, RestoreError};

impl<L: Log, J: Job> Worker<L, J> {
    pub(super) fn rebalance(&mut self, event: Polled) -> Result<Step, Trouble> {
        let now = self.ticker.now();
        #[cfg(test)]
        let keep_open = self.defect == Some(Defect::CommitAfterRevoke);
        #[cfg(not(test))]
        let keep_open = false;
        match event {
            Polled::Assigned(partitions) => {
                if !keep_open {
                    self.abort();
                }
                tracing::info!(partitions = partitions.len(), "partitions assigned");
                let Some(session) = &mut self.session else {
                    return Ok(Step::Worked);
                };
                let assigned = partitions.into_iter().map(|of| of.partition);
                let fresh =
                    assigned.map(|partition| (partition, Slot::Restoring { since: now, retry_at: now }));
                session.slots = fresh.collect();
            }
            Polled::Revoked { partitions, lost } => {
                tracing::info!(partitions = partitions.len(), lost, "partitions revoked");
                // Until the next poll they are still ours, unless lost: finish what is ready, or take it back.
                let finished = match (lost, keep_open) {
                    (true, _) => false,
                    (false, true) => true,
                    (false, false) => self.commit_all().map_err(|trouble| trouble.tell()).is_ok(),
                };
                if !finished {
                    self.abort();
                }
                if let Some(session) = &mut self.session
                    && !keep_open
                {
                    session.slots.clear();
                }
            }
            Polled::Records(_) => {}
        }
        let Some(session) = &mut self.session else {
            return Ok(Step::Worked);
        };
        session.tokenless_since = None;
        session.token = if session.slots.is_empty() { None } else { Some(session.consumer.group_token()?) };
        let partitions = session.slots.len();
        metrics::gauge!("varta_processors_partitions", "slot" => self.settings.transactional_id.clone())
            .set(partitions as f64);
        if partitions > 0 {
            self.note("restoring state");
        }
        Ok(Step::Worked)
    }

    pub(super) fn restore(&mut self, partition: i32, since: Duration) -> Result<Step, Trouble> {
        let input = TopicPartition { topic: Arc::clone(&self.settings.input), partition };
        let state = TopicPartition { topic: Arc::clone(&self.settings.state), partition };
        let to = self.read_to(&state);
        let begin = self.settings.span.as_ref().map(|span| span.stretch(partition).from);
        let Some(session) = &mut self.session else {
            return Ok(Step::Idle);
        };
        let started = self.ticker.now();
        let attempt = restore::attempt(&self.log, &mut session.consumer, &input, &state, to, begin)
            .map_err(restore_trouble)?;
        let read = self.ticker.now().saturating_sub(started);
        let (found, next) = match attempt {
            Attempt::Agreed { found, next } => (found, next),
            #[cfg(test)]
            Attempt::Disagreed { committed, found } if self.defect == Some(Defect::RestoreToLastStable) => {
                (found, committed.unwrap_or(0))
            }
            Attempt::Disagreed { committed, found } => {
                let state = found.next_offset;
                let now = self.ticker.now();
                let waited = now.saturating_sub(since);
                if waited > self.settings.restore_deadline {
                    return Err(WorkerError::Disagreement { partition, committed, state, waited }.into());
                }
                let retry_at = now + Duration::from_millis(100);
                session.slots.insert(partition, Slot::Restoring { since, retry_at });
                return Ok(Step::Worked);
            }
        };
        let bytes = found.bytes;
        let mut opened = self.job.open(partition).map_err(|error| WorkerError::Job(error.to_string()))?;
        let standings = restore::apply(found, partition, opened.operators(), self.settings.on_state_mismatch)
            .map_err(restore_trouble)?;
        let rows: usize = standings.values().map(|standing| standing.rows).sum();
        metrics::counter!("varta_processors_restored_rows_total").increment(rows as u64);
        metrics::counter!("varta_processors_restored_bytes_total").increment(bytes as u64);
        metrics::histogram!("varta_processors_restore_read_seconds").record(read.as_secs_f64());
        session.consumer.start(&[Position { topic: input.topic, partition, offset: next }])?;
        let changelog = Changelog::new(state.topic, partition, standings);
        let active = Active { state: opened, changelog, next, touched: false, moved: false, owes: rows > 0 };
        session.slots.insert(partition, Slot::Active(Box::new(active)));
        if let Some(span) = &self.settings.span {
            span.found(partition, next);
        }
        self.stop_at_end(partition, next);
        failpoint::hit("worker.after_restore");
        let took = self.ticker.now().saturating_sub(started);
        metrics::histogram!("varta_processors_restore_seconds").record(took.as_secs_f64());
        tracing::info!(partition, next, rows, bytes, ?read, ?took, "state restored");
        self.is_well();
        Ok(Step::Worked)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the test build decides here which defect to plant")]
    pub(super) fn read_to(&self, _: &TopicPartition) -> ReadTo {
        ReadTo::TrueEnd
    }

    #[cfg(test)]
    pub(super) fn read_to(&self, state: &TopicPartition) -> ReadTo {
        match (&self.defect, &self.last_stable) {
            (Some(Defect::RestoreToLastStable), Some(last_stable)) => ReadTo::Given(last_stable(state)),
            _ => ReadTo::TrueEnd,
        }
    }
}

fn restore_trouble(error: RestoreError) -> Trouble {
    match error {
        RestoreError::Log(error) => Trouble::Log(error),
        other => Trouble::Fatal(WorkerError::Restore(other)),
    }
}

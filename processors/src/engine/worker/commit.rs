//! The transaction: what ends it well, and what takes it back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
use eventlog::{Consumer, TopicPartition};
use eventlog::{Log, LogError, LogErrorKind, NewRecord, Position, TransactionalProducer};
use runtime::failpoint;

#[cfg(test)]
use super::Defect;
use super::{
    Job, JobError, Output, PartitionState, Slot, Transaction, Trouble, Worker, WorkerError, is_behind,
};
use crate::engine::changelog::ChangelogError;
use crate::engine::job::Share;

impl<L: Log, J: Job> Worker<L, J> {
    /// Commits, and returns where the partitions stand that were fetched further than that.
    pub(super) fn commit_then_touched(&mut self) -> Result<Vec<Position>, Trouble> {
        let input = Arc::clone(&self.settings.input);
        let touched: Vec<Position> = self
            .session
            .iter()
            .flat_map(|session| &session.slots)
            .filter_map(|(partition, slot)| match slot {
                Slot::Active(active) if active.touched => {
                    Some(Position { topic: Arc::clone(&input), partition: *partition, offset: active.next })
                }
                _ => None,
            })
            .collect();
        self.commit()?;
        for slot in self.session.iter_mut().flat_map(|session| session.slots.values_mut()) {
            if let Slot::Active(active) = slot {
                active.touched = false;
            }
        }
        Ok(touched)
    }

    /// Outputs, state and offsets become visible together, or none of them.
    pub(super) fn commit(&mut self) -> Result<(), Trouble> {
        let started = self.ticker.now();
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let Some(open) = &session.open else { return Ok(()) };
        let (began, rows) = (open.began, open.rows);
        // Of a bounded stretch nobody waits for a part, and it must be whole at its end; who is behind saves by doing
        // much at once; who leaves, leaves nothing to others. Otherwise partitions that put something off take turns.
        let is_behind = is_behind(self.full_since, started);
        let is_hasty = self.is_leaving || is_behind || self.settings.span.is_some();
        if !is_hasty {
            self.turn = next_that_owes(&session.slots, self.turn);
        }
        let turn = self.turn;
        let share = |partition: i32| match turn {
            _ if is_hasty => Share::All,
            Some(other) if other != partition => Share::None,
            _ => Share::Some,
        };
        let mut offsets = Vec::new();
        for (partition, slot) in &mut session.slots {
            let Slot::Active(active) = slot else { continue };
            if !active.moved {
                continue;
            }
            let producer = &mut session.producer;
            let mut sink = |record| producer.send(record);
            match self.job.settle(&mut active.state, share(*partition), &mut Output::new(&mut sink)) {
                Ok(owes) => active.owes = owes,
                Err(JobError::Log(error)) => return Err(Trouble::Log(error)),
                Err(error) => return Err(Trouble::Fatal(WorkerError::Job(error.to_string()))),
            }
            let mut written = 0;
            let mut send = |record: NewRecord| {
                written += record.value.as_ref().map_or(0, bytes::Bytes::len) as u64;
                producer.send(record)
            };
            active.changelog.commit(active.state.operators(), active.next, &mut send).map_err(|error| {
                match error {
                    ChangelogError::Log(error) => Trouble::Log(error),
                    error => Trouble::Fatal(WorkerError::Changelog(error)),
                }
            })?;
            metrics::counter!("varta_processors_state_written_bytes_total").increment(written);
            let topic = Arc::clone(&self.settings.input);
            offsets.push(Position { topic, partition: *partition, offset: active.next });
        }
        let Some(token) = &session.token else {
            return Err(LogError { kind: LogErrorKind::Rebalanced, message: "no group token".into() }.into());
        };
        failpoint::hit("worker.before_commit");
        #[cfg(test)]
        if self.defect == Some(Defect::OffsetsOutside) {
            session.producer.commit(&[], token).map_err(Trouble::Commit)?;
            session.open = None;
            session.consumer.commit(&offsets).map_err(Trouble::Commit)?;
            offsets.clear();
        }
        if session.open.is_some() {
            session.producer.commit(&offsets, token).map_err(Trouble::Commit)?;
        }
        failpoint::hit("worker.after_commit");
        session.open = None;
        for (partition, slot) in &mut session.slots {
            if let Slot::Active(active) = slot {
                if let Some(span) = self.settings.span.as_ref().filter(|_| active.moved) {
                    span.reached(*partition, active.next);
                }
                active.touched = false;
                active.moved = false;
            }
        }
        self.backoff.reset();
        let ended = self.ticker.now();
        metrics::histogram!("varta_processors_commit_seconds")
            .record(ended.saturating_sub(started).as_secs_f64());
        metrics::histogram!("varta_processors_transaction_seconds")
            .record(ended.saturating_sub(began).as_secs_f64());
        metrics::counter!("varta_processors_rows_total").increment(rows as u64);
        Ok(())
    }

    /// Takes back the open transaction and everything in memory that it touched.
    pub(super) fn abort(&mut self) {
        let now = self.ticker.now();
        #[cfg(test)]
        let keep_memory = self.defect == Some(Defect::KeepMemoryOnAbort);
        #[cfg(not(test))]
        let keep_memory = false;
        let Some(session) = &mut self.session else {
            return;
        };
        let aborted = if session.open.take().is_some() { session.producer.abort() } else { Ok(()) };
        for slot in session.slots.values_mut() {
            let Slot::Active(active) = slot else { continue };
            if !active.touched && !active.moved {
                continue;
            }
            if !keep_memory {
                *slot = Slot::Restoring { since: now, retry_at: now };
            }
        }
        #[cfg(test)]
        if keep_memory && aborted.is_ok() && self.seek_to_committed().is_err() {
            self.session = None;
        }
        if let Err(error) = aborted {
            // Without a sure abort only a new producer (which resolves what is open) can go on.
            tracing::warn!(%error, "abort failed, starting over with a new producer");
            self.session = None;
        }
        metrics::counter!("varta_processors_aborts_total").increment(1);
    }

    /// A planted defect: the position goes back, the memory does not.
    #[cfg(test)]
    pub(super) fn seek_to_committed(&mut self) -> Result<(), Trouble> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let of: Vec<TopicPartition> = session
            .slots
            .keys()
            .map(|partition| TopicPartition {
                topic: Arc::clone(&self.settings.input),
                partition: *partition,
            })
            .collect();
        let committed = session.consumer.committed(&of)?;
        let at: Vec<Position> = of
            .into_iter()
            .zip(committed)
            .map(|(of, offset)| Position {
                topic: of.topic,
                partition: of.partition,
                offset: offset.unwrap_or(0),
            })
            .collect();
        session.consumer.start(&at)?;
        Ok(())
    }
}

/// The partition after `last` that put something off; none if none did.
fn next_that_owes<S>(slots: &BTreeMap<i32, Slot<S>>, last: Option<i32>) -> Option<i32> {
    let owes = |slot: &Slot<S>| matches!(slot, Slot::Active(active) if active.owes);
    let owing = || slots.iter().filter(|(_, slot)| owes(slot)).map(|(partition, _)| *partition);
    owing().find(|partition| last.is_none_or(|last| *partition > last)).or_else(|| owing().next())
}

/// Opens the transaction if none is open.
pub(super) fn begin<P: TransactionalProducer>(
    producer: &mut P,
    open: &mut Option<Transaction>,
    now: Duration,
    interval: Duration,
) -> Result<(), LogError> {
    if open.is_none() {
        producer.begin()?;
        *open = Some(Transaction { due: now + interval, began: now, rows: 0, bytes: 0, is_full: false });
    }
    Ok(())
}

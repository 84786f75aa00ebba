//! The transaction: what ends it well, and what takes it back.

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

    /// Commits, and leaves nothing that was put off to whoever comes next.
    pub(super) fn commit_all(&mut self) -> Result<(), Trouble> {
        self.is_leaving = true;
        let now = self.ticker.now();
        let committed = self.take_up_what_is_owed(now).and_then(|()| self.commit());
        self.is_leaving = false;
        committed
    }

    /// Outputs, state and offsets become visible together, or none of them.
    pub(super) fn commit(&mut self) -> Result<(), Trouble> {
        let started = self.ticker.now();
        let Some(open) = self.session.as_ref().and_then(|session| session.open.as_ref()) else {
            return Ok(());
        };
        let (began, rows) = (open.began, open.rows);
        let (offsets, settling) = self.settle_and_write(started)?;
        let written = self.ticker.now();
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let Some(token) = &session.token else {
            return Err(LogError { kind: LogErrorKind::Rebalanced, message: "no group token".into() }.into());
        };
        failpoint::hit("worker.before_commit");
        #[cfg(test)]
        let offsets = if self.defect == Some(Defect::OffsetsOutside) {
            session.producer.commit(&[], token).map_err(Trouble::Commit)?;
            session.open = None;
            session.consumer.commit(&offsets).map_err(Trouble::Commit)?;
            Vec::new()
        } else {
            offsets
        };
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
        if rows > 0 {
            self.backoff.reset();
        }
        let ended = self.ticker.now();
        metrics::histogram!("varta_processors_commit_seconds")
            .record(ended.saturating_sub(started).as_secs_f64());
        let steps = [
            ("settle", settling),
            ("state", written.saturating_sub(started + settling)),
            ("log", ended.saturating_sub(written)),
        ];
        for (step, took) in steps {
            metrics::histogram!("varta_processors_commit_step_seconds", "step" => step)
                .record(took.as_secs_f64());
        }
        metrics::histogram!("varta_processors_transaction_seconds")
            .record(ended.saturating_sub(began).as_secs_f64());
        metrics::counter!("varta_processors_rows_total").increment(rows as u64);
        Ok(())
    }

    /// Brings the partitions that moved to their end and writes down what they are; answers their offsets, and how long
    /// the first of both took.
    fn settle_and_write(&mut self, now: Duration) -> Result<(Vec<Position>, Duration), Trouble> {
        let mut offsets = Vec::new();
        let mut settling = Duration::ZERO;
        let Some(session) = &mut self.session else {
            return Ok((offsets, settling));
        };
        // Of a bounded stretch nobody waits for a part, and it must be whole at its end; who is behind saves by doing
        // much at once; who leaves, leaves nothing to others. Otherwise the first partition that has more than its share
        // has the commit to itself, and the next commit begins with the partition after it.
        let is_hasty = self.is_leaving || is_behind(self.full_since, now) || self.settings.span.is_some();
        let mut share = if is_hasty { Share::All } else { Share::Some };
        let mut order: Vec<i32> = session.slots.keys().copied().collect();
        let first = self.turn.map_or(0, |turn| order.partition_point(|partition| *partition <= turn));
        order.rotate_left(first);
        for partition in order {
            let Some(Slot::Active(active)) = session.slots.get_mut(&partition) else { continue };
            if !active.moved {
                continue;
            }
            let settles = self.ticker.now();
            let producer = &mut session.producer;
            let mut sink = |record| producer.send(record);
            match self.job.settle(&mut active.state, share, &mut Output::new(&mut sink)) {
                Ok(owes) => active.owes = owes,
                Err(JobError::Log(error)) => return Err(Trouble::Log(error)),
                Err(error) => return Err(Trouble::Fatal(WorkerError::Job(error.to_string()))),
            }
            if active.owes && share == Share::Some {
                self.turn = Some(partition);
                share = Share::None;
            }
            settling += self.ticker.now().saturating_sub(settles);
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
            offsets.push(Position { topic, partition, offset: active.next });
        }
        Ok((offsets, settling))
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

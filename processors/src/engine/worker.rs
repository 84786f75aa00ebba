//! One thread's worth of exactly-once processing: a consumer, a transactional producer, and the partitions
//! that the group gives to them.
//!
//! ```text
//! poll ─▶ rows by partition ─▶ job ─▶ outputs in the open transaction ─▶ commit each interval of
//!   │                           │                                        outputs + state chunks + offsets
//!   └ assigned: restore         └ any failure: abort, forget the memory of what was touched, restore
//! ```
//!
//! Promise: what a read_committed reader of the outputs sees equals what an undisturbed run would write,
//! whatever call fails and whoever else believes to own a partition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use eventlog::{
    Consumer, GroupToken, Log, LogError, LogErrorKind, NewRecord, Polled, Position, Record, StartAt,
};
use eventlog::{TopicPartition, TransactionalProducer};
use runtime::backoff::Backoff;
use runtime::failpoint;
use runtime::health::Component;
use runtime::shutdown::Shutdown;
use thiserror::Error;

use super::changelog::{Changelog, ChangelogError};
use super::job::{Job, JobError, Output, PartitionState};
use super::restore::{self, Attempt, OnMismatch, ReadTo, RestoreError};
use super::ticker::Ticker;

/// How a worker runs. Durations never influence what it writes, only when.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Consumer group.
    pub group: String,
    /// Stable per worker slot: a restarted slot fences its predecessor.
    pub transactional_id: String,
    /// Stable group member name, if membership is static.
    pub instance: Option<String>,
    /// Topic read.
    pub input: Arc<str>,
    /// Topic of the changelog, with as many partitions as the input.
    pub state: Arc<str>,
    /// A transaction is committed this long after it began.
    pub commit_interval: Duration,
    /// The same once an alert was sent in it.
    pub urgent_commit_interval: Duration,
    /// A transaction is committed when it covers this many input rows.
    pub max_commit_rows: usize,
    /// A transaction is committed when its outputs reach this many bytes.
    pub max_commit_bytes: usize,
    /// Most rows of a micro-batch.
    pub max_batch_rows: usize,
    /// How long a micro-batch may wait for company.
    pub linger: Duration,
    /// How long state and committed offset may disagree before the worker gives up.
    pub restore_deadline: Duration,
    /// State of another definition.
    pub on_state_mismatch: OnMismatch,
}

/// Why a worker stopped for good.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// Input that was never processed is gone.
    #[error(
        "input is lost: {0}; retention removed it before it was processed. Raise retention, then move the group's offsets on purpose"
    )]
    LostRange(LogError),
    /// The log refused something that repeating cannot mend.
    #[error("the log refused: {0}")]
    Refused(LogError),
    /// State cannot be restored.
    #[error(transparent)]
    Restore(RestoreError),
    /// State and committed offset never agreed.
    #[error(
        "partition {partition}: the group committed {committed:?} but the state topic names {state:?} as next input offset, for {waited:?}; offsets or state were deleted or changed by hand. Restore the missing one, or delete both to start anew"
    )]
    Disagreement {
        /// Partition.
        partition: i32,
        /// Offset that the group committed.
        committed: Option<i64>,
        /// Offset that the state names.
        state: Option<i64>,
        /// For how long it was retried.
        waited: Duration,
    },
    /// State cannot be written.
    #[error(transparent)]
    Changelog(#[from] ChangelogError),
    /// The job cannot go on.
    #[error("{0}")]
    Job(String),
    /// The worker cannot be set up.
    #[error("{0}")]
    Setup(String),
}

/// What one turn of the loop did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was done.
    Worked,
    /// There was nothing to do.
    Idle,
    /// Something failed or does not answer; try again after this time.
    Waiting(Duration),
}

/// Defects that tests plant, to see that the simulation finds them.
#[cfg(test)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// Input offsets are committed after the transaction instead of within it.
    OffsetsOutside,
    /// After an abort the memory is kept and only the position goes back.
    KeepMemoryOnAbort,
    /// State is read to the last stable offset only, and agreement is not asked for.
    RestoreToLastStable,
    /// A partition that was taken away is committed all the same with a new token.
    CommitAfterRevoke,
}

struct Active<S> {
    state: S,
    changelog: Changelog,
    /// Next input offset to process.
    next: i64,
    /// Rows were processed (or fetched and thrown away) since the last commit.
    touched: bool,
    /// `next` moved since the last commit.
    moved: bool,
}

enum Slot<S> {
    Restoring { since: Duration, retry_at: Duration },
    Active(Box<Active<S>>),
}

struct Transaction {
    due: Duration,
    began: Duration,
    rows: usize,
    bytes: usize,
}

struct Session<L: Log, S> {
    consumer: L::Consumer,
    producer: L::Producer,
    token: Option<GroupToken>,
    slots: BTreeMap<i32, Slot<S>>,
    open: Option<Transaction>,
    /// When a token was last missed; the group must speak up within the restore deadline.
    tokenless_since: Option<Duration>,
}

enum Trouble {
    Log(LogError),
    Commit(LogError),
    Fatal(WorkerError),
}

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<WorkerError> for Trouble {
    fn from(error: WorkerError) -> Self {
        Self::Fatal(error)
    }
}

/// A worker. Call [`Worker::run`], or [`Worker::step`] to drive it by hand.
pub struct Worker<L: Log, J: Job> {
    log: L,
    job: J,
    settings: WorkerSettings,
    ticker: Arc<dyn Ticker>,
    health: Option<Component>,
    backoff: Backoff,
    /// Health says that something is waited for.
    noted: bool,
    session: Option<Session<L, J::State>>,
    #[cfg(test)]
    pub(crate) defect: Option<Defect>,
    #[cfg(test)]
    pub(crate) last_stable: Option<Box<dyn Fn(&TopicPartition) -> i64 + Send>>,
}

impl<L: Log, J: Job> Worker<L, J> {
    /// A worker that has not connected yet.
    pub fn new(
        log: L,
        job: J,
        settings: WorkerSettings,
        ticker: Arc<dyn Ticker>,
        health: Option<Component>,
    ) -> Self {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        Self {
            log,
            job,
            settings,
            ticker,
            health,
            backoff,
            noted: true,
            session: None,
            #[cfg(test)]
            defect: None,
            #[cfg(test)]
            last_stable: None,
        }
    }

    /// Works until shutdown is requested, then commits and leaves.
    pub fn run(mut self, shutdown: &Shutdown) -> Result<(), WorkerError> {
        while !shutdown.is_requested() {
            if let Step::Waiting(time) = self.step()? {
                let until = self.ticker.now() + time;
                while !shutdown.is_requested() && self.ticker.now() < until {
                    self.ticker.sleep(Duration::from_millis(20).min(time));
                }
            }
        }
        self.drain()
    }

    /// One turn of the loop. Failures that can pass are dealt with inside.
    pub fn step(&mut self) -> Result<Step, WorkerError> {
        let turn = if self.session.is_some() {
            self.turn()
        } else {
            self.connect()
        };
        match turn {
            Ok(step) => Ok(step),
            Err(trouble) => self.recover(trouble),
        }
    }

    /// Commits what is done and gives everything back. An error means only that the last commit is undone.
    pub fn drain(&mut self) -> Result<(), WorkerError> {
        let committed = self.commit();
        if let Err(trouble) = committed {
            self.recover(trouble)?;
        }
        self.session = None;
        Ok(())
    }

    /// Next input offset of each partition that is being processed.
    pub fn positions(&self) -> Vec<(i32, i64)> {
        let slots = self.session.iter().flat_map(|session| &session.slots);
        slots
            .filter_map(|(partition, slot)| match slot {
                Slot::Active(active) => Some((*partition, active.next)),
                Slot::Restoring { .. } => None,
            })
            .collect()
    }

    /// Whether nothing processed waits for its commit.
    pub fn is_settled(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.open.is_none() && !session.slots.is_empty())
    }

    fn connect(&mut self) -> Result<Step, Trouble> {
        // The producer first: it fences a predecessor of this slot before anything is read.
        let producer = self.log.transactional_producer(&self.settings.transactional_id)?;
        let consumer = self.log.consumer(
            &self.settings.group,
            &[&self.settings.input],
            self.settings.instance.as_deref(),
            StartAt::Earliest,
        )?;
        self.session = Some(Session {
            consumer,
            producer,
            token: None,
            slots: BTreeMap::new(),
            open: None,
            tokenless_since: None,
        });
        self.note("joining the group");
        Ok(Step::Worked)
    }

    fn turn(&mut self) -> Result<Step, Trouble> {
        let now = self.ticker.now();
        let Some(session) = &mut self.session else {
            return Ok(Step::Idle);
        };
        if session.open.as_ref().is_some_and(|open| now >= open.due) {
            self.commit()?;
            return Ok(Step::Worked);
        }
        if let Some(since) = session.tokenless_since
            && now.saturating_sub(since) > self.settings.restore_deadline
        {
            tracing::warn!("the group did not answer a refused commit, joining anew");
            self.session = None;
            return Ok(Step::Worked);
        }
        if session.token.is_some() {
            let due = session.slots.iter().find_map(|(partition, slot)| match slot {
                Slot::Restoring { retry_at, since } if *retry_at <= now => Some((*partition, *since)),
                _ => None,
            });
            if let Some((partition, since)) = due {
                self.commit()?;
                return self.restore(partition, since);
            }
        }
        self.poll(now)
    }

    fn poll(&mut self, now: Duration) -> Result<Step, Trouble> {
        let Some(session) = &mut self.session else {
            return Ok(Step::Idle);
        };
        let restoring = session
            .slots
            .values()
            .any(|slot| matches!(slot, Slot::Restoring { .. }));
        let idle = if restoring {
            Duration::from_millis(20)
        } else {
            Duration::from_millis(100)
        };
        let wait = session
            .open
            .as_ref()
            .map_or(idle, |open| open.due.saturating_sub(now))
            .min(idle);
        let records = match session.consumer.poll(self.settings.max_batch_rows, wait)? {
            Polled::Records(records) if records.is_empty() => {
                self.is_well();
                return Ok(Step::Idle);
            }
            Polled::Records(records) => records,
            event => return self.rebalance(event),
        };
        let (records, event) = self.gather(records)?;
        if let Some(event) = event {
            // Positions have moved past rows that nobody processed: those partitions start over.
            self.mark_touched(&records);
            return self.rebalance(event);
        }
        failpoint::hit("worker.after_poll");
        self.process(records)
    }

    /// Waits a little for more rows: each micro-batch costs the same few plans, however small.
    fn gather(&mut self, mut records: Vec<Record>) -> Result<(Vec<Record>, Option<Polled>), Trouble> {
        let until = self.ticker.now() + self.settings.linger;
        while records.len() < self.settings.max_batch_rows {
            let Some(left) = until
                .checked_sub(self.ticker.now())
                .filter(|left| !left.is_zero())
            else {
                break;
            };
            let Some(session) = &mut self.session else { break };
            match session
                .consumer
                .poll(self.settings.max_batch_rows - records.len(), left)
            {
                Ok(Polled::Records(more)) => records.extend(more),
                Ok(event) => return Ok((records, Some(event))),
                Err(error) => {
                    self.mark_touched(&records);
                    return Err(error.into());
                }
            }
        }
        Ok((records, None))
    }

    fn process(&mut self, records: Vec<Record>) -> Result<Step, Trouble> {
        let batches = by_partition(records);
        let now = self.ticker.now();
        let Some(session) = &mut self.session else {
            return Ok(Step::Idle);
        };
        // Whatever fails below, these partitions were read further than they were processed.
        for (partition, _) in &batches {
            if let Some(Slot::Active(active)) = session.slots.get_mut(partition) {
                active.touched = true;
            }
        }
        let mut waiting = None;
        for (partition, records) in &batches {
            let Some(Slot::Active(active)) = session.slots.get_mut(partition) else {
                continue;
            };
            if waiting.is_some() {
                continue;
            }
            let Session { producer, open, .. } = session;
            let interval = self.settings.commit_interval;
            let mut sink = |record: NewRecord| -> Result<(), LogError> {
                begin(producer, open, now, interval)?;
                producer.send(record)
            };
            let mut output = Output::new(&mut sink);
            match self.job.process(&mut active.state, records, &mut output) {
                Ok(()) => {}
                Err(JobError::Unavailable(why)) => {
                    waiting = Some(why);
                    continue;
                }
                Err(JobError::Log(error)) => return Err(Trouble::Log(error)),
                Err(JobError::Fatal(why)) => return Err(Trouble::Fatal(WorkerError::Job(why))),
            }
            let (urgent, bytes) = (output.is_urgent(), output.bytes());
            active.next = records.last().map_or(active.next, |last| last.offset + 1);
            active.moved = true;
            begin(producer, open, now, interval)?;
            if let Some(open) = open {
                open.rows += records.len();
                open.bytes += bytes;
                if urgent {
                    open.due = open.due.min(now + self.settings.urgent_commit_interval);
                }
                if open.rows >= self.settings.max_commit_rows || open.bytes >= self.settings.max_commit_bytes
                {
                    open.due = now;
                }
            }
        }
        match waiting {
            None => {
                self.is_well();
                Ok(Step::Worked)
            }
            Some(why) => self.wait_for(&why),
        }
    }

    /// Something outside the log does not answer: commit what is done, go back to it, try again later.
    fn wait_for(&mut self, why: &str) -> Result<Step, Trouble> {
        tracing::warn!(why, "waiting");
        self.note(why);
        let unprocessed = self.commit_then_touched()?;
        if let Some(session) = &mut self.session
            && !unprocessed.is_empty()
        {
            session.consumer.start(&unprocessed)?;
        }
        Ok(Step::Waiting(self.backoff.next_delay()))
    }

    /// Commits, and returns where the partitions stand that were fetched further than that.
    fn commit_then_touched(&mut self) -> Result<Vec<Position>, Trouble> {
        let input = Arc::clone(&self.settings.input);
        let touched: Vec<Position> = self
            .session
            .iter()
            .flat_map(|session| &session.slots)
            .filter_map(|(partition, slot)| match slot {
                Slot::Active(active) if active.touched => Some(Position {
                    topic: Arc::clone(&input),
                    partition: *partition,
                    offset: active.next,
                }),
                _ => None,
            })
            .collect();
        self.commit()?;
        for slot in self
            .session
            .iter_mut()
            .flat_map(|session| session.slots.values_mut())
        {
            if let Slot::Active(active) = slot {
                active.touched = false;
            }
        }
        Ok(touched)
    }

    /// Outputs, state and offsets become visible together, or none of them.
    fn commit(&mut self) -> Result<(), Trouble> {
        let started = self.ticker.now();
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let Some(open) = &session.open else { return Ok(()) };
        let (began, rows) = (open.began, open.rows);
        let mut offsets = Vec::new();
        for (partition, slot) in &mut session.slots {
            let Slot::Active(active) = slot else { continue };
            if !active.moved {
                continue;
            }
            let records = active
                .changelog
                .commit(active.state.operators(), active.next)
                .map_err(|error| Trouble::Fatal(WorkerError::Changelog(error)))?;
            for record in records {
                let bytes = record.value.as_ref().map_or(0, bytes::Bytes::len) as u64;
                metrics::counter!("varta_processors_state_written_bytes_total").increment(bytes);
                session.producer.send(record)?;
            }
            let topic = Arc::clone(&self.settings.input);
            offsets.push(Position {
                topic,
                partition: *partition,
                offset: active.next,
            });
        }
        let Some(token) = &session.token else {
            return Err(LogError {
                kind: LogErrorKind::Rebalanced,
                message: "no group token".into(),
            }
            .into());
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
            session
                .producer
                .commit(&offsets, token)
                .map_err(Trouble::Commit)?;
        }
        failpoint::hit("worker.after_commit");
        session.open = None;
        for slot in session.slots.values_mut() {
            if let Slot::Active(active) = slot {
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

    fn rebalance(&mut self, event: Polled) -> Result<Step, Trouble> {
        let now = self.ticker.now();
        #[cfg(test)]
        let keep_open = self.defect == Some(Defect::CommitAfterRevoke);
        #[cfg(not(test))]
        let keep_open = false;
        match event {
            Polled::Assigned(partitions) => {
                if !keep_open {
                    self.abort()?;
                }
                tracing::info!(partitions = partitions.len(), "partitions assigned");
                let Some(session) = &mut self.session else {
                    return Ok(Step::Worked);
                };
                let assigned = partitions.into_iter().map(|of| of.partition);
                let fresh = assigned.map(|partition| {
                    (
                        partition,
                        Slot::Restoring {
                            since: now,
                            retry_at: now,
                        },
                    )
                });
                session.slots = fresh.collect();
            }
            Polled::Revoked { partitions, lost } => {
                tracing::info!(partitions = partitions.len(), lost, "partitions revoked");
                // Until the next poll they are still ours, unless lost: finish what is ready, or take it back.
                let finished = !lost && (keep_open || self.commit().is_ok());
                if !finished {
                    self.abort()?;
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
        session.token = if session.slots.is_empty() {
            None
        } else {
            Some(session.consumer.group_token()?)
        };
        let partitions = session.slots.len();
        metrics::gauge!("varta_processors_partitions", "slot" => self.settings.transactional_id.clone())
            .set(partitions as f64);
        if partitions > 0 {
            self.note("restoring state");
        }
        Ok(Step::Worked)
    }

    fn restore(&mut self, partition: i32, since: Duration) -> Result<Step, Trouble> {
        let input = TopicPartition {
            topic: Arc::clone(&self.settings.input),
            partition,
        };
        let state = TopicPartition {
            topic: Arc::clone(&self.settings.state),
            partition,
        };
        let to = self.read_to(&state);
        let Some(session) = &mut self.session else {
            return Ok(Step::Idle);
        };
        let started = self.ticker.now();
        let attempt = restore::attempt(&self.log, &mut session.consumer, &input, &state, to)
            .map_err(restore_trouble)?;
        let (found, next) = match attempt {
            Attempt::Agreed { found, next } => (found, next),
            #[cfg(test)]
            Attempt::Disagreed { committed, found } if self.defect.is_some() => {
                (found, committed.unwrap_or(0))
            }
            Attempt::Disagreed { committed, found } => {
                let state = found.next_offset;
                let now = self.ticker.now();
                let waited = now.saturating_sub(since);
                if waited > self.settings.restore_deadline {
                    return Err(WorkerError::Disagreement {
                        partition,
                        committed,
                        state,
                        waited,
                    }
                    .into());
                }
                let retry_at = now + Duration::from_millis(100);
                session
                    .slots
                    .insert(partition, Slot::Restoring { since, retry_at });
                return Ok(Step::Worked);
            }
        };
        let mut opened = self
            .job
            .open(partition)
            .map_err(|error| WorkerError::Job(error.to_string()))?;
        let standings = restore::apply(
            found,
            partition,
            opened.operators(),
            self.settings.on_state_mismatch,
        )
        .map_err(restore_trouble)?;
        session.consumer.start(&[Position {
            topic: input.topic,
            partition,
            offset: next,
        }])?;
        let changelog = Changelog::new(state.topic, partition, standings);
        let active = Active {
            state: opened,
            changelog,
            next,
            touched: false,
            moved: false,
        };
        session.slots.insert(partition, Slot::Active(Box::new(active)));
        failpoint::hit("worker.after_restore");
        let took = self.ticker.now().saturating_sub(started);
        metrics::histogram!("varta_processors_restore_seconds").record(took.as_secs_f64());
        tracing::info!(partition, next, ?took, "state restored");
        self.is_well();
        Ok(Step::Worked)
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        reason = "the test build decides here which defect to plant"
    )]
    fn read_to(&self, _: &TopicPartition) -> ReadTo {
        ReadTo::TrueEnd
    }

    #[cfg(test)]
    fn read_to(&self, state: &TopicPartition) -> ReadTo {
        match (&self.defect, &self.last_stable) {
            (Some(Defect::RestoreToLastStable), Some(last_stable)) => ReadTo::Given(last_stable(state)),
            _ => ReadTo::TrueEnd,
        }
    }

    /// Takes back the open transaction and everything in memory that it touched.
    fn abort(&mut self) -> Result<(), Trouble> {
        let now = self.ticker.now();
        #[cfg(test)]
        let keep_memory = self.defect == Some(Defect::KeepMemoryOnAbort);
        #[cfg(not(test))]
        let keep_memory = false;
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let aborted = if session.open.take().is_some() {
            session.producer.abort()
        } else {
            Ok(())
        };
        for slot in session.slots.values_mut() {
            let Slot::Active(active) = slot else { continue };
            if !active.touched && !active.moved {
                continue;
            }
            if !keep_memory {
                *slot = Slot::Restoring {
                    since: now,
                    retry_at: now,
                };
            }
        }
        if let Err(error) = aborted {
            // Without a sure abort only a new producer (which resolves what is open) can go on.
            tracing::warn!(%error, "abort failed, starting over with a new producer");
            self.session = None;
        } else if keep_memory {
            self.seek_to_committed()?;
        }
        metrics::counter!("varta_processors_aborts_total").increment(1);
        Ok(())
    }

    /// Only for a planted defect: the position goes back, the memory does not.
    fn seek_to_committed(&mut self) -> Result<(), Trouble> {
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

    fn recover(&mut self, trouble: Trouble) -> Result<Step, WorkerError> {
        let (error, committing) = match trouble {
            Trouble::Fatal(error) => {
                // Best effort: the broker aborts it anyway once the transaction times out.
                let _ = self.abort();
                self.session = None;
                return Err(error);
            }
            Trouble::Log(error) => (error, false),
            Trouble::Commit(error) => (error, true),
        };
        tracing::warn!(%error, committing, "log failed");
        metrics::counter!("varta_processors_log_failures_total").increment(1);
        self.note(&error.message);
        match &error.kind {
            LogErrorKind::OffsetOutOfRange { .. } => {
                self.session = None;
                return Err(WorkerError::LostRange(error));
            }
            LogErrorKind::TooLarge => {
                self.session = None;
                return Err(WorkerError::Refused(error));
            }
            LogErrorKind::Aborted => self.abort_or_leave(),
            LogErrorKind::Rebalanced => self.step_back(),
            // Nothing is decided yet, so an abort takes it back.
            LogErrorKind::Unavailable if !committing => self.abort_or_leave(),
            // Fenced, fatal, or a commit whose answer is lost: only a new producer knows what became of it.
            _ => self.session = None,
        }
        Ok(Step::Waiting(self.backoff.next_delay()))
    }

    fn abort_or_leave(&mut self) {
        if self.abort().is_err() {
            self.session = None;
        }
    }

    /// The group moved on without us: nothing in memory counts until it says what we own.
    fn step_back(&mut self) {
        let now = self.ticker.now();
        self.abort_or_leave();
        let Some(session) = &mut self.session else { return };
        session.token = None;
        session.tokenless_since = Some(now);
        for slot in session.slots.values_mut() {
            *slot = Slot::Restoring {
                since: now,
                retry_at: now,
            };
        }
    }

    fn mark_touched(&mut self, records: &[Record]) {
        let Some(session) = &mut self.session else { return };
        for record in records {
            if let Some(Slot::Active(active)) = session.slots.get_mut(&record.partition) {
                active.touched = true;
            }
        }
    }

    /// Nothing is waited for any more. A spare worker without partitions is as ready as it can be.
    fn is_well(&mut self) {
        let is_restoring = |slot: &Slot<J::State>| matches!(slot, Slot::Restoring { .. });
        let restored = self
            .session
            .as_ref()
            .is_some_and(|session| !session.slots.values().any(is_restoring));
        if self.noted && restored {
            self.noted = false;
            if let Some(health) = &self.health {
                health.ready();
            }
        }
    }

    fn note(&mut self, why: &str) {
        self.noted = true;
        if let Some(health) = &self.health {
            health.waiting(why);
        }
    }
}

fn restore_trouble(error: RestoreError) -> Trouble {
    match error {
        RestoreError::Log(error) => Trouble::Log(error),
        other => Trouble::Fatal(WorkerError::Restore(other)),
    }
}

fn begin<P: TransactionalProducer>(
    producer: &mut P,
    open: &mut Option<Transaction>,
    now: Duration,
    interval: Duration,
) -> Result<(), LogError> {
    if open.is_none() {
        producer.begin()?;
        *open = Some(Transaction {
            due: now + interval,
            began: now,
            rows: 0,
            bytes: 0,
        });
    }
    Ok(())
}

/// Stable split: the order within each partition is kept.
fn by_partition(records: Vec<Record>) -> Vec<(i32, Vec<Record>)> {
    let mut batches: Vec<(i32, Vec<Record>)> = Vec::new();
    let mut last = 0;
    for record in records {
        if batches
            .get(last)
            .is_none_or(|(partition, _)| *partition != record.partition)
        {
            last = batches
                .iter()
                .position(|(partition, _)| *partition == record.partition)
                .unwrap_or_else(|| {
                    batches.push((record.partition, Vec::new()));
                    batches.len() - 1
                });
        }
        batches[last].1.push(record);
    }
    batches
}

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

mod bounded;
mod commit;
mod ownership;
mod recovery;
mod settings;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
use eventlog::TopicPartition;
use eventlog::TransactionalProducer;
use eventlog::{Consumer, GroupToken, Log, LogError, NewRecord, Polled, Record, StartAt};
use runtime::backoff::Backoff;
use runtime::failpoint;
use runtime::health::Component;
use runtime::shutdown::Shutdown;

use super::changelog::Changelog;
use super::job::{Job, JobError, Output, PartitionState};
use super::ticker::Ticker;
use commit::begin;
#[cfg(test)]
pub(crate) use settings::Defect;
pub use settings::{Step, WorkerError, WorkerSettings};

/// Tells the last stable offset of a partition, for a planted defect.
#[cfg(test)]
pub(crate) type LastStable = Box<dyn Fn(&TopicPartition) -> i64 + Send>;

/// A worker is behind when its micro-batches have been full for so long. Large transactions cost less for each row, and
/// whoever reads the outputs waits for them: a burst is no reason for them.
const BEHIND_AFTER: Duration = Duration::from_secs(1);
/// Who is behind takes so many micro-batches at once.
const BEHIND_BATCHES: usize = 4;

struct Active<S> {
    state: S,
    changelog: Changelog,
    /// Next input offset to process.
    next: i64,
    /// Rows were processed (or fetched and thrown away) since the last commit.
    touched: bool,
    /// `next` moved since the last commit, or the state is to.
    moved: bool,
    /// The job put something off that the last commit did not finish.
    owes: bool,
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
    /// Nothing more fits into it.
    is_full: bool,
}

impl Transaction {
    /// When it is to be committed; `behind`: how long it may last because the input brings full micro-batches.
    fn due(&self, behind: Option<Duration>) -> Duration {
        match behind {
            _ if self.is_full => Duration::ZERO,
            Some(behind) => self.due.max(self.began + behind),
            None => self.due,
        }
    }
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

impl Trouble {
    /// Tells of one that ends nothing: what it stopped is taken back and comes again.
    fn tell(&self) {
        let (error, committing): (&dyn std::error::Error, bool) = match self {
            Self::Log(error) => (error, false),
            Self::Commit(error) => (error, true),
            Self::Fatal(error) => (error, false),
        };
        tracing::warn!(%error, committing, "giving partitions back without a commit");
        metrics::counter!("varta_processors_log_failures_total").increment(1);
    }
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
    /// Since when each micro-batch has been full; nothing if the last was not.
    full_since: Option<Duration>,
    /// The partition that last had more to do than its share of a commit.
    turn: Option<i32>,
    /// The next commit is the last before partitions are given back.
    is_leaving: bool,
    /// When the group's offsets were last asked for.
    asked_at: Option<Duration>,
    #[cfg(test)]
    pub(crate) defect: Option<Defect>,
    #[cfg(test)]
    pub(crate) last_stable: Option<LastStable>,
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
            full_since: None,
            turn: None,
            is_leaving: false,
            asked_at: None,
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
        let turn = if self.session.is_some() { self.turn() } else { self.connect() };
        match turn {
            Ok(step) => Ok(step),
            Err(trouble) => self.recover(trouble),
        }
    }

    /// Commits what is done, and what was put off with it, and gives everything back. An error means only that the last
    /// commit is undone.
    pub fn drain(&mut self) -> Result<(), WorkerError> {
        if let Err(trouble) = self.commit_all() {
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

    /// Whether nothing processed waits for its commit, and nothing for a later one.
    pub fn is_settled(&self) -> bool {
        let rests = |slot: &Slot<J::State>| matches!(slot, Slot::Active(active) if !active.owes);
        self.session.as_ref().is_some_and(|session| {
            session.open.is_none() && !session.slots.is_empty() && session.slots.values().all(rests)
        })
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
        let behind = is_behind(self.full_since, now).then_some(self.settings.behind_commit_interval);
        if session.open.as_ref().is_some_and(|open| now >= open.due(behind)) {
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
            self.take_up_what_is_owed(now)?;
        }
        self.poll(now)
    }

    /// What was put off beyond the last commit is for the next one.
    fn take_up_what_is_owed(&mut self, now: Duration) -> Result<(), Trouble> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let Session { producer, open, slots, .. } = session;
        for slot in slots.values_mut() {
            if let Slot::Active(active) = slot
                && active.owes
                && !active.moved
            {
                active.moved = true;
                begin(producer, open, now, self.settings.commit_interval)?;
            }
        }
        Ok(())
    }

    fn poll(&mut self, now: Duration) -> Result<Step, Trouble> {
        let Some(session) = &mut self.session else {
            return Ok(Step::Idle);
        };
        let restoring = session.slots.values().any(|slot| matches!(slot, Slot::Restoring { .. }));
        let idle = if restoring { Duration::from_millis(20) } else { Duration::from_millis(100) };
        let wait = session.open.as_ref().map_or(idle, |open| open.due.saturating_sub(now)).min(idle);
        let (full_since, is_behind) = (self.full_since.take(), is_behind(self.full_since, now));
        let most = self.settings.max_batch_rows * if is_behind { BEHIND_BATCHES } else { 1 };
        let records = match session.consumer.poll(most, wait)? {
            Polled::Records(records) if records.is_empty() => {
                if is_behind {
                    // the end of what waited: it may be time for the commit that was put off
                    return Ok(Step::Worked);
                }
                self.is_well();
                self.look_at_others(now)?;
                return Ok(Step::Idle);
            }
            Polled::Records(records) => records,
            event => return self.rebalance(event),
        };
        let (records, event) = self.gather(records, most)?;
        self.full_since = (records.len() >= most).then(|| full_since.unwrap_or(now));
        if let Some(event) = event {
            // Positions have moved past rows that nobody processed: those partitions start over.
            self.mark_touched(&records);
            return self.rebalance(event);
        }
        failpoint::hit("worker.after_poll");
        self.process(records)
    }

    /// Waits a little for more rows: each micro-batch costs the same few plans, however small.
    fn gather(
        &mut self,
        mut records: Vec<Record>,
        most: usize,
    ) -> Result<(Vec<Record>, Option<Polled>), Trouble> {
        let until = self.ticker.now() + self.settings.linger;
        while records.len() < most {
            let Some(left) = until.checked_sub(self.ticker.now()).filter(|left| !left.is_zero()) else {
                break;
            };
            let Some(session) = &mut self.session else { break };
            match session.consumer.poll(most - records.len(), left) {
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
        let mut ended = Vec::new();
        for (partition, records) in &batches {
            let Some(Slot::Active(active)) = session.slots.get_mut(partition) else {
                continue;
            };
            if waiting.is_some() {
                continue;
            }
            let span = self.settings.span.as_deref();
            let records = span.map_or(&records[..], |span| span.cut(*partition, records));
            if records.is_empty() {
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
            if span.is_some_and(|span| span.ends(*partition, active.next)) {
                ended.push((*partition, active.next));
            }
            begin(producer, open, now, interval)?;
            if let Some(open) = open {
                open.rows += records.len();
                open.bytes += bytes;
                if urgent {
                    open.due = open.due.min(now + self.settings.urgent_commit_interval);
                }
                if open.rows >= self.settings.max_commit_rows || open.bytes >= self.settings.max_commit_bytes
                {
                    open.is_full = true;
                }
            }
        }
        for (partition, next) in ended {
            self.stop_at_end(partition, next);
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
}

/// Whether micro-batches have been full for so long that it is no mere burst.
fn is_behind(full_since: Option<Duration>, now: Duration) -> bool {
    full_since.is_some_and(|since| now.saturating_sub(since) >= BEHIND_AFTER)
}

/// Stable split: the order within each partition is kept.
fn by_partition(records: Vec<Record>) -> Vec<(i32, Vec<Record>)> {
    let mut batches: Vec<(i32, Vec<Record>)> = Vec::new();
    let mut last = 0;
    for record in records {
        if batches.get(last).is_none_or(|(partition, _)| *partition != record.partition) {
            last = batches.iter().position(|(partition, _)| *partition == record.partition).unwrap_or_else(
                || {
                    batches.push((record.partition, Vec::new()));
                    batches.len() - 1
                },
            );
        }
        batches[last].1.push(record);
    }
    batches
}

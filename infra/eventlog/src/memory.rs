//! The log in memory, for tests: synchronous, deterministic, and able to break at any call.
//!
//! It models what of Kafka matters to those who commit: offsets that transaction markers occupy, aborted records
//! that read_committed never shows, the last stable offset, offsets pending in an open transaction, fencing by
//! transactional id, group generations and eager rebalances, markers of different partitions that land apart,
//! append time, retention and compaction. Nothing ever sleeps: where Kafka would wait, a poll brings nothing and
//! everything else fails with `Unavailable`.
//!
//! A [`MemoryLog`] is a handle on shared topics. [`MemoryLog::handle`] gives another one with its own count of
//! calls, so that one worker of several can be broken ([`MemoryLog::fail_at`]) or killed ([`MemoryLog::kill`]).

mod consumer;
mod faults;
mod groups;
mod partition;
mod producer;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use schemas::topics::TopicSpec;

pub use consumer::MemoryConsumer;
pub use faults::{Call, Fault};
pub use partition::{Content, Entry};
pub use producer::{MemoryAppender, MemoryProducer};

use crate::error::{LogError, LogErrorKind};
use crate::log::{Created, Drift, Log, OnDelivery, StartAt};
use crate::record::{Record, TopicPartition};
use faults::Handle;
use state::State;

/// A handle on a log in memory; see the module.
#[derive(Clone)]
pub struct MemoryLog {
    state: Arc<Mutex<State>>,
    handle: Arc<Handle>,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryLog {
    /// An empty log whose clock stands at 0.
    pub fn new() -> Self {
        Self { state: Arc::default(), handle: Arc::new(Handle::new(0)) }
    }

    /// Another handle on the same topics, with faults and a count of calls of its own. Plain clones share them.
    #[must_use]
    pub fn handle(&self) -> Self {
        let mut state = self.lock();
        state.handles += 1;
        let handle = Arc::new(Handle::new(state.handles));
        drop(state);
        Self { state: Arc::clone(&self.state), handle }
    }

    /// Makes the `n`-th call (from 1) on the consumers, producers and appenders of this handle fail.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        self.handle.plan(n, fault);
    }

    /// The calls made through this handle so far, the first at index 0.
    pub fn calls(&self) -> Vec<Call> {
        self.handle.calls()
    }

    /// As if the process behind this handle were gone and its session had timed out: all its calls fail, its
    /// members leave their groups, its open transactions stay open until fenced or timed out.
    pub fn kill(&self) {
        self.handle.die();
        self.lock().expel(self.handle.id);
    }

    /// As if the sessions of this handle's consumers had timed out while it was busy: their next poll says that
    /// the partitions are lost.
    pub fn expel(&self) {
        self.lock().expel(self.handle.id);
    }

    /// Makes a topic. One that is there is replaced.
    pub fn create(&self, topic: &str, partitions: i32) {
        self.lock().create(topic, partitions, None);
    }

    /// Sets the clock, in ms; it stamps records as they are appended.
    pub fn set_time(&self, ms: i64) {
        self.lock().now_ms = ms;
    }

    /// Sets what a group's next rebalances assign: to its n-th member in the order of joining the n-th list.
    /// An empty slice returns to ranges by topic.
    pub fn pin(&self, group: &str, assignment: &[Vec<TopicPartition>]) {
        let pinned = (!assignment.is_empty()).then(|| assignment.to_vec());
        self.lock().group(group).pinned = pinned;
    }

    /// Begins a rebalance, as if a member had come or gone.
    pub fn rebalance(&self, group: &str) {
        self.lock().group(group).begin_rebalance();
    }

    /// Keeps transaction markers away from a partition until [`MemoryLog::release_markers`]: what was committed or
    /// aborted there stays behind the last stable offset.
    pub fn delay_markers(&self, of: &TopicPartition) {
        self.lock().delayed.insert(of.clone());
    }

    /// Lets the markers of a partition land.
    pub fn release_markers(&self, of: &TopicPartition) {
        self.lock().release_markers(of);
    }

    /// Keeps offsets of settled transactions pending until [`MemoryLog::release_offsets`].
    pub fn delay_offsets(&self, group: &str) {
        self.lock().delayed_offsets.insert(group.to_owned());
    }

    /// Lets pending offsets of a group land.
    pub fn release_offsets(&self, group: &str) {
        self.lock().release_offsets(group);
    }

    /// Aborts every open transaction and fences its producer, as the coordinator does after
    /// `transaction.timeout.ms`.
    pub fn time_out_transactions(&self) {
        self.lock().time_out_transactions();
    }

    /// Removes what is below an offset, as retention does.
    pub fn trim(&self, of: &TopicPartition, before: i64) {
        if let Ok(partition) = self.lock().partition_mut(of) {
            partition.trim(before);
        }
    }

    /// Removes each committed record that has a newer one with the same key, as compaction does; tombstones stay.
    pub fn compact(&self, topic: &str) {
        self.lock().compact(topic);
    }

    /// Keeps delivery reports of appenders back, and makes them refuse records beyond `capacity` in flight.
    pub fn hold_deliveries(&self, capacity: usize) {
        self.lock().hold_deliveries = Some(capacity);
    }

    /// Gives up to `count` of the reports held back, oldest first; `usize::MAX` ends the holding.
    pub fn release_deliveries(&self, count: usize) {
        let due = self.lock().take_deliveries(count);
        for delivery in due {
            delivery.report();
        }
    }

    /// What a read_committed reader sees of a topic now: partition by partition, in offset order.
    pub fn records(&self, topic: &str) -> Vec<Record> {
        let state = self.lock();
        let count = state.partition_count(topic).unwrap_or(0);
        let partitions = (0..count).map(|number| TopicPartition::new(topic, number));
        partitions
            .flat_map(|of| {
                state.read_committed(&of, 0, usize::MAX).map(|(records, _)| records).unwrap_or_default()
            })
            .collect()
    }

    /// Everything in a topic by partition and offset: markers, records of open and aborted transactions too.
    pub fn raw(&self, topic: &str) -> BTreeMap<(i32, i64), Entry> {
        self.lock().raw(topic)
    }

    /// What a group has committed in a partition; pending offsets do not count.
    pub fn committed_offset(&self, group: &str, of: &TopicPartition) -> Option<i64> {
        self.lock().group(group).committed.get(of).copied()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Log for MemoryLog {
    type Consumer = MemoryConsumer;
    type Producer = MemoryProducer;
    type Appender = MemoryAppender;

    fn consumer(
        &self,
        group: &str,
        topics: &[&str],
        instance: Option<&str>,
        reset: StartAt,
    ) -> Result<MemoryConsumer, LogError> {
        self.handle.check_alive()?;
        Ok(MemoryConsumer::join(self.clone(), group, topics, instance, reset))
    }

    fn transactional_producer(&self, transactional_id: &str) -> Result<MemoryProducer, LogError> {
        self.handle.check_alive()?;
        MemoryProducer::open(self.clone(), transactional_id)
    }

    fn appender(&self, on_delivery: OnDelivery) -> Result<MemoryAppender, LogError> {
        self.handle.check_alive()?;
        Ok(MemoryAppender::new(self.clone(), on_delivery))
    }

    fn read_partition(
        &self,
        of: &TopicPartition,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(Record) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        self.handle.before(Call::ReadPartition)?;
        let state = self.lock();
        let partition = state.partition(of)?;
        if from < partition.start {
            return Err(LogError::out_of_range(&of.topic, of.partition, from, partition.start));
        }
        if partition.stable_end() < to {
            return Err(LogError::unavailable(format!("{of}: transactions below {to} are still open")));
        }
        let (records, _) = state.read_committed(of, from, usize::MAX)?;
        drop(state);
        records.into_iter().take_while(|record| record.offset < to).try_for_each(each)
    }

    fn bounds(&self, of: &TopicPartition) -> Result<(i64, i64), LogError> {
        self.handle.check_alive()?;
        self.lock().partition(of).map(|partition| (partition.start, partition.end))
    }

    fn offset_at(&self, of: &TopicPartition, at: i64) -> Result<i64, LogError> {
        self.handle.check_alive()?;
        let state = self.lock();
        let partition = state.partition(of)?;
        let first = partition.entries.iter().find(|(_, entry)| entry.timestamp >= at);
        Ok(first.map_or(partition.end, |(offset, _)| *offset))
    }

    fn partitions(&self, topic: &str) -> Result<i32, LogError> {
        self.handle.check_alive()?;
        self.lock().partition_count(topic)
    }

    fn create_topics(&self, specs: &[TopicSpec], partitions: i32) -> Result<Vec<Created>, LogError> {
        self.handle.check_alive()?;
        let mut state = self.lock();
        specs.iter().map(|spec| create_one(&mut state, spec, partitions)).collect()
    }
}

fn create_one(state: &mut State, spec: &TopicSpec, partitions: i32) -> Result<Created, LogError> {
    let topic = Arc::clone(&spec.name);
    let Ok(found) = state.partition_count(&topic) else {
        state.create(&topic, partitions, Some(spec.clone()));
        return Ok(Created { topic, is_new: true, drift: Vec::new() });
    };
    if found != partitions {
        let message =
            format!("topic {topic} has {found} partitions, not {partitions}; a job cannot change them");
        return Err(LogError::new(LogErrorKind::Fatal, message));
    }
    let present = state.settings(&topic);
    let differs = |(setting, wanted): (&str, String)| {
        let found = present.iter().find(|(name, _)| *name == setting)?.1.clone();
        (found != wanted).then(|| Drift { setting: setting.to_owned(), wanted, found })
    };
    Ok(Created { topic, is_new: false, drift: spec.settings().into_iter().filter_map(differs).collect() })
}

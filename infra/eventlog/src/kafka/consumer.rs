//! A member of a group on Kafka.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::message::Gathering;
use super::voice::Voice;
use super::{ASK, Inner, errors};
use crate::error::{LogError, LogErrorKind};
use crate::log::{Consumer, GroupToken, Polled, StartAt};
use crate::record::{Position, TopicPartition};

/// How long the client may take to forget where it stood; it is a message between two of its threads.
const FORGETS: Duration = Duration::from_millis(100);

/// What the callback saw; [`KafkaConsumer::poll`] takes it from there.
enum Rebalance {
    Assigned(Vec<TopicPartition>, Option<ConsumerGroupMetadata>),
    Revoked(Vec<TopicPartition>, bool),
}

struct GroupContext {
    voice: Arc<Voice>,
    seen: Mutex<VecDeque<Rebalance>>,
    is_closing: AtomicBool,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::voice::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(&error, reason);
    }
}

impl ConsumerContext for GroupContext {
    /// Runs inside `poll`, on its thread.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = list
            .elements()
            .iter()
            .map(|element| TopicPartition::new(element.topic(), element.partition()))
            .collect();
        if what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let membership = consumer.group_metadata();
            // Nothing is fetched before `start` names the offsets.
            if let Err(error) = consumer.assign(&TopicPartitionList::new()) {
                tracing::warn!(%error, "assignment could not be accepted");
            }
            self.seen.lock().push_back(Rebalance::Assigned(partitions, membership));
            return;
        }
        if self.is_closing.load(Ordering::Relaxed) {
            give_back(consumer);
            return;
        }
        let is_lost = consumer.assignment_lost();
        self.seen.lock().push_back(Rebalance::Revoked(partitions, is_lost));
    }
}

fn give_back(consumer: &BaseConsumer<GroupContext>) {
    if let Err(error) = consumer.unassign() {
        tracing::warn!(%error, "partitions could not be given back");
    }
}

/// A partition that is being read.
struct Reading {
    of: TopicPartition,
    /// The next offset to hand out.
    next: i64,
    /// Where the client said it stood before it was last sent elsewhere: it may go on saying so for a while.
    stale: Option<i64>,
}

/// A member of a group; see [`crate::Consumer`].
pub struct KafkaConsumer {
    consumer: BaseConsumer<GroupContext>,
    inner: Arc<Inner>,
    group: String,
    reset: StartAt,
    owned: Vec<TopicPartition>,
    reading: Vec<Reading>,
    /// Index of the partition of the last record: they come in runs.
    last: usize,
    paused: HashSet<TopicPartition>,
    token: Option<GroupToken>,
    must_give_back: bool,
    /// An error that came behind records which had to be handed out first.
    deferred: Option<LogError>,
    gathering: Gathering,
}

/// Membership as librdkafka names it.
pub(super) struct Membership(pub(super) ConsumerGroupMetadata);

impl KafkaConsumer {
    pub(super) fn join(
        inner: Arc<Inner>,
        group: &str,
        topics: &[&str],
        instance: Option<&str>,
        reset: StartAt,
    ) -> Result<Self, LogError> {
        let doing = format!("consumer of group {group}");
        let context = GroupContext {
            voice: Arc::clone(&inner.voice),
            seen: Mutex::default(),
            is_closing: AtomicBool::new(false),
        };
        let consumer: BaseConsumer<GroupContext> = inner
            .config
            .consumer(group, instance)
            .create_with_context(context)
            .map_err(|error| errors::of(&error, &doing))?;
        consumer.subscribe(topics).map_err(|error| errors::of(&error, &doing))?;
        Ok(Self {
            consumer,
            inner,
            group: group.to_owned(),
            reset,
            owned: Vec::new(),
            reading: Vec::new(),
            last: 0,
            paused: HashSet::new(),
            token: None,
            must_give_back: false,
            deferred: None,
            gathering: Gathering::new(),
        })
    }

    /// The oldest rebalance that was seen and not yet told. What was gathered before it is dropped: its owner may
    /// be another by now, and it was never counted as read.
    fn rebalanced(&mut self) -> Option<Polled> {
        let seen = self.consumer.context().seen.lock().pop_front()?;
        self.gathering.clear();
        self.reading.clear();
        self.paused.clear();
        self.deferred = None;
        match seen {
            Rebalance::Assigned(partitions, membership) => {
                self.token = membership.map(|membership| GroupToken(Arc::new(Membership(membership))));
                self.owned.clone_from(&partitions);
                tracing::info!(group = %self.group, partitions = partitions.len(), "partitions assigned");
                Some(Polled::Assigned(partitions))
            }
            Rebalance::Revoked(partitions, lost) => {
                self.owned.clear();
                self.must_give_back = true;
                tracing::info!(group = %self.group, partitions = partitions.len(), lost, "partitions revoked");
                Some(Polled::Revoked { partitions, lost })
            }
        }
    }

    /// Whether the error ends the poll; most are librdkafka's to repair.
    fn judge(&self, error: &KafkaError) -> Option<LogError> {
        match error {
            KafkaError::PartitionEOF(_) => None,
            KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                self.out_of_range()
            }
            other => {
                let error = errors::of(other, &format!("group {}", self.group));
                match error.kind {
                    LogErrorKind::Unavailable | LogErrorKind::Rebalanced => {
                        self.inner.voice.error(other, &error.message);
                        None
                    }
                    _ => Some(error),
                }
            }
        }
    }

    /// librdkafka does not say which partition it was.
    fn out_of_range(&self) -> Option<LogError> {
        for Reading { of, next, .. } in &self.reading {
            match self.inner.bounds(of) {
                Ok((earliest, end)) if *next < earliest || *next > end => {
                    return Some(LogError::out_of_range(&of.topic, of.partition, *next, earliest));
                }
                Ok(_) => {}
                Err(error) => return Some(error),
            }
        }
        // The partition it was about has been sought elsewhere meanwhile.
        None
    }

    /// What the client says of its positions, which move past markers as well.
    fn told(&self) -> TopicPartitionList {
        self.consumer.position().unwrap_or_else(|_| TopicPartitionList::new())
    }

    fn assign(&mut self) -> Result<(), LogError> {
        let told = self.told();
        for reading in &mut self.reading {
            reading.stale = offset_in(&told, &reading.of);
        }
        let mut list = TopicPartitionList::with_capacity(self.reading.len());
        for Reading { of, next, .. } in &self.reading {
            let added = list.add_partition_offset(&of.topic, of.partition, Offset::Offset(*next));
            added.map_err(|error| errors::of(&error, &of.to_string()))?;
        }
        self.consumer.assign(&list).map_err(|error| errors::of(&error, &format!("group {}", self.group)))?;
        self.forget_stale();
        let paused: Vec<TopicPartition> = self.paused.iter().cloned().collect();
        if !paused.is_empty() {
            self.pause(&paused);
        }
        Ok(())
    }

    /// Waits a moment until the client has let go of where it stood. Nothing is polled meanwhile, so it cannot have
    /// moved anywhere else; what it goes on saying is not believed.
    fn forget_stale(&mut self) {
        let deadline = Instant::now() + FORGETS;
        while self.reading.iter().any(|reading| reading.stale.is_some()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
            let told = self.told();
            for reading in &mut self.reading {
                reading.stale = reading.stale.filter(|stale| offset_in(&told, &reading.of) == Some(*stale));
            }
        }
    }

    /// Where the group left a partition, or where it was told to begin.
    fn begin_at(&mut self, of: &TopicPartition) -> Result<i64, LogError> {
        if let Some(offset) = self.committed(std::slice::from_ref(of))?[0] {
            return Ok(offset);
        }
        let (earliest, end) = self.inner.bounds(of)?;
        Ok(match self.reset {
            StartAt::Earliest => earliest,
            StartAt::Latest => end,
        })
    }
}

/// Takes a message unless it is of a partition not being read, or repeats an offset handed out already.
fn gather(
    reading: &mut [Reading],
    last: &mut usize,
    gathering: &mut Gathering,
    message: &BorrowedMessage<'_>,
) {
    let (topic, partition) = (message.topic(), message.partition());
    let is_same = |of: &TopicPartition| of.partition == partition && *of.topic == *topic;
    if !reading.get(*last).is_some_and(|reading| is_same(&reading.of)) {
        let Some(found) = reading.iter().position(|reading| is_same(&reading.of)) else {
            return;
        };
        *last = found;
    }
    let reading = &mut reading[*last];
    if message.offset() >= reading.next {
        reading.next = message.offset() + 1;
        gathering.add(Arc::clone(&reading.of.topic), message);
    }
}

impl Consumer for KafkaConsumer {
    fn poll(&mut self, max_records: usize, max_wait: Duration) -> Result<Polled, LogError> {
        if let Some(error) = self.deferred.take() {
            return Err(error);
        }
        if std::mem::take(&mut self.must_give_back) {
            give_back(&self.consumer);
        }
        let deadline = Instant::now() + max_wait;
        loop {
            if let Some(polled) = self.rebalanced() {
                return Ok(polled);
            }
            if self.gathering.len() >= max_records {
                break;
            }
            let now = Instant::now();
            let wait = if self.gathering.is_empty() {
                in_whole_milliseconds(deadline.saturating_duration_since(now))
            } else {
                Duration::ZERO
            };
            match self.consumer.poll(wait) {
                Some(Ok(message)) => gather(&mut self.reading, &mut self.last, &mut self.gathering, &message),
                Some(Err(error)) => {
                    if let Some(error) = self.judge(&error) {
                        if self.gathering.is_empty() {
                            return Err(error);
                        }
                        self.deferred = Some(error);
                        break;
                    }
                }
                // Either nothing more is there, or a callback ran: a rebalance is told first.
                None => {
                    let is_silent = self.consumer.context().seen.lock().is_empty();
                    if is_silent && (!self.gathering.is_empty() || Instant::now() >= deadline) {
                        break;
                    }
                }
            }
        }
        if !self.gathering.is_empty() {
            self.inner.voice.answered();
        }
        Ok(Polled::Records(self.gathering.take()))
    }

    fn start(&mut self, at: &[Position]) -> Result<(), LogError> {
        if let Some(stranger) = at.iter().find(|at| !self.owned.contains(&at.topic_partition())) {
            let message = format!("{}-{} is not assigned", stranger.topic, stranger.partition);
            return Err(LogError::new(LogErrorKind::Rebalanced, message));
        }
        for of in self.owned.clone() {
            let named = at.iter().find(|at| at.partition == of.partition && at.topic == of.topic);
            let known = self.reading.iter().position(|reading| reading.of == of);
            let next = match (named, known) {
                (Some(at), _) => at.offset,
                (None, Some(known)) => self.reading[known].next,
                (None, None) => self.begin_at(&of)?,
            };
            match known {
                Some(known) => self.reading[known].next = next,
                None => self.reading.push(Reading { of, next, stale: None }),
            }
        }
        self.gathering.clear();
        self.deferred = None;
        self.assign()
    }

    fn positions(&mut self) -> Vec<Position> {
        let told = self.told();
        for reading in &mut self.reading {
            let now = offset_in(&told, &reading.of);
            if now == reading.stale && now.is_some() {
                continue;
            }
            reading.stale = None;
            reading.next = now.map_or(reading.next, |now| now.max(reading.next));
        }
        self.reading.iter().map(|reading| reading.of.at(reading.next)).collect()
    }

    fn pause(&mut self, of: &[TopicPartition]) {
        self.paused.extend(of.iter().cloned());
        if let Err(error) = self.consumer.pause(&list_of(of)) {
            tracing::debug!(%error, "pausing partitions that are not being read");
        }
    }

    fn resume(&mut self, of: &[TopicPartition]) {
        for partition in of {
            self.paused.remove(partition);
        }
        if let Err(error) = self.consumer.resume(&list_of(of)) {
            tracing::debug!(%error, "resuming partitions that are not being read");
        }
    }

    fn committed(&mut self, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
        if of.is_empty() {
            return Ok(Vec::new());
        }
        // A transaction that a dead producer left open is settled by its timeout at the latest.
        let limit = self.inner.config.request_timeout + self.inner.config.transaction_timeout;
        let doing = format!("committed offsets of group {}", self.group);
        self.inner.voice.patiently(limit, || {
            let found = self
                .consumer
                .committed_offsets(list_of(of), ASK)
                .map_err(|error| errors::of(&error, &doing))?;
            of.iter()
                .map(|of| {
                    let Some(element) = found.find_partition(&of.topic, of.partition) else {
                        return Ok(None);
                    };
                    element.error().map_err(|error| errors::of(&error, &doing))?;
                    match element.offset() {
                        Offset::Offset(offset) => Ok(Some(offset)),
                        _ => Ok(None),
                    }
                })
                .collect()
        })
    }

    fn bounds(&mut self, of: &TopicPartition) -> Result<(i64, i64), LogError> {
        self.inner.bounds(of)
    }

    fn commit(&mut self, at: &[Position]) -> Result<(), LogError> {
        if at.is_empty() {
            return Ok(());
        }
        let doing = format!("offsets of group {}", self.group);
        let list = positions(at).map_err(|error| errors::of(&error, &doing))?;
        self.consumer.commit(&list, CommitMode::Sync).map_err(|error| errors::of(&error, &doing))
    }

    fn group_token(&mut self) -> Result<GroupToken, LogError> {
        let missing = || LogError::new(LogErrorKind::Rebalanced, "nothing is assigned yet");
        self.token.clone().ok_or_else(missing)
    }
}

impl Drop for KafkaConsumer {
    /// Leaves the group, unless it is a static member. Whoever still had partitions to give back does so now:
    /// closing waits for it.
    fn drop(&mut self) {
        self.consumer.context().is_closing.store(true, Ordering::Relaxed);
        let was_told =
            self.consumer.context().seen.lock().iter().any(|seen| matches!(seen, Rebalance::Revoked(..)));
        if self.must_give_back || was_told {
            give_back(&self.consumer);
        }
    }
}

/// Rounded up: rdkafka waits in whole milliseconds and spends what is left of one asking again and again.
fn in_whole_milliseconds(time: Duration) -> Duration {
    Duration::from_millis(time.as_micros().div_ceil(1000) as u64)
}

fn offset_in(list: &TopicPartitionList, of: &TopicPartition) -> Option<i64> {
    match list.find_partition(&of.topic, of.partition)?.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

fn list_of(of: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(of.len());
    for partition in of {
        list.add_partition(&partition.topic, partition.partition);
    }
    list
}

pub(super) fn positions(at: &[Position]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(at.len());
    for at in at {
        list.add_partition_offset(&at.topic, at.partition, Offset::Offset(at.offset))?;
    }
    Ok(list)
}

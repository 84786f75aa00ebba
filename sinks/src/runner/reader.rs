//! The log's side of the queue: a plain thread, because the log's client and the registry block.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    time::{Duration, Instant},
};

use eventlog::{
    Consumer, Log, LogError, LogErrorKind, Polled, Position, Record, StartAt, TopicPartition,
    batches::BatchDecoder, registry::SchemaRegistry,
};
use runtime::{backoff::Backoff, fate::Fate, health::Component};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Feed, decode::decode, starting::Starting};
use crate::{
    SinkError, Start,
    batch::{Batch, Span},
};

/// What the thread tells the sink, in order.
pub(super) enum Event {
    /// Ask the store where to begin. `again`: as asked for by [`Command::Restart`]. Commands about these partitions
    /// carry `number`.
    Assigned { partitions: Vec<TopicPartition>, number: u64, again: bool },
    /// Partitions go; `done` when nothing of them is held any more.
    Revoked { partitions: Vec<TopicPartition>, lost: bool, done: oneshot::Sender<()> },
    /// Rows.
    Batch(Batch),
    /// The thread cannot go on.
    Failed(SinkError),
}

/// What the sink tells the thread.
pub(super) enum Command {
    /// Begin here, if no later assignment has come than that with this number.
    Start { number: u64, at: Vec<(TopicPartition, Start)> },
    /// Forget what was read and ask for the offsets again.
    Restart,
    /// Store these positions in the group. Those of an older assignment are let go: a partition that went to another
    /// process and came back would be set back to where it was before.
    Store { number: u64, at: Vec<Position>, answer: oneshot::Sender<Result<(), LogError>> },
}

/// The thread's ends of what joins it with the sink.
pub(super) struct Ends {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) commands: Receiver<Command>,
    /// How many times partitions were asked back; the sink learns it here before their event arrives.
    pub(super) revoking: watch::Sender<u64>,
}

/// How long a full queue is waited for before the partitions are paused, which throws away what the
/// client has fetched ahead.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL_WAIT: Duration = Duration::from_millis(50);
/// How often the sink is told of offsets that hold nothing to read.
const PASS: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(2);

pub(super) struct Reader {
    name: &'static str,
    feed: Feed,
    takes_new_fields: bool,
    events: mpsc::Sender<Event>,
    commands: Receiver<Command>,
    revoking: watch::Sender<u64>,
    stop: Arc<AtomicBool>,
    component: Component,
    /// Number of the present assignment.
    assignment: u64,
    /// When [`Reader::pass_markers`] last looked.
    passed_at: Instant,
    /// Not yet taken by the sink, oldest first. Nothing is read while it is not empty.
    waiting: VecDeque<Event>,
    /// Next offset to read, of each partition that was started.
    next: HashMap<TopicPartition, i64>,
    owned: HashSet<TopicPartition>,
    /// Being given back: nothing of them is read, but positions may still be stored.
    leaving: HashSet<TopicPartition>,
    starting: Starting,
    paused: bool,
    /// Running mean of a value's size, to bound a poll in bytes.
    value_bytes: usize,
}

impl Reader {
    pub(super) fn new(
        name: &'static str,
        feed: Feed,
        takes_new_fields: bool,
        ends: Ends,
        stop: Arc<AtomicBool>,
        component: Component,
    ) -> Self {
        Self {
            name,
            feed,
            takes_new_fields,
            events: ends.events,
            commands: ends.commands,
            revoking: ends.revoking,
            stop,
            component,
            assignment: 0,
            passed_at: Instant::now(),
            waiting: VecDeque::new(),
            next: HashMap::new(),
            owned: HashSet::new(),
            leaving: HashSet::new(),
            starting: Starting::new(),
            paused: false,
            value_bytes: 256,
        }
    }

    /// Reads until told to stop.
    pub(super) fn run<L: Log>(mut self, log: &L, registry: Arc<dyn SchemaRegistry>) {
        if let Err(error) = self.read(log, registry) {
            self.component.failed(error.to_string());
            // Only a task that is gone does not hear it.
            let _ = self.events.blocking_send(Event::Failed(error));
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire) || self.events.is_closed()
    }

    fn read<L: Log>(&mut self, log: &L, registry: Arc<dyn SchemaRegistry>) -> Result<(), SinkError> {
        let Some(mut consumer) = self.join_group(log)? else {
            return Ok(());
        };
        let mut decoder =
            if self.takes_new_fields { BatchDecoder::growing(registry) } else { BatchDecoder::new(registry) };
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        self.component.ready();
        while !self.stopped() {
            self.obey(&mut consumer);
            self.start_pending(&mut consumer)?;
            self.hand_over(&mut consumer);
            let wait = if self.waiting.is_empty() { POLL_WAIT } else { STEP };
            match consumer.poll(self.poll_rows(), wait) {
                Ok(polled) => {
                    if backoff.attempts() > 0 {
                        backoff.reset();
                        self.component.ready();
                    }
                    self.take(polled, &mut consumer, &mut decoder)?;
                    self.pass_markers(&mut consumer);
                }
                // Another process took this place in the group, or the broker takes our own earlier attempt to join for
                // one, as it may when a session has run out. Rows go by the store's offsets, so joining anew is safe.
                Err(error) if error.kind == LogErrorKind::Fenced => {
                    let owned: Vec<TopicPartition> = self.owned.iter().cloned().collect();
                    self.give_back(owned, true, &mut consumer);
                    self.back_off(
                        &mut backoff,
                        "keep the place in the group (is `instance` used twice?)",
                        &error,
                    );
                    let Some(anew) = self.join_group(log)? else { return Ok(()) };
                    consumer = anew;
                }
                Err(error) if error.fate() == Fate::Fatal => return Err(error.into()),
                Err(error) => self.back_off(&mut backoff, "read the log", &error),
            }
        }
        // Positions of the last flush may still be on their way.
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Store { number, at, answer } = command {
                let _ = answer.send(self.store(&mut consumer, number, &at));
            }
        }
        Ok(())
    }

    fn join_group<L: Log>(&mut self, log: &L) -> Result<Option<L::Consumer>, SinkError> {
        let topics: Vec<&str> =
            self.feed.decoded.iter().chain(&self.feed.plain).map(String::as_str).collect();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        while !self.stopped() {
            let joined =
                log.consumer(&self.feed.group, &topics, self.feed.instance.as_deref(), StartAt::Earliest);
            match joined {
                Ok(consumer) => return Ok(Some(consumer)),
                Err(error) if error.fate() == Fate::Fatal => return Err(error.into()),
                Err(error) => self.back_off(&mut backoff, "join the group", &error),
            }
        }
        Ok(None)
    }

    fn back_off(&self, backoff: &mut Backoff, step: &str, error: &dyn std::fmt::Display) {
        let delay = backoff.next_delay();
        tracing::warn!(sink = self.name, %error, step, wait_ms = delay.as_millis() as u64, "waiting for the log");
        self.component.waiting(format!("{step}: {error}"));
        self.sleep(delay);
    }

    fn sleep(&self, delay: Duration) {
        let until = Instant::now() + delay;
        while Instant::now() < until && !self.stopped() {
            std::thread::sleep(STEP.max(Duration::from_millis(10)).min(delay));
        }
    }

    fn poll_rows(&self) -> usize {
        (self.feed.poll_bytes / self.value_bytes.max(1)).clamp(1, self.feed.poll_rows)
    }

    /// Gives waiting events to the sink; pauses the partitions when it has no room for long.
    fn hand_over<C: Consumer>(&mut self, consumer: &mut C) {
        let patience = Instant::now() + PATIENCE;
        while let Some(event) = self.waiting.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => return,
                Err(mpsc::error::TrySendError::Full(event)) => {
                    self.waiting.push_front(event);
                    if self.paused || Instant::now() > patience || self.stopped() {
                        break;
                    }
                    std::thread::sleep(STEP);
                }
            }
        }
        let full = !self.waiting.is_empty();
        if full != self.paused {
            let started: Vec<TopicPartition> = self.next.keys().cloned().collect();
            if full {
                consumer.pause(&started);
            } else {
                consumer.resume(&started);
            }
            self.paused = full;
        }
    }

    fn obey<C: Consumer>(&mut self, consumer: &mut C) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Start { number, at } if number == self.assignment => self.starting.add(at),
                // The sink has not yet heard of the later one; it will name other offsets.
                Command::Start { .. } => {}
                Command::Restart => self.restart(consumer),
                Command::Store { number, at, answer } => {
                    // Only a task that is gone does not hear it.
                    let _ = answer.send(self.store(consumer, number, &at));
                }
            }
        }
    }

    /// Lets go what was read and asks the store again where to begin.
    fn restart<C: Consumer>(&mut self, consumer: &mut C) {
        let partitions: Vec<TopicPartition> = self.owned.iter().cloned().collect();
        self.waiting.retain(|event| !matches!(event, Event::Batch(_)));
        consumer.pause(&partitions);
        self.next.clear();
        self.starting.clear();
        self.assignment += 1;
        self.waiting.push_back(Event::Assigned { partitions, number: self.assignment, again: true });
    }

    /// Stores positions of partitions that are still ours: those of others would go backwards.
    fn store<C: Consumer>(&self, consumer: &mut C, number: u64, at: &[Position]) -> Result<(), LogError> {
        if number != self.assignment {
            return Ok(());
        }
        let ours = |at: &&Position| {
            let of = at.topic_partition();
            self.owned.contains(&of) || self.leaving.contains(&of)
        };
        let at: Vec<Position> = at.iter().filter(ours).cloned().collect();
        if at.is_empty() { Ok(()) } else { consumer.commit(&at) }
    }

    /// Begins where the store said, as soon as the log answers. The group is polled between two attempts.
    fn start_pending<C: Consumer>(&mut self, consumer: &mut C) -> Result<(), SinkError> {
        match self.starting.attempt(&self.owned, consumer) {
            Ok(started) if started.is_empty() => {}
            Ok(started) => {
                let partitions: Vec<TopicPartition> = started.iter().map(Position::topic_partition).collect();
                self.next.extend(started.iter().map(|at| (at.topic_partition(), at.offset)));
                if self.paused {
                    consumer.pause(&partitions);
                } else {
                    consumer.resume(&partitions);
                }
                self.component.ready();
            }
            Err(error) if error.fate() == Fate::Fatal => return Err(error),
            Err(error) => {
                tracing::warn!(sink = self.name, %error, "waiting for the offsets to begin at");
                self.component.waiting(format!("find the offsets to begin at: {error}"));
            }
        }
        Ok(())
    }

    fn take<C: Consumer>(
        &mut self,
        polled: Polled,
        consumer: &mut C,
        decoder: &mut BatchDecoder,
    ) -> Result<(), SinkError> {
        match polled {
            // A log that answers at once must not make this thread spin.
            Polled::Records(records) if records.is_empty() => std::thread::sleep(Duration::from_millis(1)),
            Polled::Records(records) => self.take_records(records, consumer, decoder)?,
            Polled::Assigned(partitions) => {
                self.owned.extend(partitions.iter().cloned());
                self.assignment += 1;
                let number = self.assignment;
                self.waiting.push_back(Event::Assigned { partitions, number, again: false });
            }
            Polled::Revoked { partitions, lost } => {
                self.give_back(partitions, lost, consumer);
            }
        }
        Ok(())
    }

    /// Waits, within the deadline, until the sink holds nothing of the partitions that go. The sink may
    /// store positions meanwhile.
    fn give_back<C: Consumer>(&mut self, partitions: Vec<TopicPartition>, lost: bool, consumer: &mut C) {
        let (done, mut finished) = oneshot::channel();
        for partition in &partitions {
            self.owned.remove(partition);
            self.next.remove(partition);
        }
        if !lost {
            self.leaving.extend(partitions.iter().cloned());
        }
        self.waiting.push_back(Event::Revoked { partitions, lost, done });
        self.revoking.send_modify(|count| *count += 1);
        let deadline = Instant::now() + self.feed.drain + Duration::from_secs(1);
        while Instant::now() < deadline && !self.stopped() {
            while let Some(event) = self.waiting.pop_front() {
                if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
                    self.waiting.push_front(event);
                    break;
                }
            }
            self.obey(consumer);
            match finished.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => std::thread::sleep(STEP),
                Ok(()) | Err(oneshot::error::TryRecvError::Closed) => break,
            }
        }
        self.leaving.clear();
    }

    /// Tells the sink of offsets that hold nothing to read: the markers of transactions, and what was aborted. A
    /// partition gone quiet always ends with one; a sink that stayed before it would find it deleted by retention
    /// at some start, and could not know that nothing else was.
    fn pass_markers<C: Consumer>(&mut self, consumer: &mut C) {
        if self.paused || self.next.is_empty() || self.passed_at.elapsed() < PASS {
            return;
        }
        self.passed_at = Instant::now();
        let mut passed: Vec<Batch> = Vec::new();
        for at in consumer.positions() {
            let Some(next) = self.next.get_mut(&at.topic_partition()).filter(|next| **next < at.offset)
            else {
                continue;
            };
            let span = Span { partition: at.partition, from: *next, to: at.offset };
            *next = at.offset;
            match passed.iter_mut().find(|batch| batch.topic == at.topic) {
                Some(batch) => batch.spans.push(span),
                None => passed.push(Batch {
                    topic: at.topic,
                    spans: vec![span],
                    rows: vec![],
                    poison: vec![],
                    plain: vec![],
                }),
            }
        }
        self.waiting.extend(passed.into_iter().map(Event::Batch));
    }

    /// Decodes a poll. While the registry is away the records are let go and read again.
    fn take_records<C: Consumer>(
        &mut self,
        records: Vec<Record>,
        consumer: &mut C,
        decoder: &mut BatchDecoder,
    ) -> Result<(), SinkError> {
        let bytes: usize = records.iter().filter_map(|r| r.value.as_ref()).map(bytes::Bytes::len).sum();
        self.value_bytes = (self.value_bytes * 3 + bytes / records.len()) / 4;
        let mut by_topic: Vec<(Arc<str>, Vec<Record>)> = Vec::new();
        for record in records {
            // A partition that was not started, or that is about to begin again, is not ours to read.
            if !self.expected(&record) {
                continue;
            }
            match by_topic.iter_mut().find(|(topic, _)| *topic == record.topic) {
                Some((_, records)) => records.push(record),
                None => by_topic.push((Arc::clone(&record.topic), vec![record])),
            }
        }
        let mut failed: Option<String> = None;
        let mut again: Vec<Position> = Vec::new();
        for (topic, records) in by_topic {
            let spans = self.spans(&topic, &records);
            let decoded = if failed.is_some() {
                None
            } else if self.feed.plain.iter().any(|plain| **plain == *topic) {
                Some(Batch {
                    topic: Arc::clone(&topic),
                    spans: spans.clone(),
                    rows: vec![],
                    poison: vec![],
                    plain: records,
                })
            } else {
                match decode(&topic, &records, &spans, decoder) {
                    Ok(batch) => Some(batch),
                    Err(error) => {
                        failed = Some(error);
                        None
                    }
                }
            };
            if let Some(batch) = decoded {
                for span in &spans {
                    let of = TopicPartition { topic: Arc::clone(&topic), partition: span.partition };
                    self.next.insert(of, span.to);
                }
                self.waiting.push_back(Event::Batch(batch));
            } else {
                again.extend(spans.iter().map(|span| Position {
                    topic: Arc::clone(&topic),
                    partition: span.partition,
                    offset: span.from,
                }));
            }
        }
        if let Some(error) = failed {
            self.read_again(&again, &error, consumer)?;
        }
        Ok(())
    }

    fn expected(&self, record: &Record) -> bool {
        let of = TopicPartition { topic: Arc::clone(&record.topic), partition: record.partition };
        self.next.get(&of).is_some_and(|next| record.offset >= *next)
    }

    fn spans(&self, topic: &Arc<str>, records: &[Record]) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for record in records {
            let to = record.offset + 1;
            if let Some(span) = spans.iter_mut().find(|span| span.partition == record.partition) {
                span.to = to;
            } else {
                let of = TopicPartition { topic: Arc::clone(topic), partition: record.partition };
                let from = self.next.get(&of).copied().unwrap_or(record.offset);
                spans.push(Span { partition: record.partition, from, to });
            }
        }
        spans
    }

    fn read_again<C: Consumer>(
        &mut self,
        at: &[Position],
        error: &str,
        consumer: &mut C,
    ) -> Result<(), SinkError> {
        tracing::warn!(sink = self.name, error, "waiting for the schema registry");
        self.component.waiting(format!("decode: {error}"));
        self.sleep(Duration::from_secs(1));
        match consumer.start(at) {
            Ok(()) => {
                self.component.ready();
                Ok(())
            }
            Err(error) if error.fate() == Fate::Fatal => Err(error.into()),
            Err(error) => {
                // Not even the seek worked: begin again from what the store has.
                tracing::warn!(sink = self.name, %error, "cannot go back, begins again");
                self.restart(consumer);
                Ok(())
            }
        }
    }
}

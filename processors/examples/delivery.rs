//! Measures what exactly once costs, Kafka to Kafka: the job with its transactions against the same job, with the same
//! changelog, that produces without them and commits its offsets afterwards.
//!
//! `infra/stack/with-stack kafka -- cargo run --release -p processors --example delivery [EVENTS] [ROUNDS]`: both read the
//! same events in turns, each round with topics of its own. CPU time is that of the whole process, librdkafka's threads
//! included; records are made before it is counted. Kafka is found by VARTA_KAFKA.
#![allow(clippy::print_stdout, reason = "a command line program")]

#[path = "costs/input.rs"]
mod input;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use eventlog::kafka::{KafkaAppender, KafkaConfig, KafkaConsumer, KafkaLog};
use eventlog::registry::{MemoryRegistry, register_all};
use eventlog::{
    AppendError, Appender, Consumer, Created, GroupToken, Log, LogError, NewRecord, OnDelivery, Polled, Position, Record,
    StartAt, TopicPartition, TransactionalProducer,
};
use processors::engine::{Monotonic, OnMismatch, Worker, WorkerSettings};
use processors::event_time::{Hold, Lateness};
use processors::jobs::{CoreJob, CoreSetup};
use processors::rules::{Offer, RuleSet};
use schemas::topics::{TopicSpec, Topics};

use self::input::Input;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

const PARTITIONS: i32 = 4;
const AGENTS: i64 = 1_000;
const PER_SECOND: f64 = 25.0;

/// Offsets of what is delivered, to be committed at the next poll.
type Delivered = Arc<Mutex<Vec<Position>>>;

fn take(delivered: &Delivered) -> Vec<Position> {
    std::mem::take(&mut *delivered.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Kafka without transactions: after a crash what was not committed is done, and written, a second time.
#[derive(Clone)]
struct AtLeastOnce {
    log: KafkaLog,
    delivered: Delivered,
}

struct Reader {
    inner: KafkaConsumer,
    delivered: Delivered,
}

struct Writer {
    inner: KafkaAppender,
    failed: Arc<AtomicBool>,
    delivered: Delivered,
}

impl Consumer for Reader {
    fn poll(&mut self, max_records: usize, max_wait: Duration) -> Result<Polled, LogError> {
        let delivered = take(&self.delivered);
        if !delivered.is_empty() {
            self.inner.commit(&delivered)?;
        }
        self.inner.poll(max_records, max_wait)
    }
    fn start(&mut self, at: &[Position]) -> Result<(), LogError> {
        self.inner.start(at)
    }
    fn pause(&mut self, of: &[TopicPartition]) {
        self.inner.pause(of);
    }
    fn resume(&mut self, of: &[TopicPartition]) {
        self.inner.resume(of);
    }
    fn committed(&mut self, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
        self.inner.committed(of)
    }
    fn bounds(&mut self, of: &TopicPartition) -> Result<(i64, i64), LogError> {
        self.inner.bounds(of)
    }
    fn commit(&mut self, at: &[Position]) -> Result<(), LogError> {
        self.inner.commit(at)
    }
    fn group_token(&mut self) -> Result<GroupToken, LogError> {
        self.inner.group_token()
    }
}

impl TransactionalProducer for Writer {
    fn begin(&mut self) -> Result<(), LogError> {
        Ok(())
    }
    fn send(&mut self, record: NewRecord) -> Result<(), LogError> {
        append(&self.inner, record)
    }
    fn commit(&mut self, offsets: &[Position], _: &GroupToken) -> Result<(), LogError> {
        self.inner.flush(Duration::from_secs(30))?;
        if self.failed.load(Ordering::Relaxed) {
            return Err(LogError::fatal("a record was not delivered"));
        }
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(offsets);
        Ok(())
    }
    fn abort(&mut self) -> Result<(), LogError> {
        Ok(())
    }
}

impl Log for AtLeastOnce {
    type Consumer = Reader;
    type Producer = Writer;
    type Appender = KafkaAppender;

    fn consumer(
        &self,
        group: &str,
        topics: &[&str],
        instance: Option<&str>,
        reset: StartAt,
    ) -> Result<Reader, LogError> {
        let inner = self.log.consumer(group, topics, instance, reset)?;
        Ok(Reader { inner, delivered: Arc::clone(&self.delivered) })
    }
    fn transactional_producer(&self, _: &str) -> Result<Writer, LogError> {
        let failed = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&failed);
        let inner = self.log.appender(Box::new(move |_, delivery| {
            if delivery.is_err() {
                noted.store(true, Ordering::Relaxed);
            }
        }))?;
        Ok(Writer { inner, failed, delivered: Arc::clone(&self.delivered) })
    }
    fn appender(&self, on_delivery: OnDelivery) -> Result<KafkaAppender, LogError> {
        self.log.appender(on_delivery)
    }
    fn read_partition(
        &self,
        of: &TopicPartition,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(Record) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        self.log.read_partition(of, from, to, each)
    }
    fn partitions(&self, topic: &str) -> Result<i32, LogError> {
        self.log.partitions(topic)
    }
    fn create_topics(&self, specs: &[TopicSpec], partitions: i32) -> Result<Vec<Created>, LogError> {
        self.log.create_topics(specs, partitions)
    }
}

/// Gives a record to Kafka, waiting while its queue is full.
fn append(appender: &KafkaAppender, mut record: NewRecord) -> Result<(), LogError> {
    loop {
        match appender.append(record, 0) {
            Ok(()) => return Ok(()),
            Err(AppendError::QueueFull(back)) => {
                record = back;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(AppendError::Log(error)) => return Err(error),
        }
    }
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let events: usize = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let brokers = std::env::var("VARTA_KAFKA")?;
    let log = KafkaLog::connect(&KafkaConfig { brokers, ..KafkaConfig::default() })?;
    let registry = Arc::new(MemoryRegistry::new());
    let ids = register_all(&*registry).map_err(|error| error.to_string())?;
    let run = std::process::id();
    let raw = Topics::new(format!("delivery-{run}"));
    log.create_topics(&raw.all(), PARTITIONS)?;
    let records = fill(&log, &raw, Input::new(ids.clone(), AGENTS, PER_SECOND), events)?;

    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!("profile {profile}; {events} events, {PARTITIONS} partitions, {AGENTS} agents, one worker");
    println!("{:<24} {:>16} {:>16}", "delivery", "events/CPU-s", "events/s");
    let mut spent = [Duration::ZERO; 2];
    for round in 0..rounds {
        // who comes first changes
        for which in [round % 2, 1 - round % 2] {
            let topics = Topics::new(format!("delivery-{run}-{round}-{which}"));
            log.create_topics(&topics.all(), PARTITIONS)?;
            let setup = CoreSetup {
                registry: Arc::clone(&registry) as _,
                ids: ids.clone(),
                topics: topics.clone(),
                rules: Offer::new(RuleSet::shipped().map_err(|problems| format!("{problems:?}"))?, 1),
                lateness: Lateness(2_000_000),
                hold: Hold(i64::MAX),
            };
            let job = CoreJob::new(setup)?;
            let settings = settings(&raw, &topics);
            let (name, (cpu, wall)) = if which == 0 {
                ("exactly once", work(log.clone(), job, settings, records)?)
            } else {
                let plain = AtLeastOnce { log: log.clone(), delivered: Delivered::default() };
                ("at least once", work(plain, job, settings, records)?)
            };
            spent[which] += cpu;
            let rate = |time: Duration| events as f64 / time.as_secs_f64().max(1e-9);
            println!("{name:<24} {:>16.0} {:>16.0}", rate(cpu), rate(wall));
        }
    }
    let ratio = spent[1].as_secs_f64() / spent[0].as_secs_f64().max(1e-9);
    println!("exactly once / at least once, events per CPU-second: {ratio:.3}");
    Ok(())
}

/// Writes the events; answers how many records there are, clock records in every partition included.
fn fill(log: &KafkaLog, raw: &Topics, mut input: Input, events: usize) -> Result<i64, Failure> {
    let failed = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&failed);
    let appender = log.appender(Box::new(move |_, delivery| {
        if delivery.is_err() {
            noted.store(true, Ordering::Relaxed);
        }
    }))?;
    let (mut left, mut written) = (events, 0);
    while left > 0 {
        let some = left.min(10_000);
        left -= some;
        for record in input.records(some)? {
            let is_clock = record.key.as_ref().is_none_or(bytes::Bytes::is_empty);
            let partitions = if is_clock { (0..PARTITIONS).map(Some).collect() } else { vec![None] };
            for partition in partitions {
                let (key, value) = (record.key.clone(), record.value.clone());
                append(&appender, NewRecord { topic: raw.raw(), partition, key, value, headers: Vec::new() })?;
                written += 1;
            }
        }
    }
    appender.flush(Duration::from_mins(1))?;
    if failed.load(Ordering::Relaxed) { Err("the events were not delivered".into()) } else { Ok(written) }
}

fn settings(raw: &Topics, topics: &Topics) -> WorkerSettings {
    WorkerSettings {
        group: topics.prefix().to_owned(),
        transactional_id: format!("{}-0", topics.prefix()),
        instance: None,
        input: raw.raw(),
        state: topics.state("core"),
        commit_interval: Duration::from_millis(50),
        urgent_commit_interval: Duration::from_millis(25),
        max_commit_rows: 20_000,
        max_commit_bytes: 16 << 20,
        max_batch_rows: 4_000,
        linger: Duration::from_millis(5),
        restore_deadline: Duration::from_mins(1),
        on_state_mismatch: OnMismatch::Refuse,
    }
}

/// A worker until it has read everything; CPU time and time of it, from its first record on.
fn work<L: Log>(log: L, job: CoreJob, settings: WorkerSettings, records: i64) -> Result<(Duration, Duration), Failure> {
    let mut worker = Worker::new(log, job, settings, Arc::new(Monotonic::start()), None);
    while worker.positions().len() < PARTITIONS as usize {
        worker.step()?;
    }
    let (cpu, began) = (cpu_time()?, Instant::now());
    let read = |positions: Vec<(i32, i64)>| positions.iter().map(|(_, next)| next).sum::<i64>();
    while read(worker.positions()) < records || !worker.is_settled() {
        worker.step()?;
    }
    let spent = (cpu_time()?.saturating_sub(cpu), began.elapsed());
    worker.drain()?;
    Ok(spent)
}

/// CPU time of this process, user and system, of all its threads.
fn cpu_time() -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // the command's name is in brackets and may hold spaces
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("stat without name")?.1.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

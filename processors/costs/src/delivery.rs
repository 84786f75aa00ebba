//! What exactly once costs, Kafka to Kafka: the job with its transactions beside the same job, with the same changelog,
//! that produces without them and commits its offsets afterwards.
//!
//! Both read the same events in turns, each round with topics of its own. CPU time is that of the whole process,
//! librdkafka's threads included; records are made before it is counted. Kafka is found by `VARTA_KAFKA`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use eventlog::kafka::{KafkaAppender, KafkaConfig, KafkaConsumer, KafkaLog};
use eventlog::registry::{MemoryRegistry, register_all};
use eventlog::{
    AppendError, Appender, Consumer, Created, GroupToken, Log, LogError, NewRecord, OnDelivery, Polled,
    Position, Record, StartAt, TopicPartition, TransactionalProducer,
};
use parking_lot::Mutex;
use processors::engine::{Job, Monotonic, OnMismatch, Worker, WorkerSettings};
use processors::event_time::{Hold, Lateness};
use processors::jobs::{CoreJob, CoreSetup};
use processors::rules::Offer;
use schemas::topics::{TopicSpec, Topics};

use crate::input::Input;
use crate::measure::{SECOND, process_time, rate, shipped, show};
use crate::meters::Meters;

pub(crate) const PARTITIONS: i32 = 4;
const ROUNDS: usize = 3;

/// Offsets of what is delivered, to be committed at the next poll.
type Delivered = Arc<Mutex<Vec<Position>>>;

fn take(delivered: &Delivered) -> Vec<Position> {
    std::mem::take(&mut *delivered.lock())
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
    fn positions(&mut self) -> Vec<Position> {
        self.inner.positions()
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
        self.delivered.lock().extend_from_slice(offsets);
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
    fn bounds(&self, of: &TopicPartition) -> Result<(i64, i64), LogError> {
        self.log.bounds(of)
    }
    fn offset_at(&self, of: &TopicPartition, at: i64) -> Result<i64, LogError> {
        self.log.offset_at(of, at)
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

/// The Kafka that is told of.
pub(crate) fn connect() -> anyhow::Result<KafkaLog> {
    let brokers = std::env::var("VARTA_KAFKA").context("VARTA_KAFKA names no Kafka")?;
    Ok(KafkaLog::connect(&KafkaConfig { brokers, ..KafkaConfig::default() })?)
}

/// So many events, in each of some rounds, both ways.
pub(crate) fn compare(meters: &Meters, agents: usize, events: usize) -> anyhow::Result<()> {
    let log = connect()?;
    let registry = Arc::new(MemoryRegistry::new());
    let ids = register_all(&*registry)?;
    let run = std::process::id();
    let raw = Topics::new(format!("delivery-{run}"));
    log.create_topics(&raw.all(), PARTITIONS)?;
    let records = fill(&log, &raw, Input::new(ids.clone(), agents as i64, 10.0), events)?;
    let mut spent = [Duration::ZERO; 2];
    for round in 0..ROUNDS {
        // who comes first changes
        for which in [round % 2, 1 - round % 2] {
            let topics = Topics::new(format!("delivery-{run}-{round}-{which}"));
            log.create_topics(&topics.all(), PARTITIONS)?;
            let job = || -> anyhow::Result<CoreJob> {
                let (registry, ids, topics) = (Arc::clone(&registry), ids.clone(), topics.clone());
                let (rules, hold) = (Offer::new(shipped()?, 1), Hold(30 * 86_400 * SECOND));
                let lateness = Lateness(2 * SECOND);
                Ok(CoreJob::new(CoreSetup { registry, ids, topics, rules, lateness, hold })?)
            };
            let settings = settings(raw.raw(), &topics, "core");
            let (name, (cpu, wall)) = if which == 0 {
                ("exactly once", work(meters, log.clone(), job()?, settings.clone(), records)?)
            } else {
                let plain = AtLeastOnce { log: log.clone(), delivered: Delivered::default() };
                ("at least once", work(meters, plain, job()?, settings.clone(), records)?)
            };
            spent[which] += cpu;
            let what = format!("{name}, Kafka to Kafka, {events} events, {agents} agents");
            show(&what, rate(events as f64, cpu), "events/CPU-s");
            show(&what, rate(events as f64, wall), "events/s");
            if which == 0 && round + 1 == ROUNDS {
                for which in ["", ", again"] {
                    restore(meters, log.clone(), job()?, settings.clone(), which)?;
                }
            }
        }
    }
    let ratio = spent[1].as_secs_f64() / spent[0].as_secs_f64().max(1e-9);
    show("exactly once / at least once, events per CPU-second, all rounds", ratio, "");
    Ok(())
}

/// Another worker takes over all partitions.
fn restore(
    meters: &Meters,
    log: KafkaLog,
    job: CoreJob,
    settings: WorkerSettings,
    which: &str,
) -> anyhow::Result<()> {
    let seen = || {
        let total = |what: &str| meters.total(&format!("varta_processors_{what}"), "");
        let (rows, bytes) = (total("restored_rows_total"), total("restored_bytes_total"));
        [rows, total("restore_seconds"), bytes, total("restore_read_seconds")]
    };
    let before = seen();
    let mut worker = Worker::new(log, job, settings, Arc::new(Monotonic::start()), None);
    while worker.positions().len() < PARTITIONS as usize {
        worker.step()?;
    }
    let after = seen();
    let [rows, seconds, bytes, read] = std::array::from_fn(|at| after[at] - before[at]);
    worker.drain()?;
    let what = format!("restore from Kafka{which}, {rows:.0} rows, {PARTITIONS} partitions");
    show(&what, rows / seconds, "rows/s");
    show(&format!("{what}: the state topic is read"), bytes / 1e6 / read, "MB/s");
    show(&format!("{what}: reading"), read * 1e3, "ms");
    show(&format!("{what}: applying what was read, and the rest"), (seconds - read) * 1e3, "ms");
    Ok(())
}

/// Writes the events; answers how many records there are, clock records in every partition included.
pub(crate) fn fill(log: &KafkaLog, raw: &Topics, mut input: Input, events: usize) -> anyhow::Result<u64> {
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
                append(
                    &appender,
                    NewRecord { topic: raw.raw(), partition, key, value, headers: Vec::new() },
                )?;
                written += 1;
            }
        }
    }
    appender.flush(Duration::from_mins(1))?;
    ensure!(!failed.load(Ordering::Relaxed), "the events were not delivered");
    Ok(written)
}

/// Of a worker of this job.
pub(crate) fn settings(input: Arc<str>, topics: &Topics, job: &str) -> WorkerSettings {
    WorkerSettings {
        group: format!("{}-{job}", topics.prefix()),
        transactional_id: format!("{}-{job}-0", topics.prefix()),
        instance: None,
        input,
        state: topics.state(job),
        commit_interval: Duration::from_millis(50),
        urgent_commit_interval: Duration::from_millis(25),
        behind_commit_interval: Duration::from_millis(25),
        max_commit_rows: 20_000,
        max_commit_bytes: 16 << 20,
        max_batch_rows: 4_000,
        linger: Duration::from_millis(5),
        restore_deadline: Duration::from_mins(1),
        on_state_mismatch: OnMismatch::Refuse,
        span: None,
    }
}

/// A worker until it has committed so many records; CPU time and time of it, from its first record on.
pub(crate) fn work<L: Log, J: Job>(
    meters: &Meters,
    log: L,
    job: J,
    settings: WorkerSettings,
    records: u64,
) -> anyhow::Result<(Duration, Duration)> {
    let mut worker = Worker::new(log, job, settings, Arc::new(Monotonic::start()), None);
    while worker.positions().len() < PARTITIONS as usize {
        worker.step()?;
    }
    let (cpu, began) = (process_time()?, Instant::now());
    let committed = || meters.total("varta_processors_rows_total", "") as u64;
    let before = committed();
    while committed() - before < records {
        worker.step()?;
    }
    let spent = (process_time()?.saturating_sub(cpu), began.elapsed());
    worker.drain()?;
    Ok(spent)
}

//! The fleet's events as a log: one member of one group gets all partitions, and each poll makes the next records.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use eventlog::memory::{MemoryLog, MemoryProducer};
use eventlog::registry::SchemaIds;
use eventlog::{
    Consumer, Created, GroupToken, Log, LogError, OnDelivery, Polled, Position, Record, StartAt,
    TopicPartition,
};
use schemas::family::Family;
use schemas::topics::{TopicSpec, Topics};

use super::machine::{Encoder, Machine, Made};
use super::recording::Recording;

const PARTITIONS: i32 = 4;
const DAY: i64 = 86_400_000_000;
/// No partition ever ends before this.
const END: i64 = 1 << 60;

/// How the fleet talks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) machines: usize,
    /// Midnight of the first day, in µs.
    pub(crate) from: i64,
    pub(crate) days: i64,
    /// So often a day all monitors of a machine are asked.
    pub(crate) looks: i64,
    /// Machines come back from a long absence: everything arrives on the last day, and what is next to each other
    /// in the log is of all days.
    pub(crate) is_backlog: bool,
}

/// What was read so far, for whoever measures.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) is_done: AtomicBool,
    pub(crate) events: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Time on a processor that making the records took, which is not the sink's.
    pub(crate) nanoseconds: AtomicU64,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct FleetLog {
    plan: Plan,
    recording: Arc<Recording>,
    ids: SchemaIds,
    topics: Topics,
    pub(crate) progress: Arc<Progress>,
    /// For what sinks write: dead letters.
    written: MemoryLog,
}

impl FleetLog {
    pub(crate) fn new(plan: Plan, recording: Recording, ids: SchemaIds, topics: Topics) -> Self {
        let written = MemoryLog::new();
        written.create_topics(&topics.all(), PARTITIONS).unwrap();
        Self { plan, recording: Arc::new(recording), ids, topics, progress: Arc::default(), written }
    }
}

/// Processor time of this thread, in ns.
fn thread_time() -> u64 {
    let text = fs_err::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// Makes the records of a plan in the order of their arrival.
struct Fleet {
    plan: Plan,
    recording: Arc<Recording>,
    encoder: Encoder,
    machines: Vec<Machine>,
    families: HashMap<Family, Arc<str>>,
    raw: Arc<str>,
    offsets: BTreeMap<(Arc<str>, i32), i64>,
    round: i64,
    machine: usize,
    ready: VecDeque<Record>,
    made: Vec<Made>,
}

impl Fleet {
    fn new(log: &FleetLog) -> Self {
        let session = log.plan.from - 40 * DAY;
        let machines = (0..log.plan.machines).map(|number| Machine::new(number, &log.recording, session));
        Self {
            plan: log.plan,
            recording: Arc::clone(&log.recording),
            encoder: Encoder::new(log.ids.clone()),
            machines: machines.collect(),
            families: Family::ALL.into_iter().map(|family| (family, log.topics.events(family))).collect(),
            raw: log.topics.raw(),
            offsets: BTreeMap::new(),
            round: 0,
            machine: 0,
            ready: VecDeque::new(),
            made: Vec::new(),
        }
    }

    /// Makes the next look of the next machine; false at the end.
    fn step(&mut self) -> bool {
        let Plan { from, days, looks, is_backlog, .. } = self.plan;
        if self.round == looks * days {
            return false;
        }
        let between = DAY / looks;
        let place = between * self.machine as i64 / self.machines.len() as i64;
        // in a backlog the days take turns, and each has its looks in order
        let (day, look) = if is_backlog {
            ((self.round + self.machine as i64) % days, self.round / days)
        } else {
            (self.round / looks, self.round % looks)
        };
        let time = from + day * DAY + look * between + place;
        self.machines[self.machine].look(&self.recording, time, &self.encoder, &mut self.made);
        let partition = (self.machine % PARTITIONS as usize) as i32;
        for made in std::mem::take(&mut self.made) {
            let logged = if is_backlog { from + days * DAY - between } else { made.received_at };
            for topic in [Arc::clone(&self.raw), Arc::clone(&self.families[&made.family])] {
                let offset = self.offsets.entry((Arc::clone(&topic), partition)).or_default();
                self.ready.push_back(Record {
                    topic,
                    partition,
                    offset: *offset,
                    timestamp: logged / 1000,
                    key: None,
                    value: Some(made.value.clone()),
                    headers: Vec::new(),
                });
                *offset += 1;
            }
        }
        self.machine += 1;
        if self.machine == self.machines.len() {
            (self.machine, self.round) = (0, self.round + 1);
        }
        true
    }
}

/// The only member of the group.
pub(crate) struct FleetConsumer {
    log: FleetLog,
    fleet: Fleet,
    topics: Vec<Arc<str>>,
    is_assigned: bool,
    has_started: bool,
    is_paused: bool,
    /// Where reading stands, by topic and partition.
    next: HashMap<(Arc<str>, i32), i64>,
}

impl Consumer for FleetConsumer {
    fn poll(&mut self, max_records: usize, max_wait: Duration) -> Result<Polled, LogError> {
        if !std::mem::replace(&mut self.is_assigned, true) {
            let all = self.topics.iter().flat_map(|topic| {
                (0..PARTITIONS).map(|partition| TopicPartition::new(Arc::clone(topic), partition))
            });
            return Ok(Polled::Assigned(all.collect()));
        }
        if !self.has_started || self.is_paused {
            std::thread::sleep(max_wait);
            return Ok(Polled::Records(Vec::new()));
        }
        let began = thread_time();
        while self.fleet.ready.len() < max_records && self.fleet.step() {}
        let many = self.fleet.ready.len().min(max_records);
        let records: Vec<Record> = self.fleet.ready.drain(..many).collect();
        for record in &records {
            self.next.insert((Arc::clone(&record.topic), record.partition), record.offset + 1);
        }
        let bytes = records.iter().filter_map(|record| record.value.as_ref()).map(|value| value.len() as u64);
        let progress = &self.log.progress;
        progress.bytes.fetch_add(bytes.sum(), Ordering::Relaxed);
        progress.nanoseconds.fetch_add(thread_time().saturating_sub(began), Ordering::Relaxed);
        progress.events.fetch_add(records.len() as u64, Ordering::Relaxed);
        if records.is_empty() {
            progress.is_done.store(true, Ordering::Release);
            std::thread::sleep(max_wait);
        }
        Ok(Polled::Records(records))
    }

    fn start(&mut self, at: &[Position]) -> Result<(), LogError> {
        // whoever goes back does not find it any more
        if self.has_started || at.iter().any(|at| at.offset != 0) {
            return Err(LogError::fatal("this log is read once and from its beginning"));
        }
        self.has_started = true;
        self.next.extend(at.iter().map(|at| ((Arc::clone(&at.topic), at.partition), at.offset)));
        Ok(())
    }

    fn positions(&mut self) -> Vec<Position> {
        let of = |((topic, partition), offset): (&(Arc<str>, i32), &i64)| {
            TopicPartition::new(Arc::clone(topic), *partition).at(*offset)
        };
        self.next.iter().map(of).collect()
    }

    fn pause(&mut self, _: &[TopicPartition]) {
        self.is_paused = true;
    }

    fn resume(&mut self, _: &[TopicPartition]) {
        self.is_paused = false;
    }

    fn committed(&mut self, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
        Ok(vec![None; of.len()])
    }

    fn bounds(&mut self, _: &TopicPartition) -> Result<(i64, i64), LogError> {
        Ok((0, END))
    }

    fn commit(&mut self, _: &[Position]) -> Result<(), LogError> {
        Ok(())
    }

    fn group_token(&mut self) -> Result<GroupToken, LogError> {
        Err(LogError::fatal("this log knows no transactions"))
    }
}

impl Log for FleetLog {
    type Consumer = FleetConsumer;
    type Producer = MemoryProducer;
    type Appender = <MemoryLog as Log>::Appender;

    fn consumer(
        &self,
        _: &str,
        topics: &[&str],
        _: Option<&str>,
        _: StartAt,
    ) -> Result<Self::Consumer, LogError> {
        Ok(FleetConsumer {
            log: self.clone(),
            fleet: Fleet::new(self),
            topics: topics.iter().map(|topic| Arc::from(*topic)).collect(),
            is_assigned: false,
            has_started: false,
            is_paused: false,
            next: HashMap::new(),
        })
    }

    fn transactional_producer(&self, id: &str) -> Result<Self::Producer, LogError> {
        self.written.transactional_producer(id)
    }

    fn appender(&self, on_delivery: OnDelivery) -> Result<Self::Appender, LogError> {
        self.written.appender(on_delivery)
    }

    fn read_partition(
        &self,
        of: &TopicPartition,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(Record) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        self.written.read_partition(of, from, to, each)
    }

    fn bounds(&self, _: &TopicPartition) -> Result<(i64, i64), LogError> {
        Ok((0, END))
    }

    fn offset_at(&self, of: &TopicPartition, at: i64) -> Result<i64, LogError> {
        self.written.offset_at(of, at)
    }

    fn partitions(&self, _: &str) -> Result<i32, LogError> {
        Ok(PARTITIONS)
    }

    fn create_topics(&self, specs: &[TopicSpec], partitions: i32) -> Result<Vec<Created>, LogError> {
        self.written.create_topics(specs, partitions)
    }
}

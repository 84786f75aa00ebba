//! Failure first: the run loop on the log in memory, broken at every call, rebalanced, killed and woken late,
//! must leave outputs that an undisturbed run would have left, each once.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch, StringArray, UInt8Array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use bytes::Bytes;
use eventlog::memory::{Fault, MemoryLog};
use eventlog::{Appender, Log, NewRecord, Record, TopicPartition};

use super::job::{Job, JobError, Output, PartitionState};
use super::operator::{Op, Operator, StateError, arrow_error, column, definition_hash, ops, state_schema};
use super::restore::OnMismatch;
use super::ticker::Ticker;
use super::worker::{Defect, Worker, WorkerError, WorkerSettings};

pub(crate) const GROUP: &str = "job";
const PARTITIONS: i32 = 3;

/// splitmix64: a seed is a whole schedule.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    pub(crate) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

/// Time that moves when the simulation says so.
#[derive(Default)]
pub(crate) struct Manual(AtomicU64);

impl Manual {
    pub(crate) fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Ticker for Manual {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn sleep(&self, time: Duration) {
        self.advance(time.as_millis() as u64);
    }
}

/// Per key: which numbers were seen and their sum. Every output shows both, so that a state that is too old,
/// too new or applied twice shows in the outputs.
#[derive(Default)]
struct Sums {
    sums: BTreeMap<String, (BTreeSet<i64>, i64)>,
    changed: BTreeSet<String>,
}

impl Sums {
    fn batch(&self, keys: &BTreeSet<String>) -> Result<RecordBatch, StateError> {
        let rows: Vec<_> = keys.iter().map(|key| (key.as_str(), &self.sums[key])).collect();
        let seen = |seen: &BTreeSet<i64>| seen.iter().map(i64::to_string).collect::<Vec<_>>().join(" ");
        RecordBatch::try_new(
            self.state_schema(),
            vec![
                Arc::new(UInt8Array::from(vec![Op::Put as u8; rows.len()])),
                Arc::new(rows.iter().map(|(key, _)| Some(*key)).collect::<StringArray>()),
                Arc::new(rows.iter().map(|(_, row)| Some(seen(&row.0))).collect::<StringArray>()),
                Arc::new(Int64Array::from(rows.iter().map(|(_, row)| row.1).collect::<Vec<_>>())),
            ],
        )
        .map_err(arrow_error("sums"))
    }
}

impl Operator for Sums {
    fn name(&self) -> &'static str {
        "sums"
    }
    fn definition_hash(&self) -> u64 {
        definition_hash(&["sums 1"])
    }
    fn state_schema(&self) -> SchemaRef {
        state_schema([
            Field::new("key", DataType::Utf8, false),
            Field::new("seen", DataType::Utf8, false),
            Field::new("sum", DataType::Int64, false),
        ])
    }
    fn restore(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        assert_eq!(ops("sums", rows)?.len(), rows.num_rows());
        let keys = column::<StringArray>("sums", rows, 1)?;
        let seen = column::<StringArray>("sums", rows, 2)?;
        let sums = column::<Int64Array>("sums", rows, 3)?;
        for row in 0..rows.num_rows() {
            let seen = seen.value(row).split_whitespace().map(|seq| seq.parse().unwrap()).collect();
            self.sums.insert(keys.value(row).to_owned(), (seen, sums.value(row)));
        }
        Ok(())
    }
    fn drain_changes(&mut self) -> Result<Option<RecordBatch>, StateError> {
        let changed = std::mem::take(&mut self.changed);
        if changed.is_empty() { Ok(None) } else { self.batch(&changed).map(Some) }
    }
    fn snapshot(&mut self) -> Result<RecordBatch, StateError> {
        self.changed.clear();
        self.batch(&self.sums.keys().cloned().collect())
    }
    fn live_rows(&self) -> usize {
        self.sums.len()
    }
}

struct SumState(Sums);

impl PartitionState for SumState {
    fn operators(&mut self) -> Vec<&mut dyn Operator> {
        vec![&mut self.0]
    }
}

struct SumJob;

impl Job for SumJob {
    type State = SumState;

    fn open(&mut self, _: i32) -> Result<SumState, JobError> {
        Ok(SumState(Sums::default()))
    }

    fn process(
        &mut self,
        state: &mut SumState,
        records: &[Record],
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        for record in records {
            let key = String::from_utf8_lossy(record.key.as_deref().unwrap()).into_owned();
            let Ok(seq) = String::from_utf8_lossy(record.value.as_deref().unwrap()).parse::<i64>() else {
                output.send(NewRecord::keyed("dlq", key, record.value.clone().unwrap()))?;
                continue;
            };
            let (seen, sum) = state.0.sums.entry(key.clone()).or_default();
            if !seen.insert(seq) {
                continue;
            }
            *sum += seq * seq;
            let text = format!("{seq} of {} sums to {sum}", seen.len());
            state.0.changed.insert(key.clone());
            if seq % 7 == 0 {
                output.send(NewRecord::keyed("alerts", key.clone(), text.clone()))?;
                output.hurry();
            }
            output.send(NewRecord::keyed("out", key, text))?;
        }
        Ok(())
    }
}

/// What is done to the workers.
#[derive(Clone, Debug, Default)]
struct Plan {
    seed: u64,
    /// The n-th call of the first worker fails so.
    fault: Option<(u64, Fault)>,
    /// Rebalances, kills, zombies, markers and offsets that land late, faults at random.
    chaos: bool,
    defect: Option<Defect>,
}

pub(crate) fn settings(slot: usize) -> WorkerSettings {
    WorkerSettings {
        group: GROUP.to_owned(),
        transactional_id: format!("job-{slot}"),
        instance: None,
        input: "in".into(),
        state: "state".into(),
        commit_interval: Duration::from_millis(30),
        urgent_commit_interval: Duration::from_millis(10),
        max_commit_rows: 1_000,
        max_commit_bytes: 1 << 20,
        max_batch_rows: 4,
        linger: Duration::ZERO,
        restore_deadline: Duration::from_hours(1),
        on_state_mismatch: OnMismatch::Refuse,
    }
}

/// Workers on one log, stepped by one thread.
pub(crate) struct Fleet<J: Job> {
    pub(crate) log: MemoryLog,
    pub(crate) ticker: Arc<Manual>,
    workers: Vec<(MemoryLog, Worker<MemoryLog, J>)>,
    asleep: Vec<u64>,
    make: Box<dyn Fn() -> J>,
    settings: Box<dyn Fn(usize) -> WorkerSettings>,
    defect: Option<Defect>,
}

impl<J: Job> Fleet<J> {
    pub(crate) fn new(
        log: MemoryLog,
        count: usize,
        make: Box<dyn Fn() -> J>,
        settings: Box<dyn Fn(usize) -> WorkerSettings>,
        defect: Option<Defect>,
    ) -> Self {
        let ticker = Arc::new(Manual::default());
        let mut fleet =
            Self { log, ticker, workers: Vec::new(), asleep: vec![0; count], make, settings, defect };
        for slot in 0..count {
            let made = fleet.start(slot);
            fleet.workers.push(made);
        }
        fleet
    }

    fn start(&self, slot: usize) -> (MemoryLog, Worker<MemoryLog, J>) {
        let handle = self.log.handle();
        let settings = (self.settings)(slot);
        let mut worker =
            Worker::new(handle.clone(), (self.make)(), settings, Arc::clone(&self.ticker) as _, None);
        worker.defect.clone_from(&self.defect);
        let seen = self.log.clone();
        worker.last_stable = Some(Box::new(move |of: &TopicPartition| {
            let records = seen.records(&of.topic);
            records
                .iter()
                .filter(|record| record.partition == of.partition)
                .map(|r| r.offset + 1)
                .max()
                .unwrap_or(0)
        }));
        (handle, worker)
    }

    pub(crate) fn handle(&self, slot: usize) -> &MemoryLog {
        &self.workers[slot].0
    }

    pub(crate) fn restart(&mut self, slot: usize) {
        self.workers[slot].0.kill();
        let made = self.start(slot);
        self.workers[slot] = made;
    }

    /// One turn of one worker; one whose handle died is replaced, as a process manager would.
    pub(crate) fn step(&mut self, slot: usize) -> Result<(), WorkerError> {
        if self.asleep[slot] > 0 {
            self.asleep[slot] -= 1;
            return Ok(());
        }
        if is_dead(&self.workers[slot].0) {
            self.restart(slot);
        }
        let stepped = self.workers[slot].1.step();
        if is_dead(&self.workers[slot].0) {
            return Ok(());
        }
        stepped.map(|_| ())
    }

    /// Something bad, chosen by chance.
    pub(crate) fn disturb(&mut self, chance: &mut Chance) {
        let slot = chance.below(self.workers.len() as u64) as usize;
        let state = TopicPartition::new((self.settings)(0).state, chance.below(3) as i32);
        let group = (self.settings)(0).group;
        match chance.below(9) {
            0 => self.log.rebalance(&group),
            1 => self.restart(slot),
            2 => {
                // A zombie: its session times out while it is stopped, and it wakes in the middle of things.
                self.workers[slot].0.expel();
                self.asleep[slot] = chance.below(40);
            }
            3 => self.log.delay_markers(&state),
            4 => self.log.delay_offsets(&group),
            5 => self.log.time_out_transactions(),
            6 => self.asleep[slot] = chance.below(20),
            _ => {
                let faults = [
                    Fault::Unavailable,
                    Fault::Aborted,
                    Fault::Fatal,
                    Fault::LostAnswer,
                    Fault::Kill,
                    Fault::KillAfter,
                ];
                let handle = &self.workers[slot].0;
                let next = handle.calls().len() as u64 + 1 + chance.below(12);
                handle.fail_at(next, faults[chance.below(6) as usize]);
            }
        }
    }

    pub(crate) fn settle(&self) {
        let settings = (self.settings)(0);
        for partition in 0..self.log.partitions(&settings.input).unwrap_or(0) {
            self.log.release_markers(&TopicPartition::new(Arc::clone(&settings.state), partition));
        }
        self.log.release_offsets(&settings.group);
    }

    /// Everything is committed, and nobody sleeps on an open transaction that would hide what is behind it.
    pub(crate) fn is_done(&self) -> bool {
        let settings = (self.settings)(0);
        if self.asleep.iter().any(|turns| *turns > 0) {
            return false;
        }
        let raw = self.log.raw(&settings.input);
        (0..self.log.partitions(&settings.input).unwrap_or(0)).all(|partition| {
            let end = raw
                .keys()
                .filter(|(of, _)| *of == partition)
                .map(|(_, offset)| offset + 1)
                .max()
                .unwrap_or(0);
            let of = TopicPartition::new(Arc::clone(&settings.input), partition);
            end == self.log.committed_offset(&settings.group, &of).unwrap_or(0)
        })
    }
}

fn input(seed: u64) -> Vec<(i32, String, String)> {
    let mut chance = Chance::new(seed ^ 0xabcd);
    let mut rows: Vec<(i32, String, String)> = Vec::new();
    for at in 0..90_i64 {
        let key = chance.below(7);
        let partition = (key % 3) as i32;
        let value = if chance.one_in(8) { format!("poison {at}") } else { (at / 2 + 1).to_string() };
        rows.push((partition, format!("k{key}"), value));
        if chance.one_in(4) {
            let again = rows[chance.below(rows.len() as u64) as usize].clone();
            rows.push(again);
        }
    }
    rows
}

type Outputs = BTreeMap<(String, Bytes, Bytes), usize>;

fn outputs(log: &MemoryLog, topics: &[&str]) -> Outputs {
    let mut found = Outputs::new();
    for topic in topics {
        for record in log.records(topic) {
            let entry =
                ((*topic).to_owned(), record.key.unwrap_or_default(), record.value.unwrap_or_default());
            *found.entry(entry).or_default() += 1;
        }
    }
    found
}

/// Runs a plan to its end.
fn run(plan: &Plan) -> Result<(Outputs, u64), String> {
    let log = MemoryLog::new();
    for topic in ["in", "out", "alerts", "dlq", "state"] {
        log.create(topic, PARTITIONS);
    }
    let mut fleet = Fleet::new(log, 2, Box::new(|| SumJob), Box::new(settings), plan.defect.clone());
    if let Some((n, fault)) = plan.fault {
        fleet.handle(0).fail_at(n, fault);
    }
    let mut first = fleet.handle(0).clone();
    let writer = fleet.log.handle().appender(Box::new(|_, _| {})).map_err(|error| error.to_string())?;
    let mut rows = input(if plan.chaos { plan.seed } else { 0 }).into_iter();
    let mut chance = Chance::new(plan.seed);
    let mut calm = 0;
    for turn in 0..6_000_u64 {
        fleet.ticker.advance(10);
        let mut left = false;
        for _ in 0..=chance.below(2) {
            if let Some((partition, key, value)) = rows.next() {
                left = true;
                writer
                    .append(NewRecord::keyed("in", key, value).to_partition(partition), 0)
                    .map_err(|e| e.to_string())?;
            }
        }
        if plan.chaos && left && chance.one_in(6) {
            fleet.disturb(&mut chance);
        }
        if chance.one_in(12) || !left {
            fleet.settle();
        }
        if turn == 45 {
            fleet.log.rebalance(GROUP);
        }
        if plan.chaos && chance.one_in(20) {
            fleet.log.compact("state");
        }
        let slot = chance.below(2) as usize;
        fleet.step(slot).map_err(|error| format!("worker {slot} stopped: {error}"))?;
        first = if plan.fault.is_some() { first } else { fleet.handle(0).clone() };
        calm = if !left && fleet.is_done() { calm + 1 } else { 0 };
        if calm > 20 {
            return Ok((outputs(&fleet.log, &["out", "alerts", "dlq"]), first.calls().len() as u64));
        }
    }
    Err("the workers did not finish".into())
}

fn differs(plan: &Plan, expected: &Outputs) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| run(plan))) {
        Ok(Ok((found, _))) => (found != *expected).then(|| {
            let extra = found.iter().filter(|(row, count)| expected.get(*row) != Some(count)).count();
            let missing = expected.iter().filter(|(row, count)| found.get(*row) != Some(count)).count();
            format!("{extra} outputs too many or wrong, {missing} missing or wrong")
        }),
        Ok(Err(error)) => Some(error),
        Err(_) => Some("panicked".into()),
    }
}

fn undisturbed(seed: u64, chaos: bool) -> Outputs {
    // The same input without any disturbance: computed from the rows alone.
    let mut found = Outputs::new();
    let mut sums: BTreeMap<String, (BTreeSet<i64>, i64)> = BTreeMap::new();
    let mut add = |topic: &str, key: &str, value: &str| {
        let row = (topic.to_owned(), Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
        *found.entry(row).or_default() += 1;
    };
    for (_, key, value) in input(if chaos { seed } else { 0 }) {
        let Ok(seq) = value.parse::<i64>() else {
            add("dlq", &key, &value);
            continue;
        };
        let (seen, sum) = sums.entry(key.clone()).or_default();
        if seen.insert(seq) {
            *sum += seq * seq;
            let text = format!("{seq} of {} sums to {sum}", seen.len());
            if seq % 7 == 0 {
                add("alerts", &key, &text);
            }
            add("out", &key, &text);
        }
    }
    found
}

#[test]
fn failing_at_every_call_changes_nothing() {
    let expected = undisturbed(0, false);
    let (found, calls) = run(&Plan::default()).unwrap();
    assert_eq!(found, expected);
    assert!(calls > 60, "only {calls} calls");
    for fault in
        [Fault::Unavailable, Fault::Aborted, Fault::Fatal, Fault::LostAnswer, Fault::Kill, Fault::KillAfter]
    {
        for n in 1..=calls {
            let plan = Plan { fault: Some((n, fault)), ..Plan::default() };
            assert_eq!(differs(&plan, &expected), None, "call {n} {fault:?}");
        }
    }
}

#[test]
fn random_schedules_change_nothing() {
    for seed in 0..250 {
        let plan = Plan { seed, chaos: true, ..Plan::default() };
        assert_eq!(differs(&plan, &undisturbed(seed, true)), None, "seed {seed}");
    }
}

/// The simulation is worth something only if it finds what is planted.
#[test]
fn each_planted_defect_is_found() {
    let defects = [
        Defect::OffsetsOutside,
        Defect::KeepMemoryOnAbort,
        Defect::RestoreToLastStable,
        Defect::CommitAfterRevoke,
    ];
    for defect in defects {
        let found = (0..250).find(|seed| {
            let plan = Plan { seed: *seed, chaos: true, defect: Some(defect.clone()), ..Plan::default() };
            differs(&plan, &undisturbed(*seed, true)).is_some()
        });
        assert!(found.is_some(), "{defect:?} was not found");
        println!("{defect:?} is found by seed {}", found.unwrap());
    }
}

fn is_dead(handle: &MemoryLog) -> bool {
    handle.partitions("in").is_err() && handle.partitions("varta.raw").is_err()
}

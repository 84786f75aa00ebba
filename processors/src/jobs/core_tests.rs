//! The whole job on the log in memory: any cut, any disturbance, the same outputs.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use eventlog::memory::MemoryLog;
use eventlog::registry::{MemoryRegistry, register_all};
use eventlog::{AppendError, Appender, Log, NewRecord, Record};
use parking_lot::Mutex;
use schemas::family::Family;
use schemas::identity::{Identity, Lane};
use schemas::record::RecordKind;
use schemas::topics::Topics;
use schemas::translate::{Clock, Context, Rejected, Translator};
use serde_json::json;

use super::*;
use crate::engine::WorkerSettings;
use crate::engine::simulation::{Chance, Fleet, settings};
use crate::rules::RuleSet;

const SECOND: i64 = 1_000_000;
const START: i64 = 1_700_000_040 * SECOND;
const PARTITIONS: i32 = 3;

/// One planned job shared by all workers of a test: plans are expensive in a debug build, and hold no state.
#[derive(Clone)]
struct Shared(Arc<Mutex<CoreJob>>);

impl Job for Shared {
    type State = CoreState;

    fn open(&mut self, partition: i32) -> Result<CoreState, JobError> {
        self.0.lock().open(partition)
    }

    fn process(
        &mut self,
        state: &mut CoreState,
        records: &[Record],
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        self.0.lock().process(state, records, output)
    }

    fn settle(
        &mut self,
        state: &mut CoreState,
        share: Share,
        output: &mut Output<'_>,
    ) -> Result<bool, JobError> {
        self.0.lock().settle(state, share, output)
    }
}

fn registry() -> (Arc<MemoryRegistry>, SchemaIds) {
    static REGISTRY: OnceLock<(Arc<MemoryRegistry>, SchemaIds)> = OnceLock::new();
    let made = || {
        let registry = Arc::new(MemoryRegistry::new());
        let ids = register_all(&*registry).unwrap();
        (registry, ids)
    };
    REGISTRY.get_or_init(made).clone()
}

/// A job with these rules on offer.
fn job(rules: Offer) -> Shared {
    job_that_holds(Hold(30 * 24 * 3_600 * SECOND), rules)
}

fn job_that_holds(hold: Hold, rules: Offer) -> Shared {
    let (registry, ids) = registry();
    let lateness = Lateness(2 * SECOND);
    let setup = CoreSetup { registry, ids, topics: Topics::default(), rules, lateness, hold };
    Shared(Arc::new(Mutex::new(CoreJob::new(setup).unwrap().closing_at_once(1))))
}

fn shared() -> Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| job(Offer::new(RuleSet::shipped().unwrap(), 1))).clone()
}

/// A raw log being written: (arrival µs, order, partition or key's, key, value).
struct Script {
    translator: Translator,
    ids: SchemaIds,
    rows: Vec<(i64, usize, Option<i32>, String, Bytes)>,
}

impl Script {
    fn new(ids: SchemaIds) -> Self {
        Self { translator: Translator::new(), ids, rows: Vec::new() }
    }

    fn frame(&self, kind: RecordKind, datum: &[u8]) -> Bytes {
        let mut out = Vec::new();
        schemas::wire::frame(self.ids.id(kind), datum, &mut out);
        Bytes::from(out)
    }

    fn put(&mut self, at: i64, partition: Option<i32>, key: &str, value: Bytes) {
        self.rows.push((at, self.rows.len(), partition, key.to_owned(), value));
    }

    fn event(&mut self, arrives: i64, message: &serde_json::Value) -> Bytes {
        let agent = message["agent_id"].as_str().unwrap().to_owned();
        let payload = Bytes::from(message.to_string());
        let mut mint = || "minted".to_owned();
        let context = Context {
            topic_agent: &agent,
            topic_event_type: None,
            received_at: arrives,
            sent_at: None,
            mint: &mut mint,
        };
        let row =
            self.translator.message(&payload, context).remove(0).map_err(|r| r.reason.to_string()).unwrap();
        let value = self.frame(RecordKind::Family(row.family), &row.datum);
        self.put(arrives, None, &agent, value.clone());
        value
    }

    fn clock(&mut self, bridge: &str, at: i64) {
        let clock = Clock {
            bridge_id: bridge.into(),
            bridge_time: at,
            sequence: at,
            mqtt_connected: true,
            goodbye: false,
        };
        let value = self.frame(RecordKind::Clock, &self.translator.clock(&clock));
        for partition in 0..PARTITIONS {
            self.put(at, Some(partition), "", value.clone());
        }
    }

    /// The rows in the order of their arrival.
    fn into_rows(mut self) -> Vec<(i64, Option<i32>, String, Bytes)> {
        self.rows.sort_by_key(|row| (row.0, row.1));
        self.rows.into_iter().map(|(at, _, partition, key, value)| (at, partition, key, value)).collect()
    }

    fn rejected(&mut self, at: i64, agent: &str, seq: i64) {
        let identity = Identity { agent_id: agent.into(), session: START, lane: Lane::Normal, seq };
        let rejected = Rejected { identity, reason: "broken".into(), received_at: at };
        let value = self.frame(RecordKind::Rejected, &self.translator.rejected(&rejected));
        self.put(at, None, agent, value);
    }
}

/// Several agents over nine minutes: duplicates, disorder, holes that are explained and holes that are not, poison, an
/// agent that falls silent and returns, two users, changing reporting intervals.
fn script(seed: u64, ids: SchemaIds) -> Vec<(i64, Option<i32>, String, Bytes)> {
    let mut script = Script::new(ids);
    let mut chance = Chance::new(seed);
    for number in 0..5_i64 {
        let agent = format!("agent-{number}");
        let mut seq = -1;
        for at in (0..540).step_by(15) {
            let time = START + at * SECOND + number;
            seq += 1;
            if chance.one_in(25) {
                // Never arrives as such: the bridge could not read it.
                script.rejected(time + SECOND, &agent, seq);
                continue;
            }
            if number == 4 && chance.one_in(12) {
                // Lost for good, and nobody says so.
                continue;
            }
            let mut arrives = time + chance.below(4_000) as i64 * 1_000;
            if number == 3 && (150..400).contains(&at) {
                // Its network was gone; the outbox drains afterwards.
                arrives = START + 400 * SECOND + at * 10_000;
            }
            let busy = number == 1;
            let cpu = if busy { 95.0 } else { chance.below(160) as f64 / 2.0 };
            let user = if chance.one_in(2) { "eve" } else { "adam" };
            let (event_type, payload) = match chance.below(9) {
                0 => {
                    let path = "C:\\Users\\eve\\AppData\\Local\\Temp\\x.exe";
                    (
                        "process_started",
                        json!({"pid": seq, "name": format!("x{}.exe", seq % 5), "path": path}),
                    )
                }
                1 => (
                    "process_sample",
                    json!({"pid": seq, "name": format!("x{}.exe", seq % 3), "cpu_percent": cpu}),
                ),
                2 => {
                    let mouse = chance.one_in(2);
                    let active = if mouse { 10.0 } else { 0.0 };
                    (
                        "user_activity",
                        json!({"mouse": mouse, "keyboard": false, "mouse_events": seq,
                        "keyboard_events": 0, "active_s": active, "idle_s": 10.0 - active}),
                    )
                }
                3 => {
                    ("agent_health", json!({"interval_s": 5 + 5 * chance.below(4), "lanes": "[\"normal\"]"}))
                }
                _ => ("cpu_usage", json!({"cpu_percent": cpu, "mem_used_bytes": 1024 * seq})),
            };
            let message = json!({"agent_id": agent, "session": START, "lane": "normal", "seq": seq, "event_time": time,
                "event_type": event_type, "source": "test", "host": "pc", "user": user, "payload": payload});
            let value = script.event(arrives, &message);
            if chance.one_in(4) {
                script.put(arrives + chance.below(20_000) as i64 * 1_000, None, &agent, value.clone());
            }
            if chance.one_in(20) {
                let cut = value.slice(..value.len() / 2);
                script.put(arrives, None, &agent, cut);
            }
        }
    }
    let foreign = json!({"agent_id": "foreign", "event_time": START, "event_type": "door_opened", "source": "door",
        "event_id": "1", "payload": {"door": 7}});
    script.event(START + SECOND, &foreign);
    script.event(START + 30 * SECOND, &foreign);
    for at in (0..640).step_by(5) {
        script.clock("b", START + at * SECOND);
    }
    script.into_rows()
}

fn worker_settings(batch: usize, commit_ms: u64) -> WorkerSettings {
    let topics = Topics::default();
    WorkerSettings {
        input: topics.raw(),
        state: topics.state("core"),
        max_batch_rows: batch,
        commit_interval: Duration::from_millis(commit_ms),
        ..settings(0)
    }
}

type Outputs = BTreeMap<(String, Bytes, Bytes, String), usize>;

fn outputs(log: &MemoryLog) -> Outputs {
    let topics = Topics::default();
    let mut names: Vec<Arc<str>> = Family::ALL.iter().map(|family| topics.events(*family)).collect();
    names.extend(FEATURE_SIZES.map(|size| topics.features(size)));
    names.extend(FEATURE_SIZES.map(|size| topics.user_features(size)));
    names.extend([topics.alerts(), topics.alerts_ocsf(), topics.late(), topics.dlq()]);
    let mut found = Outputs::new();
    for topic in names {
        for record in log.records(&topic) {
            let headers = format!("{:?}", record.headers);
            let row = (
                topic.to_string(),
                record.key.unwrap_or_default(),
                record.value.unwrap_or_default(),
                headers,
            );
            *found.entry(row).or_default() += 1;
        }
    }
    found
}

struct Run {
    workers: usize,
    batch: usize,
    commit_ms: u64,
    chaos: Option<u64>,
    /// The first worker is killed when it has read half of the log.
    restart: bool,
}

/// When a record reaches `raw` (µs), in which partition if not the key's own, its key, its value.
type Arrival = (i64, Option<i32>, String, Bytes);
type Rows = [Arrival];

/// Lets these rows reach `raw`; answers whether there were any.
fn arrive<'a>(
    log: &MemoryLog,
    writer: &impl Appender,
    rows: impl IntoIterator<Item = &'a Arrival>,
) -> Result<bool, AppendError> {
    let raw = Topics::default().raw();
    let mut were_any = false;
    for (at, partition, key, value) in rows {
        were_any = true;
        log.set_time(at / 1_000);
        let record = NewRecord::keyed(Arc::clone(&raw), key.clone(), value.clone());
        let record = partition.map_or(record.clone(), |partition| record.to_partition(partition));
        writer.append(record, 0)?;
    }
    Ok(were_any)
}

fn run(rows: &Rows, run: &Run) -> Outputs {
    let job = shared();
    outputs(&run_jobs(rows, run, Box::new(move || job.clone())))
}

/// Runs workers with jobs that `make` makes until all is committed.
fn run_jobs(rows: &Rows, run: &Run, make: Box<dyn Fn() -> Shared>) -> MemoryLog {
    let topics = Topics::default();
    let log = MemoryLog::new();
    for spec in topics.all() {
        log.create(&spec.name, PARTITIONS);
    }
    let writer = log.handle().appender(Box::new(|_, _| {})).unwrap();
    let half = rows.len() as i64 / 2;
    let mut rows = rows.iter();
    let (batch, commit_ms) = (run.batch, run.commit_ms);
    let settings = Box::new(move |slot| WorkerSettings {
        transactional_id: format!("core-{slot}"),
        ..worker_settings(batch, commit_ms)
    });
    let mut fleet = Fleet::new(log, run.workers, make, settings, None);
    let mut chance = Chance::new(run.chaos.unwrap_or(0));
    let (mut calm, mut restart) = (0, run.restart);
    for _ in 0..60_000 {
        fleet.ticker.advance(10);
        let burst = if run.chaos.is_some() { 1 + chance.below(20) } else { u64::MAX };
        let left = arrive(&fleet.log, &writer, rows.by_ref().take(burst as usize)).unwrap();
        if run.chaos.is_some() && left && chance.one_in(8) {
            fleet.disturb(&mut chance);
        }
        if !left || chance.one_in(12) {
            fleet.settle();
        }
        for slot in 0..run.workers {
            fleet.step(slot).unwrap();
        }
        if restart && fleet.processed(0) >= half {
            restart = false;
            fleet.restart(0);
        }
        calm = if !left && fleet.is_done() { calm + 1 } else { 0 };
        if calm > 5 {
            assert!(!restart, "it was not restarted");
            return fleet.log.clone();
        }
    }
    panic!("the workers did not finish");
}

fn compare(found: &Outputs, expected: &Outputs, what: &str) {
    let show = |one: &Outputs, other: &Outputs| -> Vec<String> {
        let only = one.iter().filter(|(row, count)| other.get(*row) != Some(count));
        only.take(5)
            .map(|((topic, key, value, _), count)| format!("{topic} {key:?} ×{count} {value:?}"))
            .collect()
    };
    assert!(
        found == expected,
        "{what}\nfound {:#?}\nexpected {:#?}",
        show(found, expected),
        show(expected, found)
    );
}

fn count(outputs: &Outputs, topic: &str) -> usize {
    outputs.iter().filter(|((name, ..), _)| name == topic).map(|(_, count)| count).sum()
}

const CALM: Run = Run { workers: 1, batch: 4_000, commit_ms: 50, chaos: None, restart: false };

#[test]
fn outputs_do_not_depend_on_how_the_log_is_cut() {
    let rows = script(1, registry().1);
    let expected = run(&rows, &CALM);
    let topics = Topics::default();
    assert!(expected.values().all(|count| *count == 1), "an output came twice");
    tells_of_features(&expected);
    assert!(count(&expected, &topics.alerts()) > 3);
    assert_eq!(count(&expected, &topics.alerts()), count(&expected, &topics.alerts_ocsf()));
    assert!(count(&expected, &topics.dlq()) > 3);
    assert_eq!(count(&expected, &topics.events(Family::CustomEvent)), 1);
    assert_eq!(count(&expected, &topics.late()), 0, "nothing of an outage is late");
    for (batch, commit_ms) in [(1, 50), (7, 20), (4_000, 500)] {
        let found = run(&rows, &Run { batch, commit_ms, ..CALM });
        compare(&found, &expected, &format!("batches of {batch}"));
    }
}

/// The values of a topic as rows.
fn rows(outputs: &Outputs, topic: &str, kind: RecordKind) -> RecordBatch {
    let job = shared();
    let of_topic = outputs.keys().filter(|(name, ..)| name == topic);
    let records: Vec<Record> = of_topic
        .map(|(_, key, value, _)| Record {
            topic: Arc::from(topic),
            partition: 0,
            offset: 0,
            timestamp: 0,
            key: Some(key.clone()),
            value: Some(value.clone()),
            headers: Vec::new(),
        })
        .collect();
    let mut decoded = job.0.lock().decoder.decode(&records).unwrap();
    assert!(decoded.poison.is_empty());
    assert_eq!((decoded.groups.len(), decoded.groups[0].kind), (1, kind), "{topic}");
    decoded.groups.remove(0).batch
}

fn sum(rows: &RecordBatch, column: &str) -> i64 {
    use arrow::array::AsArray;
    let column = rows.column_by_name(column).unwrap().as_primitive::<arrow::datatypes::Int64Type>();
    arrow::compute::sum(column).unwrap_or(0)
}

/// The script is rich enough to say something about every part of the features.
fn tells_of_features(outputs: &Outputs) {
    use arrow::array::AsArray;
    let topics = Topics::default();
    for (size, least) in FEATURE_SIZES.into_iter().zip([40, 5, 1]) {
        let (machines, users) = (topics.features(size), topics.user_features(size));
        assert!(count(outputs, &machines) >= least, "{machines}: {}", count(outputs, &machines));
        assert!(count(outputs, &users) > count(outputs, &machines), "{users}: {}", count(outputs, &users));
    }
    let minutes = rows(outputs, &topics.features("1m"), RecordKind::Feature1m);
    for column in ["lost", "events", "starts", "process_samples", "idle_runs", "reports_received"] {
        assert!(sum(&minutes, column) > 0, "{column}");
    }
    assert!(minutes.column_by_name("is_partial").unwrap().as_boolean().has_true());
    for (kind, size) in RecordKind::FEATURES.into_iter().zip(FEATURE_SIZES) {
        let partial = rows(outputs, &topics.features(size), kind);
        assert!(partial.column_by_name("is_partial").unwrap().as_boolean().has_true(), "{size}");
    }
}

#[test]
fn disturbances_change_nothing() {
    for seed in 0..4 {
        let rows = script(seed, registry().1);
        let expected = run(&rows, &CALM);
        let chaos = Run { workers: 2, batch: 40, commit_ms: 30, chaos: Some(seed), ..CALM };
        compare(&run(&rows, &chaos), &expected, &format!("seed {seed}"));
    }
}

#[path = "core_fleet_tests.rs"]
mod across;
#[path = "backfill_tests.rs"]
mod backfill;
#[path = "cut_tests.rs"]
mod cut;
#[path = "expiry_tests.rs"]
mod expiry;
#[path = "outage_tests.rs"]
mod outage;
#[path = "read_back_tests.rs"]
mod read_back;
#[path = "core_rules_tests.rs"]
mod rules;
#[path = "simulation_tests.rs"]
mod simulation;
#[path = "split_tests.rs"]
mod split;

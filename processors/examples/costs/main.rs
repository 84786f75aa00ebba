//! Measures what the job costs, by its steps and as rules, agents and state grow. One table.
//!
//! `cargo run --release -p processors --example costs [SCALE]`: SCALE 1 takes some minutes; 0.001 only shows that it
//! works. Each line is measured in a process of its own, on one thread, without Kafka: records lie in memory, and making
//! them is not counted. The time of a step is the job's own metric `varta_processors_operator_seconds`, so it is charged
//! only while it is at work in the whole job; the whole job's is CPU time of its thread, state changes included.
#![allow(clippy::print_stdout, reason = "a command line program")]

mod input;
mod meters;

use std::sync::Arc;
use std::time::{Duration, Instant};

use eventlog::memory::MemoryLog;
use eventlog::registry::{MemoryRegistry, register_all};
use eventlog::{Appender, Log, NewRecord, TopicPartition};
use processors::dedup::Sequence;
use processors::engine::{Job, Monotonic, OnMismatch, Output, PartitionState, Step, Worker, WorkerSettings};
use processors::event_time::{Hold, Lateness};
use processors::jobs::{CoreJob, CoreSetup};
use processors::rules::{Offer, RuleSet};
use schemas::topics::Topics;

use self::input::{Input, START};
use self::meters::Meters;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

const SECOND: i64 = 1_000_000;
/// Rows of a micro-batch, and of a commit: about what 50 ms bring at 250,000 events a second.
const BATCH: usize = 4_000;
const COMMIT: usize = 12_000;
/// Events of an agent in a second, so that 10,000 agents make 250,000.
const PER_SECOND: f64 = 25.0;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["one", what, scale, number] => one(what, scale.parse()?, number.parse()?),
        [] => all(1.0),
        [scale] => all(scale.parse()?),
        _ => Err("call it with one number, or none".into()),
    }
}

fn all(scale: f64) -> Result<(), Failure> {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!("profile {profile}, scale {scale}");
    println!("{:<58} {:>14}  unit", "what", "measured");
    let lines: [(&str, &[usize]); 6] = [
        ("steps", &[10_000]),
        ("rules", &[1, 10, 50, 100, 500]),
        ("agents", &[100, 1_000, 10_000, 100_000]),
        ("restore", &[20_000]),
        ("dedup", &[10_000]),
        ("changelog", &[100]),
    ];
    for (what, numbers) in lines {
        for number in numbers {
            let program = std::env::current_exe()?;
            let arguments = ["one", what, &scale.to_string(), &number.to_string()];
            let status = std::process::Command::new(program).args(arguments).status()?;
            if !status.success() {
                return Err(format!("{what} {number} ended with {status}").into());
            }
        }
    }
    Ok(())
}

fn one(what: &str, scale: f64, number: usize) -> Result<(), Failure> {
    let meters = Meters::install()?;
    let scaled = |number: usize| ((number as f64 * scale) as usize).max(1);
    match what {
        "steps" => steps(&meters, scaled(number), scaled(3_000_000)),
        "rules" => rules(&meters, number, scaled(1_000), scaled(1_000_000)),
        "agents" => agents(scaled(number), scaled(2_000_000).max(4 * scaled(number))),
        "restore" => restore(&meters, scaled(number)),
        "dedup" => dedup(scaled(number)),
        "changelog" => changelog(&meters, scaled(number).max(2), scale.min(1.0)),
        other => Err(format!("{other} is not measured").into()),
    }
}

fn show(what: &str, measured: f64, unit: &str) {
    let digits = if measured < 100.0 { 2 } else { 0 };
    println!("{what:<58} {measured:>14.digits$}  {unit}");
}

fn setup(rules: RuleSet) -> Result<CoreSetup, Failure> {
    let registry = Arc::new(MemoryRegistry::new());
    let ids = register_all(&*registry).map_err(|error| error.to_string())?;
    Ok(CoreSetup {
        registry,
        ids,
        topics: Topics::default(),
        rules: Offer::new(rules, 1),
        lateness: Lateness(2 * SECOND),
        hold: Hold(30 * 86_400 * SECOND),
    })
}

fn shipped() -> Result<RuleSet, Failure> {
    RuleSet::shipped().map_err(|problems| format!("{problems:?}").into())
}

/// Rules that match rows, on the families in turn; each asks for something else, and none of it is there.
fn matching(count: usize) -> Result<RuleSet, Failure> {
    let rule = |number: usize| {
        let (family, predicate) = match number % 4 {
            0 => ("process_event", format!("event_type = 'process_started' AND name = 'evil{number}.exe'")),
            1 => (
                "process_event",
                format!("event_type = 'process_started' AND command_line LIKE '%--evil{number} %'"),
            ),
            2 => ("host_metrics", format!("event_type = 'cpu_usage' AND cpu_percent > {}", 200 + number)),
            _ => ("process_sample", format!("name = 'evil{number}.exe' AND cpu_percent > 50")),
        };
        format!(
            "id: rule-{number}\ntitle: Rule {number}\nseverity: low\ndescription: Measured.\nkind: match\nfamily: {family}\n\
             where: \"{predicate}\"\nmessage: \"{{event_type}}\"\n"
        )
    };
    let text = (0..count).map(rule).collect::<Vec<_>>().join("---\n");
    RuleSet::parse([("rules.yaml", text.as_str())], []).map_err(|problems| format!("{problems:?}").into())
}

/// What playing events through the job cost.
struct Played {
    events: usize,
    cpu: Duration,
    /// Largest part of the memory that was resident after a commit, bytes; the input is not in it.
    resident: usize,
}

/// Plays events through the job as a worker would, without a log.
fn play(setup: CoreSetup, agents: usize, events: usize) -> Result<Played, Failure> {
    let mut input = Input::new(setup.ids.clone(), agents as i64, PER_SECOND);
    let mut job = CoreJob::new(setup)?;
    let mut state = job.open(0)?;
    let mut played = Played { events: 0, cpu: Duration::ZERO, resident: 0 };
    while played.events < events {
        let records = input.records(COMMIT)?;
        let began = cpu_time();
        let mut sink = |_: NewRecord| Ok(());
        for batch in records.chunks(BATCH) {
            job.process(&mut state, batch, &mut Output::new(&mut sink))?;
        }
        job.settle(&mut state, &mut Output::new(&mut sink))?;
        for operator in state.operators() {
            operator.drain_changes().map_err(|error| error.to_string())?;
        }
        played.cpu += cpu_time().saturating_sub(began);
        played.events += COMMIT;
        let held: usize =
            records.iter().filter_map(|record| record.value.as_ref()).map(bytes::Bytes::len).sum();
        played.resident = played.resident.max(resident().saturating_sub(held));
    }
    Ok(played)
}

fn rate(events: f64, time: Duration) -> f64 {
    events / time.as_secs_f64().max(1e-9)
}

/// The steps of the job with 50 rules that match rows, then with the pack that ships.
fn steps(meters: &Meters, agents: usize, events: usize) -> Result<(), Failure> {
    let operators = ["decode", "scan", "normalise", "encode", "rules", "windows", "close"];
    let seen = |operator: &str| {
        let label = format!("operator={operator};");
        (
            meters.total("varta_processors_operator_rows_total", &label),
            meters.total("varta_processors_operator_seconds", &label),
        )
    };
    for (name, set) in [("50 match rules", matching(50)?), ("the shipped pack", shipped()?)] {
        let before = operators.map(seen);
        let played = play(setup(set)?, agents, events)?;
        for (operator, (rows, seconds)) in operators.into_iter().zip(before) {
            let (rows, seconds) = (seen(operator).0 - rows, seen(operator).1 - seconds);
            // what closes are agents, so it is charged to the events like the rest of the windows
            let rows = if operator == "close" { played.events as f64 } else { rows };
            show(&format!("{operator}, {agents} agents, {name}"), rows / seconds.max(1e-9), "events/CPU-s");
        }
        show(
            &format!("whole job, {agents} agents, {name}"),
            rate(played.events as f64, played.cpu),
            "events/CPU-s",
        );
    }
    Ok(())
}

fn rules(meters: &Meters, count: usize, agents: usize, events: usize) -> Result<(), Failure> {
    let began = Instant::now();
    let setup = setup(matching(count)?)?;
    let played = play(setup, agents, events)?;
    let label = "operator=rules;";
    let seconds = meters.total("varta_processors_operator_seconds", label);
    let rows = meters.total("varta_processors_operator_rows_total", label);
    show(&format!("rules, {count} of them"), rows / seconds.max(1e-9), "events/CPU-s");
    show(&format!("whole job, {count} rules"), rate(played.events as f64, played.cpu), "events/CPU-s");
    show(&format!("resident, {count} rules"), played.resident as f64 / 1e6, "MB");
    show(&format!("planning and playing, {count} rules"), began.elapsed().as_secs_f64(), "s");
    Ok(())
}

fn agents(agents: usize, events: usize) -> Result<(), Failure> {
    let played = play(setup(shipped()?)?, agents, events)?;
    show(&format!("whole job, {agents} agents"), rate(played.events as f64, played.cpu), "events/CPU-s");
    show(&format!("resident, {agents} agents"), played.resident as f64 / 1e6, "MB");
    Ok(())
}

/// A worker on the log in memory until nothing is left; answers how large its live state is at the end, bytes.
fn work(meters: &Meters, log: &MemoryLog, setup: CoreSetup, rows: usize) -> Result<f64, Failure> {
    let topics = Topics::default();
    let settings = WorkerSettings {
        group: "bench".into(),
        transactional_id: "bench-0".into(),
        instance: None,
        input: topics.raw(),
        state: topics.state("core"),
        commit_interval: Duration::from_secs(1),
        urgent_commit_interval: Duration::from_secs(1),
        max_commit_rows: rows,
        max_commit_bytes: 1 << 30,
        max_batch_rows: rows.min(BATCH),
        linger: Duration::ZERO,
        restore_deadline: Duration::from_mins(1),
        on_state_mismatch: OnMismatch::Refuse,
    };
    let of = TopicPartition::new(topics.raw(), 0);
    let job = CoreJob::new(setup)?;
    let mut worker = Worker::new(log.handle(), job, settings, Arc::new(Monotonic::start()), None);
    let end = log.raw(&topics.raw()).len() as i64;
    while log.committed_offset("bench", &of).unwrap_or(0) < end || worker.positions().is_empty() {
        if let Step::Waiting(time) = worker.step()? {
            return Err(format!("it waits for {time:?}").into());
        }
    }
    let live = meters.total("varta_processors_state_bytes", "");
    worker.drain()?;
    Ok(live)
}

/// A log with the events of so many agents.
fn written(setup: &CoreSetup, agents: usize, events: usize, per_second: f64) -> Result<MemoryLog, Failure> {
    let topics = Topics::default();
    let log = MemoryLog::new();
    for spec in topics.all() {
        log.create(&spec.name, 1);
    }
    let writer = log.handle().appender(Box::new(|_, _| {}))?;
    let mut input = Input::new(setup.ids.clone(), agents as i64, per_second);
    for record in input.records(events)? {
        log.set_time(record.timestamp);
        let new = NewRecord {
            topic: record.topic,
            partition: Some(0),
            key: record.key,
            value: record.value,
            headers: Vec::new(),
        };
        writer.append(new, 0).map_err(|_| "the log in memory is full")?;
    }
    Ok(log)
}

/// A second worker takes over what the first has left.
fn restore(meters: &Meters, agents: usize) -> Result<(), Failure> {
    let setup = setup(shipped()?)?;
    let log = written(&setup, agents, 20 * agents, 0.2)?;
    work(meters, &log, setup.clone(), COMMIT)?;
    let before = meters.total("varta_processors_restore_seconds", "");
    work(meters, &log, setup, COMMIT)?;
    let seconds = meters.total("varta_processors_restore_seconds", "") - before;
    let rows = meters.total("varta_processors_restored_rows_total", "");
    show(&format!("restore, {rows:.0} rows of {agents} agents"), rows / seconds.max(1e-9), "rows/s");
    show("restore of a million rows", seconds / rows.max(1.0) * 1e6, "s");
    Ok(())
}

/// What a lane takes of which every twentieth number is missing, in memory.
fn dedup(agents: usize) -> Result<(), Failure> {
    let (mut bytes, mut lanes) = (0, 0);
    for agent in 0..agents as i64 {
        let mut lane = Sequence::new(0);
        for seq in (0..1_000).filter(|seq| (seq + agent) % 20 != 5) {
            lane.see(seq, START + seq * SECOND, seq * SECOND);
        }
        bytes += size_of::<Sequence>() + lane.heap_bytes();
        lanes += 1;
    }
    show(
        "dedup, a lane of 1,000 numbers of which 5 % are missing",
        bytes as f64 / f64::from(lanes.max(1)),
        "bytes",
    );
    Ok(())
}

/// An hour of event time, committed about as often as in life: few rows a commit.
fn changelog(meters: &Meters, agents: usize, hours: f64) -> Result<(), Failure> {
    let setup = setup(shipped()?)?;
    let per_second = 0.25;
    let events = (agents as f64 * per_second * 3_600.0 * hours) as usize;
    let log = written(&setup, agents, events.max(100), per_second)?;
    let live = work(meters, &log, setup, 20)?;
    let topic = Topics::default().state("core");
    let size = |log: &MemoryLog| -> usize {
        let records = log.records(&topic);
        records.iter().filter_map(|record| record.value.as_ref()).map(bytes::Bytes::len).sum()
    };
    let all = size(&log);
    log.compact(&topic);
    let compacted = size(&log);
    show(&format!("changelog of {agents} agents, {hours} h, as written"), all as f64 / 1e6, "MB");
    show("the same, compacted", compacted as f64 / 1e6, "MB");
    show("compacted changelog / live state", compacted as f64 / live.max(1.0), "");
    Ok(())
}

/// Memory that is resident, bytes; Linux only.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().map_or(0, |kib| kib * 1024)
}

/// CPU time of this thread; Linux only, elsewhere the wall clock has to do.
fn cpu_time() -> Duration {
    static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    nanos.map_or_else(|| BEGAN.get_or_init(Instant::now).elapsed(), Duration::from_nanos)
}

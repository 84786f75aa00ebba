//! Rules over the whole fleet: what the job `fleet` tells is what a plain recomputation over everything tells, whatever
//! happens to the workers of both jobs.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use eventlog::batches::BatchDecoder;
use runtime::health::Health;
use runtime::shutdown::Shutdown;

use super::split::{Kept, has_read, of_job};
use super::*;
use crate::backfill::{Backfill, Place, prepare};
use crate::config::ProcessConfig;
use crate::jobs::FleetJob;
use crate::planted::{Planted, plant};

const MINUTE: i64 = 60 * SECOND;
/// Of the rule.
const WINDOW: i64 = 10 * MINUTE;
const ENOUGH: usize = 3;

const RULE: &str = "id: everywhere\ntitle: Everywhere\nseverity: high\ndescription: D\nkind: threshold\n\
    scope: fleet\nfamily: process_event\nwhere: event_type = 'process_started'\ngroup_by: [name]\nwindow: 10m\n\
    having: agents >= 3\nmessage: '{name} on {agents}'\n";

/// A program that started: when, where, which.
type Start = (i64, String, String);

/// What arrives at raw, as a script has it.
type Arrivals = Vec<(i64, Option<i32>, String, Bytes)>;

/// Both jobs with this rule.
#[derive(Clone)]
struct Jobs {
    core: Kept<CoreJob>,
    fleet: Kept<FleetJob>,
}

fn jobs() -> Jobs {
    static JOBS: OnceLock<Jobs> = OnceLock::new();
    let made = || {
        let (registry, ids) = registry();
        let rules = Offer::new(RuleSet::parse([("r.yaml", RULE)], []).unwrap(), 1);
        let (lateness, hold) = (Lateness(2 * SECOND), Hold(30 * 24 * 3_600 * SECOND));
        let setup = CoreSetup { registry, ids, topics: Topics::default(), rules, lateness, hold };
        let core = CoreJob::new(setup.clone()).unwrap().with_fleet(PARTITIONS, PARTITIONS);
        let fleet = FleetJob::new(&setup).unwrap();
        Jobs { core: Kept(Arc::new(Mutex::new(core))), fleet: Kept(Arc::new(Mutex::new(fleet))) }
    };
    JOBS.get_or_init(made).clone()
}

/// Runs both jobs side by side until both have committed everything.
fn run_both(rows: &Rows, run: &Run) -> MemoryLog {
    let topics = Topics::default();
    let log = MemoryLog::new();
    for spec in topics.all() {
        log.create(&spec.name, PARTITIONS);
    }
    let writer = log.handle().appender(Box::new(|_, _| {})).unwrap();
    let Jobs { core, fleet } = jobs();
    let (raw, between) = (topics.raw(), topics.fleet());
    let settings = of_job("core", Arc::clone(&raw), run);
    let mut first = Fleet::new(log.clone(), run.workers, Box::new(move || core.clone()), settings, None);
    let settings = of_job("fleet", Arc::clone(&between), run);
    let mut second = Fleet::new(log.clone(), run.workers, Box::new(move || fleet.clone()), settings, None);
    let mut rows = rows.iter();
    let mut chance = Chance::new(run.chaos.unwrap_or(0));
    let mut calm = 0;
    for _ in 0..60_000 {
        first.ticker.advance(10);
        second.ticker.advance(10);
        // In bursts, so that the time at which an alert is written says when it was known.
        let burst = if run.chaos.is_some() { 1 + chance.below(40) } else { 12 };
        let left = arrive(&log, &writer, rows.by_ref().take(burst as usize)).unwrap();
        if run.chaos.is_some() && left {
            if chance.one_in(8) {
                first.disturb(&mut chance);
            }
            if chance.one_in(8) {
                second.disturb(&mut chance);
            }
        }
        if !left || chance.one_in(12) {
            first.settle();
            second.settle();
        }
        // Without disturbance everything is committed before time goes on.
        for _ in 0..if run.chaos.is_some() { 1 } else { 8 } {
            for slot in 0..run.workers {
                first.step(slot).unwrap();
                if run.chaos.is_none() || !left || chance.one_in(2) {
                    second.step(slot).unwrap();
                }
            }
            if run.chaos.is_none() {
                first.ticker.advance(60);
                second.ticker.advance(60);
            }
        }
        let is_done = !left && first.is_done() && has_read(&log, "fleet", &between);
        calm = if is_done { calm + 1 } else { 0 };
        // Longer than anybody sleeps: an open transaction would hide what is behind it.
        if calm > 60 {
            return log;
        }
    }
    panic!("the workers did not finish");
}

struct Town {
    script: Script,
    starts: Vec<Start>,
    seqs: BTreeMap<String, i64>,
}

impl Town {
    fn new() -> Self {
        Self { script: Script::new(registry().1), starts: Vec::new(), seqs: BTreeMap::new() }
    }

    /// A program starts on an agent; it is heard of at `arrives`.
    fn start(&mut self, agent: &str, program: &str, time: i64, arrives: i64) -> Bytes {
        let seq = self.seqs.entry(agent.to_owned()).and_modify(|seq| *seq += 1).or_insert(0);
        let message = json!({"agent_id": agent, "session": START, "lane": "normal", "seq": *seq,
            "event_time": time, "event_type": "process_started", "source": "test", "host": agent, "user": "eve",
            "payload": {"pid": *seq, "name": program, "path": format!("/usr/bin/{program}")}});
        self.starts.push((time, agent.to_owned(), program.to_owned()));
        self.script.event(arrives, &message)
    }

    fn rows(mut self, until: i64) -> (Arrivals, Vec<Start>) {
        for at in (0..until).step_by(5) {
            self.script.clock("b", START + at * SECOND);
        }
        (self.script.into_rows(), self.starts)
    }
}

/// Forty minutes of a dozen machines: programs that spread and programs that do not, late by up to 20 s, repeated.
fn town(seed: u64) -> (Arrivals, Vec<Start>) {
    let (mut town, mut chance) = (Town::new(), Chance::new(seed));
    let mut events: Vec<(i64, String, String)> = Vec::new();
    for number in 0..150 {
        // Some minutes are busy.
        let at = if chance.one_in(3) { 600 + chance.below(240) } else { chance.below(2_400) };
        let time = START + at as i64 * SECOND + number * 1_000;
        let program = format!("p{}", chance.below(7).min(chance.below(9)));
        events.push((time, format!("agent-{}", chance.below(12)), program));
    }
    events.sort();
    for (time, agent, program) in events {
        let arrives = time + chance.below(20_000) as i64 * 1_000;
        let value = town.start(&agent, &program, time, arrives);
        if chance.one_in(5) {
            town.script.put(arrives + chance.below(60_000) as i64 * 1_000, None, &agent, value);
        }
    }
    town.rows(3_900)
}

/// What must be told: program, end of the window, agents, rows and the first evidence's agent.
type Told = BTreeSet<(String, i64, usize, i64, String)>;

/// The rule by the letter: every window of every program, over all that ever happened.
fn recomputed(starts: &[Start]) -> Told {
    let (mut told, programs) = (Told::new(), starts.iter().map(|start| &start.2).collect::<BTreeSet<_>>());
    let last = starts.iter().map(|start| start.0).max().unwrap();
    for program in programs {
        let mut before = i64::MIN;
        let mut end = START.div_euclid(MINUTE) * MINUTE;
        while end <= last + WINDOW + MINUTE {
            let is_in = |start: &&Start| start.2 == *program && (end - WINDOW..end).contains(&start.0);
            let mut held: Vec<&Start> = starts.iter().filter(is_in).collect();
            held.sort();
            let agents = held.iter().map(|start| &start.1).collect::<BTreeSet<_>>().len();
            if agents >= ENOUGH && end.saturating_sub(before) >= WINDOW {
                told.insert((program.clone(), end, agents, held.len() as i64, held[0].1.clone()));
                before = end;
            }
            end += MINUTE;
        }
    }
    told
}

fn alerts(log: &MemoryLog) -> (Told, Vec<i64>) {
    alerts_in(log, &Topics::default())
}

fn alerts_in(log: &MemoryLog, topics: &Topics) -> (Told, Vec<i64>) {
    let records = log.records(&topics.alerts());
    let decoded = BatchDecoder::new(registry().0).decode(&records).unwrap();
    let (mut told, mut uids) = (Told::new(), BTreeSet::new());
    for group in &decoded.groups {
        let text = |name: &str| group.batch.column_by_name(name).unwrap().as_string::<i32>().clone();
        let (messages, evidence, ids) = (text("message"), text("evidence"), text("finding_uid"));
        let (subjects, agents) = (text("subject"), text("agent_id"));
        let ends = group.batch.column_by_name("window_end").unwrap();
        let ends = ends.as_primitive::<TimestampMicrosecondType>();
        let counts = group.batch.column_by_name("count").unwrap().as_primitive::<Int64Type>();
        for row in 0..group.batch.num_rows() {
            assert_eq!((subjects.value(row), agents.value(row)), ("fleet", "fleet"));
            assert!(uids.insert(ids.value(row).to_owned()), "told twice");
            let (program, agents) = messages.value(row).split_once(" on ").unwrap();
            let evidence: Vec<serde_json::Value> = serde_json::from_str(evidence.value(row)).unwrap();
            let agents: usize = agents.parse().unwrap();
            assert_eq!(evidence.len(), agents.min(10), "a row of each of the first agents");
            let first = evidence[0]["agent_id"].as_str().unwrap().to_owned();
            told.insert((program.to_owned(), ends.value(row), agents, counts.value(row), first));
        }
    }
    let written = records.iter().map(|record| record.timestamp * 1_000);
    (told, written.collect())
}

const STEADY: Run = Run { workers: 1, batch: 4_000, commit_ms: 50, chaos: None, restart: false };

#[test]
fn the_fleet_is_told_what_a_recomputation_over_everything_tells() {
    let (rows, starts) = town(3);
    let expected = recomputed(&starts);
    assert!(expected.len() > 4, "{expected:?}");
    for (workers, batch, commit_ms) in [(1, 4_000, 50), (2, 7, 20), (1, 1, 50)] {
        let log = run_both(&rows, &Run { workers, batch, commit_ms, ..STEADY });
        assert_eq!(alerts(&log).0, expected, "batches of {batch}");
        assert!(log.records(&Topics::default().dlq()).is_empty());
        let names = [Topics::default().alerts(), Topics::default().alerts_ocsf()];
        assert_eq!(log.records(&names[0]).len(), log.records(&names[1]).len());
    }
}

#[test]
fn whatever_happens_to_the_workers_the_fleet_is_told_the_same() {
    for seed in crate::engine::simulation::seeds(5) {
        let (rows, starts) = town(seed);
        let run = Run { workers: 2, batch: 20, commit_ms: 30, chaos: Some(seed), restart: false };
        assert_eq!(alerts(&run_both(&rows, &run)).0, recomputed(&starts), "seed {seed}");
    }
}

/// Who is behind reads several batches before a commit, and all sources may announce hours in the first of them.
#[test]
fn windows_that_end_before_the_first_commit_are_told() {
    let (rows, starts) = town(3);
    let sent = run_both(&rows, &STEADY).records(&Topics::default().fleet());
    let told = |most: usize| {
        let log = MemoryLog::new();
        for spec in Topics::default().all() {
            log.create(&spec.name, PARTITIONS);
        }
        let writer = log.handle().appender(Box::new(|_, _| {})).unwrap();
        let mut sink = |record| {
            writer.append(record, 0).unwrap();
            Ok(())
        };
        let (mut job, mut output) = (jobs().fleet, Output::new(&mut sink));
        for partition in 0..PARTITIONS {
            let is_in = |record: &&Record| record.partition == partition;
            let records: Vec<_> = sent.iter().filter(is_in).cloned().collect();
            let mut state = job.open(partition).unwrap();
            for batch in records.chunks(most) {
                job.process(&mut state, batch, &mut output).unwrap();
            }
            job.settle(&mut state, Share::All, &mut output).unwrap();
        }
        alerts(&log).0
    };
    for most in [1, 20, 100, 4_000] {
        assert_eq!(told(most), recomputed(&starts), "batches of {most}");
    }
}

/// The simulation is worth something only if it finds what is planted.
#[test]
fn a_window_that_ends_without_waiting_for_all_is_found() {
    plant(Some(Planted::FirstSourceDecides));
    let is_wrong = |seed: &u64| {
        let (rows, starts) = town(*seed);
        let run = Run { workers: 2, batch: 20, commit_ms: 30, chaos: Some(*seed), restart: false };
        alerts(&run_both(&rows, &run)).0 != recomputed(&starts)
    };
    let found = (0..10).find(is_wrong);
    plant(None);
    assert!(found.is_some());
}

#[test]
fn who_was_offline_for_hours_holds_nobody_back_and_is_late() {
    let mut town = Town::new();
    let at = |minutes: i64| START + minutes * MINUTE;
    for agent in 0..3 {
        let time = at(12) + agent * SECOND;
        town.start(&format!("agent-{agent}"), "spreads", time, time);
    }
    for agent in 0..2 {
        let time = at(30) + agent * SECOND;
        town.start(&format!("agent-{agent}"), "almost", time, time);
    }
    let in_time = town.starts.clone();
    for agent in 0..3 {
        // While the outbox of another drains.
        let time = at(181) + agent * SECOND;
        town.start(&format!("agent-{agent}"), "spreads", time, time);
    }
    // Offline since the beginning; would have been the third, and the fourth.
    for (number, (minute, program)) in [(12, "spreads"), (30, "almost")].into_iter().enumerate() {
        town.start("agent-3", program, at(minute), at(180) + number as i64 * 20 * SECOND);
    }
    let (rows, starts) = town.rows(210 * 60);
    let expected = recomputed(&[&in_time[..], &starts[5..8]].concat());
    let (told, written) = alerts(&run_both(&rows, &STEADY));
    assert_eq!(told, expected);
    assert_eq!(told.len(), 2);
    assert_ne!(recomputed(&starts), expected, "it would have counted");
    let soon = |written: i64, happened: i64| (happened..happened + 5 * MINUTE).contains(&written);
    assert!(
        soon(written[0].min(written[1]), at(12)) && soon(written[0].max(written[1]), at(181)),
        "{written:?}"
    );
}

#[test]
fn a_partition_that_nobody_is_in_holds_nobody_back() {
    let mut town = Town::new();
    for agent in 0..3 {
        let time = START + 5 * MINUTE + agent * SECOND;
        town.start(&format!("agent-{agent}"), "spreads", time, time);
    }
    let (rows, starts) = town.rows(15 * 60);
    let in_one = |row: &(i64, Option<i32>, String, Bytes)| {
        let partition = row.1.or(Some(1));
        (row.0, partition, row.2.clone(), row.3.clone())
    };
    let rows: Vec<_> = rows.iter().map(in_one).collect();
    let (told, written) = alerts(&run_both(&rows, &STEADY));
    assert_eq!(told, recomputed(&starts));
    assert!(written.iter().all(|written| *written < START + 9 * MINUTE), "{written:?}");
}

/// Who does not ask for rows over the fleet gets none, and no alerts of single rows in their place.
#[test]
fn without_the_job_fleet_nothing_is_sent_for_it() {
    let (rows, _) = town(1);
    let rules = Offer::new(RuleSet::parse([("r.yaml", RULE)], []).unwrap(), 1);
    let alone = job(rules);
    let log = run_jobs(&rows, &CALM, Box::new(move || alone.clone()));
    let topics = Topics::default();
    assert!(log.records(&topics.fleet()).is_empty() && log.records(&topics.alerts()).is_empty());
}

/// With the threads that a person starts: stopped in the middle of the first job, stopped before the second, and started
/// again.
#[test]
fn a_backfill_tells_of_the_fleet_what_was_told_live() {
    let (rows, starts) = town(3);
    let log = run_both(&rows, &STEADY);
    let live = alerts(&log).0;
    assert_eq!(live, recomputed(&starts));
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("r.yaml"), RULE).unwrap();
    let config = ProcessConfig {
        rules: Some(folder.path().to_owned()),
        static_membership: false,
        max_batch_rows: 50,
        max_commit_rows: 50,
        ..ProcessConfig::default()
    };
    let topics = Topics::new("again");
    for turn in 0..3 {
        let wanted = Backfill {
            live: Topics::default(),
            out_prefix: "again".to_owned(),
            from: Place::Earliest,
            to: Place::Latest,
        };
        let prepared = prepare(&log.handle(), &config, wanted, 1).unwrap();
        assert_eq!(prepared.is_resumed(), turn > 0);
        let (spans, shutdown) = (Arc::clone(prepared.spans()), Shutdown::new());
        let is_enough = || match turn {
            0 => spans.input().done() > spans.input().total() / 3,
            1 => spans.input().is_done(),
            _ => false,
        };
        let run = prepared.run(config.clone(), registry().0, Health::default(), shutdown.clone(), || 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            tokio::pin!(run);
            loop {
                tokio::select! {
                    outcome = &mut run => break outcome.unwrap(),
                    () = tokio::time::sleep(Duration::from_millis(1)) => {}
                }
                if is_enough() {
                    shutdown.request();
                }
            }
        });
        assert_eq!(spans.is_done(), turn == 2, "turn {turn}");
        assert_eq!(spans.input().is_done(), turn > 0);
    }
    assert_eq!(alerts_in(&log, &topics).0, live);
    assert_eq!(log.records(&topics.fleet()).len(), log.records(&Topics::default().fleet()).len());
    assert!(log.records(&topics.dlq()).is_empty());
}

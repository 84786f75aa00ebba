//! A backfill over the log that a live job has read: the same outputs, whatever happens on the way.

use super::*;
use crate::backfill::{Backfill, PlanError, Prepared, bounded, prepare};
use crate::config::{JobName, ProcessConfig};
use crate::engine::Span;
use eventlog::TopicPartition;
use eventlog::memory::{Call, Fault};

const AGAIN: &str = "again";

fn backfill(from: &str, to: &str) -> Backfill {
    Backfill {
        live: Topics::default(),
        out_prefix: AGAIN.to_owned(),
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
    }
}

fn config() -> ProcessConfig {
    ProcessConfig { static_membership: false, ..ProcessConfig::default() }
}

fn prepared(log: &MemoryLog, from: &str, to: &str) -> Result<Prepared<MemoryLog>, PlanError> {
    prepare(&log.handle(), &config(), backfill(from, to), 1)
}

/// A planned job that writes into the topics of the backfill.
fn job_again() -> Shared {
    static JOB: OnceLock<Shared> = OnceLock::new();
    let make = || {
        let (registry, ids) = registry();
        let (lateness, hold) = (Lateness(2 * SECOND), Hold(30 * 24 * 3_600 * SECOND));
        let rules = Offer::new(RuleSet::shipped().unwrap(), 1);
        let setup = CoreSetup { registry, ids, topics: Topics::new(AGAIN), rules, lateness, hold };
        Shared(Arc::new(Mutex::new(CoreJob::new(setup).unwrap())))
    };
    JOB.get_or_init(make).clone()
}

/// What a backfill wrote, under the names of the live topics.
fn written(log: &MemoryLog) -> Outputs {
    let mut found = Outputs::new();
    for spec in Topics::new(AGAIN).written().iter().filter(|spec| !spec.name.contains(".state.")) {
        let live = spec.name.replacen(AGAIN, "varta", 1);
        for record in log.records(&spec.name) {
            let headers = format!("{:?}", record.headers);
            let row =
                (live.clone(), record.key.unwrap_or_default(), record.value.unwrap_or_default(), headers);
            *found.entry(row).or_default() += 1;
        }
    }
    found
}

/// Runs two workers to the end of the span; with `chaos` they are disturbed, and all of them are killed three times and
/// the backfill is started anew.
fn run_again(log: &MemoryLog, from: &str, to: &str, chaos: Option<u64>) -> Outputs {
    run_with(log, from, to, chaos, None).0
}

/// The same; the n-th call of the first worker fails so. Answers the calls that it made, too.
fn run_with(
    log: &MemoryLog,
    from: &str,
    to: &str,
    chaos: Option<u64>,
    fault: Option<(u64, Fault)>,
) -> (Outputs, Vec<Call>) {
    let begun = prepared(log, from, to).unwrap();
    assert!(!begun.is_resumed());
    let span: Arc<Mutex<Arc<Span>>> = Arc::new(Mutex::new(Arc::clone(&begun.spans().input)));
    let given = Arc::clone(&span);
    let (wanted, batch) = (backfill(from, to), if chaos.is_some() { 40 } else { 4_000 });
    let settings = Box::new(move |slot| WorkerSettings {
        max_batch_rows: batch,
        commit_interval: Duration::from_millis(30),
        linger: Duration::ZERO,
        restore_deadline: Duration::from_hours(1),
        ..bounded(&config(), &wanted, &given.lock(), JobName::Core, slot)
    });
    let mut fleet = Fleet::new(log.clone(), 2, Box::new(job_again), settings, None);
    let first = fleet.handle(0).clone();
    if let Some((n, fault)) = fault {
        first.fail_at(n, fault);
    }
    let mut chance = Chance::new(chaos.unwrap_or(0));
    let mut kills = if chaos.is_some() { 3 } else { 0 };
    let total = span.lock().total();
    let mut calm = 0;
    for _ in 0..60_000 {
        fleet.ticker.advance(10);
        let done = span.lock().done();
        if chaos.is_some() && kills > 0 && chance.one_in(8) {
            fleet.disturb(&mut chance);
        }
        if kills > 0 && done > total * (4 - kills) / 4 {
            kills -= 1;
            // Dead first, so that none of them works while the next start reads the plan.
            (0..2).for_each(|slot| fleet.handle(slot).kill());
            let resumed = prepared(log, from, to).unwrap();
            assert!(resumed.is_resumed());
            *span.lock() = Arc::clone(&resumed.spans().input);
            (0..2).for_each(|slot| fleet.restart(slot));
        }
        if kills == 0 || chance.one_in(12) {
            fleet.settle();
        }
        for slot in 0..2 {
            fleet.step(slot).unwrap();
        }
        calm = if kills == 0 && span.lock().is_done() { calm + 1 } else { 0 };
        // Longer than anybody sleeps: an open transaction would hide what is behind it.
        if calm > 60 {
            assert_eq!(span.lock().done(), total);
            return (written(log), first.calls());
        }
    }
    panic!("the backfill did not finish: {:?}", span.lock());
}

/// Ends of the raw partitions as `--to` takes them.
fn ends(log: &MemoryLog) -> String {
    let end = |partition| log.bounds(&TopicPartition::new("varta.raw", partition)).unwrap().1;
    (0..PARTITIONS).map(|partition| format!("{partition}:{}", end(partition))).collect::<Vec<_>>().join(",")
}

/// The log that a live job has read, and what it wrote.
fn live(rows: &Rows) -> (MemoryLog, Outputs) {
    let log = run_jobs(rows, &CALM, Box::new(shared));
    let expected = outputs(&log);
    (log, expected)
}

fn without_letters(outputs: Outputs) -> Outputs {
    let dlq = Topics::default().dlq();
    outputs.into_iter().filter(|((topic, ..), _)| **topic != *dlq).collect()
}

#[test]
fn a_backfill_gives_what_the_live_job_gave() {
    let (log, expected) = live(&script(1, registry().1));
    assert!(count(&expected, &Topics::default().alerts()) > 3);
    compare(&run_again(&log, "earliest", "latest", None), &expected, "calm");
    assert_eq!(outputs(&log), expected, "the live topics are left alone");
    for seed in 0..3 {
        let (log, expected) = live(&script(seed, registry().1));
        compare(&run_again(&log, "earliest", "latest", Some(seed)), &expected, &format!("seed {seed}"));
    }
}

#[test]
fn a_backfill_that_fails_at_any_call_goes_on() {
    let rows = &script(4, registry().1)[..200];
    // Only what is raw, for no live job is needed.
    let raw = || {
        let log = MemoryLog::new();
        log.create("varta.raw", PARTITIONS);
        let writer = log.handle().appender(Box::new(|_, _| {})).unwrap();
        arrive(&log, &writer, rows).unwrap();
        log
    };
    let (expected, calls) = run_with(&raw(), "earliest", "latest", None, None);
    assert!(count(&expected, &Topics::default().events(Family::HostMetrics)) > 20);
    let committed = calls.iter().position(|call| *call == Call::Commit).unwrap();
    // All that leads to the first commit but its many sends, and what comes right after it.
    let told = |(at, call): &(usize, &Call)| **call != Call::Send || at.is_multiple_of(100);
    let places: Vec<u64> =
        calls.iter().enumerate().take(committed + 8).filter(told).map(|(at, _)| at as u64 + 1).collect();
    assert!((8..80).contains(&places.len()), "{places:?}");
    for fault in [Fault::Aborted, Fault::Kill] {
        for n in &places {
            let (found, _) = run_with(&raw(), "earliest", "latest", None, Some((*n, fault)));
            compare(&found, &expected, &format!("call {n} {fault:?}"));
        }
    }
}

#[test]
fn a_backfill_ends_where_it_is_told() {
    let rows = script(2, registry().1);
    let (half, expected) = live(&rows[..rows.len() / 2]);
    let to = ends(&half);
    let (log, whole) = live(&rows);
    assert_ne!(whole, expected);
    compare(&run_again(&log, "earliest", &to, Some(5)), &expected, "half of the log");
}

#[test]
fn a_backfill_begins_where_it_is_told_with_an_empty_state() {
    let rows = script(3, registry().1);
    let (before, after) = rows.split_at(rows.len() / 3);
    let from = ends(&live(before).0);
    let (_, expected) = live(after);
    let (log, _) = live(&rows);
    // Dead letters name the offset they come from, which a log that begins later counts differently.
    let (found, expected) = (run_again(&log, &from, "latest", Some(6)), without_letters(expected));
    compare(&without_letters(found), &expected, "the last two thirds");
}

#[test]
fn what_was_begun_goes_on_as_it_was_begun() {
    let (log, _) = live(&script(4, registry().1)[..200]);
    let refusal = |from: &str, to: &str| prepared(&log, from, to).err().map(|error| error.to_string());
    let live_prefix = Backfill { out_prefix: "varta".into(), ..backfill("earliest", "latest") };
    let error = prepare(&log.handle(), &config(), live_prefix, 1).err().unwrap();
    assert!(matches!(error, PlanError::LivePrefix(_)), "{error}");
    log.create("taken.alerts", PARTITIONS);
    let taken = Backfill { out_prefix: "taken".into(), ..backfill("earliest", "latest") };
    let error = prepare(&log.handle(), &config(), taken, 1).err().unwrap();
    assert!(matches!(error, PlanError::Occupied(_)), "{error}");

    let span = Arc::clone(prepared(&log, "earliest", "latest").unwrap().spans());
    let writer = log.handle().appender(Box::new(|_, _| {})).unwrap();
    writer.append(NewRecord::keyed("varta.raw", "later", "poison"), 0).unwrap();
    let again = prepared(&log, "earliest", "latest").unwrap();
    assert!(again.is_resumed());
    assert_eq!(
        again.spans().input().stretches().collect::<Vec<_>>(),
        span.input().stretches().collect::<Vec<_>>()
    );
    assert!(refusal("2023-11-14T22:14:05Z", "latest").unwrap().contains("--from earliest, not 2023-11-14"));
    assert!(refusal("earliest", "0:1,1:1,2:1").unwrap().contains("--to latest, not 0:1,1:1,2:1"));
}

#[test]
fn what_retention_took_is_refused_before_anything_is_made() {
    let (log, _) = live(&script(4, registry().1)[..200]);
    log.trim(&TopicPartition::new("varta.raw", 0), 3);
    let error = prepared(&log, "0:1,1:0,2:0", "latest").err().unwrap().to_string();
    assert!(error.contains("varta.raw-0: offsets 1 to 2 are gone"), "{error}");
    assert!(log.partitions("again.alerts").is_err() && log.partitions("again.backfill").is_err());
}

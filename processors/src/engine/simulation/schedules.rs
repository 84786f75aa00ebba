//! Schedules for the least job: one call after the other fails, or everything happens by chance.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use eventlog::memory::{Fault, MemoryLog};
use eventlog::{Appender, Log, NewRecord};

use super::sums::SumJob;
use super::{Chance, Fleet, seeds, settings};
use crate::engine::worker::Defect;

const PARTITIONS: i32 = 3;

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
            fleet.log.rebalance(&settings(0).group);
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
    for seed in seeds(250) {
        let plan = Plan { seed, chaos: true, ..Plan::default() };
        assert_eq!(
            differs(&plan, &undisturbed(seed, true)),
            None,
            "replay it with VARTA_SIMULATION_SEED={seed}"
        );
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

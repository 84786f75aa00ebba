//! The job on records in memory, as a worker would call it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use eventlog::NewRecord;
use processors::engine::{Job, Output, PartitionState, Share};
use processors::jobs::{CoreJob, CoreSetup};
use processors::rules::RuleSet;

use crate::input::Input;
use crate::measure::{rate, resident, setup, shipped, show, thread_time};
use crate::meters::Meters;

/// Rows of a micro-batch, and of a commit: about what 50 ms bring at 250,000 events a second.
const BATCH: usize = 4_000;
pub(crate) const COMMIT: usize = 12_000;
const STEPS: [&str; 7] = ["decode", "scan", "normalise", "encode", "rules", "windows", "close"];

/// What playing events through the job cost.
struct Played {
    events: usize,
    cpu: Duration,
    /// What of it went into the rows of each operator's changelog.
    changes: BTreeMap<&'static str, Duration>,
    /// Largest part of the memory that was resident after a commit, bytes; the records just played are not in it.
    resident: usize,
}

/// Plays events through the job as a worker would, without a log. `per_second`: events of one agent.
fn play(setup: CoreSetup, agents: usize, per_second: f64, events: usize) -> anyhow::Result<Played> {
    let mut input = Input::new(setup.ids.clone(), agents as i64, per_second);
    let mut job = CoreJob::new(setup)?;
    let mut state = job.open(0)?;
    let mut played = Played { events: 0, cpu: Duration::ZERO, changes: BTreeMap::new(), resident: 0 };
    while played.events < events {
        let records = input.records(COMMIT)?;
        let began = thread_time();
        let mut sink = |_: NewRecord| Ok(());
        for batch in records.chunks(BATCH) {
            job.process(&mut state, batch, &mut Output::new(&mut sink))?;
        }
        job.settle(&mut state, Share::All, &mut Output::new(&mut sink))?;
        for operator in state.operators() {
            let before = thread_time();
            operator.changes().try_for_each(|piece| piece.map(drop))?;
            *played.changes.entry(operator.name()).or_default() += thread_time().saturating_sub(before);
        }
        played.cpu += thread_time().saturating_sub(began);
        played.events += COMMIT;
        let held: usize =
            records.iter().filter_map(|record| record.value.as_ref()).map(bytes::Bytes::len).sum();
        played.resident = played.resident.max(resident().saturating_sub(held));
    }
    Ok(played)
}

/// The steps with the pack that ships. Every step is charged to all events of the mix, also to those that it skips.
pub(crate) fn steps(meters: &Meters, agents: usize, events: usize) -> anyhow::Result<()> {
    let played = play(setup(shipped()?)?, agents, 1.0, events)?;
    let spent = |step: &str| seconds(meters, step);
    let events = played.events as f64;
    for step in STEPS {
        show(&format!("{step}, {agents} agents, shipped rules"), events / spent(step), "events/CPU-s");
    }
    for (operator, time) in &played.changes {
        show(&format!("changelog rows of {operator}, {agents} agents"), rate(events, *time), "events/CPU-s");
    }
    let windows = spent("windows") + spent("close");
    show(&format!("windows and close together, {agents} agents"), events / windows, "events/CPU-s");
    let alone = windows + spent("decode");
    show(&format!("decode, windows and close together, {agents} agents"), events / alone, "events/CPU-s");
    let features = meters.total("varta_processors_features_total", "");
    show("windows emitted, all sizes", features, "");
    show(&format!("whole job, {agents} agents, shipped rules"), rate(events, played.cpu), "events/CPU-s");
    show(&format!("resident, {agents} agents"), played.resident as f64 / 1e6, "MB");
    Ok(())
}

fn seconds(meters: &Meters, step: &str) -> f64 {
    meters.total("varta_processors_operator_seconds", &format!("operator={step};")).max(1e-9)
}

pub(crate) fn rules(meters: &Meters, count: usize, agents: usize, events: usize) -> anyhow::Result<()> {
    let began = Instant::now();
    let setup = setup(matching(count)?)?;
    show(&format!("reading and planning {count} rules"), began.elapsed().as_secs_f64(), "s");
    let played = play(setup, agents, 1.0, events)?;
    let events = played.events as f64;
    show(&format!("rules alone, {count} match rules"), events / seconds(meters, "rules"), "events/CPU-s");
    show(&format!("whole job, {count} match rules"), rate(events, played.cpu), "events/CPU-s");
    show(&format!("resident, {count} match rules, {agents} agents"), played.resident as f64 / 1e6, "MB");
    Ok(())
}

/// An event of each agent every 2.5 s, so that the largest number sees a minute end, too.
pub(crate) fn agents(agents: usize, events: usize) -> anyhow::Result<()> {
    let played = play(setup(shipped()?)?, agents, 0.4, events)?;
    show(&format!("whole job, {agents} agents"), rate(played.events as f64, played.cpu), "events/CPU-s");
    show(&format!("resident, {agents} agents"), played.resident as f64 / 1e6, "MB");
    Ok(())
}

/// Rules that match rows, on the families in turn; each asks for something else, and none of it is there.
fn matching(count: usize) -> anyhow::Result<RuleSet> {
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
    RuleSet::parse([("rules.yaml", text.as_str())], []).map_err(|problems| anyhow::anyhow!("{problems:?}"))
}

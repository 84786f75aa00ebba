//! Windows alone, Kafka to Kafka: the job `detect` without a rule, on host metrics that the job `normalise` has cleaned.
//!
//! So what is counted is reading, decoding, following each agent's time, one-minute windows with all their measurements
//! (the longer ones are summed up from them), features out, state and commits: everything that a job of windows must do
//! and nothing else. CPU time is that of the whole process, librdkafka's threads included. Writing the input and cleaning
//! it are not counted.

use std::sync::Arc;

use anyhow::ensure;
use eventlog::Log;
use eventlog::registry::{MemoryRegistry, register_all};
use processors::event_time::{Hold, Lateness};
use processors::jobs::{CoreJob, CoreSetup, NormaliseJob};
use processors::rules::{Offer, RuleSet};
use schemas::topics::Topics;

use crate::delivery::{PARTITIONS, connect, fill, settings, work};
use crate::input::Input;
use crate::measure::{SECOND, rate, resident, show};
use crate::meters::Meters;

/// So many events of so many agents, one of each a second.
pub(crate) fn alone(meters: &Meters, agents: usize, events: usize) -> anyhow::Result<()> {
    let log = connect()?;
    let registry = Arc::new(MemoryRegistry::new());
    let ids = register_all(&*registry)?;
    let topics = Topics::new(format!("windows-{}", std::process::id()));
    log.create_topics(&topics.all(), PARTITIONS)?;
    let setup = || -> anyhow::Result<CoreSetup> {
        let none = RuleSet::parse([], []).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        let (registry, ids, topics) = (Arc::clone(&registry), ids.clone(), topics.clone());
        let (rules, hold) = (Offer::new(none, 1), Hold(30 * 86_400 * SECOND));
        Ok(CoreSetup { registry, ids, topics, rules, lateness: Lateness(2 * SECOND), hold })
    };
    let input = Input::new(ids.clone(), agents as i64, 1.0).only_metrics();
    let records = fill(&log, &topics, input, events)?;
    let cleaning = settings(topics.raw(), &topics, "normalise");
    work(meters, log.clone(), NormaliseJob::new(setup()?)?, cleaning, records)?;

    let windows = settings(topics.clean(), &topics, "detect");
    let (cpu, wall) = work(meters, log, CoreJob::detect(setup()?)?, windows, records)?;
    let features = meters.total("varta_processors_features_total", "");
    let due = agents as f64 * (events as f64 / agents as f64 / 60.0 - 2.0).floor();
    ensure!(features >= due, "{features} windows were emitted, {due} and more are over");
    let what = format!("windows alone, Kafka to Kafka, {agents} agents");
    show(&what, rate(events as f64, cpu), "events/CPU-s");
    show(&format!("{what}, as time passes"), rate(events as f64, wall), "events/s");
    for step in ["decode", "scan", "windows", "close"] {
        let seconds = meters.total("varta_processors_operator_seconds", &format!("operator={step};"));
        show(&format!("  of the CPU time: {step}"), 100.0 * seconds / cpu.as_secs_f64(), "%");
    }
    show(&format!("{what}, windows emitted, all sizes"), features, "");
    show(&format!("{what}, resident"), resident() as f64 / 1e6, "MB");
    Ok(())
}

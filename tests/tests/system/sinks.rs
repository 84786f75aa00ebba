//! Sinks that die, or fall asleep with full hands, between any two steps of theirs. Each is replaced; the sleepers wake up
//! long after their sessions have run out, finish the step that they were in, and go on beside those who replaced them.
//!
//! At the end the rows of a store are the rows of its topics, none twice, of windows and alerts the newest revision; and
//! no offset ever moved backwards.

mod progress;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use schemas::family::Family;
use tests::audit::{Counts, read_outbox};
use tests::bench::part::Part;

use crate::stage::{AgentOptions, Load, Options, PATIENCE, Stage, Starter, blocking};
use crate::stored::all_is_stored;
use progress::Progress;

/// Events of each of two loads, by each of two agents.
const EVENTS: u64 = 1200;
/// A second.
const RATE: u64 = 300;
/// Event time between two events, µs: a load is ten minutes of it.
const STEP: i64 = 500_000;
/// A part that drains may have to wait for a server first.
const DRAIN: Duration = Duration::from_mins(1);

/// Sinks and their steps, in order.
const LAKE: (&str, &[&str]) = ("lake", &["lake.before_commit", "lake.after_commit"]);
const INFLUX: (&str, &[&str]) =
    ("influx", &["influx.before_write", "influx.after_write", "influx.after_offsets"]);
const POSTGRES: (&str, &[&str]) = ("postgres", &["postgres.before_commit", "postgres.after_commit"]);

#[tokio::test(flavor = "multi_thread")]
async fn killed_or_asleep_at_any_step_a_sink_stores_each_row_once() -> anyhow::Result<()> {
    let stage = Stage::new("sinks").await?;
    for part in ["bridge", "process"] {
        let options = Options { worker: "worker".into(), ..Options::default() };
        stage.watch(stage.starter(part, &[part], &options)?.start(&Load::new(0, 1, 1), &[])?)?;
    }
    let mut sources = Sources::new(&stage)?;
    sources.send(&stage).await?;

    // Sink by sink as tasks of one scenario: each waits for its sessions to run out most of the time.
    let (lake, influx, postgres) =
        tokio::join!(Ordeal::new(&stage, LAKE), Ordeal::new(&stage, INFLUX), Ordeal::new(&stage, POSTGRES));
    let ordeals = [lake?, influx?, postgres?];
    for ordeal in &ordeals {
        ordeal.wake().with_context(|| ordeal.sink.to_owned())?;
    }
    sources.send(&stage).await?;
    all_is_stored(&stage, &sources.made(&stage)?, "lake-heir").await.context("after all have woken")?;
    // Windows of agents that say no more come as time passes: first whoever makes them ends, then whoever stores them.
    ["process", "bridge"].into_iter().try_for_each(|part| stage.stop(part))?;
    all_is_stored(&stage, &sources.made(&stage)?, "lake-heir").await.context("when nothing more comes")?;
    for ordeal in ordeals {
        ordeal.end(&stage).await?;
    }
    all_is_stored(&stage, &sources.made(&stage)?, "lake-heir").await.context("after all have ended")
}

/// Two agents, in two partitions.
struct Sources {
    load: Load,
    starters: Vec<(&'static str, Starter)>,
}

impl Sources {
    fn new(stage: &Stage) -> anyhow::Result<Self> {
        let starter = |name| Ok((name, stage.load_starter(name, &AgentOptions::new(name))?));
        let starters = ["load-1", "load-2"].into_iter().map(starter).collect::<anyhow::Result<_>>()?;
        Ok(Self { load: Load::new(0, RATE, STEP), starters })
    }

    /// Each sends more events; returns when all are on the topics.
    async fn send(&mut self, stage: &Stage) -> anyhow::Result<()> {
        self.load.events += EVENTS;
        for (name, starter) in &self.starters {
            let mut sender = starter.start(&self.load, &[])?;
            stage.until("the load is confirmed", PATIENCE, async || sender.has_ended()).await?;
            ensure!(sender.wait()? == Some(0), "{name} ends with an error; see its log");
        }
        let made = self.made(stage)?.len();
        stage
            .until("all events are on the topics", PATIENCE, async || {
                let mut found = 0;
                for family in Family::ALL {
                    found += stage.records(&stage.topics().events(family))?.len();
                }
                ensure!(found >= made, "{found} of {made}");
                Ok(true)
            })
            .await
    }

    fn made(&self, stage: &Stage) -> anyhow::Result<Counts> {
        let mut made = Counts::new();
        for (name, _) in &self.starters {
            made.extend(read_outbox(&stage.outbox(name))?.identities);
        }
        Ok(made)
    }
}

/// One sink after its deaths, with its sleepers and the one that took over.
struct Ordeal {
    sink: &'static str,
    progress: Progress,
    sleepers: Vec<(Part, &'static str)>,
    heir: Part,
}

impl Ordeal {
    /// The sink dies at each step, falls asleep at each step, and at last somebody catches up.
    async fn new(stage: &Stage, (sink, steps): (&'static str, &[&'static str])) -> anyhow::Result<Self> {
        let progress = Progress::watch(stage, sink);
        for step in steps {
            let mut doomed = life(stage, sink, "doomed", &format!("{step}=2"))?;
            let before = doomed.deaths_at(step)?;
            stage.until("the sink dies", PATIENCE, async || doomed.has_ended()).await?;
            ensure!(doomed.deaths_at(step)? == before + 1, "{sink} died of something else before {step}");
            progress.note(stage).await?;
        }
        let mut sleepers = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            let mut sleeper = life(stage, sink, &format!("sleeper-{number}"), &format!("{step}=2:stop"))?;
            stage
                .until(&format!("{sink} falls asleep at {step}"), PATIENCE, async || {
                    sleeper.must_run()?;
                    Ok(sleeper.sleeps_at(step)? == 1 && sleeper.is_suspended()?)
                })
                .await?;
            sleepers.push((sleeper, *step));
            progress.note(stage).await?;
        }
        ensure!(!progress.is_complete(stage).await?, "{sink} had nothing left to do when all slept");
        let mut heir = life(stage, sink, "heir", "")?;
        stage
            .until(&format!("another takes over from the sleepers of {sink}"), PATIENCE, async || {
                heir.must_run()?;
                progress.note(stage).await?;
                progress.is_complete(stage).await
            })
            .await?;
        for (sleeper, step) in &sleepers {
            ensure!(sleeper.is_suspended()?, "{sink} woke up at {step} by itself");
        }
        Ok(Self { sink, progress, sleepers, heir })
    }

    fn wake(&self) -> anyhow::Result<()> {
        self.sleepers.iter().try_for_each(|(sleeper, _)| sleeper.suspend(false))
    }

    /// All end in order, the sleepers too.
    async fn end(mut self, stage: &Stage) -> anyhow::Result<()> {
        self.progress.note(stage).await?;
        for (sleeper, step) in self.sleepers.drain(..) {
            let name = sleeper.name().to_owned();
            let code = blocking(|| sleeper.stop(DRAIN))?;
            ensure!(code == 0, "{name}, which slept at {step}, ends with code {code}");
        }
        let code = blocking(|| self.heir.stop(DRAIN))?;
        ensure!(code == 0, "the last {} ends with code {code}", self.sink);
        self.progress.end(stage).await
    }
}

/// One more process of a sink, in the group of those before it, under a name of its own.
fn life(stage: &Stage, sink: &'static str, name: &str, failpoint: &str) -> anyhow::Result<Part> {
    let options = Options { member: format!("-{name}"), small_batches: true, ..Options::default() };
    let starter = stage.starter(&format!("{sink}-{name}"), &["sink", sink], &options)?;
    starter.start(&Load::new(0, 1, 1), &[("VARTA_FAILPOINT", failpoint.to_owned())])
}

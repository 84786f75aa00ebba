//! Kill -9 everywhere, and at the end nothing differs from a run that nobody disturbed.
//!
//! Two workers, a bridge, each sink and the load run as processes of their own. Each is killed again and again, at
//! named places (before and after each acknowledgement, flush and commit) and at moments of no meaning. The short
//! form kills each a few times at a modest rate, for programs without optimisation; `make soak` sets
//! `VARTA_CRASH_KILLS`, uses 5,000 events a second, stops Kafka, and kills the broker while the bridge is away and
//! its queue is full.

mod chaos;
mod outcome;
mod plan;

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tests::audit::read_outbox;

use crate::stage::{AgentOptions, Load, Options, Stage, is_slow_profile};
use chaos::Chaos;
use outcome::Outcome;
use plan::Form;

const HOST: &str = "crashing-host";

#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_each_event_counts_once() -> anyhow::Result<()> {
    let form = Form::from_environment()?;
    say(&format!("crash test: {form}"))?;
    let agent =
        AgentOptions { outbox_limit: "1 GiB", ..AgentOptions::new(HOST) };
    let load = Load::new(form.instalment, form.rate, form.step);

    let queued = form.broker_queue.to_string();
    let variables: &[(&str, &str)] = if form.long { &[("VARTA_MQTT_MAX_QUEUED", &queued)] } else { &[] };
    let disturbed = Stage::with_broker("crash", variables).await?;
    let chaos = Chaos::start(&disturbed, &form, &agent, load)?;
    let (kills, events) = chaos.run(&disturbed, &form).await?;
    for kill in &kills {
        say(&format!("  {kill}"))?;
    }
    say(&format!("{} kills during {events} events", kills.len()))?;

    let load = Load { events, rate: form.calm_rate, ..load };
    let calm = Stage::new("calm").await?;
    undisturbed(&calm, &agent, &load).await?;

    let (first, second) = (Outcome::read(&disturbed, &load).await?, Outcome::read(&calm, &load).await?);
    let differences = first.differences(&second);
    say(&format!("disturbed: {first}\ncalm:      {second}"))?;
    ensure!(differences.is_empty(), "the runs differ:\n{}", differences.join("\n"));
    Ok(())
}

async fn undisturbed(stage: &Stage, agent: &AgentOptions, load: &Load) -> anyhow::Result<()> {
    stage.start_server(&Options { workers: 2, ..Options::default() })?;
    let mut sender = stage.load_starter(agent)?.start(load, &[])?;
    stage.until("the load of the calm run", patience(load), async || sender.has_ended()).await?;
    ensure!(sender.wait()? == Some(0), "the load ends with an error; see load.log");
    everything_has_arrived(stage, load).await?;
    stage.stop("up")
}

/// Waits until every place holds what it must; says what is missing when the time is over.
async fn everything_has_arrived(stage: &Stage, load: &Load) -> anyhow::Result<()> {
    let made = read_outbox(&stage.outbox("load"))?;
    let expected = outcome::expected(load);
    stage.until("all events are on the topics", patience(load), async || {
        for (family, numbers) in &expected {
            let found = stage.records(&stage.topics().events(*family))?.len();
            ensure!(found >= numbers.len(), "{}: {found} of {}", family.name(), numbers.len());
        }
        Ok(true)
    })
    .await?;
    stage.until("made = raw = events = lake", patience(load), async || {
        stage.must_equal(&made.identities).await?;
        Ok(true)
    })
    .await
    .with_context(|| stage.folder.display().to_string())?;
    outcome::stores_have_caught_up(stage, load).await
}

/// Time for a load to pass, however slow the programs are.
fn patience(load: &Load) -> Duration {
    let a_second = if is_slow_profile() { 200 } else { 2_000 };
    Duration::from_secs(180 + load.events / a_second)
}

/// Past the capture of the test harness: a soak is watched by a person.
fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stderr(), "{line}")?)
}

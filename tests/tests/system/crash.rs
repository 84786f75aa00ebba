//! Kill -9 everywhere, and at the end nothing differs from a run that nobody disturbed.
//!
//! Two agents, two bridges, two workers and each sink run as processes of their own. Each is killed again and again, at
//! named places (before and after each acknowledgement, flush and commit) and at moments of no meaning. The short
//! form kills each a few times at a modest rate, for programs without optimisation; `make soak` sets
//! `VARTA_CRASH_KILLS`, uses 12,500 events a second, suspends processes, stops Kafka, and kills the broker while the bridges are away and
//! their queue is full.

mod chaos;
mod outcome;
mod plan;
mod streams;

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::stage::{Options, Stage, is_slow_profile};
use chaos::Chaos;
use outcome::Outcome;
use plan::Form;
use streams::Streams;

#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_each_event_counts_once() -> anyhow::Result<()> {
    let form = Form::from_environment()?;
    say(&format!("crash test: {form}"))?;
    let queued = form.broker_queue.to_string();
    let variables: &[(&str, &str)] = if form.long { &[("VARTA_MQTT_MAX_QUEUED", &queued)] } else { &[] };
    let disturbed = Stage::with_broker("crash", variables).await?;
    let streams = Streams::new(&form);
    let began = std::time::Instant::now();
    let ordeal = Chaos::start(&disturbed, &form, &streams)?.run(&disturbed, &form).await?;
    for kill in &ordeal.kills {
        say(&format!("  {kill}"))?;
    }
    let streams = streams.again(&ordeal.events, form.calm_rate);
    let (count, made) = (ordeal.kills.len(), streams.events());
    let (load, all) = (ordeal.under_fire.as_secs_f64(), began.elapsed().as_secs_f64());
    say(&format!(
        "{count} kills during {made} events, confirmed within {load:.0} s ({:.0} events/s), everywhere within {all:.0} s \
         ({:.0} events/s)",
        made as f64 / load,
        made as f64 / all,
    ))?;

    let calm = Stage::new("calm").await?;
    undisturbed(&calm, &streams).await?;

    let (first, second) = (Outcome::read(&disturbed, &streams).await?, Outcome::read(&calm, &streams).await?);
    let differences = first.differences(&second);
    say(&format!("disturbed: {first}\ncalm:      {second}"))?;
    second.must_tell_something(&first, &streams)?;
    ensure!(differences.is_empty(), "the runs differ:\n{}", differences.join("\n"));
    Ok(())
}

async fn undisturbed(stage: &Stage, streams: &Streams) -> anyhow::Result<()> {
    stage.start_server(&Options { workers: 2, ..Options::default() })?;
    let mut senders = Vec::new();
    for stream in &streams.0 {
        senders.push(stage.load_starter(stream.name, &stream.agent)?.start(&stream.load, &[])?);
    }
    for sender in &mut senders {
        stage.until("the load of the calm run", patience(streams), async || sender.has_ended()).await?;
        ensure!(sender.wait()? == Some(0), "{} ends with an error; see its log", sender.name());
    }
    everything_has_arrived(stage, streams).await?;
    stage.stop("up")
}

/// Waits until every place holds what it must; says what is missing when the time is over.
async fn everything_has_arrived(stage: &Stage, streams: &Streams) -> anyhow::Result<()> {
    let made = streams.made(stage)?;
    let expected = streams.by_family();
    stage
        .until("all events are on the topics", patience(streams), async || {
            for (family, count) in &expected {
                let found = stage.records(&stage.topics().events(*family))?.len();
                ensure!(found >= *count, "{}: {found} of {count}", family.name());
            }
            Ok(true)
        })
        .await?;
    stage
        .until("made = raw = events = lake", patience(streams), async || {
            stage.must_equal(&made).await?;
            Ok(true)
        })
        .await
        .with_context(|| stage.folder.display().to_string())?;
    outcome::stores_have_caught_up(stage, streams).await
}

/// Time for a load to pass, however slow the programs are.
fn patience(streams: &Streams) -> Duration {
    let a_second = if is_slow_profile() { 200 } else { 2_000 };
    Duration::from_secs(180 + streams.events() / a_second)
}

/// Past the capture of the test harness: a soak is watched by a person.
fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stderr(), "{line}")?)
}

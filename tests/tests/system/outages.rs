//! Servers that are down at the start or go away: waited for by name, and nothing is lost.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use schemas::event::event_type;
use schemas::family::Family;
use tests::audit::read_outbox;

use crate::stage::{AgentOptions, Load, Options, PATIENCE, Stage, blocking};

/// More events than there is time for.
const WITHOUT_END: u64 = 1 << 40;
const A_SECOND: u64 = 100;
/// Time for the agent to send what it holds.
const DRAIN: Duration = Duration::from_mins(2);
/// So many events must be made while a server is away.
const MISSED: u64 = 150;

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_away_are_waited_for_and_nothing_is_lost() -> anyhow::Result<()> {
    let stage = Stage::alone("outages")?;
    let listen = free_address()?;
    stage.start_server(&Options { listen: listen.clone(), ..Options::default() })?;
    let agent = AgentOptions::new("patient-host");
    let load = Load::new(WITHOUT_END, A_SECOND, 100_000);
    let starter = stage.load_starter("load", &agent)?;
    let mut sender = starter.start(&load, &[])?;

    stage
        .until("the server says that it waits for Kafka", PATIENCE, async || {
            let (ready, text) = readiness(&listen).await?;
            ensure!(!ready, "ready without any server: {text}");
            ensure!(text.contains("kafka"), "waits for: {text}");
            Ok(stage.log("up").contains(&stage.kafka))
        })
        .await?;
    stage.until("events wait in the outbox", PATIENCE, async || Ok(cursor(&stage)? > MISSED)).await?;
    sender.must_run()?;

    blocking(|| stage.stack.up(&["kafka", "registry"]))?;
    stage
        .until("Kafka is there, the broker is waited for", PATIENCE, async || {
            let (ready, text) = readiness(&listen).await?;
            Ok(!ready && text.contains("mqtt"))
        })
        .await?;
    blocking(|| stage.stack.up(&["mosquitto"]))?;
    stage
        .until("events flow before the stores are there", PATIENCE, async || {
            Ok(stage.records(&stage.topics().events(Family::HostMetrics))?.len() > 100)
        })
        .await?;
    blocking(|| stage.stack.up(&["postgres", "influx"]))?;
    stage
        .until("all is ready", PATIENCE, async || {
            let (ready, text) = readiness(&listen).await?;
            ensure!(ready, "waits for: {text}");
            Ok(true)
        })
        .await?;

    for name in ["kafka", "mosquitto", "postgres", "influx", "registry"] {
        goes_away_and_comes_back(&stage, name).await.with_context(|| name.to_owned())?;
    }

    // it would go on for ever; what is not confirmed when it is asked to end is sent by its next life
    blocking(|| sender.stop(DRAIN))?;
    let events = read_outbox(&stage.outbox("load"))?.cursor.context("events were made")?;
    let load = Load { events, ..load };
    let mut sender = starter.start(&load, &[])?;
    stage.until("the load is confirmed", PATIENCE, async || sender.has_ended()).await?;
    ensure!(sender.wait()? == Some(0), "the load ends with an error; see load.log");
    let made = read_outbox(&stage.outbox("load"))?;
    stage.until_equal(&made.identities).await?;
    the_stores_missed_nothing(&stage, &load).await?;
    stage.stop("up")
}

async fn goes_away_and_comes_back(stage: &Stage, name: &str) -> anyhow::Result<()> {
    let before = cursor(stage)?;
    blocking(|| stage.stack.kill(name))?;
    stage.until("events are made meanwhile", PATIENCE, async || Ok(cursor(stage)? > before + MISSED)).await?;
    blocking(|| stage.stack.start(name))
}

async fn the_stores_missed_nothing(stage: &Stage, load: &Load) -> anyhow::Result<()> {
    let numbers = |wanted: &dyn Fn(&tests::load::Made) -> bool| {
        (0..load.events).filter(|n| wanted(&load.mix.event(*n))).collect::<Vec<_>>()
    };
    let starts = numbers(&|made| made.event_type == event_type::PROCESS_STARTED).len();
    stage.must_store_starts(starts).await?;
    let metrics = numbers(&|made| Family::of_event_type(made.event_type) == Family::HostMetrics);
    stage
        .until("every reading is in InfluxDB", PATIENCE, async || {
            let stored = stage.influx.values("host_metrics", "samples").await?;
            let missing = metrics.iter().filter(|n| stored.get(&n.to_string()) != Some(&1)).count();
            ensure!(
                missing == 0 && stored.len() == metrics.len(),
                "{missing} of {} are not there once",
                metrics.len()
            );
            Ok(true)
        })
        .await
}

fn cursor(stage: &Stage) -> anyhow::Result<u64> {
    Ok(fs_err::read_to_string(stage.folder.join("load").join("progress"))?.parse()?)
}

async fn readiness(listen: &str) -> anyhow::Result<(bool, String)> {
    let answer = reqwest::get(format!("http://{listen}/ready")).await?;
    Ok((answer.status().is_success(), answer.text().await?))
}

fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

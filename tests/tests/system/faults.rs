//! Stores that are slow, that fall silent, and whose connections are cut in the middle of a write: the sinks wait and begin
//! again, nothing is lost or there twice, memory stays bounded, and the lake beside them runs on. The same when their
//! disks are full.

mod disk;
mod proxy;

use std::time::Duration;

use anyhow::ensure;
use schemas::family::Family;
use tests::audit::{Counts, read_outbox};
use tests::bench::part::Part;

use crate::stage::{AgentOptions, Influx, Load, Options, PATIENCE, Postgres, Stage, blocking};
use crate::stored::all_is_stored;
use disk::Disk;
use proxy::{Mood, Proxy, target};

const EVENTS: u64 = 6000;
const RATE: u64 = 150;
/// Ten seconds of load are twelve minutes of event time.
const STEP: i64 = 500_000;
/// Resident memory of all parts in one process, without optimisation. At its largest.
const MOST_MEMORY: u64 = 700 << 20;

/// Starts a load of so many events, and waits until some of it is in both stores.
async fn both_stores_hold_something(stage: &Stage, events: u64) -> anyhow::Result<Part> {
    let load = Load::new(events, RATE, STEP);
    let sender = stage.load_starter("load", &AgentOptions::new("busy-host"))?.start(&load, &[])?;
    stage
        .until("both stores hold something", PATIENCE, async || {
            let stored = stage.postgres.count("program_starts").await?;
            Ok(stored > 0 && !stage.influx.values("host_metrics", "samples").await?.is_empty())
        })
        .await?;
    Ok(sender)
}

/// Waits until the load is confirmed and in the lake, which the stores do not hold up; answers what it made.
async fn the_lake_has_all(stage: &Stage, sender: &mut Part) -> anyhow::Result<Counts> {
    stage.until("the load is confirmed", PATIENCE, async || sender.has_ended()).await?;
    ensure!(sender.wait()? == Some(0), "the load ends with an error; see load.log");
    let made = read_outbox(&stage.outbox("load"))?.identities;
    stage
        .until("the lake has everything while the others wait", PATIENCE, async || {
            stage.must_equal(&made).await?;
            Ok(true)
        })
        .await?;
    Ok(made)
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_are_slow_silent_or_cut_off_lose_nothing() -> anyhow::Result<()> {
    let mut stage = Stage::new("faults").await?;
    let (postgres, influx) = (
        Proxy::start(&target(&stage.postgres.url)?).await?,
        Proxy::start(&target(&stage.influx.url)?).await?,
    );
    let reached = (
        Postgres::at(&stage.postgres.url),
        Influx::at(&stage.influx.url, &stage.influx.token, &stage.influx.bucket),
    );
    // The sinks go through the proxies; we do not.
    stage.postgres = Postgres::at(&postgres.url(&reached.0.url)?);
    stage.influx = Influx::at(&influx.url(&reached.1.url)?, &reached.1.token, &reached.1.bucket);
    // And by the older of the two write APIs.
    let options = Options { small_batches: true, influx_api: "v1", ..Options::default() };
    let mut server = stage.starter("up", &["up"], &options)?.start(&Load::new(0, 1, 1), &[])?;
    (stage.postgres, stage.influx) = reached;
    let mut sender = both_stores_hold_something(&stage, EVENTS).await?;

    let proxies = [&postgres, &influx];
    let set = |mood| proxies.iter().for_each(|proxy| proxy.set(mood));
    let each = |least: u64, count: fn(&Proxy) -> u64| proxies.iter().all(|proxy| count(proxy) >= least);
    set(Mood::Slow(Duration::from_millis(150)));
    stage.until("both have been slow", PATIENCE, async || Ok(each(30, Proxy::slow))).await?;
    set(Mood::Cuts(900));
    stage.until("both have cut connections", PATIENCE, async || Ok(each(6, Proxy::cut))).await?;
    set(Mood::Silent);
    stage.until("both have been silent", PATIENCE, async || Ok(each(2, Proxy::swallowed))).await?;
    server.must_run()?;
    for store in ["influx", "postgres"] {
        let waits = |line: &str| line.contains("waiting for the store") && line.contains(store);
        ensure!(stage.log("up").lines().any(waits), "no line says that {store} is waited for");
    }
    let made = the_lake_has_all(&stage, &mut sender).await?;
    let (held, _) = server.rss()?;
    set(Mood::Open);
    all_is_stored(&stage, &made, "up").await?;
    let (_, peak) = server.rss()?;
    ensure!(
        peak < MOST_MEMORY,
        "the server used {} MiB, {} while the stores were away",
        peak >> 20,
        held >> 20
    );
    ensure!(blocking(|| server.stop(PATIENCE))? == 0, "the server does not end in order");
    all_is_stored(&stage, &made, "up").await
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_whose_disks_are_full_are_waited_for_and_lose_nothing() -> anyhow::Result<()> {
    let mut stage = Stage::new("disks").await?;
    let folder = stage.folder.join("stack");
    // PostgreSQL's log of what it did lies elsewhere: when that cannot be written a server ends, which is another matter.
    blocking(|| stage.stack.up(&["postgres", "influx"]))?;
    let own = stage.stack.variables()?;
    blocking(|| stage.stack.kill("postgres").and_then(|()| stage.stack.kill("influx")))?;
    let disks = [
        Disk::over(&folder.join("postgres/data/base"), 128)?,
        Disk::over(&folder.join("influx/data/engine"), 160)?,
    ];
    blocking(|| stage.stack.start("postgres").and_then(|()| stage.stack.start("influx")))?;
    stage.postgres = Postgres::create(&own.get("VARTA_POSTGRES")?, &stage.prefix).await?;
    let (url, token) = (own.get("VARTA_INFLUX_URL")?, own.get("VARTA_INFLUX_TOKEN")?);
    stage.influx = Influx::create(&url, &token, &stage.prefix).await?;

    let options = Options { small_batches: true, ..Options::default() };
    let mut server = stage.starter("up", &["up"], &options)?.start(&Load::new(0, 1, 1), &[])?;
    let mut sender = both_stores_hold_something(&stage, EVENTS / 4).await?;
    stage
        .until("both wait for room", PATIENCE, async || {
            server.must_run()?;
            // What a store gives back by itself is taken as well.
            disks.iter().try_for_each(Disk::fill)?;
            let log = stage.log("up").to_lowercase();
            let waits = |store: &str| {
                let says_so = |line: &str| line.contains("waiting for the store") && line.contains(store);
                log.lines().any(|line| says_so(line) && is_for_room(line))
            };
            Ok(waits("postgres") && waits("influx"))
        })
        .await?;
    let made = the_lake_has_all(&stage, &mut sender).await?;
    ensure!(all_but_the_lake_wait(&stage).await?, "a store took everything although its disk is full");
    disks.iter().try_for_each(Disk::free)?;
    // InfluxDB never tries again to open what it could not open for want of room.
    blocking(|| stage.stack.kill("influx").and_then(|()| stage.stack.start("influx")))?;
    all_is_stored(&stage, &made, "up").await?;
    ensure!(blocking(|| server.stop(PATIENCE))? == 0, "the server does not end in order");
    all_is_stored(&stage, &made, "up").await?;
    blocking(|| stage.stack.down())
}

/// Whether these are a store's words, in small letters, for a full disk. The second are PostgreSQL's for who connects anew.
fn is_for_room(words: &str) -> bool {
    ["no space left on device", "could not write init file"].iter().any(|full| words.contains(full))
}

async fn all_but_the_lake_wait(stage: &Stage) -> anyhow::Result<bool> {
    let told = stage.events(Family::ProcessEvent).await?.len();
    let metrics = stage.events(Family::HostMetrics).await?.len();
    let stored = stage.influx.values("host_metrics", "samples").await?.len();
    let postgres_waits = match stage.postgres.count("program_starts").await {
        Ok(starts) => starts < told,
        // It lets nobody in, the sink neither.
        Err(error) if is_for_room(&error.to_string().to_lowercase()) => true,
        Err(error) => return Err(error),
    };
    Ok(postgres_waits && stored < metrics)
}

//! Stores that are slow, that fall silent, and whose connections are cut in the middle of a write: the sinks wait and begin
//! again, nothing is lost or there twice, memory stays bounded, and the lake beside them runs on.

mod proxy;

use std::time::Duration;

use anyhow::ensure;
use tests::audit::read_outbox;

use crate::stage::{AgentOptions, Influx, Load, Options, PATIENCE, Postgres, Stage, blocking};
use crate::stored::all_is_stored;
use proxy::{Mood, Proxy, target};

const EVENTS: u64 = 6000;
const RATE: u64 = 150;
/// Ten seconds of load are twelve minutes of event time.
const STEP: i64 = 500_000;
/// Resident memory of all parts in one process, without optimisation. At its largest.
const MOST_MEMORY: u64 = 700 << 20;

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
    let load = Load::new(EVENTS, RATE, STEP);
    let mut sender = stage.load_starter("load", &AgentOptions::new("busy-host"))?.start(&load, &[])?;
    stage
        .until("both stores hold something", PATIENCE, async || {
            let stored = stage.postgres.count("program_starts").await?;
            Ok(stored > 0 && !stage.influx.values("host_metrics", "samples").await?.is_empty())
        })
        .await?;

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
    stage.until("the load is confirmed", PATIENCE, async || sender.has_ended()).await?;
    ensure!(sender.wait()? == Some(0), "the load ends with an error; see load.log");
    let made = read_outbox(&stage.outbox("load"))?.identities;
    stage
        .until("the lake has everything while the others wait", PATIENCE, async || {
            stage.must_equal(&made).await?;
            Ok(true)
        })
        .await?;
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

//! Reports on the MQTT bus, on the real broker: who may hear them, what it keeps, and what deaths do to them.

use anyhow::{Context as _, ensure};
use serde_json::json;
use tests::bench::part::Part;

use crate::stage::{Account, Heard, Listener, Load, Options, PATIENCE, Stage, blocking};

const FAILPOINT: &str = "mqtt.reports_after_publish";

#[tokio::test(flavor = "multi_thread")]
async fn reports_reach_the_edge_and_nobody_hears_of_others() -> anyhow::Result<()> {
    let stage = Stage::new("bus").await?;
    // The tables are made by whoever comes first.
    let first = sink(&stage, "first", "[\"fleet\", \"agent\"]", "")?;
    stage
        .until("the table of reports is there", PATIENCE, async || {
            Ok(stage.postgres.texts("SELECT on_bus::text FROM reports").await.is_ok())
        })
        .await?;
    let everybody = Listener::connect(&stage, Account::Bridge, "everybody", "reports/#").await?;
    for day in ["2026-03-02", "2026-03-03"] {
        report(&stage, day, "fleet", "").await?;
        for agent in ["pc-1", "pc-2"] {
            report(&stage, day, "agent", agent).await?;
        }
        report(&stage, day, "user", "CORP/ann").await?;
    }
    stage.until("six reports are on the bus", PATIENCE, async || Ok(everybody.heard().len() == 6)).await?;
    ensure!(blocking(|| first.stop(PATIENCE))? == 0, "the sink does not end in order");
    let told = everybody.heard();
    ensure!(told.iter().all(|told| !told.body.to_string().contains("ann")), "a person is named: {told:?}");

    // Who comes later hears the newest of what he may hear.
    let later = Listener::connect(&stage, Account::Bridge, "later", "reports/#").await?;
    stage.until("the broker kept three", PATIENCE, async || Ok(later.heard().len() == 3)).await?;
    ensure!(
        later.heard().iter().all(|told| told.is_retained && told.body["period_start"] == "2026-03-03"),
        "{:?}",
        later.heard()
    );
    let machine = Listener::connect(&stage, Account::Agent, "pc-1", "reports/#").await?;
    stage.until("a machine hears of itself", PATIENCE, async || Ok(!machine.heard().is_empty())).await?;

    // A day that is over is computed again; the sink dies before it can say that this is on the bus.
    report(&stage, "2026-03-02", "fleet", "").await?;
    let heard = everybody.heard().len();
    let mut doomed = sink(&stage, "doomed", "[\"fleet\", \"agent\"]", FAILPOINT)?;
    stage.until("the sink dies", PATIENCE, async || doomed.has_ended()).await?;
    ensure!(doomed.deaths_at(FAILPOINT)? == 1, "it died of something else");
    stage.until("it had told it", PATIENCE, async || Ok(everybody.heard().len() == heard + 1)).await?;
    let next = sink(&stage, "next", "[\"fleet\", \"agent\", \"user\"]", "")?;
    stage
        .until("it is told again, and people are now", PATIENCE, async || {
            let of = |topic: &str| count(&everybody.heard(), topic);
            Ok(of("reports/fleet/day") == 4 && of("reports/user/CORP%2Fann/day") == 2)
        })
        .await?;
    let kept = Listener::connect(&stage, Account::Bridge, "kept", "reports/fleet/day").await?;
    stage
        .until("the newest day is still what is kept", PATIENCE, async || Ok(!kept.heard().is_empty()))
        .await?;
    ensure!(kept.heard()[0].body["period_start"] == "2026-03-03", "{:?}", kept.heard());

    // The broker is away when a report is computed.
    blocking(|| stage.stack.kill("mosquitto"))?;
    report(&stage, "2026-03-04", "agent", "pc-1").await?;
    stage
        .until("the sink says what it waits for", PATIENCE, async || {
            Ok(stage.log("next").contains("reports are not on the bus yet"))
        })
        .await?;
    blocking(|| stage.stack.start("mosquitto"))?;
    let back = Listener::connect(&stage, Account::Agent, "pc-1", "reports/#").await?;
    stage
        .until("it comes when the broker is back", PATIENCE, async || {
            Ok(back.heard().iter().any(|told| told.body["period_start"] == "2026-03-04"))
        })
        .await?;
    stage
        .until("everything is marked", PATIENCE, async || {
            let query = "SELECT key FROM reports WHERE on_bus IS DISTINCT FROM computed_at";
            Ok(stage.postgres.texts(query).await?.is_empty())
        })
        .await?;
    for heard in [machine.heard(), back.heard()] {
        ensure!(heard.iter().all(|told| told.topic == "reports/agent/pc-1/day"), "{heard:?}");
    }
    ensure!(blocking(|| next.stop(PATIENCE))? == 0, "the sink does not end in order");
    Ok(())
}

fn count(heard: &[Heard], topic: &str) -> usize {
    heard.iter().filter(|told| told.topic == topic).count()
}

/// Computed now, as the part that computes reports writes it.
async fn report(stage: &Stage, day: &str, scope: &str, key: &str) -> anyhow::Result<()> {
    let body = json!({
        "kind": "day", "period_start": day, "scope": scope, "key": key,
        "activity": { "active_s": 60, "users": [{ "username": "ann" }] },
        "alerts": { "worst": [{ "rule_id": "r", "username": "ann", "message": "ann did it" }] },
    });
    let query = format!(
        "INSERT INTO reports (kind, period_start, scope, key, zone, body, computed_at) \
         VALUES ('day', '{day}', '{scope}', '{key}', 'UTC', '{body}', clock_timestamp()) \
         ON CONFLICT (kind, period_start, scope, key) DO UPDATE SET computed_at = excluded.computed_at RETURNING key"
    );
    stage
        .postgres
        .texts(&query)
        .await
        .map(drop)
        .with_context(|| format!("report of {day} about {scope} {key}"))
}

/// The mqtt sink as a process.
fn sink(stage: &Stage, name: &str, scopes: &str, failpoint: &str) -> anyhow::Result<Part> {
    let broker = stage.stack.variables()?;
    let extra = format!(
        "[sinks.mqtt]\nenabled = true\nhost = \"{host}\"\nport = {port}\nusername = \"{user}\"\n\
         password = \"{password}\"\ngroup = \"{prefix}-mqtt\"\nclient_id = \"{prefix}-{name}\"\n\
         reports = {scopes}\nreports_every = \"200ms\"\ntimeout = \"5s\"\n",
        host = broker.get("VARTA_MQTT_HOST")?,
        port = broker.get("VARTA_MQTT_PORT")?,
        user = broker.get("VARTA_MQTT_USER_BRIDGE")?,
        password = broker.get("VARTA_MQTT_PASSWORD_BRIDGE")?,
        prefix = stage.prefix,
    );
    let starter = stage.starter(name, &["sink", "mqtt"], &Options { extra, ..Options::default() })?;
    starter.start(&Load::new(0, 1, 1), &[("VARTA_FAILPOINT", failpoint.to_owned())])
}

//! Reports on the MQTT bus, on the real broker: who may hear them, what it keeps, what deaths do to them, and what an
//! access list does that forbids some.

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tests::bench::part::Part;

use crate::stage::{Account, Heard, Listener, Load, Options, PATIENCE, Stage, blocking};

const FAILPOINT: &str = "mqtt.reports_after_publish";
/// In the folder of a stage.
const ACCESS_LIST: &str = "stack/mosquitto/acl";

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

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_the_access_list_forbids_keeps_back_no_other() -> anyhow::Result<()> {
    let stage = Stage::new("forbidden").await?;
    let first = sink(&stage, "first", "[\"fleet\"]", "")?;
    stage
        .until("the table of reports is there", PATIENCE, async || {
            Ok(stage.postgres.texts("SELECT on_bus::text FROM reports").await.is_ok())
        })
        .await?;
    ensure!(blocking(|| first.stop(PATIENCE))? == 0, "the sink does not end in order");

    let everybody = Listener::connect(&stage, Account::Bridge, "everybody", "reports/#").await?;
    let list = fs_err::read_to_string(stage.folder.join(ACCESS_LIST))?;
    let strict = list.replace(
        "topic readwrite reports/#",
        "topic read reports/#\ntopic write reports/fleet/#\ntopic write reports/agent/pc-1/#",
    );
    ensure!(strict != list, "the access list is not as it was");
    give(&stage, &strict)?;
    stage
        .until("the broker obeys the strict list", PATIENCE, async || {
            let (allowed, forbidden) = probe(&everybody).await?;
            Ok(allowed > forbidden)
        })
        .await?;

    // More than are published at once, and older than what may pass.
    for person in 0..25 {
        report(&stage, "2026-03-01", "user", &format!("zoe-{person}")).await?;
    }
    report(&stage, "2026-03-02", "agent", "pc-2").await?;
    report(&stage, "2026-03-03", "agent", "pc-1").await?;
    report(&stage, "2026-03-03", "fleet", "").await?;
    let scopes = "[\"fleet\", \"agent\", \"user\"]";
    let second = sink(&stage, "second", scopes, "")?;
    let of_machines = "SELECT key FROM reports WHERE on_bus IS DISTINCT FROM computed_at AND scope <> 'user'";
    stage
        .until("only what is forbidden waits", PATIENCE, async || {
            Ok(stage.postgres.texts(of_machines).await? == ["pc-2"])
        })
        .await?;
    stage
        .until("the sink says so", PATIENCE, async || {
            let log = stage.log("second");
            Ok(log.contains("reports/agent/pc-2/day and 25 other topics: they wait"))
        })
        .await?;
    // Both are computed again.
    report(&stage, "2026-03-02", "agent", "pc-2").await?;
    report(&stage, "2026-03-03", "fleet", "").await?;
    stage
        .until("what is allowed goes on", PATIENCE, async || {
            Ok(count(&everybody.heard(), "reports/fleet/day") == 2)
        })
        .await?;
    stage
        .until("only what is forbidden waits still", PATIENCE, async || {
            Ok(stage.postgres.texts(of_machines).await? == ["pc-2"])
        })
        .await?;
    ensure!(blocking(|| second.stop(PATIENCE))? == 0, "the sink does not end in order");
    let told = everybody.heard();
    ensure!(count(&told, "reports/agent/pc-1/day") == 1, "sent again and again: {told:?}");
    ensure!(count(&told, "reports/fleet/day") == 2, "sent again and again: {told:?}");
    let log = stage.log("second");
    let said = log.matches("the broker's access list forbids reports").count();
    ensure!(said == 2, "once of the machine and once of people, not {said} times");
    ensure!(
        log.contains("reports/user/+/day") && !log.contains("zoe"),
        "a person is named, or none is told of"
    );

    give(&stage, &list)?;
    let (_, before) = probe(&everybody).await?;
    stage
        .until("the broker obeys the mended list", PATIENCE, async || Ok(probe(&everybody).await?.1 > before))
        .await?;
    // It tries all topics when it starts.
    let third = sink(&stage, "third", scopes, "")?;
    stage
        .until("everything is marked", PATIENCE, async || {
            let query = "SELECT key FROM reports WHERE on_bus IS DISTINCT FROM computed_at";
            Ok(stage.postgres.texts(query).await?.is_empty())
        })
        .await?;
    stage
        .until("what was forbidden is on the bus", PATIENCE, async || {
            let told = everybody.heard();
            let of_people = told.iter().filter(|told| told.topic.starts_with("reports/user/")).count();
            Ok(of_people == 25 && count(&told, "reports/agent/pc-2/day") == 1)
        })
        .await?;
    ensure!(blocking(|| third.stop(PATIENCE))? == 0, "the sink does not end in order");
    Ok(())
}

/// Has the broker read this access list; it goes on with the old one for a moment.
fn give(stage: &Stage, list: &str) -> anyhow::Result<()> {
    fs_err::write(stage.folder.join(ACCESS_LIST), list)?;
    let file = fs_err::read_to_string(stage.folder.join("stack/mosquitto/pid"))?;
    let pid = file.lines().next().context("the broker has no process id")?.trim().parse::<i32>()?;
    kill(Pid::from_raw(pid), Signal::SIGHUP).context("asking the broker to read its access list")
}

/// How many messages have passed the broker of those that both lists allow, and of those that the strict one forbids. One of
/// each is sent now, by one connection and the forbidden one first: when only the first kind grows, the list is strict.
async fn probe(listener: &Listener) -> anyhow::Result<(usize, usize)> {
    for topic in ["reports/probe", "reports/fleet/probe"] {
        listener.publish(topic, &json!({})).await?;
    }
    let heard = listener.heard();
    Ok((count(&heard, "reports/fleet/probe"), count(&heard, "reports/probe")))
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

//! What the stores hold beside what the topics do.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::ensure;
use schemas::event::event_type;
use schemas::family::Family;
use tests::audit::{Counts, Row};

use crate::stage::{PATIENCE, Program, Stage, blocking};

/// Waits until every store holds the rows of its topics, each once. `part` is one that was started: its configuration says
/// where the lake is.
pub(crate) async fn all_is_stored(stage: &Stage, made: &Counts, part: &str) -> anyhow::Result<()> {
    stage
        .until("made = raw = events = lake", PATIENCE, async || {
            stage.must_equal(made).await?;
            // Of windows and alerts the lake holds every revision.
            for (table, topic) in
                [("features_1m", stage.topics().features("1m")), ("alerts", stage.topics().alerts())]
            {
                let (stored, told) = (stage.table_rows(table).await?, stage.rows(&topic).await?.len());
                ensure!(stored == told, "{table}: {stored} of {told} in the lake");
            }
            Ok(true)
        })
        .await?;
    the_lake_proves_itself(stage, part)?;
    stage
        .until("PostgreSQL has the starts, and of windows and alerts the newest", PATIENCE, async || {
            postgres(stage).await
        })
        .await?;
    stage
        .until("InfluxDB has every reading and the newest windows", PATIENCE, async || influx(stage).await)
        .await
}

fn the_lake_proves_itself(stage: &Stage, part: &str) -> anyhow::Result<()> {
    let mut varta = Command::new(Program::Varta.path()?);
    varta.arg("--config").arg(stage.folder.join(format!("{part}.toml"))).args(["lake", "verify"]);
    let output = blocking(|| varta.output())?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "varta lake verify: {}: {said}", output.status);
    Ok(())
}

async fn postgres(stage: &Stage) -> anyhow::Result<bool> {
    let starts = stage.events(Family::ProcessEvent).await?;
    let starts = starts.iter().filter(|row| row.text("event_type") == Some(event_type::PROCESS_STARTED));
    let (stored, told) = (stage.postgres.count("program_starts").await?, starts.count());
    ensure!(stored == told && told > 0, "{stored} of {told} program starts");
    let windows = newest(&stage.rows(&stage.topics().features("1m")).await?, |row| {
        Some(format!("{} {}", row.text("agent_id")?, row.long("window_start")?))
    });
    let query = "SELECT concat_ws(' ', agent_id, (extract(epoch from window_start) * 1000000)::bigint, revision) \
                 FROM features_1m";
    equal("windows in PostgreSQL", &windows, stage.postgres.texts(query).await?)?;
    let alerts = newest(&stage.alerts().await?, |row| row.text("finding_uid").map(str::to_owned));
    let query = "SELECT concat_ws(' ', finding_uid, revision) FROM alerts";
    equal("alerts in PostgreSQL", &alerts, stage.postgres.texts(query).await?)?;
    Ok(true)
}

async fn influx(stage: &Stage) -> anyhow::Result<bool> {
    let mut told = BTreeMap::<String, usize>::new();
    for row in stage.events(Family::HostMetrics).await? {
        if let Some(number) = row.long("samples") {
            *told.entry(number.to_string()).or_default() += 1;
        }
    }
    let stored = stage.influx.values("host_metrics", "samples").await?;
    let differing = told.iter().filter(|(number, count)| stored.get(*number) != Some(count)).count();
    ensure!(
        differing == 0 && stored.len() == told.len() && !told.is_empty(),
        "{differing} of {} readings differ in InfluxDB, which has {}",
        told.len(),
        stored.len()
    );
    let windows = newest(&stage.rows(&stage.topics().features("1m")).await?, |row| {
        Some(format!("{} {}", row.text("agent_id")?, row.long("window_start")?))
    });
    equal("windows in InfluxDB", &windows, stage.influx.newest_windows().await?)?;
    Ok(true)
}

/// The highest revision of each key.
fn newest(rows: &[Row], key: impl Fn(&Row) -> Option<String>) -> BTreeMap<String, i64> {
    let mut newest = BTreeMap::new();
    for row in rows {
        if let (Some(key), Some(revision)) = (key(row), row.long("revision")) {
            let highest = newest.entry(key).or_insert(revision);
            *highest = revision.max(*highest);
        }
    }
    newest
}

/// `stored` are lines of key and revision.
fn equal(what: &str, told: &BTreeMap<String, i64>, stored: Vec<String>) -> anyhow::Result<()> {
    let lines: std::collections::BTreeSet<String> =
        told.iter().map(|(key, revision)| format!("{key} {revision}")).collect();
    let there = stored.len();
    let stored: std::collections::BTreeSet<String> = stored.into_iter().collect();
    let missing: Vec<_> = lines.difference(&stored).take(3).collect();
    let surplus: Vec<_> = stored.difference(&lines).take(3).collect();
    ensure!(
        lines == stored && there == lines.len() && !lines.is_empty(),
        "{what}: {there} of {}; missing {missing:?}, surplus {surplus:?}",
        lines.len()
    );
    Ok(())
}

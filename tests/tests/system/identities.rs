//! A real agent on this machine, everything behind it, and an outsider who compares the sets of identities. Agent
//! and bridge speak TLS with the broker.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};
use schemas::event::event_type;
use schemas::family::Family;
use tests::audit::read_outbox;

use crate::stage::{AgentOptions, Options, PATIENCE, Stage};

const RULE: &str = "suspicious-path";

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_made_arrives_everywhere_once() -> anyhow::Result<()> {
    let stage = Stage::new("identities").await?;
    stage.start_server(&Options { tls: true, ..Options::default() })?;
    let options = AgentOptions { tls: true, ..AgentOptions::new("watched-host") };
    stage.start_agent(&options)?;
    stage
        .until("the agent's first events are in the log", PATIENCE, async || {
            let seen = stage.events(Family::AgentStatus).await?;
            Ok(seen.iter().any(|row| row.text("event_type") == Some(event_type::AGENT_STARTED)))
        })
        .await?;

    let provoked = Provoked::start()?;
    stage
        .until("an alert about the copied program is on the topic", PATIENCE, async || {
            Ok(stage.alerts().await?.iter().any(|alert| {
                alert.text("rule_id") == Some(RULE)
                    && alert.text("evidence").is_some_and(|rows| rows.contains(&provoked.name))
            }))
        })
        .await?;
    stage
        .until("the alert is in Postgres", PATIENCE, async || {
            let query = format!(
                "SELECT message FROM alerts WHERE rule_id = '{RULE}' AND evidence::text LIKE '%{}%'",
                provoked.name
            );
            Ok(!stage.postgres.texts(&query).await?.is_empty())
        })
        .await?;
    drop(provoked);

    // the agent first, so that all it made goes through
    stage.stop("agent")?;
    let made = read_outbox(&stage.outbox("agent"))?;
    ensure!(made.unsent == 0, "{} rows are still in the outbox", made.unsent);
    ensure!(made.identities.len() > 10, "the agent made {} events only", made.identities.len());
    stage.until_equal(&made.identities).await?;
    the_stores_hold_what_the_topics_do(&stage).await?;

    stage.stop("up")?;
    stage.must_equal(&made.identities).await.context("after the server has drained")
}

async fn the_stores_hold_what_the_topics_do(stage: &Stage) -> anyhow::Result<()> {
    let starts = stage.events(Family::ProcessEvent).await?;
    let starts =
        starts.iter().filter(|row| row.text("event_type") == Some(event_type::PROCESS_STARTED)).count();
    stage.must_store_starts(starts).await?;
    let columns = stage
        .postgres
        .texts(
            "SELECT column_name::text FROM information_schema.columns \
             WHERE table_name = 'program_starts' AND table_schema = current_schema() ORDER BY ordinal_position",
        )
        .await?;
    ensure!(columns == ["id", "timestamp", "username", "process_name", "agent_id"], "columns {columns:?}");
    let measured = stage.events(Family::HostMetrics).await?;
    let measured =
        measured.iter().filter(|row| row.text("event_type") == Some(event_type::CPU_USAGE)).count();
    stage
        .until("every processor reading is in InfluxDB", PATIENCE, async || {
            let points: usize = stage.influx.values("host_metrics", "cpu_percent").await?.values().sum();
            ensure!(points == measured, "{points} of {measured}");
            Ok(true)
        })
        .await
}

/// A program copied to, and started from, a temporary folder. Dropping it ends it.
struct Provoked {
    name: String,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Provoked {
    fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("varta-provoked-").tempdir_in("/tmp")?;
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let name = format!("viewer-{}", &unique[..6]);
        let program = folder.path().join(&name);
        fs_err::copy("/bin/sleep", &program)?;
        let child =
            Command::new(&program).arg("300").stdin(Stdio::null()).spawn().context("starting the copy")?;
        Ok(Self { name, child, _folder: folder })
    }
}

impl Drop for Provoked {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

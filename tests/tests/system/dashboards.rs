//! Two machines bring a day that is long past; every panel of every dashboard then has something to show, and the
//! report of that day tells it.

mod panels;

use std::process::Command;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Days, NaiveDate, Utc};
use schemas::event::event_type;
use schemas::mqtt;
use serde_json::{Value, json};

use crate::stage::{Options, PATIENCE, Program, Sender, Stage, blocking, text};
use panels::{Asked, Range};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
/// Minutes of the day that are sent. Three hours close; in what is begun of the fourth nobody is active, so that the
/// sums are the same whether it is told, as incomplete, or not yet.
const MINUTES: i64 = 183;
/// Minutes with input.
const ACTIVE: i64 = 180;
/// Events in one message; it stays far below the limit of its size.
const MESSAGE: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_has_rows_and_the_report_tells_the_day() -> anyhow::Result<()> {
    let stage = Stage::new("dashboards").await?;
    stage.start_server(&Options::default())?;
    stage
        .until("the bridge listens", PATIENCE, async || {
            Ok(stage.records(&stage.topics().raw()).is_ok_and(|clocks| !clocks.is_empty()))
        })
        .await?;
    let day = Utc::now().date_naive() - Days::new(2);
    let agents = [uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string()];
    for (agent, host) in agents.iter().zip(["pc-one", "pc-two"]) {
        let mut sender = Sender::connect(&stage, agent)?;
        for events in the_day(agent, host, day)?.chunks(MESSAGE) {
            sender.publish(&mqtt::batch_topic(agent), Value::from(events).to_string()).await?;
        }
    }
    stage
        .until(
            "the finding is in Postgres",
            PATIENCE,
            async || Ok(stage.postgres.count("alerts").await? >= 2),
        )
        .await?;
    judge(&stage).await?;

    let range = Range { from: midnight(day)?, to: Utc::now(), agent: agents[0].clone() };
    let mut asked = panels::all(&range)?;
    ensure!(asked.len() > 30, "{} queries only", asked.len());
    stage
        .until("every panel has rows", PATIENCE, async || {
            let mut empty = Vec::new();
            for panel in std::mem::take(&mut asked) {
                if let Err(why) = panel.must_have_rows(&stage).await {
                    empty.push((panel, why));
                }
            }
            let told: Vec<String> =
                empty.iter().map(|(panel, why)| format!("{}: {why:#}", panel.name)).collect();
            asked = empty.into_iter().map(|(panel, _): (Asked, _)| panel).collect();
            ensure!(told.is_empty(), "{}", told.join("\n"));
            Ok(true)
        })
        .await?;

    the_report_tells_the_day(&stage, day, &agents[0]).await?;
    stage.stop("up")
}

fn midnight(day: NaiveDate) -> anyhow::Result<DateTime<Utc>> {
    Ok(day.and_hms_opt(0, 0, 0).context("a day has a midnight")?.and_utc())
}

/// What an agent tells from 9 o'clock on: each minute a reading of the machine and of its user, now and
/// then a start of a program, once from a temporary folder.
fn the_day(agent: &str, host: &str, day: NaiveDate) -> anyhow::Result<Vec<Value>> {
    let nine = midnight(day)?.timestamp_micros() + 9 * 60 * MINUTE;
    let mut events = Vec::new();
    let mut tell = |at: i64, event_type: &str, user: Option<&str>, payload: Value| {
        events.push(json!({
            "agent_id": agent, "session": nine, "lane": "normal", "seq": events.len(), "event_time": nine + at,
            "event_type": event_type, "source": "test/hand", "host": host, "user": user, "replayed": true,
            "payload": payload,
        }));
    };
    let about = json!({ "agent_version": "1.0", "os": "linux", "os_version": "12", "interval_s": 60.0 });
    tell(0, event_type::AGENT_STARTED, None, about);
    for minute in 0..MINUTES {
        let at = minute * MINUTE + SECOND;
        let busy = (minute % 50) as f64;
        tell(at, event_type::CPU_USAGE, None, json!({ "cpu_percent": busy, "cpu_count": 4, "load_1": 0.5 }));
        let memory = json!({ "mem_used_bytes": 4_i64 << 30, "mem_total_bytes": 16_i64 << 30 });
        tell(at + 1, event_type::MEM_USAGE, None, memory);
        let disk = json!({ "disk": "/", "disk_used_bytes": 70_i64 << 30, "disk_total_bytes": 100_i64 << 30 });
        tell(at + 2, event_type::DISK_USAGE, None, disk);
        let net =
            json!({ "net_interface": "eth0", "net_rx_bytes_per_s": 1000.0, "net_tx_bytes_per_s": 100.0 });
        tell(at + 3, event_type::NET_USAGE, None, net);
        let active = json!({ "mouse": true, "keyboard": true, "mouse_events": 5, "keyboard_events": 50, "active_s": 30.0 });
        tell(at + 4, event_type::USER_ACTIVITY, Some("alice"), active);
        if minute % 10 == 0 && minute < ACTIVE {
            let start = json!({ "pid": 100 + minute, "name": "chrome", "path": "/usr/bin/chrome" });
            tell(at + 5, event_type::PROCESS_STARTED, Some("alice"), start);
            let health = json!({
                "interval_s": 60.0, "queue_rows": minute, "queue_bytes": 1000, "queue_limit_bytes": 1_000_000,
                "shed_total": 0, "cpu_percent": 0.2, "memory_bytes": 12_000_000,
            });
            tell(at + 6, event_type::AGENT_HEALTH, None, health);
        }
        if minute == 30 {
            let start = json!({ "pid": 99, "name": "invoice", "path": "/tmp/invoice" });
            tell(at + 7, event_type::PROCESS_STARTED, Some("alice"), start);
        }
    }
    Ok(events)
}

/// What a person says of a finding; how it gets here from `varta.feedback` is another scenario's.
async fn judge(stage: &Stage) -> anyhow::Result<()> {
    let judged = stage
        .postgres
        .texts(
            "insert into alert_feedback (alert_id, author, verdict, given_at) \
             select finding_uid, 'ann', 'tp', now() from alerts returning alert_id",
        )
        .await?;
    ensure!(!judged.is_empty(), "nothing to judge");
    Ok(())
}

async fn the_report_tells_the_day(stage: &Stage, day: NaiveDate, agent: &str) -> anyhow::Result<()> {
    stage
        .until("the reports of the day are stored", PATIENCE, async || {
            let query = format!(
                "select scope || ' ' || (body #>> '{{activity,active_s}}') from reports \
                 where kind = 'day' and period_start = '{day}' and scope <> 'agent' order by 1"
            );
            // three full hours on two machines, with half of each minute
            let told = stage.postgres.texts(&query).await?;
            ensure!(told == ["fleet 10800", "user 10800"], "{told:?}");
            Ok(true)
        })
        .await?;
    let page = stage.folder.join("report.html");
    let day = day.to_string();
    let written =
        report(stage, &["--day", &day, "--agent", agent, "--format", "html", "--out", text(&page)?])?;
    ensure!(written.is_empty(), "with --out nothing is printed");
    let page = fs_err::read_to_string(&page)?;
    ensure!(
        page.contains("pc-one") && page.matches("<svg").count() >= 4 && !page.contains("<script"),
        "{page}"
    );
    let json: Value =
        serde_json::from_str(&report(stage, &["--day", &day, "--user", "alice", "--format", "json"])?)?;
    ensure!(json["programs"]["top"][0]["name"] == "chrome", "{json:#}");
    let text = report(stage, &["--week", &day])?;
    ensure!(text.contains("suspicious-path") && text.contains("6 of 6"), "{text}");
    Ok(())
}

/// What `varta report` prints.
fn report(stage: &Stage, arguments: &[&str]) -> anyhow::Result<String> {
    let config = stage.folder.join("up.toml");
    let mut command = Command::new(Program::Varta.path()?);
    command.args(["--config", text(&config)?, "report"]).args(arguments);
    let output = blocking(|| command.output())?;
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

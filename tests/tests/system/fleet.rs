//! The same new program on five machines: one alert about all of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use schemas::event::event_type;
use schemas::mqtt;
use serde_json::{Value, json};

use crate::stage::{Options, PATIENCE, Sender, Stage};

const RULE: &str = "same-new-program-on-many-machines";
const MACHINES: usize = 5;
/// A window ends at a minute, its partition's time is told at a minute, and half a minute is waited for what is under way.
const TOLD_WITHIN: Duration = Duration::from_mins(6);

#[tokio::test(flavor = "multi_thread")]
async fn the_same_new_program_on_five_machines_is_told_once() -> anyhow::Result<()> {
    let stage = Stage::new("fleet").await?;
    stage.start_server(&Options::default())?;
    stage
        .until("the server has created the topics", PATIENCE, async || {
            Ok(stage.records(&stage.topics().raw()).is_ok_and(|clocks| !clocks.is_empty()))
        })
        .await?;
    let began = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as i64;
    let mut agents = Vec::new();
    for number in 0..MACHINES {
        let agent = uuid::Uuid::new_v4().to_string();
        let mut sender = Sender::connect(&stage, &agent)?;
        let topic = mqtt::event_topic(&agent, event_type::PROCESS_STARTED);
        sender.publish(&topic, start(&agent, began, 0, "brought").to_string()).await?;
        if number > 0 {
            // one machine less
            sender.publish(&topic, start(&agent, began, 1, "almost").to_string()).await?;
        }
        agents.push(agent);
    }
    stage
        .until("the fleet's alert is on the topic", TOLD_WITHIN, async || {
            Ok(stage.alerts().await?.iter().any(|alert| alert.text("rule_id") == Some(RULE)))
        })
        .await?;
    stage
        .until("the alert is in Postgres", PATIENCE, async || {
            let query = format!("SELECT message FROM alerts WHERE rule_id = '{RULE}'");
            let told = stage.postgres.texts(&query).await?;
            ensure!(told.len() == 1 && told[0].starts_with("brought started on 5 machines"), "{told:?}");
            Ok(true)
        })
        .await?;
    stage.stop("up")?;
    let alerts = stage.alerts().await?;
    let of_fleet: Vec<_> = alerts.iter().filter(|alert| alert.text("rule_id") == Some(RULE)).collect();
    ensure!(of_fleet.len() == 1, "{} alerts", of_fleet.len());
    ensure!(of_fleet[0].text("agent_id") == Some("fleet"));
    let evidence: Vec<Value> = serde_json::from_str(of_fleet[0].text("evidence").unwrap_or_default())?;
    for agent in &agents {
        let of_agent = evidence.iter().filter(|row| row["agent_id"] == agent.as_str()).count();
        ensure!(of_agent == 1, "{of_agent} rows of {agent} in {evidence:?}");
    }
    Ok(())
}

/// A program that the agent has never seen before starts, `seq` seconds after `began` (µs).
fn start(agent: &str, began: i64, seq: i64, program: &str) -> Value {
    json!({
        "agent_id": agent, "session": began, "lane": "normal", "seq": seq,
        "event_time": began + seq * 1_000_000, "event_type": event_type::PROCESS_STARTED, "source": "test/hand",
        "host": format!("host-{agent}"), "user": "ann", "replayed": false,
        "payload": { "pid": 100 + seq, "name": program, "path": format!("/usr/bin/{program}"), "first_seen": true },
    })
}

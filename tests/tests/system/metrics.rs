//! What Prometheus reads from a running server: every metric of the job that README lists.

use std::collections::BTreeSet;
use std::net::TcpListener;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::stage::{Options, PATIENCE, Sender, Stage};

const MINUTE: i64 = 60_000_000;
const SESSION: i64 = 29_333_333 * MINUTE;

/// These need what a short scenario on healthy servers does not bring: a rule that drops rows, a finding that is held
/// back or forgotten, a state that was written anew.
const RARE: [&str; 4] = [
    "varta_processors_dropped_rows_total",
    "varta_processors_suppressed_total",
    "varta_processors_rule_state_dropped_total",
    "varta_processors_state_generations_total",
];

/// Names in the first column of README's tables.
fn listed() -> anyhow::Result<BTreeSet<String>> {
    let readme = fs_err::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"))?;
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `varta_processors_"));
    let names = rows.filter_map(|row| row.split_once('`').map(|(name, _)| name));
    Ok(names.map(|name| format!("varta_processors_{name}")).collect())
}

/// Names of all samples, histograms by the name that they are described by.
async fn scraped(listen: &str) -> anyhow::Result<BTreeSet<String>> {
    let text = reqwest::get(format!("http://{listen}/metrics")).await?.text().await?;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let names = samples.filter_map(|line| line.split([' ', '{']).next());
    Ok(names.map(|name| name.strip_suffix("_count").unwrap_or(name).to_owned()).collect())
}

fn event(agent: &str, seq: i64, at: i64, event_type: &str, payload: &Value) -> String {
    json!({
        "agent_id": agent, "session": SESSION, "lane": "normal", "seq": seq, "event_time": SESSION + at,
        "event_type": event_type, "source": "test/hand", "host": "hand-made", "user": "eve", "replayed": false,
        "payload": payload,
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_job_that_is_listed_can_be_scraped() -> anyhow::Result<()> {
    let listed = listed()?;
    ensure!(listed.len() > 30, "README lists {listed:?}");
    let stage = Stage::new("metrics").await?;
    let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    stage.start_server(&Options { listen: listen.clone(), ..Options::default() })?;
    stage
        .until("the bridge has subscribed", PATIENCE, async || {
            Ok(!stage.records(&stage.topics().raw())?.is_empty())
        })
        .await?;
    let agent = uuid::Uuid::new_v4().to_string();
    let mut sender = Sender::connect(&stage, &agent)?;
    // three minutes of event time, so that two windows end
    for seq in 0..18 {
        let (event_type, payload) = match seq % 3 {
            0 => (
                "process_started",
                json!({ "pid": 7, "name": "x", "path": r"C:\Users\eve\AppData\Local\Temp\x.exe" }),
            ),
            1 => ("agent_health", json!({ "interval_s": 10.0, "lanes": r#"["normal"]"# })),
            _ => ("cpu_usage", json!({ "cpu_percent": 12.5 })),
        };
        let text = event(&agent, seq, seq * MINUTE / 6, event_type, &payload);
        sender.publish(&schemas::mqtt::event_topic(&agent, event_type), text).await?;
    }
    stage
        .until("each of them is there", PATIENCE, async || {
            let found = scraped(&listen).await?;
            let missing: Vec<_> =
                listed.difference(&found).filter(|name| !RARE.contains(&name.as_str())).collect();
            ensure!(missing.is_empty(), "{missing:?} cannot be scraped");
            Ok(true)
        })
        .await?;
    stage.stop("up")
}

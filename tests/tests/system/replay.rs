//! Recorded Windows events through `varta replay`: every line accounted for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use schemas::event::event_type;
use schemas::family::Family;
use serde_json::{Value, json};
use tests::audit::Row;

use crate::stage::{Options, PATIENCE, Program, Stage, blocking, text};

fn sysmon(id: u32, host: &str, second: u32, fields: &Value) -> String {
    let mut record = json!({
        "EventID": id, "Channel": "Microsoft-Windows-Sysmon/Operational", "Hostname": host,
        "UtcTime": format!("2020-06-10 02:51:{second:02}.100"), "User": "LAB\\ann", "ProcessId": "4711",
    });
    merge(&mut record, fields);
    record.to_string()
}

fn security(id: u32, host: &str, second: u32, fields: &Value) -> String {
    let mut record = json!({
        "EventID": id, "Channel": "Security", "Hostname": host,
        "@timestamp": format!("2020-06-10T02:51:{second:02}.200Z"), "SubjectUserName": "ann",
    });
    merge(&mut record, fields);
    record.to_string()
}

fn merge(record: &mut Value, fields: &Value) {
    if let (Some(record), Some(fields)) = (record.as_object_mut(), fields.as_object()) {
        record.extend(fields.clone());
    }
}

/// Eight lines that are events, four that are not.
fn lines() -> Vec<String> {
    let temp = r"C:\Users\ann\AppData\Local\Temp\invoice.exe";
    let fake = r"C:\Users\Public\svchost.exe";
    vec![
        sysmon(1, "WS1.lab", 1, &json!({ "Image": temp, "CommandLine": temp, "ParentImage": r"C:\Windows\explorer.exe", "ParentProcessId": 7 })),
        sysmon(3, "WS1.lab", 2, &json!({
            "Image": temp, "Initiated": "true", "Protocol": "tcp", "SourceIp": "10.0.0.5", "SourcePort": "50000",
            "DestinationIp": "203.0.113.9", "DestinationPort": "443",
        })),
        sysmon(11, "WS1.lab", 3, &json!({ "Image": temp, "TargetFilename": r"C:\Users\ann\x.dat" })),
        sysmon(5, "WS1.lab", 4, &json!({ "Image": temp })),
        security(4688, "WS2.lab", 1, &json!({ "NewProcessName": fake, "NewProcessId": "0x1f4", "ProcessId": "0x4" })),
        security(4689, "WS2.lab", 2, &json!({ "ProcessName": fake, "ProcessId": "0x1f4", "Status": "0x0" })),
        security(4688, "WS2.lab", 3, &json!({ "NewProcessName": r"C:\Windows\System32\svchost.exe", "NewProcessId": "0x1f8" })),
        sysmon(1, "WS2.lab", 4, &json!({ "Image": r"C:\Program Files\Editor\edit.exe" })),
        "this is no JSON".to_owned(),
        sysmon(7, "WS1.lab", 5, &json!({ "Image": temp })),
        sysmon(11, "WS1.lab", 6, &json!({ "Image": temp })),
        r#"{"EventID":5,"Channel":"Microsoft-Windows-Sysmon/Operational","UtcTime":"2020-06-10 02:51:10.116","Image":"C:\\a.exe"}"#
            .to_owned(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_recording_is_accounted_for() -> anyhow::Result<()> {
    let stage = Stage::new("replay").await?;
    stage.start_server(&Options::default())?;
    let recording = stage.folder.join("recording.ndjson");
    fs_err::write(&recording, lines().join("\n"))?;

    let said = replay(&stage, &recording)?;
    ensure!(said.contains("12 lines: 8 events of 2 hosts, 4 refused"), "it says:\n{said}");
    ensure!(said.contains("10 events confirmed"), "two agents started and eight events; it says:\n{said}");
    for reason in ["not a JSON object", "event 7", "no TargetFilename", "no Hostname"] {
        ensure!(said.contains(reason), "{reason:?} is not among the reasons:\n{said}");
    }
    the_counts_are(
        &stage,
        &[
            (Family::AgentStatus, 2),
            (Family::ProcessEvent, 6),
            (Family::NetworkEvent, 1),
            (Family::FileEvent, 1),
        ],
    )
    .await?;
    let starts = stage.events(Family::ProcessEvent).await?;
    let first =
        starts.iter().find(|row| row.text("name") == Some("invoice.exe")).context("the first start")?;
    ensure!(first.long("event_time") == Some(1_591_757_461_100_000), "times are kept: {first:?}");
    ensure!(
        first.text("host") == Some("WS1.lab")
            && first.text("event_type") == Some(event_type::PROCESS_STARTED)
    );
    ensure!(first.cells.get("replayed") == Some(&tests::audit::Cell::Boolean(true)), "{first:?}");
    alerts_name(
        &stage,
        &[
            ("suspicious-path", "invoice.exe"),
            ("suspicious-path-connects", "203.0.113.9"),
            ("masquerading-windows", r"Public\\svchost.exe"),
        ],
    )
    .await?;
    ensure!(tapped(&stage, "name = 'invoice.exe' AND event_type = 'process_started'")? == 1);
    ensure!(tapped(&stage, "pid < 0")? == 0);
    stage.stop("up")
}

/// Rows of process events that `varta tap --where` prints.
fn tapped(stage: &Stage, condition: &str) -> anyhow::Result<usize> {
    let output = blocking(|| {
        Command::new(Program::Varta.path()?)
            .arg("--config")
            .arg(stage.folder.join("up.toml"))
            .args(["tap", "events.process_event", "--from-start", "--to-end", "--where", condition])
            .output()
            .context("running varta tap")
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tap ended with {} and said:\n{said}", output.status);
    Ok(String::from_utf8(output.stdout)?.lines().count())
}

/// The recordings of real attacks, where this machine has them.
#[tokio::test(flavor = "multi_thread")]
async fn the_recorded_attacks_are_accounted_for() -> anyhow::Result<()> {
    const FILE: &str = "windows-atomic-process-events.ndjson.gz";
    let recording = std::env::var_os("VARTA_RECORDINGS").map(|folder| PathBuf::from(folder).join(FILE));
    let Some(recording) = recording.filter(|file| file.is_file()) else {
        // past the capture of the test harness: a person should see that something was left out
        writeln!(
            std::io::stderr(),
            "SKIPPED recorded attacks: VARTA_RECORDINGS names no folder with {FILE}"
        )?;
        return Ok(());
    };
    let stage = Stage::new("attacks").await?;
    stage.start_server(&Options::default())?;
    let said = replay(&stage, &recording)?;
    let (lines, events, hosts, refused) =
        summary(&said).with_context(|| format!("no summary in:\n{said}"))?;
    ensure!(lines == events + refused, "{lines} lines, {events} events, {refused} refused");
    stage
        .until("every event is delivered once", 2 * PATIENCE, async || {
            let mut delivered = 0;
            for family in Family::ALL {
                delivered += stage.records(&stage.topics().events(family))?.len();
            }
            let letters = stage.records(&stage.topics().dlq())?.len();
            ensure!(
                delivered + letters == events + hosts,
                "{delivered} and {letters} letters of {events} and {hosts} starts"
            );
            Ok(true)
        })
        .await?;
    stage.must_equal_raw().await?;
    alerts_name(&stage, &[("suspicious-path", "")]).await?;
    let mut found = BTreeMap::<(String, String), usize>::new();
    for alert in stage.alerts().await? {
        let rule = alert.text("rule_id").context("an alert names its rule")?.to_owned();
        let recording = recording_of(&alert).with_context(|| format!("{rule} names no recording"))?;
        *found.entry((rule, recording)).or_default() += 1;
    }
    let mut said = format!("recorded attacks: {lines} lines, {events} events, {refused} refused; alerts:");
    for ((rule, recording), count) in &found {
        write!(said, "\n  {count:>3} {rule:<20} {recording}")?;
    }
    writeln!(std::io::stderr(), "{said}")?;
    stage.stop("up")
}

/// Which recording the first row of an alert's evidence came from.
fn recording_of(alert: &Row) -> Option<String> {
    let evidence: Value = serde_json::from_str(alert.text("evidence")?).ok()?;
    let extra: Value = serde_json::from_str(evidence[0]["extra"].as_str()?).ok()?;
    Some(extra["recording"].as_str()?.to_owned())
}

/// `N lines: N events of N hosts, N refused`.
fn summary(said: &str) -> Option<(usize, usize, usize, usize)> {
    let line = said.lines().find(|line| line.contains(" lines: "))?;
    let numbers: Vec<usize> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [lines, events, hosts, refused] = numbers.as_slice() else {
        return None;
    };
    Some((*lines, *events, *hosts, *refused))
}

fn replay(stage: &Stage, recording: &Path) -> anyhow::Result<String> {
    let broker = stage.stack.variables()?;
    let output = blocking(|| {
        Command::new(Program::Varta.path()?)
            .arg("--config")
            .arg(stage.folder.join("up.toml"))
            .args(["replay", text(recording)?])
            .env("VARTA_MQTT_USER_AGENT", broker.get("VARTA_MQTT_USER_AGENT")?)
            .env("VARTA_MQTT_PASSWORD_AGENT", broker.get("VARTA_MQTT_PASSWORD_AGENT")?)
            .output()
            .context("running varta replay")
    })?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "replay ended with {} and said:\n{said}", output.status);
    Ok(said)
}

async fn the_counts_are(stage: &Stage, expected: &[(Family, usize)]) -> anyhow::Result<()> {
    stage
        .until("every event is delivered", PATIENCE, async || {
            for (family, count) in expected {
                let found = stage.records(&stage.topics().events(*family))?.len();
                ensure!(found == *count, "{}: {found} of {count}", family.name());
            }
            Ok(true)
        })
        .await
}

async fn alerts_name(stage: &Stage, expected: &[(&str, &str)]) -> anyhow::Result<()> {
    stage
        .until("the rules have seen it", PATIENCE, async || {
            let alerts = stage.alerts().await?;
            for (rule, word) in expected {
                let names = |alert: &Row| {
                    alert.text("rule_id") == Some(rule)
                        && alert.text("evidence").is_some_and(|rows| rows.contains(word))
                };
                ensure!(alerts.iter().any(names), "no alert of {rule} about {word} among {}", alerts.len());
            }
            Ok(true)
        })
        .await
}

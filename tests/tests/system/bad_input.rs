//! Bad input: each a clear dead letter with its original bytes, and the rest is delivered.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use schemas::event::event_type;
use schemas::family::Family;
use schemas::headers::dead_letter::{ORIGIN, REASON, STAGE};
use schemas::mqtt;
use serde_json::{Value, json};
use tests::audit::{Row, TopicRecord};

use crate::stage::{Options, PATIENCE, Sender, Stage, blocking};

const SESSION: i64 = 1_760_000_000_000_000;

/// One event of the normal lane as an agent writes it.
fn event(agent: &str, seq: i64, event_type: &str, payload: &Value) -> Value {
    json!({
        "agent_id": agent, "session": SESSION, "lane": "normal", "seq": seq,
        "event_time": SESSION + seq * 1000, "event_type": event_type, "source": "test/hand",
        "host": "hand-made", "user": null, "replayed": false, "payload": payload,
    })
}

fn cpu(agent: &str, seq: i64) -> Value {
    event(agent, seq, event_type::CPU_USAGE, &json!({ "cpu_percent": 12.5 }))
}

/// A message that must end as one dead letter.
struct Bad {
    what: &'static str,
    topic: String,
    bytes: Vec<u8>,
    /// A word that the reason must hold.
    reason: &'static str,
    /// The number that must be explained by a marker, where the message tells it.
    seq: Option<i64>,
}

fn bad_messages(agent: &str) -> Vec<Bad> {
    let topic = mqtt::event_topic(agent, event_type::CPU_USAGE);
    let bad = |what, bytes: Vec<u8>, reason, seq| Bad { what, topic: topic.clone(), bytes, reason, seq };
    let changed = |seq, change: &dyn Fn(&mut Value)| {
        let mut event = cpu(agent, seq);
        change(&mut event);
        event.to_string().into_bytes()
    };
    let mut invalid_text = cpu(agent, 25).to_string().replace("hand-made", "hand-ma?de").into_bytes();
    if let Some(byte) = invalid_text.iter_mut().find(|byte| **byte == b'?') {
        *byte = 0xff;
    }
    vec![
        bad(
            "malformed JSON",
            br#"{"event_time": 1, "source": "x", "payload": {"cpu_percent":"#.to_vec(),
            "JSON",
            None,
        ),
        bad("not an event", b"42".to_vec(), "expected an event", None),
        bad(
            "a wrong type",
            changed(21, &|event| event["payload"]["cpu_percent"] = json!("much")),
            "payload.cpu_percent",
            Some(21),
        ),
        bad(
            "a missing time",
            changed(22, &|event| drop(event.as_object_mut().and_then(|e| e.remove("event_time")))),
            "event_time",
            Some(22),
        ),
        bad("a missing source", changed(23, &|event| event["source"] = Value::Null), "source", Some(23)),
        bad(
            "an event of 1 MB",
            changed(24, &|event| event["payload"]["note"] = json!("x".repeat(1 << 20))),
            "bytes",
            Some(24),
        ),
        bad("invalid UTF-8", invalid_text, "UTF-8", Some(25)),
        bad(
            "another agent's id",
            changed(26, &|event| event["agent_id"] = json!("00000000-0000-4000-8000-00000000beef")),
            "agent",
            None,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_become_dead_letters_and_the_rest_is_delivered() -> anyhow::Result<()> {
    let stage = Stage::new("bad-input").await?;
    stage.start_server(&Options::default())?;
    let agent = uuid::Uuid::new_v4().to_string();
    let mut sender = Sender::connect(&stage, &agent)?;
    stage
        .until("the server has created the topics", PATIENCE, async || {
            Ok(stage.records(&stage.topics().raw()).is_ok_and(|clocks| !clocks.is_empty()))
        })
        .await?;

    let bad = bad_messages(&agent);
    sender.publish(&mqtt::event_topic(&agent, event_type::CPU_USAGE), cpu(&agent, 1).to_string()).await?;
    for message in &bad {
        sender.publish(&message.topic, message.bytes.clone()).await?;
    }
    // good ones around a bad one in the same message
    let mixed = json!([
        cpu(&agent, 2),
        event(&agent, 27, event_type::CPU_USAGE, &json!({ "cpu_percent": [] })),
        cpu(&agent, 3)
    ]);
    sender.publish(&mqtt::batch_topic(&agent), mixed.to_string()).await?;
    // nobody has defined this type
    let unknown = event(&agent, 4, "coffee_made", &json!({ "cups": 2, "by": { "name": "ann" } }));
    sender.publish(&mqtt::event_topic(&agent, "coffee_made"), unknown.to_string()).await?;
    // an outsider without session and number
    let foreign = json!({ "event_time": "2026-01-02T03:04:05Z", "source": "outsider", "payload": { "cpu_percent": 1 } });
    sender.publish(&mqtt::event_topic(&agent, event_type::CPU_USAGE), foreign.to_string()).await?;

    stage
        .until("each bad message is a dead letter", PATIENCE, async || {
            let letters = stage.records(&stage.topics().dlq())?;
            ensure!(
                letters.len() == bad.len() + 1,
                "{} letters of {}: {}",
                letters.len(),
                bad.len() + 1,
                describe(&letters)
            );
            Ok(true)
        })
        .await?;
    let letters = stage.records(&stage.topics().dlq())?;
    for message in &bad {
        let letter = letters.iter().find(|letter| letter.value == message.bytes);
        let letter = letter.with_context(|| format!("{}: no letter holds its bytes", message.what))?;
        explained(letter, "bridge", &message.topic, message.reason).context(message.what)?;
    }
    let in_batch =
        letters.iter().find(|letter| letter.headers.get(ORIGIN) == Some(&mqtt::batch_topic(&agent)));
    let in_batch = in_batch.context("no letter from the array")?;
    explained(in_batch, "bridge", &mqtt::batch_topic(&agent), "payload.cpu_percent")?;
    let alone: Value =
        serde_json::from_slice(&in_batch.value).context("the letter holds the one bad event")?;
    ensure!(alone["seq"] == 27, "the letter from the array holds {alone}");

    the_good_ones_are_delivered(&stage, &agent).await?;
    the_holes_are_explained(&stage, &agent, &bad).await?;
    the_stranger_is_reported(&stage, &agent).await?;
    stage.stop("up")
}

async fn the_good_ones_are_delivered(stage: &Stage, agent: &str) -> anyhow::Result<()> {
    stage
        .until("the good events are delivered", PATIENCE, async || {
            let rows = stage.events(Family::HostMetrics).await?;
            let own: Vec<i64> =
                rows.iter().filter_map(|row| row.long("seq")).filter(|seq| *seq > 0).collect();
            ensure!(own == [1, 2, 3], "numbers {own:?}");
            let foreign: Vec<&Row> = rows.iter().filter(|row| row.text("lane") == Some("foreign")).collect();
            ensure!(foreign.len() == 1, "{} foreign events", foreign.len());
            ensure!(foreign[0].text("event_id").is_some(), "no id was minted");
            ensure!(foreign[0].text("agent_id") == Some(agent), "{foreign:?}");
            Ok(true)
        })
        .await?;
    stage
        .until("the unknown type is a custom event", PATIENCE, async || {
            let rows = stage.events(Family::CustomEvent).await?;
            let coffee = rows.iter().find(|row| row.text("event_type") == Some("coffee_made"));
            let payload: Value =
                serde_json::from_str(coffee.and_then(|row| row.text("payload")).context("not yet")?)?;
            ensure!(payload == json!({ "cups": 2, "by": { "name": "ann" } }), "payload {payload}");
            Ok(true)
        })
        .await?;
    stage
        .until("they are in the lake", PATIENCE, async || Ok(stage.table_rows("host_metrics").await? == 4))
        .await
}

async fn the_holes_are_explained(stage: &Stage, agent: &str, bad: &[Bad]) -> anyhow::Result<()> {
    let raw = stage.rows(&stage.topics().raw()).await?;
    let markers: BTreeMap<i64, &Row> = raw
        .iter()
        .filter(|row| row.record.ends_with("Rejected"))
        .filter_map(|row| Some((row.long("seq")?, row)))
        .collect();
    let expected: Vec<i64> = bad.iter().filter_map(|message| message.seq).chain([27]).collect();
    let marked: Vec<i64> = markers.keys().copied().collect();
    // what speaks for somebody else is not believed in its number either
    ensure!(marked == expected, "markers for {marked:?}, not for {expected:?}");
    for (seq, marker) in markers {
        ensure!(marker.text("agent_id") == Some(agent), "marker {seq}: {marker:?}");
        ensure!(
            marker.long("session") == Some(SESSION) && marker.text("lane") == Some("normal"),
            "{marker:?}"
        );
        ensure!(marker.text("reason").is_some_and(|reason| !reason.is_empty()), "marker {seq} has no reason");
    }
    Ok(())
}

async fn the_stranger_is_reported(stage: &Stage, agent: &str) -> anyhow::Result<()> {
    stage
        .until("the forged agent id is a security event", PATIENCE, async || {
            let rows = stage.events(Family::CustomEvent).await?;
            let report = rows.iter().find(|row| row.text("event_type") == Some(bridge_event()));
            let report = report.context("no event yet")?;
            ensure!(report.text("agent_id") == Some(agent), "{report:?}");
            ensure!(report.text("payload").is_some_and(|payload| payload.contains("beef")), "{report:?}");
            Ok(true)
        })
        .await?;
    stage
        .until("and an alert", PATIENCE, async || {
            let alerts = stage.alerts().await?;
            Ok(alerts.iter().any(|alert| alert.text("evidence").is_some_and(|rows| rows.contains("beef"))))
        })
        .await
}

/// What the bridge calls it on the topic.
fn bridge_event() -> &'static str {
    "bridge_agent_mismatch"
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_in_the_log_stops_nobody() -> anyhow::Result<()> {
    let stage = Stage::new("poison").await?;
    stage.start_server(&Options::default())?;
    let agent = uuid::Uuid::new_v4().to_string();
    let mut sender = Sender::connect(&stage, &agent)?;
    let topic = mqtt::event_topic(&agent, event_type::CPU_USAGE);
    stage
        .until("the server has created the topics", PATIENCE, async || {
            Ok(stage.records(&stage.topics().raw()).is_ok_and(|clocks| !clocks.is_empty()))
        })
        .await?;
    sender.publish(&topic, cpu(&agent, 1).to_string()).await?;
    let whole = first_framed(&stage, &agent).await?;

    let truncated = whole[..whole.len() / 2].to_vec();
    let mut longer = whole.clone();
    longer.extend(b"after the end");
    let mut unknown = whole.clone();
    unknown[1..5].copy_from_slice(&999_999_u32.to_be_bytes());
    let unframed = b"{\"not\":\"avro\"}".to_vec();
    let poison = [
        ("a truncated record", truncated),
        ("bytes after the end", longer),
        ("an unknown schema id", unknown),
        ("no frame", unframed),
        ("nothing at all", Vec::new()),
    ];
    blocking(|| append(&stage, &agent, poison.iter().map(|(_, bytes)| bytes.as_slice())))?;
    sender.publish(&topic, cpu(&agent, 2).to_string()).await?;

    stage
        .until("what comes after the poison is delivered, once", PATIENCE, async || {
            let rows = stage.events(Family::HostMetrics).await?;
            let numbers: Vec<_> = rows.iter().filter_map(|row| row.long("seq")).collect();
            ensure!(numbers == [1, 2], "numbers {numbers:?}");
            Ok(true)
        })
        .await?;
    stage
        .until("the lake has it too", PATIENCE, async || Ok(stage.table_rows("host_metrics").await? == 2))
        .await?;
    stage
        .until("each is a dead letter of the job", PATIENCE, async || {
            let letters = stage.records(&stage.topics().dlq())?;
            for (what, bytes) in &poison {
                let of_job =
                    |letter: &&TopicRecord| letter.headers.get(STAGE).is_some_and(|stage| stage == "core");
                let mine: Vec<_> =
                    letters.iter().filter(of_job).filter(|letter| &letter.value == bytes).collect();
                ensure!(
                    mine.len() == 1,
                    "{what}: {} letters of the job in {}",
                    mine.len(),
                    describe(&letters)
                );
                explained(mine[0], "core", &stage.topics().raw(), "").with_context(|| (*what).to_owned())?;
            }
            Ok(true)
        })
        .await?;
    stage.stop("up")
}

/// The bytes of the agent's first event in the raw topic.
async fn first_framed(stage: &Stage, agent: &str) -> anyhow::Result<Vec<u8>> {
    let mut found = None;
    stage
        .until("the first event is in the log", PATIENCE, async || {
            let records = stage.records(&stage.topics().raw())?;
            found = records.into_iter().find(|record| record.key == agent).map(|record| record.value);
            Ok(found.is_some())
        })
        .await?;
    found.context("just found")
}

/// Writes values into the raw topic as a broken bridge would.
fn append<'a>(stage: &Stage, key: &str, values: impl Iterator<Item = &'a [u8]>) -> anyhow::Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &stage.kafka)
        .set("partitioner", "murmur2")
        .set("acks", "all")
        .create()?;
    for value in values {
        let topic = stage.topics().raw();
        producer.send(BaseRecord::to(&topic).key(key).payload(value)).map_err(|(error, _)| error)?;
    }
    producer.flush(Duration::from_secs(20))?;
    Ok(())
}

fn explained(letter: &TopicRecord, stage: &str, origin: &str, reason: &str) -> anyhow::Result<()> {
    let header = |name: &str| letter.headers.get(name).with_context(|| format!("no header {name}"));
    ensure!(header(STAGE)? == stage, "stage {}", header(STAGE)?);
    ensure!(header(ORIGIN)?.starts_with(origin), "origin {}", header(ORIGIN)?);
    let found = header(REASON)?;
    ensure!(found.len() > 5 && found.contains(reason), "reason {found:?} does not say {reason:?}");
    Ok(())
}

fn describe(letters: &[TopicRecord]) -> String {
    let line = |letter: &TopicRecord| {
        let of = |name: &str| letter.headers.get(name).map_or("?", String::as_str);
        format!("\n  {} bytes, {} {}: {}", letter.value.len(), of(STAGE), of(ORIGIN), of(REASON))
    };
    letters.iter().map(line).collect()
}

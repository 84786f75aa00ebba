//! The sink before a broker that refuses messages.

use std::{sync::Arc, time::Duration};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{batch::Span, testing::World};

/// What a broker answers to a payload: a reason code of MQTT 5.
type Mood = fn(&str) -> u8;

pub(super) const NOT_AUTHORIZED: u8 = 0x87;
const PAYLOAD_FORMAT_INVALID: u8 = 0x99;
pub(super) const QUOTA_EXCEEDED: u8 = 0x97;

/// As much of MQTT 5 as a publisher needs. Remembers the payloads that it took.
pub(super) struct Broker {
    pub(super) port: u16,
    mood: Arc<Mutex<Mood>>,
    took: Arc<Mutex<Vec<String>>>,
}

impl Broker {
    /// `max` is the largest packet that it takes; with a larger one the client should not have come.
    pub(super) async fn start(mood: Mood, max: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mood, took) = (Arc::new(Mutex::new(mood)), Arc::new(Mutex::new(Vec::new())));
        let broker = Self { port, mood: Arc::clone(&mood), took: Arc::clone(&took) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&mood), max, Arc::clone(&took)));
            }
        });
        broker
    }

    pub(super) fn took(&self) -> Vec<Value> {
        self.took.lock().iter().map(|payload| serde_json::from_str(payload).unwrap()).collect()
    }
}

async fn serve(mut stream: TcpStream, mood: Arc<Mutex<Mood>>, max: u32, took: Arc<Mutex<Vec<String>>>) {
    while let Some((kind, body)) = packet(&mut stream).await {
        let answer = match kind >> 4 {
            // CONNACK with the largest packet as its one property.
            1 => [&[0x20, 8, 0, 0, 5, 0x27][..], &max.to_be_bytes()].concat(),
            3 => {
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let (id, payload) = (&body[2 + topic..4 + topic], &body[5 + topic..]);
                let payload = String::from_utf8(payload.to_vec()).unwrap();
                let reason = (mood.lock())(&payload);
                if reason == 0 {
                    took.lock().push(payload);
                }
                vec![0x40, 3, id[0], id[1], reason]
            }
            12 => vec![0xd0, 0],
            _ => return,
        };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

async fn packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await.ok()?;
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}

fn sink(broker: &Broker, world: &World, payloads: &[&str]) -> MqttSink {
    runtime::tls::install_crypto();
    let config = MqttConfig { port: broker.port, ..MqttConfig::default() };
    let letters = DeadLetters::open(&world.log, &world.topics, "mqtt").unwrap();
    let mut sink = MqttSink::new(config, letters, Health::new());
    sink.barred.retry = Duration::ZERO;
    let texts: Arc<StringArray> = Arc::new(StringArray::from(payloads.to_vec()));
    let rows = RecordBatch::try_from_iter([("message", texts as ArrayRef)]).unwrap();
    for (row, payload) in payloads.iter().enumerate() {
        let topic = if payload.contains("barred") { "alerts/a/low" } else { "alerts/a/high" };
        let payload = payload.as_bytes().to_vec();
        sink.messages.push(Message { topic: topic.to_owned(), payload, is_retained: false });
        let (topic, offset) = (world.topics.alerts(), row as i64);
        let rows = rows.clone();
        sink.origins.push(Origin { topic, partition: 0, offset, rows, row, barred_since: None });
    }
    let spans = vec![Span { partition: 0, from: 0, to: payloads.len() as i64 }];
    sink.pending.take(&mut batch(world, spans), &sink.dead);
    sink
}

/// Of nothing but offsets.
fn batch(world: &World, spans: Vec<Span>) -> Batch {
    Batch { topic: world.topics.alerts(), spans, rows: Vec::new(), plain: Vec::new(), poison: Vec::new() }
}

fn offsets(positions: &[Position]) -> Vec<i64> {
    positions.iter().map(|position| position.offset).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_the_broker_refuses_keeps_back_nobody() {
    let mood: Mood = |payload| match payload {
        payload if payload.contains("never") || payload.contains("[1]") => PAYLOAD_FORMAT_INVALID,
        _ => 0,
    };
    let (broker, world) = (Broker::start(mood, 1 << 20).await, World::new(1));
    let heavy = r#"{"message":"heavy","evidence":[1]}"#;
    let payloads = ["{\"n\":1}", "{\"n\":\"never\"}", "{\"n\":2}", heavy, "{\"n\":3}"];
    let mut sink = sink(&broker, &world, &payloads);
    sink.flush(Flush::Due).await.unwrap();
    assert!(sink.messages.is_empty() && sink.origins.is_empty());
    let took = broker.took();
    assert_eq!(took.len(), 4, "each once: {took:?}");
    let light = json!({ "message": "heavy", "evidence_omitted": true });
    for value in [json!({ "n": 1 }), json!({ "n": 2 }), json!({ "n": 3 }), light] {
        assert!(took.contains(&value), "{value} of {took:?}");
    }
    let letters = world.dead_letters();
    assert_eq!(letters.len(), 1);
    let letter = String::from_utf8_lossy(letters[0].value.as_ref().unwrap()).into_owned();
    assert!(letter.contains("never"), "{letter}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_that_the_broker_does_not_take_keeps_back_nobody() {
    let (broker, world) = (Broker::start(|_| 0, 200).await, World::new(1));
    let heavy = format!(r#"{{"message":"heavy","evidence":["{}"]}}"#, "x".repeat(500));
    let fat = format!(r#"{{"message":"{}"}}"#, "x".repeat(500));
    let mut sink = sink(&broker, &world, &["{\"n\":1}", &fat, &heavy, "{\"n\":2}"]);
    sink.flush(Flush::Due).await.unwrap();
    let took = broker.took();
    let light = json!({ "message": "heavy", "evidence_omitted": true });
    for value in [json!({ "n": 1 }), json!({ "n": 2 }), light] {
        assert!(took.contains(&value), "{value} of {took:?}");
    }
    assert_eq!(world.dead_letters().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_has_had_enough_is_waited_for() {
    let (broker, world) = (Broker::start(|_| QUOTA_EXCEEDED, 1 << 20).await, World::new(1));
    let mut sink = sink(&broker, &world, &["{\"n\":1}"]);
    let error = sink.flush(Flush::Due).await.unwrap_err();
    assert!(matches!(error, SinkError::Unavailable { .. }) && error.to_string().contains("Quota"), "{error}");
    assert_eq!((sink.messages.len(), world.dead_letters().len()), (1, 0));
}

/// Alerts on a topic that the access list forbids, between others that it does not.
const MIXED: [&str; 6] = [
    "{\"n\":1}",
    "{\"n\":\"barred 2\"}",
    "{\"n\":3}",
    "{\"n\":\"barred 4\",\"evidence\":[1]}",
    "{\"n\":\"barred 5\"}",
    "{\"n\":6}",
];
const BARS: Mood = |payload| if payload.contains("barred") { NOT_AUTHORIZED } else { 0 };

fn state(sink: &MqttSink) -> Option<runtime::health::State> {
    sink.barred.health.snapshot().remove("mqtt.access")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_access_list_forbids_waits_alone_until_it_is_mended() {
    let (broker, world) = (Broker::start(BARS, 1 << 20).await, World::new(1));
    let mut sink = sink(&broker, &world, &MIXED);
    for _ in 0..3 {
        // Nothing is stored past the first that waits: whoever comes next reads it again.
        assert_eq!(offsets(&sink.flush(Flush::Due).await.unwrap()), [1]);
        assert_eq!(broker.took(), [json!({ "n": 1 }), json!({ "n": 3 }), json!({ "n": 6 })], "each once");
        assert!(sink.due().is_some());
    }
    let told = format!("{:?}", state(&sink));
    assert!(told.contains("alerts/a/low: 3 alerts wait"), "{told}");
    // What comes meanwhile goes, and waits behind those of its topic.
    sink.barred.retry = Duration::from_mins(1);
    sink.pending.take(&mut batch(&world, vec![Span { partition: 0, from: 6, to: 9 }]), &sink.dead);
    assert_eq!(offsets(&sink.flush(Flush::Due).await.unwrap()), [1]);

    *broker.mood.lock() = |_| 0;
    sink.barred.retry = Duration::ZERO;
    sink.barred.retry_at = Instant::now();
    assert_eq!(offsets(&sink.flush(Flush::Due).await.unwrap()), [9]);
    let late: Vec<Value> = broker.took().drain(3..).map(|payload| payload["n"].clone()).collect();
    assert_eq!(late, ["barred 2", "barred 4", "barred 5"], "in their order, once");
    assert_eq!(state(&sink), Some(runtime::health::State::Ready));
    assert!(world.dead_letters().is_empty() && sink.due().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_access_list_forbids_for_too_long_is_a_dead_letter() {
    let (broker, world) = (Broker::start(BARS, 1 << 20).await, World::new(1));
    let mut sink = sink(&broker, &world, &MIXED);
    sink.barred = Barred::new(Duration::ZERO, Health::new());
    assert_eq!(offsets(&sink.flush(Flush::Due).await.unwrap()), [6]);
    let letters = world.dead_letters();
    assert_eq!(letters.len(), 3);
    let letter = String::from_utf8_lossy(letters[1].value.as_ref().unwrap()).into_owned();
    assert!(letter.contains("barred 4"), "{letter}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_an_access_list_is_bounded_and_goes_with_its_partition() {
    let (broker, world) = (Broker::start(BARS, 1 << 20).await, World::new(1));
    let many: Vec<String> = (0..1200).map(|n| format!("{{\"n\":\"barred {n}\"}}")).collect();
    let mut sink = sink(&broker, &world, &many.iter().map(String::as_str).collect::<Vec<_>>());
    sink.barred.retry = Duration::from_mins(1);
    assert_eq!(offsets(&sink.flush(Flush::Due).await.unwrap()), [200]);
    assert_eq!(world.dead_letters().len(), 200);
    sink.discard(&[TopicPartition::new(world.topics.alerts(), 0)]);
    assert!(sink.due().is_none() && sink.flush(Flush::All).await.unwrap().is_empty());
    assert!(broker.took().is_empty());
}

//! The sink before a broker that refuses messages.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::testing::World;

/// What a broker answers to a payload: a reason code of MQTT 5.
type Mood = fn(&str) -> u8;

/// As much of MQTT 5 as a publisher needs. Remembers the payloads that it took.
struct Broker {
    port: u16,
    took: Arc<Mutex<Vec<String>>>,
}

impl Broker {
    /// `max` is the largest packet that it takes; with a larger one the client should not have come.
    async fn start(mood: Mood, max: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let took = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&took);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, mood, max, Arc::clone(&shared)));
            }
        });
        Self { port, took }
    }

    fn took(&self) -> Vec<Value> {
        self.took.lock().iter().map(|payload| serde_json::from_str(payload).unwrap()).collect()
    }
}

async fn serve(mut stream: TcpStream, mood: Mood, max: u32, took: Arc<Mutex<Vec<String>>>) {
    while let Some((kind, body)) = packet(&mut stream).await {
        let answer = match kind >> 4 {
            // CONNACK with the largest packet as its one property.
            1 => [&[0x20, 8, 0, 0, 5, 0x27][..], &max.to_be_bytes()].concat(),
            3 => {
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let (id, payload) = (&body[2 + topic..4 + topic], &body[5 + topic..]);
                let payload = String::from_utf8(payload.to_vec()).unwrap();
                let reason = mood(&payload);
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
    let mut sink = MqttSink::new(config, DeadLetters::open(&world.log, &world.topics, "mqtt").unwrap());
    let texts: Arc<StringArray> = Arc::new(StringArray::from(payloads.to_vec()));
    let rows = RecordBatch::try_from_iter([("message", texts as ArrayRef)]).unwrap();
    for (row, payload) in payloads.iter().enumerate() {
        let (topic, payload) = ("alerts/a/high".to_owned(), payload.as_bytes().to_vec());
        sink.messages.push(Message { topic, payload, is_retained: false });
        let topic = world.topics.alerts();
        sink.origins.push(Origin { topic, partition: 0, offset: row as i64, rows: rows.clone(), row });
    }
    sink
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_the_broker_refuses_keeps_back_nobody() {
    // 0x87 not authorized, 0x99 payload format invalid
    let mood: Mood = |payload| match payload {
        payload if payload.contains("never") => 0x87,
        payload if payload.contains("[1]") => 0x99,
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
    // 0x97 quota exceeded
    let (broker, world) = (Broker::start(|_| 0x97, 1 << 20).await, World::new(1));
    let mut sink = sink(&broker, &world, &["{\"n\":1}"]);
    let error = sink.flush(Flush::Due).await.unwrap_err();
    assert!(matches!(error, SinkError::Unavailable { .. }) && error.to_string().contains("Quota"), "{error}");
    assert_eq!((sink.messages.len(), world.dead_letters().len()), (1, 0));
}

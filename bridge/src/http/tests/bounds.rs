//! Too much, too slow, half, and garbage.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use runtime::config::ByteSize;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::stand::{AGENT, Stand, event, read, seqs};

#[tokio::test]
async fn what_is_too_large_is_refused_however_it_is_packed() {
    let stand = Stand::new(|config| config.limits.body = ByteSize::kib(64)).await;
    let large = format!("[{}{}]", event(AGENT, 1), " ".repeat(70 << 10));
    assert_eq!(stand.post("/v1/events", &[], large.as_bytes()).await.status, 413);
    // Without a length, and with one that lies far beyond memory.
    let head = stand.head(0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    let chunked = format!("{head}{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    assert_eq!(stand.raw(chunked.as_bytes()).await.unwrap().status, 413);
    let mut stream = stand.connect().await;
    stream.write_all(stand.head(usize::MAX / 2).as_bytes()).await.unwrap();
    assert_eq!(read(&mut stream).await.unwrap().status, 413);
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![b' '; 32 << 20]).unwrap();
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 64 << 10);
    assert_eq!(stand.post("/v1/events", &["Content-Encoding: gzip"], &bomb).await.status, 413);
    assert_eq!(stand.written(), 0);
    let many = "1\n".repeat(10_001);
    let answer = stand.post("/v1/events", &["Content-Type: application/x-ndjson"], many.as_bytes()).await;
    assert_eq!(answer.status, 400);
    let head = format!("POST /v1/events HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100 << 10));
    assert_eq!(stand.raw(head.as_bytes()).await.unwrap().status, 431);
    stand.stop().await;
}

#[tokio::test]
async fn of_many_bad_events_a_few_are_named_and_all_are_counted() {
    let stand = Stand::new(|_| {}).await;
    let mut lines = "{}\n".repeat(9_999);
    lines.push_str(&event(AGENT, 1).to_string());
    let kind = ["Content-Type: application/x-ndjson"];
    let answer = stand.post("/v1/events", &kind, lines.as_bytes()).await;
    assert_eq!((answer.status, answer.body["events"].as_array().unwrap().len()), (400, 100));
    assert!(answer.body["error"].as_str().unwrap().contains("9999 of 10000"), "{}", answer.body["error"]);
    let answer = stand.post("/v1/events?partial=true", &kind, lines.as_bytes()).await;
    assert_eq!((answer.status, answer.body["refused"].as_array().unwrap().len()), (207, 100));
    assert_eq!((&answer.body["accepted"], &answer.body["refused_total"]), (&json!(1), &json!(9_999)));
    assert!(answer.body.to_string().len() < 100 * 400);
    stand.stop().await;
}

#[tokio::test]
async fn a_key_that_asks_too_often_waits_and_others_do_not() {
    let stand = Stand::new(|config| {
        config.limits.requests_per_second = 0.2;
        config.limits.burst = 2;
    })
    .await;
    assert_eq!(stand.events(&event(AGENT, 1)).await.status, 202);
    assert_eq!(stand.events(&event(AGENT, 2)).await.status, 202);
    let answer = stand.events(&event(AGENT, 3)).await;
    assert_eq!(answer.status, 429);
    let after: u64 = answer.header("Retry-After").unwrap().parse().unwrap();
    assert!((1..=5).contains(&after), "{after}");
    assert_eq!(seqs(&stand.records("varta.raw")), [1, 2]);
    let other = format!("Authorization: Bearer {}", stand.issue(&[AGENT], false, None));
    let body = event(AGENT, 4).to_string();
    let deadline = std::time::Instant::now() + super::stand::PATIENCE;
    while stand.post("/v1/events", &[&other], body.as_bytes()).await.status != 202 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stand.stop().await;
}

#[tokio::test]
async fn half_a_body_is_nothing_and_its_room_is_given_back() {
    let stand = Stand::new(|config| {
        config.limits.body = ByteSize::kib(64);
        config.limits.bytes_in_flight = ByteSize::kib(100);
    })
    .await;
    let body = event(AGENT, 1).to_string();
    let mut broken = stand.connect().await;
    let request = format!("{}{}", stand.head(body.len()), &body[..body.len() / 2]);
    broken.write_all(request.as_bytes()).await.unwrap();
    drop(broken);
    // Two who declare much and send nothing hold the room; the next is sent away and not kept waiting.
    let mut first = stand.connect().await;
    first.write_all(stand.head(60 << 10).as_bytes()).await.unwrap();
    let padded = format!("{body}{}", " ".repeat(50 << 10));
    let deadline = std::time::Instant::now() + super::stand::PATIENCE;
    loop {
        let answer = stand.post("/v1/events", &[], padded.as_bytes()).await;
        if answer.status == 429 {
            assert!(answer.header("Retry-After").is_some());
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = seqs(&stand.records("varta.raw")).len();
    drop(first);
    let padded = format!("{}{}", event(AGENT, 2), " ".repeat(20 << 10));
    let deadline = std::time::Instant::now() + super::stand::PATIENCE;
    while stand.post("/v1/events", &[], padded.as_bytes()).await.status != 202 {
        assert!(std::time::Instant::now() < deadline, "the room is not given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(seqs(&stand.records("varta.raw")).len(), before + 1);
    stand.stop().await;
}

#[tokio::test]
async fn who_is_slow_is_not_waited_for() {
    let stand = Stand::new(|config| {
        config.limits.head_timeout = Duration::from_millis(300);
        config.limits.body_timeout = Duration::from_millis(300);
        config.limits.connections = 2;
    })
    .await;
    // Nothing, half a head, half a body: each is ended by the server.
    let mut silent = stand.connect().await;
    let mut half_head = stand.connect().await;
    half_head.write_all(b"POST /v1/events HTT").await.unwrap();
    read(&mut silent).await;
    read(&mut half_head).await;
    let mut half_body = stand.connect().await;
    half_body.write_all(stand.head(100).as_bytes()).await.unwrap();
    assert_eq!(read(&mut half_body).await.unwrap().status, 408);
    assert_eq!(stand.written(), 0);
    // More connections than places: whoever waits gets a place when the silent ones are ended.
    let mut idle = Vec::new();
    for _ in 0..6 {
        idle.push(stand.connect().await);
    }
    assert_eq!(stand.events(&event(AGENT, 1)).await.status, 202);
    stand.stop().await;
}

#[tokio::test]
async fn garbage_on_the_socket_harms_nobody() {
    let stand = Stand::new(|config| config.limits.head_timeout = Duration::from_secs(2)).await;
    let good = format!("{}{{}}", stand.head(2));
    for n in 0..120_usize {
        let mut bytes = good.clone().into_bytes();
        let at = (n * 7919) % bytes.len();
        match n % 4 {
            0 => bytes[at] = (n * 31) as u8,
            1 => bytes.truncate(at),
            2 => drop(bytes.splice(at..at, [0xff, 0x00, b'\r'])),
            _ => bytes = (0..n).map(|byte| (byte * 131 + n) as u8).collect(),
        }
        let mut stream = stand.connect().await;
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        if let Some(answer) = read(&mut stream).await {
            assert!((400..500).contains(&answer.status), "{}: {answer:?}", String::from_utf8_lossy(&bytes));
        }
    }
    assert_eq!(stand.written(), 0);
    assert_eq!(stand.events(&json!([event(AGENT, 1)])).await.status, 202);
    stand.stop().await;
}

/// Judging is a pure function: bodies beyond what a socket would bring in reasonable time.
mod hostile {
    use bytes::Bytes;
    use schemas::topics::Topics;
    use schemas::translate::{Form, Translator};
    use uuid::Uuid;

    use super::*;
    use crate::intake::{Arrival, Intake, Mint, Turned, Voice, WriterIds, cut};

    struct Plant;

    impl Voice for Plant {
        fn may_speak_for(&self, agent_id: &str) -> bool {
            agent_id.starts_with("plant-")
        }

        fn default_agent(&self) -> Option<&str> {
            None
        }
    }

    fn judge(body: &[u8], form: Form) -> Result<(usize, usize, Vec<eventlog::NewRecord>), Turned> {
        let intake = Intake::new("b", Translator::new(), WriterIds::new(|_| 1), &Topics::default());
        let payload = Bytes::copy_from_slice(body);
        let events = cut(&payload, form)?;
        let mint = Mint { process: Uuid::nil(), message: 0 };
        let arrival = Arrival {
            topic: Bytes::from_static(b"POST"),
            payload,
            sent_at: None,
            received_at: super::super::stand::SESSION,
            mint,
        };
        let judged = intake.judge(&arrival, &events, &Plant)?;
        let (all, bad) = (judged.len(), judged.iter().filter(|event| event.refused().is_some()).count());
        Ok((all, bad, intake.gather(&arrival, judged).records))
    }

    fn element() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => (0..9_i64, 0..3).prop_map(|(seq, agent)| event(&format!("plant-{agent}"), seq).to_string()),
            1 => (0..9_i64).prop_map(|seq| event("stranger", seq).to_string()),
            1 => "[\\[\\]{},:\"a-z0-9\\\\ ]{0,40}",
            1 => Just("{\"agent_id\": \"plant-1\", \"agent_id\": \"stranger\"}".to_owned()),
            1 => Just(format!("{{\"agent_id\": {}", "[".repeat(500))),
            1 => Just("{\"agent_id\": \"plant-\\u0000\", \"x\": 1}".to_owned()),
        ]
    }

    proptest! {
        #[test]
        fn every_event_is_written_or_buried_and_nobody_speaks_for_a_stranger(
            elements in proptest::collection::vec(element(), 0..8),
            lines: bool,
        ) {
            let (body, form) = if lines {
                (elements.join("\n"), Form::Lines)
            } else {
                (format!("[{}]", elements.join(",")), Form::Json)
            };
            if let Ok((all, bad, records)) = judge(body.as_bytes(), form) {
                let buried = records.iter().filter(|record| &*record.topic == "varta.dlq").count();
                prop_assert_eq!(buried, bad);
                let raw = records.iter().filter(|record| &*record.topic == "varta.raw");
                prop_assert!(raw.clone().count() >= all - bad);
                for record in raw {
                    prop_assert!(record.key.as_ref().unwrap().starts_with(b"plant-"));
                }
            }
        }

        #[test]
        fn any_bytes_are_judged_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), lines: bool) {
            let _ = judge(&bytes, if lines { Form::Lines } else { Form::Json });
        }
    }
}

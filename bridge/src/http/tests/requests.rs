//! What is answered, and what is written for it.

use std::io::Write as _;

use chrono::{TimeDelta, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use schemas::headers::dead_letter::{ORIGIN, REASON};
use serde_json::{Value, json};

use super::stand::{AGENT, FEEDBACK_ID, Stand, event, seqs};

const NDJSON: &str = "Content-Type: application/x-ndjson";

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn events_of_every_shape_are_in_kafka_when_202_is_heard() {
    let stand = Stand::new(|_| {}).await;
    let answer = stand.events(&event(AGENT, 1)).await;
    assert_eq!((answer.status, &answer.body), (202, &json!({"accepted": 1})));
    assert_eq!(seqs(&stand.records("varta.raw")), [1]);
    let answer = stand.events(&json!([event(AGENT, 2), event(AGENT, 3)])).await;
    assert_eq!((answer.status, &answer.body), (202, &json!({"accepted": 2})));
    let lines = format!("{}\r\n\n{}\n", event(AGENT, 4), event(AGENT, 5));
    assert_eq!(stand.post("/v1/events", &[NDJSON], lines.as_bytes()).await.body["accepted"], 2);
    let headers = [NDJSON, "Content-Encoding: gzip"];
    let zipped = gzip(&format!("{}\n{}", event(AGENT, 6), event(AGENT, 7)));
    assert_eq!(stand.post("/v1/events", &headers, &zipped).await.body["accepted"], 2);
    assert_eq!(stand.events(&json!([])).await.body, json!({"accepted": 0}));
    assert_eq!(seqs(&stand.records("varta.raw")), [1, 2, 3, 4, 5, 6, 7]);
    let records = stand.records("varta.raw");
    assert!(records.iter().all(|record| record.key.as_deref() == Some(AGENT.as_bytes())));
    stand.stop().await;
}

#[tokio::test]
async fn a_chunked_body_and_one_that_waits_for_leave_are_taken() {
    let stand = Stand::new(|_| {}).await;
    let text = event(AGENT, 1).to_string();
    let (one, two) = text.split_at(40);
    let head = stand.head(0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    let chunked = format!("{head}{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n", one.len(), two.len());
    assert_eq!(stand.raw(chunked.as_bytes()).await.unwrap().status, 202);
    let body = event(AGENT, 2).to_string();
    let expecting = stand.post("/v1/events", &["Expect: 100-continue"], body.as_bytes()).await;
    assert_eq!(expecting.status, 202);
    assert_eq!(seqs(&stand.records("varta.raw")), [1, 2]);
    stand.stop().await;
}

#[tokio::test]
async fn nothing_of_a_bad_batch_is_taken_unless_asked_and_each_bad_event_is_named() {
    let stand = Stand::new(|_| {}).await;
    let mut wrong = event(AGENT, 2);
    wrong["payload"]["cpu_percent"] = json!("much");
    let mut timeless = event(AGENT, 3);
    timeless.as_object_mut().unwrap().remove("event_time");
    let batch = json!([event(AGENT, 1), wrong, timeless, 7]);
    let answer = stand.events(&batch).await;
    assert_eq!(answer.status, 400);
    let named: Vec<(u64, &str)> = answer.body["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bad| (bad["index"].as_u64().unwrap(), bad["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(named.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2, 3], "{named:?}");
    assert!(named[0].1.contains("payload.cpu_percent") && named[1].1.contains("event_time"), "{named:?}");
    assert_eq!(stand.written(), 0, "nothing of it is anywhere, dead letters neither");

    let answer = stand.post("/v1/events?partial=true", &[], batch.to_string().as_bytes()).await;
    assert_eq!((answer.status, &answer.body["accepted"]), (207, &json!(1)));
    assert_eq!(answer.body["refused"].as_array().unwrap().len(), 3);
    // The good one, and a marker for each number that can be read.
    assert_eq!(seqs(&stand.records("varta.raw")), [1, 2, 3]);
    let letters = stand.records("varta.dlq");
    let mut originals: Vec<Value> = letters
        .iter()
        .map(|letter| serde_json::from_slice(letter.value.as_ref().unwrap()).unwrap())
        .collect();
    originals.sort_by_key(Value::to_string);
    let mut expected = vec![wrong, timeless, json!(7)];
    expected.sort_by_key(Value::to_string);
    assert_eq!(originals, expected);
    for letter in &letters {
        assert!(letter.header(ORIGIN).unwrap().starts_with(b"POST /v1/events key "));
        assert!(!letter.header(REASON).unwrap().is_empty());
        assert!(!letter.header(ORIGIN).unwrap().windows(64).any(|part| stand.key.as_bytes().ends_with(part)));
    }
    stand.stop().await;
}

#[tokio::test]
async fn what_does_not_hold_together_is_refused_as_a_whole() {
    let stand = Stand::new(|_| {}).await;
    for (body, reason) in [
        (&b""[..], "nothing"),
        (b"   ", "nothing"),
        (b"42", "something else"),
        (b"[{}", "do not match"),
        (b"[1] 2", "after it"),
    ] {
        let answer = stand.post("/v1/events?partial=true", &[], body).await;
        assert_eq!(answer.status, 400);
        assert!(answer.body["error"].as_str().unwrap().contains(reason), "{:?}", answer.body);
    }
    let not_gzip = stand.post("/v1/events", &["Content-Encoding: gzip"], b"{}").await;
    assert_eq!(not_gzip.status, 400);
    assert_eq!(stand.written(), 0);
    stand.stop().await;
}

#[tokio::test]
async fn only_a_good_key_is_let_in_and_a_revoked_one_is_shut_out_while_running() {
    let stand = Stand::new(|_| {}).await;
    let expired = stand.issue(&[AGENT], false, Some(Utc::now() - TimeDelta::seconds(1)));
    let other = stand.issue(&[AGENT], false, None);
    let body = event(AGENT, 1).to_string();
    let show = |key: &str| format!("Authorization: Bearer {key}");
    let id = stand.key.split('_').nth(1).unwrap().to_owned();
    for (header, reason) in [
        ("Authorization: Basic dmFydGE6dmFydGE=".to_owned(), "show a key"),
        (show(""), "show a key"),
        (show("varta_000000000000_00"), "not known"),
        (show(&format!("varta_{id}_{}", "0".repeat(64))), "not known"),
        (show(&stand.key.to_uppercase()), "not known"),
    ] {
        let answer = stand.post("/v1/events", &[&header], body.as_bytes()).await;
        assert_eq!((answer.status, answer.header("WWW-Authenticate")), (401, Some("Bearer")), "{header}");
        assert!(answer.body["error"].as_str().unwrap().contains(reason), "{header}: {:?}", answer.body);
    }
    // The file is looked at while the server runs.
    wait_for(&stand, &show(&other), &body, 202).await;
    let answer = stand.post("/v1/events", &[&show(&expired)], body.as_bytes()).await;
    assert_eq!((answer.status, answer.body["error"].as_str()), (401, Some("this key has expired")));
    stand.revoke(&other);
    wait_for(&stand, &show(&other), &body, 401).await;
    let taken = stand.written();
    let answer = stand.post("/v1/events", &[&show(&other)], body.as_bytes()).await;
    assert_eq!(answer.body["error"], "this key was revoked");
    assert_eq!(stand.written(), taken, "nothing of a request that is refused is written");
    assert_eq!(stand.events(&event(AGENT, 9)).await.status, 202, "the other key is as good as before");
    stand.stop().await;
}

async fn wait_for(stand: &Stand, header: &str, body: &str, status: u16) {
    let deadline = std::time::Instant::now() + super::stand::PATIENCE;
    while stand.post("/v1/events", &[header], body.as_bytes()).await.status != status {
        assert!(std::time::Instant::now() < deadline, "not {status} in time");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_key_speaks_for_its_agents_and_for_nobody_else() {
    let stand = Stand::new(|_| {}).await;
    let plant = stand.issue(&["plant-*"], false, None);
    let header = format!("Authorization: Bearer {plant}");
    let known = json!([event("plant-1", 1), event("plant-2", 1)]).to_string();
    wait_for(&stand, &header, &known, 202).await;
    let before = stand.written();
    let foreign = json!([event("plant-1", 2), event(AGENT, 2)]).to_string();
    for path in ["/v1/events", "/v1/events?partial=true", "/v1/events?agent=pc001"] {
        let answer = stand.post(path, &[&header], foreign.as_bytes()).await;
        assert_eq!(answer.status, 403, "{path}: {:?}", answer.body);
    }
    assert_eq!(stand.written(), before, "nothing of it, the sound ones neither");
    let keys: std::collections::BTreeSet<Vec<u8>> =
        stand.records("varta.raw").iter().map(|record| record.key.as_ref().unwrap().to_vec()).collect();
    assert_eq!(keys, [b"plant-1".to_vec(), b"plant-2".to_vec()].into());

    // An event without agent is the agent's whom the request or the key names.
    let mut nameless = event("plant-1", 3);
    nameless.as_object_mut().unwrap().remove("agent_id");
    let body = nameless.to_string();
    assert_eq!(stand.post("/v1/events?agent=plant-9", &[&header], body.as_bytes()).await.status, 202);
    let answer = stand.post("/v1/events", &[&header], body.as_bytes()).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body["events"][0]["reason"].as_str().unwrap().contains("agent_id"), "{:?}", answer.body);
    assert_eq!(stand.post("/v1/events", &[], body.as_bytes()).await.status, 202, "this key has one agent");
    stand.stop().await;
}

#[tokio::test]
async fn what_is_not_served_is_said_so() {
    let stand = Stand::new(|_| {}).await;
    let body = event(AGENT, 1).to_string();
    for (headers, status) in [
        (["Content-Type: text/plain", "X: y"], 415),
        (["Content-Type: application/json; charset=utf-8", "Content-Encoding: br"], 415),
        (["Content-Type: application/json; charset=utf-8", "Content-Encoding: identity"], 202),
    ] {
        assert_eq!(stand.post("/v1/events", &headers, body.as_bytes()).await.status, status, "{headers:?}");
    }
    assert_eq!(stand.post("/v2/events", &[], body.as_bytes()).await.status, 404);
    assert_eq!(stand.post("/v1/events?partial=maybe", &[], body.as_bytes()).await.status, 400);
    assert_eq!(stand.post("/v1/events?partail=true", &[], body.as_bytes()).await.status, 400);
    let get = b"GET /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(stand.raw(get).await.unwrap().status, 405);
    stand.stop().await;
}

#[tokio::test]
async fn a_request_that_is_sent_again_under_its_name_mints_the_same_ids() {
    let stand = Stand::new(|_| {}).await;
    let foreign = json!([
        {"event_time": 1_760_000_000_000_000_i64, "event_type": "cpu_usage", "source": "x", "payload": {"cpu_percent": 1}},
        {"event_time": 1_760_000_000_000_000_i64, "event_type": "cpu_usage", "source": "x", "payload": {"cpu_percent": 1}},
    ]);
    let body = foreign.to_string();
    let under = |name: &'static str| {
        let (stand, body) = (&stand, &body);
        async move {
            let before = stand.records("varta.raw").len();
            let header = format!("Idempotency-Key: {name}");
            let answer = stand.post("/v1/events", &[&header], body.as_bytes()).await;
            assert_eq!(answer.status, 202);
            let ids: Vec<String> = stand.records("varta.raw")[before..].iter().map(minted).collect();
            ids
        }
    };
    let first = under("a").await;
    assert_ne!(first[0], first[1], "equal events of one request are two");
    assert_eq!(under("a").await, first);
    assert_ne!(under("b").await, first);
    let before = stand.records("varta.raw").len();
    let other = body.replace("\"x\"", "\"y\"");
    stand.post("/v1/events", &["Idempotency-Key: a"], other.as_bytes()).await;
    let ids: Vec<String> = stand.records("varta.raw")[before..].iter().map(minted).collect();
    assert!(ids.iter().all(|id| !first.contains(id)), "another body is no repetition");
    let answer = stand.post("/v1/events", &["Idempotency-Key: "], body.as_bytes()).await;
    assert_eq!(answer.status, 400);
    stand.stop().await;
}

/// The id of a foreign event: 32 hexadecimal digits, the message and the place.
fn minted(record: &eventlog::Record) -> String {
    let text = String::from_utf8_lossy(record.value.as_ref().unwrap()).into_owned();
    let is_id = |part: &str| part.len() >= 36 && part.as_bytes()[..32].iter().all(u8::is_ascii_hexdigit);
    let at = (0..text.len()).find(|at| text.get(*at..*at + 36).is_some_and(is_id)).expect("an id");
    text[at..at + 36].to_owned()
}

#[tokio::test]
async fn feedback_is_written_by_keys_that_may() {
    let stand = Stand::new(|_| {}).await;
    let alert = "0b8f4f0a-52c1-8d3e-9f00-3c1d2e4f5a6b";
    let body = json!({"alert_id": alert, "verdict": "fp", "note": "planned"}).to_string();
    let answer = stand.post("/v1/feedback", &[], body.as_bytes()).await;
    assert_eq!((answer.status, &answer.body), (202, &json!({"accepted": 1})));
    let records = stand.records("varta.feedback");
    assert_eq!(records[0].key.as_deref(), Some(format!("{alert}/tester").as_bytes()));
    assert_eq!(schemas::wire::unframe(records[0].value.as_ref().unwrap()).unwrap().0, FEEDBACK_ID);
    for bad in [&b"{"[..], b"[]", b"{\"alert_id\": \"7\", \"verdict\": \"fp\"}"] {
        assert_eq!(stand.post("/v1/feedback", &[], bad).await.status, 400);
    }
    let agent_only = stand.issue(&[AGENT], false, None);
    let header = format!("Authorization: Bearer {agent_only}");
    wait_for(&stand, &header, &event(AGENT, 1).to_string(), 202).await;
    assert_eq!(stand.post("/v1/feedback", &[&header], body.as_bytes()).await.status, 403);
    let analyst = format!("Authorization: Bearer {}", stand.issue(&[], true, None));
    let deadline = std::time::Instant::now() + super::stand::PATIENCE;
    while stand.post("/v1/feedback", &[&analyst], body.as_bytes()).await.status == 401 {
        assert!(std::time::Instant::now() < deadline, "the new key is not read");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let events = event(AGENT, 2).to_string();
    assert_eq!(stand.post("/v1/events", &[&analyst], events.as_bytes()).await.status, 403);
    stand.stop().await;
}

#[tokio::test]
async fn keys_that_cannot_be_read_are_no_reason_to_give_up() {
    let stand = Stand::new(|config| fs_err::write(&config.keys, "nonsense").unwrap()).await;
    assert_eq!(stand.events(&event(AGENT, 1)).await.status, 503);
    stand.stop().await;
}

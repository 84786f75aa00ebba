//! Kafka goes away and comes back: nothing that was answered with 202 is lost, and nothing piles up.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use runtime::config::ByteSize;
use runtime::health::State;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use super::stand::{AGENT, Answer, PATIENCE, Stand, event, read, seqs};
use crate::BridgeError;

/// Sends one event and gives the stream on which the answer will come.
async fn send(stand: &Stand, seq: i64) -> tokio::net::TcpStream {
    let body = event(AGENT, seq).to_string();
    let mut stream = stand.connect().await;
    stream.write_all(format!("{}{body}", stand.head(body.len())).as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn no_202_before_kafka_has_confirmed_every_record() {
    let stand = Stand::new(|_| {}).await;
    stand.log.hold_deliveries(100);
    let body = json!([event(AGENT, 1), event(AGENT, 2), event(AGENT, 3)]).to_string();
    let mut stream = stand.connect().await;
    stream.write_all(format!("{}{body}", stand.head(body.len())).as_bytes()).await.unwrap();
    stand.until("all are with kafka", |stand| stand.records("varta.raw").len() == 3).await;
    let mut byte = [0; 1];
    for confirmed in 0..3 {
        let early = tokio::time::timeout(Duration::from_millis(150), stream.peek(&mut byte)).await;
        assert!(early.is_err(), "answered when {confirmed} of 3 were confirmed");
        stand.log.release_deliveries(1);
    }
    assert_eq!(read(&mut stream).await.unwrap().status, 202);
    stand.log.release_deliveries(usize::MAX);
    stand.stop().await;
}

#[tokio::test]
async fn while_kafka_is_away_senders_hear_503_memory_is_bounded_and_all_goes_on_afterwards() {
    let stand = Stand::new(|config| {
        config.limits.kafka_timeout = Duration::from_millis(300);
        config.limits.body = ByteSize::kib(8);
        config.limits.bytes_in_flight = ByteSize::kib(64);
        config.limits.requests_in_flight = 8;
    })
    .await;
    // Kafka's client takes two records more and then nothing.
    stand.log.hold_deliveries(2);
    let mut asked = BTreeSet::new();
    let mut statuses = BTreeSet::new();
    for seq in 0..60 {
        asked.insert(seq);
        let answer = stand.events(&json!([event(AGENT, seq)])).await;
        assert!(matches!(answer.status, 503 | 429), "{answer:?}");
        assert!(answer.header("Retry-After").is_some());
        statuses.insert(answer.status);
    }
    assert!(statuses.contains(&503));
    assert!(stand.records("varta.raw").len() <= 2, "nothing piles up behind the queue");
    assert!(matches!(&stand.health.snapshot()["http"], State::Waiting(why) if why.contains("kafka")));
    // A client that reads nothing of an outage: refused at once, long before the timeout.
    let since = Instant::now();
    assert_eq!(stand.events(&event(AGENT, 99)).await.status, 503);
    assert!(since.elapsed() < Duration::from_millis(250), "{:?}", since.elapsed());

    stand.log.release_deliveries(usize::MAX);
    stand.until("it is well again", |stand| stand.health.snapshot()["http"] == State::Ready).await;
    // Who heard 503 sends again; the identity makes that harmless.
    for seq in &asked {
        assert_eq!(stand.events(&event(AGENT, *seq)).await.status, 202);
    }
    let delivered: BTreeSet<i64> = seqs(&stand.records("varta.raw")).into_iter().collect();
    assert!(delivered.is_superset(&asked));
    stand.stop().await;
}

#[tokio::test]
async fn what_kafka_has_not_answered_for_is_counted_though_its_sender_has_left() {
    let stand = Stand::new(|config| {
        config.limits.body = ByteSize::kib(16);
        config.limits.bytes_in_flight = ByteSize::kib(64);
    })
    .await;
    stand.log.hold_deliveries(100);
    // A body counts three times: it, its rows, its records.
    let padded = |seq| format!("{}{}", event(AGENT, seq), " ".repeat(14 << 10));
    let body = padded(1);
    let mut left = stand.connect().await;
    left.write_all(format!("{}{body}", stand.head(body.len())).as_bytes()).await.unwrap();
    stand.until("kafka has it", |stand| stand.records("varta.raw").len() == 1).await;
    drop(left);
    for _ in 0..3 {
        let answer = stand.post("/v1/events", &[], padded(2).as_bytes()).await;
        assert_eq!(answer.status, 429, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stand.log.release_deliveries(usize::MAX);
    let deadline = Instant::now() + PATIENCE;
    while stand.post("/v1/events", &[], padded(2).as_bytes()).await.status != 202 {
        assert!(Instant::now() < deadline, "the room is not given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stand.stop().await;
}

/// Clients that send until they hear 202, while Kafka confirms in fits and starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_answered_with_202_is_there_whatever_kafka_does() {
    const CLIENTS: i64 = 8;
    const EACH: i64 = 25;
    let stand = std::sync::Arc::new(
        Stand::new(|config| {
            config.limits.kafka_timeout = Duration::from_millis(100);
            config.limits.requests_in_flight = 4;
        })
        .await,
    );
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let stand = std::sync::Arc::clone(&stand);
        clients.spawn(async move {
            let mut refused = 0;
            for n in 0..EACH {
                let seq = client * EACH + n;
                let deadline = Instant::now() + PATIENCE;
                loop {
                    let answer: Answer = stand.events(&event(AGENT, seq)).await;
                    if answer.status == 202 {
                        let there = seqs(&stand.records("varta.raw"));
                        assert!(there.contains(&seq), "{seq} was answered and is not there");
                        break;
                    }
                    assert!(matches!(answer.status, 429 | 503), "{answer:?}");
                    assert!(Instant::now() < deadline, "{seq} is never taken");
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            refused
        });
    }
    let mut refused = 0;
    let mut turn = 0_usize;
    while !clients.is_empty() {
        turn += 1;
        if turn.is_multiple_of(3) {
            stand.log.hold_deliveries(turn % 5);
        } else {
            stand.log.release_deliveries(if turn.is_multiple_of(2) { usize::MAX } else { turn % 3 });
        }
        let pause = Duration::from_millis(if turn.is_multiple_of(10) { 200 } else { 15 });
        if let Ok(Some(ended)) = tokio::time::timeout(pause, clients.join_next()).await {
            refused += ended.unwrap();
        }
    }
    stand.log.release_deliveries(usize::MAX);
    assert!(refused > 0, "the outage was never felt");
    let there: BTreeSet<i64> = seqs(&stand.records("varta.raw")).into_iter().collect();
    assert_eq!(there, (0..CLIENTS * EACH).collect());
    let Ok(stand) = std::sync::Arc::try_unwrap(stand) else { panic!("a client still runs") };
    stand.stop().await;
}

#[tokio::test]
async fn a_request_at_hand_is_answered_before_the_server_ends() {
    let stand = Stand::new(|_| {}).await;
    stand.log.hold_deliveries(100);
    let mut stream = send(&stand, 1).await;
    stand.until("it is with kafka", |stand| stand.records("varta.raw").len() == 1).await;
    stand.shutdown.request();
    let mut byte = [0; 1];
    let early = tokio::time::timeout(Duration::from_millis(200), stream.peek(&mut byte)).await;
    assert!(early.is_err(), "neither answered nor cut");
    stand.log.release_deliveries(usize::MAX);
    assert_eq!(read(&mut stream).await.unwrap().status, 202);
    stand.stop().await;
}

#[tokio::test]
async fn what_kafka_refuses_is_never_answered_with_202() {
    let stand = Stand::new(|_| {}).await;
    stand.log.fail_at(1, eventlog::memory::Fault::Unavailable);
    let answer = stand.events(&event(AGENT, 1)).await;
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("5")));
    assert_eq!(stand.events(&event(AGENT, 1)).await.status, 202);
    assert_eq!(seqs(&stand.records("varta.raw")), [1]);
    // What will never work again ends the server, and with it the process; its sender keeps the event.
    stand.log.kill();
    let body = event(AGENT, 2).to_string();
    let answer = stand.raw(format!("{}{body}", stand.head(body.len())).as_bytes()).await;
    assert!(answer.is_none_or(|answer| answer.status == 503));
    assert!(matches!(stand.ended().await, Err(BridgeError::Delivery(_))));
}

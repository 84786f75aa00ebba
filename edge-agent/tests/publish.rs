//! The whole agent against a scripted broker that speaks MQTT 5 in this process: what it sends
//! again, what it deletes, in which order, and what it says when it goes.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use edge_agent::config::AgentConfig;
use edge_agent::monitors::{Capability, Monitor};
use edge_agent::observation::Observation;
use edge_agent::run_with;
use rumqttc::QoS;
use rumqttc::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, LastWill, Packet, PubAck, Publish, SubAck, SubscribeReasonCode,
};
use runtime::shutdown::Shutdown;
use schemas::confirmation::{Confirmation, LaneAck};
use schemas::event::{Event, Payload};
use schemas::identity::Lane;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// Gives `left` facts, a few in each round, continuing from its cursor.
struct Source {
    lane: Lane,
    next: i64,
    until: i64,
}

impl Monitor for Source {
    fn name(&self) -> &'static str {
        "source"
    }

    fn source(&self) -> &'static str {
        "source/test"
    }

    fn capability(&self) -> Capability {
        Capability::Present
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(5)
    }

    fn sample(&mut self, now: i64) -> Vec<Observation> {
        let to = (self.next + 3).min(self.until);
        let numbers = self.next..to;
        self.next = to;
        let fact = |n| {
            Observation::new(now, self.lane, "counted", "source/test", Payload::Custom(serde_json::json!(n)))
        };
        numbers.map(fact).collect()
    }

    fn cursor(&self) -> Option<i64> {
        Some(self.next)
    }

    fn resume(&mut self, cursor: i64) {
        self.next = cursor;
    }
}

/// One connection, seen from the broker.
struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
}

struct Greeted {
    wire: Wire,
    will: LastWill,
    clean_start: bool,
    client_id: String,
}

impl Wire {
    /// The next packet, pings answered; `None` when the agent closed the connection.
    async fn next(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, None) {
                Ok(Packet::PingReq) => self.send(&Packet::PingResp).await,
                Ok(packet) => return Some(packet),
                Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => {
                    let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await.unwrap();
                    if read.unwrap_or(0) == 0 {
                        return None;
                    }
                }
                Err(error) => panic!("the agent sent what is no MQTT: {error}"),
            }
        }
    }

    async fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn acknowledge(&mut self, publish: &Publish) {
        self.send(&Packet::PubAck(PubAck::new(publish.pkid, None))).await;
    }

    async fn confirm(&mut self, session: i64, lane: Lane, ranges: &[(i64, i64)]) {
        let acks = vec![LaneAck { session, lane, ranges: ranges.to_vec() }];
        let text = serde_json::to_vec(&Confirmation { bridge: "b-1".to_owned(), acks }).unwrap();
        self.tell(text).await;
    }

    async fn tell(&mut self, text: Vec<u8>) {
        let publish = Publish::new("agent/a-1/ack", QoS::AtMostOnce, text, None);
        self.send(&Packet::Publish(publish)).await;
    }

    /// The next publish; acknowledgements of ours are skipped.
    async fn publish(&mut self) -> Option<Publish> {
        loop {
            match self.next().await? {
                Packet::Publish(publish) => return Some(publish),
                Packet::Subscribe(subscribe) => {
                    assert_eq!(subscribe.filters[0].path, "agent/a-1/ack");
                    let return_codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)];
                    self.send(&Packet::SubAck(SubAck {
                        pkid: subscribe.pkid,
                        return_codes,
                        properties: None,
                    }))
                    .await;
                }
                Packet::Disconnect(_) => return None,
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Publishes that carry counted events, until `enough` says so.
    async fn counted(&mut self, acknowledge: bool, mut enough: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        while !enough(&events) {
            let publish = self.publish().await.unwrap();
            if acknowledge {
                self.acknowledge(&publish).await;
            }
            assert_eq!(publish.qos, QoS::AtLeastOnce);
            assert!(publish.properties.unwrap().user_properties.iter().any(|(name, _)| name == "sent_at"));
            if publish.topic.ends_with(b"/status") {
                assert!(publish.retain);
                continue;
            }
            events.extend(parse(&publish.payload).into_iter().filter(|event| event.event_type == "counted"));
        }
        events
    }
}

fn parse(payload: &[u8]) -> Vec<Event> {
    match payload.first() {
        Some(b'[') => serde_json::from_slice(payload).unwrap(),
        _ => vec![serde_json::from_slice(payload).unwrap()],
    }
}

async fn greet(listener: &TcpListener) -> Greeted {
    let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut wire = Wire { stream, buffer: BytesMut::new() };
    let Some(Packet::Connect(connect, will, _)) = wire.next().await else { panic!("no greeting") };
    let greeting = ConnAck { session_present: false, code: ConnectReturnCode::Success, properties: None };
    wire.send(&Packet::ConnAck(greeting)).await;
    Greeted { wire, will: will.unwrap(), clean_start: connect.clean_start, client_id: connect.client_id }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn config(folder: &Path, listener: &TcpListener) -> AgentConfig {
    let port = listener.local_addr().unwrap().port();
    let text = format!(
        "agent_id = \"a-1\"\nhost = \"pc001\"\nstate_dir = \"{}\"\n[mqtt]\nhost = \"127.0.0.1\"\nport = {port}\n\
         retry_max = \"1s\"\n[publisher]\nconfirm_within = \"1s\"\ndrain = \"10s\"\nbatch_interval = \"50ms\"\n",
        folder.display()
    );
    AgentConfig::parse(&text, "test", &|_| None).unwrap()
}

fn start(config: AgentConfig, lane: Lane, until: i64) -> (Shutdown, JoinHandle<()>) {
    let shutdown = Shutdown::new();
    let monitors: Vec<Box<dyn Monitor>> = vec![Box::new(Source { lane, next: 0, until })];
    let running = run_with(config, monitors, shutdown.clone());
    (shutdown, tokio::spawn(async move { running.await.unwrap() }))
}

fn seqs(events: &[Event]) -> Vec<i64> {
    events.iter().map(|event| event.seq).collect()
}

#[tokio::test]
async fn the_brokers_acknowledgement_deletes_nothing_and_the_bridges_does() {
    let folder = tempfile::tempdir().unwrap();
    let listener = listener().await;
    let mut brief = config(folder.path(), &listener);
    brief.publisher.drain = Duration::from_millis(500);
    let (shutdown, agent) = start(brief, Lane::Normal, 6);
    let Greeted { mut wire, will, clean_start, client_id } = greet(&listener).await;
    assert_eq!((client_id.as_str(), clean_start), ("a-1", true));
    let offline: serde_json::Value = serde_json::from_slice(&will.message).unwrap();
    assert!(will.retain && will.topic.ends_with(b"agent/a-1/status"));
    assert_eq!(
        (&offline["event_type"], &offline["payload"]["connection"]),
        (&"agent_offline".into(), &1.into())
    );

    let first = wire.counted(true, |events| events.len() >= 6).await;
    assert_eq!(seqs(&first), [0, 1, 2, 3, 4, 5], "in order");
    assert!(first.iter().all(|event| !event.replayed && event.host.as_deref() == Some("pc001")));
    let session = first[0].session;

    wire.tell(b"{ this is no confirmation".to_vec()).await;
    wire.confirm(session, Lane::Normal, &[(0, 1), (4, 2), (0, 1)]).await;
    wire.confirm(session + 1, Lane::Normal, &[(0, i64::MAX)]).await;
    let wanted: BTreeSet<i64> = (2..6).collect();
    let again =
        wire.counted(true, |events| wanted.is_subset(&events.iter().map(|event| event.seq).collect())).await;
    assert!(again.iter().all(|event| event.replayed && event.session == session));
    assert!(!seqs(&again).contains(&0), "what was confirmed is not sent again");
    let payload = |events: &[Event]| events.iter().find(|event| event.seq == 3).unwrap().payload.clone();
    assert_eq!(payload(&again), payload(&first), "the same event");

    // Nobody confirms the critical lane: it is still there after the stop.
    wire.confirm(session, Lane::Normal, &[(0, i64::MAX)]).await;
    shutdown.request();
    let mut last_status = None;
    while let Some(publish) = wire.publish().await {
        wire.acknowledge(&publish).await;
        if publish.topic.ends_with(b"/status") {
            last_status = Some(publish.payload.clone());
        }
    }
    let status: serde_json::Value = serde_json::from_slice(&last_status.unwrap()).unwrap();
    assert_eq!(status["event_type"], "agent_stopped");
    timeout(PATIENCE, agent).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_the_broker_had_not_taken_comes_again_after_a_lost_connection() {
    let folder = tempfile::tempdir().unwrap();
    let listener = listener().await;
    let (shutdown, agent) = start(config(folder.path(), &listener), Lane::Bulk, 40);
    let mut greeted = greet(&listener).await;
    let lost = greeted.wire.counted(false, |events| events.len() >= 20).await;
    assert!(seqs(&lost).is_sorted());
    drop(greeted);

    let Greeted { mut wire, will, .. } = greet(&listener).await;
    let offline: serde_json::Value = serde_json::from_slice(&will.message).unwrap();
    assert_eq!(offline["payload"]["connection"], 2);
    let mut seen = BTreeSet::new();
    let events = wire
        .counted(true, |events| {
            seen.extend(events.iter().map(|event| event.seq));
            seen.len() >= 40
        })
        .await;
    let mut unique = seqs(&events);
    unique.dedup();
    assert_eq!(unique, (0..40).collect::<Vec<_>>(), "all of them, in order");
    let session = events[0].session;
    wire.confirm(session, Lane::Bulk, &[(0, 39)]).await;
    shutdown.request();
    while let Some(publish) = wire.publish().await {
        wire.acknowledge(&publish).await;
        for event in if publish.topic.ends_with(b"/status") { Vec::new() } else { parse(&publish.payload) } {
            wire.confirm(event.session, event.lane, &[(event.seq, event.seq)]).await;
        }
    }
    timeout(PATIENCE, agent).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_second_run_sends_the_rest_first_and_the_source_continues() {
    let folder = tempfile::tempdir().unwrap();
    let listener = listener().await;
    let mut first_config = config(folder.path(), &listener);
    first_config.publisher.drain = Duration::ZERO;
    let (shutdown, agent) = start(first_config, Lane::Normal, 10);
    let mut greeted = greet(&listener).await;
    let first = greeted.wire.counted(true, |events| events.len() >= 10).await;
    shutdown.request();
    while greeted.wire.publish().await.is_some() {}
    timeout(PATIENCE, agent).await.unwrap().unwrap();

    let (shutdown, agent) = start(config(folder.path(), &listener), Lane::Normal, 12);
    let mut wire = greet(&listener).await.wire;
    let numbers = |events: &[Event]| {
        let number = |event: &Event| {
            if let Payload::Custom(n) = &event.payload { n.as_i64() } else { None }
        };
        events.iter().filter_map(number).collect::<Vec<_>>()
    };
    let second = wire.counted(true, |events| numbers(events).contains(&11)).await;
    assert_eq!(numbers(&second), (0..12).collect::<Vec<_>>(), "each once, old ones first");
    assert_eq!(second[0].session, first[0].session);
    assert!(second[0].replayed);
    let newest = second.last().unwrap();
    assert!(newest.session > first[0].session && newest.seq <= 1, "a session of its own");
    shutdown.request();
    drop(wire);
    timeout(PATIENCE, agent).await.unwrap().unwrap();
}

/// The last row is stored while the publisher looks whether all is sent: it must not leave before that row is.
#[tokio::test]
async fn what_is_stored_last_is_sent_before_the_agent_leaves() {
    for turn in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let listener = listener().await;
        let (shutdown, agent) = start(config(folder.path(), &listener), Lane::Normal, 1);
        let mut wire = greet(&listener).await.wire;
        let mut kinds = BTreeSet::new();
        while let Some(publish) = wire.publish().await {
            wire.acknowledge(&publish).await;
            if publish.topic.ends_with(b"/status") {
                continue;
            }
            for event in parse(&publish.payload) {
                wire.confirm(event.session, event.lane, &[(event.seq, event.seq)]).await;
                if event.event_type == "counted" {
                    shutdown.request();
                    // something to look at all the time meanwhile
                    for _ in 0..2_000 {
                        wire.tell(b"?".to_vec()).await;
                    }
                }
                kinds.insert(event.event_type);
            }
        }
        assert!(kinds.contains("agent_stopped"), "turn {turn}: {kinds:?}");
        timeout(PATIENCE, agent).await.unwrap().unwrap();
    }
}

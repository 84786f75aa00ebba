//! A server of its own for each test, and a client that can behave badly.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use eventlog::memory::MemoryLog;
use eventlog::{Log as _, Record};
use runtime::health::Health;
use runtime::shutdown::Shutdown;
use schemas::record::RecordKind;
use schemas::topics::Topics;
use schemas::translate::Translator;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::description;
use crate::BridgeError;
use crate::deliveries::Deliveries;
use crate::http::Serving;
use crate::http::config::HttpConfig;
use crate::intake::{Intake, WriterIds};
use crate::keys::{self, Wanted};

/// Longer than anything here takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const AGENT: &str = "pc001";
pub(super) const SESSION: i64 = 1_760_000_000_000_000;
pub(super) const FEEDBACK_ID: u32 = 77;

/// A server, what it writes to, and a key for [`AGENT`] and for feedback.
pub(super) struct Stand {
    pub(super) address: SocketAddr,
    pub(super) log: MemoryLog,
    pub(super) health: Health,
    pub(super) shutdown: Shutdown,
    pub(super) key: String,
    keys: PathBuf,
    server: JoinHandle<Result<(), BridgeError>>,
    _folder: tempfile::TempDir,
}

/// An answer as the client read it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn parse(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        // What an `Expect` is answered with stands before the answer.
        if head.starts_with("HTTP/1.1 100") {
            return Self::parse(body);
        }
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, head: head.to_owned(), body: serde_json::from_str(body).unwrap_or_default() })
    }
}

impl Stand {
    pub(super) async fn new(change: impl FnOnce(&mut HttpConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys.toml");
        let mut config = HttpConfig { keys: keys.clone(), ..HttpConfig::default() };
        config.limits.requests_per_second = 10_000.0;
        config.limits.burst = 10_000;
        let key = issue(&keys, &[AGENT], true, None);
        change(&mut config);
        let topics = Topics::default();
        let log = MemoryLog::new();
        for topic in [topics.raw(), topics.dlq(), topics.feedback()] {
            log.create(&topic, 2);
        }
        let deliveries = Arc::new(Deliveries::new(config.limits.requests_in_flight));
        let told = Arc::clone(&deliveries);
        let appender = log.appender(Box::new(move |token, outcome| told.settle(token, outcome))).unwrap();
        let ids = WriterIds::new(|kind| match kind {
            RecordKind::Family(family) => 10 + family as u32,
            RecordKind::Feedback => FEEDBACK_ID,
            _ => 99,
        });
        let intake = Intake::new("bridge-1", Translator::new(), ids, &topics);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (health, shutdown) = (Health::new(), Shutdown::new());
        let (watcher, receiver) = keys::Watcher::new(&keys, health.component("keys"));
        tokio::spawn(watcher.run(shutdown.clone()));
        let serving = Serving { appender, deliveries, intake, keys: receiver, listener, tls: None };
        let served = health.component("http");
        let stop = shutdown.clone();
        let server =
            tokio::spawn(async move { serving.run(&config, Duration::from_secs(5), served, stop).await });
        Self { address, log, health, shutdown, key, keys, server, _folder: folder }
    }

    /// Another key.
    pub(super) fn issue(&self, agents: &[&str], feedback: bool, expires_at: Option<DateTime<Utc>>) -> String {
        issue(&self.keys, agents, feedback, expires_at)
    }

    pub(super) fn revoke(&self, key: &str) {
        let id = key.split('_').nth(1).unwrap();
        keys::change(&self.keys, |file| file.revoke(id, Utc::now()).map(drop)).unwrap();
    }

    /// Waits for a condition.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "{what}: not in time");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Posts a body with some headers more than needed, and reads the answer.
    pub(super) async fn post(&self, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        let has = |name: &str| headers.iter().any(|header| header.to_lowercase().starts_with(name));
        let length = format!("Content-Length: {}", body.len());
        let authorization = format!("Authorization: Bearer {}", self.key);
        let mut lines = vec!["Host: x", "Connection: close", &length];
        if !has("authorization") {
            lines.push(&authorization);
        }
        if !has("content-type") {
            lines.push("Content-Type: application/json");
        }
        lines.extend(headers);
        let head = format!("POST {path} HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
        let request = [head.as_bytes(), body].concat();
        let answer = self.raw(&request).await.unwrap_or_else(|| panic!("no answer to {head}"));
        description::hold_against(path, &answer);
        answer
    }

    pub(super) async fn events(&self, body: &Value) -> Answer {
        self.post("/v1/events", &[], body.to_string().as_bytes()).await
    }

    /// Sends bytes and reads until the server closes; `None`: it closed without an answer.
    pub(super) async fn raw(&self, bytes: &[u8]) -> Option<Answer> {
        let mut stream = self.connect().await;
        // A server that has heard enough closes while we still send.
        let _ = stream.write_all(bytes).await;
        read(&mut stream).await
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The beginning of a request for events with a body that is still to come.
    pub(super) fn head(&self, bytes: usize) -> String {
        format!(
            "POST /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {bytes}\r\n\r\n",
            self.key
        )
    }

    pub(super) fn records(&self, topic: &str) -> Vec<Record> {
        self.log.records(topic)
    }

    /// Everything that was written anywhere.
    pub(super) fn written(&self) -> usize {
        ["varta.raw", "varta.dlq", "varta.feedback"].iter().map(|topic| self.records(topic).len()).sum()
    }

    /// The server ends as it should.
    pub(super) async fn stop(self) {
        self.shutdown.request();
        self.ended().await.unwrap();
    }

    /// How the server ends that nobody asks to.
    pub(super) async fn ended(self) -> Result<(), BridgeError> {
        tokio::time::timeout(PATIENCE, self.server).await.expect("it ends in time").unwrap()
    }
}

fn issue(
    keys: &std::path::Path,
    agents: &[&str],
    feedback: bool,
    expires_at: Option<DateTime<Utc>>,
) -> String {
    let wanted = Wanted {
        name: "tester".to_owned(),
        agents: agents.iter().map(|agent| (*agent).to_owned()).collect(),
        feedback,
        expires_at,
    };
    keys::change(keys, |file| file.issue(wanted, Utc::now())).unwrap()
}

/// The answer on a connection, once it has been closed.
pub(super) async fn read(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    // A connection that was reset may have brought an answer before.
    let _ = read.expect("the server closes in time");
    Answer::parse(&String::from_utf8_lossy(&bytes))
}

/// An event of the normal lane.
pub(super) fn event(agent: &str, seq: i64) -> Value {
    json!({
        "agent_id": agent, "session": SESSION, "lane": "normal", "seq": seq, "event_time": SESSION + seq,
        "event_type": "cpu_usage", "source": "test/http", "payload": {"cpu_percent": 37.5},
    })
}

/// The numbers of the events in the raw topic that belong to [`event`].
pub(super) fn seqs(records: &[Record]) -> Vec<i64> {
    let mut seqs: Vec<i64> = records.iter().map(|record| seq_of(record.value.as_ref().unwrap())).collect();
    seqs.sort_unstable();
    seqs
}

/// Reads agent, session, lane and seq from the front of an Avro row.
fn seq_of(value: &[u8]) -> i64 {
    fn long(bytes: &mut &[u8]) -> i64 {
        let (mut value, mut shift) = (0_u64, 0);
        while let Some((byte, rest)) = bytes.split_first() {
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        (value >> 1) as i64 ^ -((value & 1) as i64)
    }
    let (_, mut datum) = schemas::wire::unframe(value).unwrap();
    let agent = long(&mut datum) as usize;
    datum = &datum[agent..];
    long(&mut datum);
    let lane = long(&mut datum) as usize;
    datum = &datum[lane..];
    long(&mut datum)
}

//! A service as a notifier meets it, on a port of its own: it remembers what came when, and fails when told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What the service does with what comes to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Takes it.
    Well,
    /// Takes the bytes and never answers.
    Hangs,
    /// Answers well, after this time.
    Late(Duration),
    /// Answers with this status.
    Answers(u16),
}

/// A request that has arrived.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) at: Instant,
    pub(crate) path: String,
    /// The header `Idempotency-Key`.
    pub(crate) key: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) body: Value,
}

#[derive(Default)]
struct State {
    arrived: Vec<Arrived>,
    moods: BTreeMap<String, Mood>,
}

/// Dropping it ends it.
pub(crate) struct Receiver {
    address: String,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Receiver {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Ok(Self { address, state, serving })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on.
    pub(crate) fn set(&self, path: &str, mood: Mood) {
        lock(&self.state).moods.insert(path.to_owned(), mood);
    }

    /// What came to the path, taken or not.
    pub(crate) fn arrived(&self, path: &str) -> Vec<Arrived> {
        lock(&self.state).arrived.iter().filter(|arrived| arrived.path == path).cloned().collect()
    }
}

/// Most requests in any span of this length.
pub(crate) fn most_within(arrived: &[Arrived], span: Duration) -> usize {
    let from = |first: &Arrived| {
        arrived.iter().filter(|later| later.at >= first.at && later.at - first.at < span).count()
    };
    arrived.iter().map(from).max().unwrap_or(0)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut key, mut length) = (String::new(), 0);
        loop {
            let mut header = String::new();
            stream.read_line(&mut header).await?;
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            match name.to_lowercase().as_str() {
                "idempotency-key" => value.clone_into(&mut key),
                "content-length" => length = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let mood = {
            let mut state = lock(&state);
            state.arrived.push(Arrived { at: Instant::now(), path: path.clone(), key, bytes, body });
            state.moods.get(&path).copied().unwrap_or(Mood::Well)
        };
        if let Mood::Late(time) = mood {
            tokio::time::sleep(time).await;
        }
        let (status, text) = match mood {
            // What the Bot API says, and nothing that others would mind.
            Mood::Well | Mood::Late(_) => (200, r#"{"ok":true,"result":{}}"#),
            Mood::Answers(status) => (status, "told to"),
            Mood::Hangs => std::future::pending().await,
        };
        let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        stream.get_mut().write_all(answer.as_bytes()).await?;
    }
}

//! What lies between a sink and its store, and can be slow, silent, or cut a connection in the middle of a write.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How much is passed on at once.
const PIECE: usize = 1024;

/// What becomes of what clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// It is passed on.
    Open,
    /// A KiB at a time, with a pause before each.
    Slow(Duration),
    /// A connection ends after so many bytes, and after so many more each time.
    Cuts(u64),
    /// It is taken, and nothing ever comes of it.
    Silent,
}

#[derive(Default)]
struct Counts {
    /// Pieces that were passed on slowly.
    slow: AtomicU64,
    /// Connections that were cut.
    cut: AtomicU64,
    /// Connections on which bytes were taken and not passed on.
    swallowed: AtomicU64,
}

/// Listens on a port of its own. Dropping it ends it.
pub(super) struct Proxy {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    counts: Arc<Counts>,
    serving: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Proxy {
    /// In front of `host:port`.
    pub(super) async fn start(target: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (mood, moods) = watch::channel(Mood::Open);
        let counts = Arc::<Counts>::default();
        let (shared, target) = (Arc::clone(&counts), target.to_owned());
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A connection that failed is what this is for.
                tokio::spawn(pass(client, target.clone(), moods.clone(), Arc::clone(&shared)));
            }
        });
        Ok(Self { address, mood, counts, serving })
    }

    /// The same URL, by way of this.
    pub(super) fn url(&self, of: &str) -> anyhow::Result<String> {
        Ok(of.replace(&target(of)?, &self.address.to_string()))
    }

    pub(super) fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub(super) fn slow(&self) -> u64 {
        self.counts.slow.load(Ordering::Relaxed)
    }

    pub(super) fn cut(&self) -> u64 {
        self.counts.cut.load(Ordering::Relaxed)
    }

    pub(super) fn swallowed(&self) -> u64 {
        self.counts.swallowed.load(Ordering::Relaxed)
    }
}

/// `host:port` of an URL.
pub(super) fn target(url: &str) -> anyhow::Result<String> {
    let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).context("an URL")?;
    Ok(authority.rsplit('@').next().unwrap_or(authority).to_owned())
}

async fn pass(
    client: TcpStream,
    target: String,
    moods: watch::Receiver<Mood>,
    counts: Arc<Counts>,
) -> std::io::Result<()> {
    let (from_client, mut to_client) = client.into_split();
    let (mut from_store, to_store) = TcpStream::connect(target).await?.into_split();
    // Whichever ends first ends both: a cut goes through the middle of what is under way.
    tokio::select! {
        outcome = onward(from_client, to_store, moods, &counts) => outcome,
        outcome = tokio::io::copy(&mut from_store, &mut to_client) => outcome.map(drop),
    }
}

async fn onward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut moods: watch::Receiver<Mood>,
    counts: &Counts,
) -> std::io::Result<()> {
    let (mut piece, mut under_this_mood) = ([0; PIECE], 0);
    moods.mark_unchanged();
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        if moods.has_changed().unwrap_or(false) {
            moods.mark_unchanged();
            under_this_mood = 0;
        }
        under_this_mood += read as u64;
        let mood = *moods.borrow();
        match mood {
            Mood::Open => {}
            Mood::Slow(pause) => {
                tokio::time::sleep(pause).await;
                counts.slow.fetch_add(1, Ordering::Relaxed);
            }
            Mood::Cuts(bytes) => {
                let limit = bytes * (1 + counts.cut.load(Ordering::Relaxed));
                if let Some(over) = under_this_mood.checked_sub(limit) {
                    to.write_all(&piece[..read.saturating_sub(over as usize)]).await?;
                    counts.cut.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
            }
            Mood::Silent => {
                counts.swallowed.fetch_add(1, Ordering::Relaxed);
                // Until the client gives up, or the mood has changed: then it is cut.
                let mut nowhere = tokio::io::sink();
                tokio::select! {
                    outcome = tokio::io::copy(&mut from, &mut nowhere) => return outcome.map(drop),
                    _ = moods.changed() => return Ok(()),
                }
            }
        }
        to.write_all(&piece[..read]).await?;
    }
}

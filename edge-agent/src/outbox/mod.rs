//! The durable queue between scheduler and publisher.
//!
//! A row is numbered and stored in one transaction and goes only when the bridge confirmed it.
//! One thread owns the SQLite file; everybody else holds an [`Outbox`], which sends it commands.
//! Commands that wait together are committed together.
//!
//! **Identity.** `seq` counts from 0 without gaps within (session, lane). The session is the start
//! time in µs, at least one more than any session stored before. Each seq is in exactly one of
//! three places: delivered, still here, or named by an `events_shed` event.
//!
//! **What survives.** The death of the process at any instruction: everything that was answered
//! with `Ok` (WAL, the operating system holds the pages). Loss of power: transactions with critical
//! rows are flushed to the disk at once, all others at the latest `sync_interval` after they were
//! made, so at most that much of the normal and bulk lanes is lost. After a loss of power the tail
//! named by the next `agent_started` may therefore be lower than what was delivered; identities
//! never repeat, for the session is another one.
//!
//! **Marks.** `Mark { time, seq }` of a lane says: every event of this session and lane whose event
//! time is at or before `time` has a seq at or below `seq` and is stored (or shed and named). The
//! scheduler supplies `time` as the low-water mark of all monitors with each [`Batch`]; it takes
//! effect after the rows of that batch are committed, together with the lane's last seq.
//!
//! **Bound.** When bodies and row overhead exceed the limit, the oldest rows of bulk go first, then
//! of normal, and of critical last, down to 95 % of the limit. In the same transaction an
//! `events_shed` event per run of seqs goes into the critical lane; those are never shed. Its
//! `previous_session` names the run's session where it is not the event's own. A shed row may have
//! been sent before: shed means that the agent will not send it again. A run may span seqs that had been
//! confirmed and removed already: those were delivered.

mod row;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::config::{ByteSize, Check, Problems, key};
use schemas::identity::Lane;
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

pub use row::{END, LANES, LaneRange, NewRow, Place, ROW_OVERHEAD, ReadRequest, Row, lane_index};
pub use store::Previous;
pub use writer::Writer;

use crate::clock::EventClock;
use crate::observation::Observation;
use store::Store;
use writer::Command;

/// How large the outbox may grow and how soon it reaches the disk.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutboxConfig {
    /// Bytes of events kept while the network is away; beyond it events are shed.
    pub limit: ByteSize,
    /// A single event larger than this is not stored; an `events_shed` event says so.
    pub max_event_size: ByteSize,
    /// Longest time until a row of the normal or bulk lane is flushed to the disk; zero flushes
    /// each transaction.
    #[serde(with = "humantime_serde")]
    pub sync_interval: Duration,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            limit: ByteSize::mib(64),
            max_event_size: ByteSize::kib(192),
            sync_interval: Duration::from_secs(5),
        }
    }
}

impl Check for OutboxConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        if self.limit < ByteSize::kib(256) {
            problems.add(key(at, "limit"), format!("{} is less than 256 KiB", self.limit), None);
        }
        if self.max_event_size < ByteSize::kib(1) || self.max_event_size > self.limit {
            let what =
                format!("{} is not between 1 KiB and the limit of {}", self.max_event_size, self.limit);
            problems.add(key(at, "max_event_size"), what, None);
        }
    }
}

/// Why the outbox could not do what it was asked.
#[derive(Debug, Error)]
pub enum OutboxError {
    /// SQLite refused: disk full, read-only, broken.
    #[error("outbox: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// Another process holds the file.
    #[error("outbox {} is in use by another agent", .0.display())]
    InUse(PathBuf),
    /// The rows belong to somebody else.
    #[error("outbox {} holds events of agent {theirs}, this is agent {ours}; move it away or configure that agent_id", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Agent whose rows it holds.
        theirs: String,
        /// This agent.
        ours: String,
    },
    /// The folder or the file cannot be reached.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// An observation does not become JSON.
    #[error("cannot write an observation as JSON: {0}")]
    Unserialisable(serde_json::Error),
    /// The writer thread has ended.
    #[error("outbox is closed")]
    Closed,
}

/// A lane is complete up to `time`, which is at `seq`; see the module's description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Last seq given out when the mark was taken, -1 for none.
    pub seq: i64,
    /// Event time in µs.
    pub time: i64,
}

/// The outbox as of the last commit; arrays are in the order of [`LANES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// The current session.
    pub session: i64,
    /// Rows per lane.
    pub rows: [u64; 3],
    /// Bytes per lane, overhead included.
    pub bytes: [u64; 3],
    /// The configured limit in bytes.
    pub limit: u64,
    /// Last seq of the current session per lane, -1 for none.
    pub last_seq: [i64; 3],
    /// Lane marks, none before the first batch.
    pub marks: Option<[Mark; 3]>,
    /// Rows shed since the session began.
    pub shed_total: u64,
    /// Least event time among the first rows of the lanes, in µs.
    pub oldest: Option<i64>,
}

impl Stats {
    /// Rows in all lanes.
    pub fn all_rows(&self) -> u64 {
        self.rows.iter().sum()
    }
}

/// What is stored in one transaction.
#[derive(Debug, Default)]
pub struct Batch {
    /// The rows, in the order in which each lane shall have them.
    pub rows: Vec<NewRow>,
    /// How far monitors have got once these rows are stored.
    pub cursors: Vec<(String, i64)>,
    /// Nothing that comes after this batch has an event time at or before this, in µs.
    pub low_water: Option<i64>,
}

/// The session that an opened outbox began.
#[derive(Debug, Clone)]
pub struct SessionStart {
    /// The new session.
    pub session: i64,
    /// The one before.
    pub previous: Previous,
    /// Saved cursors of monitors.
    pub cursors: Vec<(String, i64)>,
}

/// What [`Outbox::open`] needs beside the configuration.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The agent's id.
    pub agent_id: Arc<str>,
    /// Host name of events that name none.
    pub host: Arc<str>,
    /// The agent's clock; the session starts at its next reading.
    pub clock: EventClock,
    /// Last session known from elsewhere, so that a lost file does not repeat it.
    pub last_session: Option<i64>,
}

/// Handle of the outbox; clones speak to the same writer thread.
#[derive(Debug, Clone)]
pub struct Outbox {
    commands: mpsc::Sender<Command>,
    stats: watch::Receiver<Stats>,
}

impl Outbox {
    /// Opens the file and begins a session whose first critical event is what `started` returns,
    /// in one transaction. A file that is no longer readable is moved aside, with an error in the
    /// log. The returned [`Writer`] must be run on a thread of its own.
    pub fn open(
        path: &Path,
        config: &OutboxConfig,
        owner: &Owner,
        started: impl FnOnce(&SessionStart) -> Observation,
    ) -> Result<(Self, Writer, SessionStart), OutboxError> {
        let mut store = open_store(path)?;
        match store.fact("agent_id")? {
            Some(theirs) if *theirs != *owner.agent_id => {
                let ours = owner.agent_id.to_string();
                return Err(OutboxError::Foreign { path: path.to_owned(), theirs, ours });
            }
            _ => {}
        }
        store.begin(true)?;
        store.set_fact("agent_id", &owner.agent_id)?;
        let cursors = store.cursors()?;
        let previous = store.start_session(owner.clock.now(), owner.last_session)?;
        owner.clock.start_after(store.session);
        let start = SessionStart { session: store.session, previous, cursors };
        store.append(&NewRow::new(&started(&start), &owner.host)?)?;
        store.commit()?;

        let (commands, receiver) = mpsc::channel(64);
        let (stats_sender, stats) = watch::channel(Stats {
            session: store.session,
            rows: store.counters.rows,
            bytes: store.counters.bytes,
            limit: config.limit.bytes(),
            last_seq: store.counters.last_seq,
            marks: None,
            shed_total: 0,
            oldest: store.oldest()?,
        });
        let writer = Writer {
            store,
            commands: receiver,
            stats: stats_sender,
            owner: owner.clone(),
            config: config.clone(),
            synced_at: Instant::now(),
            dirty: false,
        };
        Ok((Self { commands, stats }, writer, start))
    }

    /// Stores a batch and returns when it is committed. For plain threads.
    pub fn append(&self, batch: impl Into<Arc<Batch>>) -> Result<(), Arc<OutboxError>> {
        let (reply, answer) = oneshot::channel();
        self.commands.blocking_send(Command::Append(batch.into(), reply)).map_err(|_| OutboxError::Closed)?;
        answer.blocking_recv().map_err(|_| OutboxError::Closed)?
    }

    /// Removes confirmed rows in one transaction and returns how many there were.
    pub async fn confirm(&self, ranges: Vec<LaneRange>) -> Result<u64, Arc<OutboxError>> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Confirm(ranges, reply)).await.map_err(|_| OutboxError::Closed)?;
        answer.await.map_err(|_| OutboxError::Closed)?
    }

    /// Reads committed rows in order.
    pub async fn read(&self, wanted: ReadRequest) -> Result<Vec<Row>, Arc<OutboxError>> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Read(wanted, reply)).await.map_err(|_| OutboxError::Closed)?;
        answer.await.map_err(|_| OutboxError::Closed)?
    }

    /// The outbox as of the last commit.
    pub fn stats(&self) -> Stats {
        *self.stats.borrow()
    }

    /// Wakes at each commit that changed the statistics.
    pub fn watch(&self) -> watch::Receiver<Stats> {
        self.stats.clone()
    }

    /// Bytes of one lane, for tests and displays.
    pub fn lane_bytes(&self, lane: Lane) -> u64 {
        self.stats().bytes[lane_index(lane)]
    }
}

fn open_store(path: &Path) -> Result<Store, OutboxError> {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseCorrupt, DatabaseLocked, NotADatabase};
    let error = match Store::open(path) {
        Ok(store) => return Ok(store),
        Err(OutboxError::Sqlite(error)) => error,
        Err(other) => return Err(other),
    };
    match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked) => Err(OutboxError::InUse(path.to_owned())),
        Some(NotADatabase | DatabaseCorrupt) => {
            let aside = path.with_extension(format!("broken-{}", runtime::clock::now_us()));
            tracing::error!(%error, outbox = %path.display(), moved_to = %aside.display(), "outbox is not readable, starting an empty one");
            fs_err::rename(path, &aside)?;
            for companion in ["-wal", "-shm"] {
                let mut left = path.as_os_str().to_owned();
                left.push(companion);
                if Path::new(&left).exists() {
                    let mut target = aside.as_os_str().to_owned();
                    target.push(companion);
                    fs_err::rename(&left, &target)?;
                }
            }
            Store::open(path)
        }
        _ => Err(OutboxError::Sqlite(error)),
    }
}

//! How a worker runs, and how it can end.

use std::sync::Arc;
use std::time::Duration;

use eventlog::LogError;
use thiserror::Error;

use crate::engine::changelog::ChangelogError;
use crate::engine::restore::{OnMismatch, RestoreError};
use crate::engine::span::Span;

/// How a worker runs. Durations never influence what it writes, only when.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Consumer group.
    pub group: String,
    /// Stable per worker slot: a restarted slot fences its predecessor.
    pub transactional_id: String,
    /// Stable group member name, if membership is static.
    pub instance: Option<String>,
    /// Topic read.
    pub input: Arc<str>,
    /// Topic of the changelog, with as many partitions as the input.
    pub state: Arc<str>,
    /// A transaction is committed this long after it began.
    pub commit_interval: Duration,
    /// The same once an alert was sent in it.
    pub urgent_commit_interval: Duration,
    /// The same once the input has brought full micro-batches for a second: what waits there has waited longer than that
    /// already, and each commit writes the state of every agent that it heard of. Urgent rows wait as long then.
    pub behind_commit_interval: Duration,
    /// A transaction is committed when it covers this many input rows.
    pub max_commit_rows: usize,
    /// A transaction is committed when its outputs reach this many bytes.
    pub max_commit_bytes: usize,
    /// Most rows of a micro-batch.
    pub max_batch_rows: usize,
    /// How long a micro-batch may wait for company.
    pub linger: Duration,
    /// How long state and committed offset may disagree before the worker gives up.
    pub restore_deadline: Duration,
    /// State of another definition.
    pub on_state_mismatch: OnMismatch,
    /// What is to be read of the input, where that is not all that comes.
    pub span: Option<Arc<Span>>,
}

/// Why a worker stopped for good.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// Input that was never processed is gone.
    #[error(
        "input is lost: {0}; retention removed it before it was processed. Raise retention, then move the group's offsets on purpose"
    )]
    LostRange(LogError),
    /// The log refused something that repeating cannot mend.
    #[error("the log refused: {0}")]
    Refused(LogError),
    /// State cannot be restored.
    #[error(transparent)]
    Restore(RestoreError),
    /// State and committed offset never agreed.
    #[error(
        "partition {partition}: the group committed {committed:?} but the state topic names {state:?} as next input offset, for {waited:?}; offsets or state were deleted or changed by hand. Restore the missing one, or delete both to start anew"
    )]
    Disagreement {
        /// Partition.
        partition: i32,
        /// Offset that the group committed.
        committed: Option<i64>,
        /// Offset that the state names.
        state: Option<i64>,
        /// For how long it was retried.
        waited: Duration,
    },
    /// State cannot be written.
    #[error(transparent)]
    Changelog(#[from] ChangelogError),
    /// The job cannot go on.
    #[error("{0}")]
    Job(String),
}

/// What one turn of the loop did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was done.
    Worked,
    /// There was nothing to do.
    Idle,
    /// Something failed or does not answer; try again after this time.
    Waiting(Duration),
}

/// Defects that tests plant, to see that the simulation finds them.
#[cfg(test)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// Input offsets are committed after the transaction instead of within it.
    OffsetsOutside,
    /// After an abort the memory is kept and only the position goes back.
    KeepMemoryOnAbort,
    /// State is read to the last stable offset only, and agreement is not asked for.
    RestoreToLastStable,
    /// A partition that was taken away is committed all the same with a new token.
    CommitAfterRevoke,
}

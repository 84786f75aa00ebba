//! The job runner: exactly once from an input topic to output topics, with keyed state in a changelog.

mod changelog;
mod chunk;
mod job;
pub mod operator;
pub mod pieces;
mod restore;
mod span;
mod ticker;
pub(crate) mod worker;

#[cfg(test)]
pub(crate) mod simulation;

pub use changelog::ChangelogError;
#[cfg(test)]
pub(crate) use chunk::RowsReader;
pub use chunk::{ChunkError, Header, MAX_CHUNK_BYTES, decode as decode_chunk};
pub use job::{Job, JobError, Output, PartitionState, Share};
pub use restore::{OnMismatch, RestoreError};
pub use span::{Span, Stretch};
pub use ticker::{Monotonic, Ticker};
pub use worker::{Step, Worker, WorkerError, WorkerSettings};

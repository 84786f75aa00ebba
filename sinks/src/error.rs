//! What can go wrong in a sink, and what to do about it.

use std::time::Duration;

use eventlog::LogError;
use runtime::fate::Fate;

/// An error of a sink. What belongs to a single row never gets here: it is dead-lettered where it
/// is found, and its neighbours go on.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The store does not answer, or asks to come back later. Nothing is lost: the rows are held
    /// and the same step is tried again.
    #[error("{store} is not available: {reason}")]
    Unavailable {
        /// Which store, in words of the configuration.
        store: String,
        /// What it said.
        reason: String,
        /// How long the store asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// The store holds other offsets than this process believed: another process was given the
    /// partition meanwhile. What is held is dropped and read again from where the store says.
    #[error("another process has moved on: {0}")]
    Stale(String),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A person must look: a lost offset range, a table of another shape, a broken configuration.
    #[error("{0}")]
    Fatal(String),
}

impl SinkError {
    /// The store is away; try again.
    pub fn unavailable(store: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Unavailable { store: store.into(), reason: reason.to_string(), retry_after: None }
    }

    /// Transient (hold the rows and try again) or fatal (stop).
    pub fn fate(&self) -> Fate {
        match self {
            Self::Unavailable { .. } | Self::Stale(_) => Fate::Transient,
            Self::Log(error) => error.fate(),
            Self::Fatal(_) => Fate::Fatal,
        }
    }

    /// How long the store asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

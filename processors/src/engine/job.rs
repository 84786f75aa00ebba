//! What a job gives to the engine: one function from records to outputs and state changes.

use bytes::Bytes;
use eventlog::{LogError, NewRecord, Record};
use thiserror::Error;

use super::operator::{Operator, StateError};

/// Why a micro-batch could not be processed.
#[derive(Debug, Error)]
pub enum JobError {
    /// Something that the job needs (the schema registry) does not answer now. Nothing of the batch has
    /// touched the state yet; it is read again later.
    #[error("waiting: {0}")]
    Unavailable(String),
    /// The log refused an output.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A defect or a configuration that cannot work: the process must stop.
    #[error("{0}")]
    Fatal(String),
}

impl From<StateError> for JobError {
    fn from(error: StateError) -> Self {
        Self::Fatal(error.to_string())
    }
}

/// Where a job's outputs go: the open transaction.
pub struct Output<'a> {
    sink: &'a mut dyn FnMut(NewRecord) -> Result<(), LogError>,
    urgent: bool,
    bytes: usize,
}

impl<'a> Output<'a> {
    /// Outputs into `sink`.
    pub fn new(sink: &'a mut dyn FnMut(NewRecord) -> Result<(), LogError>) -> Self {
        Self { sink, urgent: false, bytes: 0 }
    }

    /// Sends one record in the open transaction.
    pub fn send(&mut self, record: NewRecord) -> Result<(), LogError> {
        self.bytes += record.value.as_ref().map_or(0, Bytes::len);
        (self.sink)(record)
    }

    /// Asks for an early commit: somebody waits for what was sent.
    pub fn hurry(&mut self) {
        self.urgent = true;
    }

    /// Whether an early commit was asked for.
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Bytes of the values sent so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Everything a job keeps for one partition.
pub trait PartitionState: Send {
    /// The operators, always in the same order.
    fn operators(&mut self) -> Vec<&mut dyn Operator>;
}

/// How much of what was put off is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// None of what can wait.
    None,
    /// A piece, so that nobody waits long for what else is in the transaction.
    Some,
    /// Everything.
    All,
}

/// Operators over one input topic, run by a worker.
pub trait Job: Send {
    /// State of one partition.
    type State: PartitionState;

    /// Empty state for a partition.
    fn open(&mut self, partition: i32) -> Result<Self::State, JobError>;

    /// Processes records of one partition in offset order. The outcome must not depend on how the log is
    /// cut into calls. Returning [`JobError::Unavailable`] promises that the state is untouched.
    fn process(
        &mut self,
        state: &mut Self::State,
        records: &[Record],
        output: &mut Output<'_>,
    ) -> Result<(), JobError>;

    /// Finishes what was put off so as to be done once a commit: called before each one, for each partition that it
    /// covers, and before its state is written. Answers whether something is left, which the state must tell by itself
    /// once it is restored: the engine commits again soon then, whether there is input or not.
    /// [`JobError::Unavailable`] is no answer here.
    fn settle(&mut self, _: &mut Self::State, _: Share, _: &mut Output<'_>) -> Result<bool, JobError> {
        Ok(false)
    }
}

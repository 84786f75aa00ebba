//! Breaking on purpose.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::{LogError, LogErrorKind};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happens and the call fails with `Unavailable`.
    Unavailable,
    /// Nothing happens and the call fails with `Aborted`; a producer's transaction can then only be aborted.
    Aborted,
    /// Nothing happens and the call fails with `Fatal`; a producer is unusable from then on.
    Fatal,
    /// The call succeeds, but its caller is told `Unavailable`. For calls that only ask, as [`Fault::Unavailable`].
    LostAnswer,
    /// The handle dies before the call, as by [`super::MemoryLog::kill`].
    Kill,
    /// The call succeeds, and then the handle dies.
    KillAfter,
}

/// The calls that can be counted and broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the method of the same name")]
pub enum Call {
    Poll,
    Start,
    Committed,
    Bounds,
    ConsumerCommit,
    Begin,
    Send,
    Commit,
    Abort,
    Append,
    ReadPartition,
}

impl Call {
    /// Whether it changes something whose answer can be lost.
    fn acts(self) -> bool {
        matches!(
            self,
            Self::ConsumerCommit | Self::Begin | Self::Send | Self::Commit | Self::Abort | Self::Start
        )
    }
}

/// What [`Handle::before`] leaves to be done when the call has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    LoseAnswer,
    Die,
}

/// Counts calls and knows which of them break.
pub(super) struct Handle {
    pub(super) id: u64,
    calls: Mutex<Vec<Call>>,
    faults: Mutex<BTreeMap<u64, Fault>>,
    dead: AtomicBool,
}

impl Handle {
    pub(super) fn new(id: u64) -> Self {
        Self { id, calls: Mutex::default(), faults: Mutex::default(), dead: AtomicBool::new(false) }
    }

    pub(super) fn plan(&self, n: u64, fault: Fault) {
        self.faults.lock().insert(n, fault);
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    pub(super) fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub(super) fn check_alive(&self) -> Result<(), LogError> {
        if self.is_dead() { Err(LogError::fatal("this handle was killed")) } else { Ok(()) }
    }

    /// Counts a call and breaks it if it is its turn. A fault of [`Fault::Kill`] only marks the handle as dead:
    /// whoever holds the state expels its members.
    pub(super) fn before(&self, call: Call) -> Result<After, LogError> {
        self.check_alive()?;
        let number = {
            let mut calls = self.calls.lock();
            calls.push(call);
            calls.len() as u64
        };
        let fault = self.faults.lock().get(&number).copied();
        let broken = |kind| Err(LogError::new(kind, format!("call {number}, {call:?}, was made to fail")));
        match fault {
            None => Ok(After::Nothing),
            Some(Fault::LostAnswer) if call.acts() => Ok(After::LoseAnswer),
            Some(Fault::Unavailable | Fault::LostAnswer) => broken(LogErrorKind::Unavailable),
            Some(Fault::Aborted) => broken(LogErrorKind::Aborted),
            Some(Fault::Fatal) => broken(LogErrorKind::Fatal),
            Some(Fault::KillAfter) => Ok(After::Die),
            Some(Fault::Kill) => {
                self.die();
                broken(LogErrorKind::Fatal)
            }
        }
    }

    /// What the caller hears of a call that succeeded.
    pub(super) fn after<T>(&self, after: After, answer: T) -> Result<T, LogError> {
        match after {
            After::Nothing => Ok(answer),
            After::LoseAnswer => Err(LogError::unavailable("the answer was lost on purpose")),
            After::Die => {
                self.die();
                Err(LogError::fatal("killed after the call"))
            }
        }
    }
}

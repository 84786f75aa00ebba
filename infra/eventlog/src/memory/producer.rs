//! Producers in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::MemoryLog;
use super::consumer::Token;
use super::faults::{After, Call};
use crate::error::{AppendError, LogError, LogErrorKind};
use crate::log::{Appender, GroupToken, OnDelivery, TransactionalProducer};
use crate::record::{NewRecord, Position};

/// A transactional producer; see [`crate::TransactionalProducer`]. Dropping it leaves its transaction open, as a
/// process that dies does.
pub struct MemoryProducer {
    log: MemoryLog,
    id: String,
    epoch: u64,
    open: Option<usize>,
    /// Why the open transaction can only be aborted.
    tainted: Option<String>,
    /// Why nothing can be done any more.
    broken: Option<String>,
}

impl MemoryProducer {
    pub(super) fn open(log: MemoryLog, id: &str) -> Result<Self, LogError> {
        let epoch = log.lock().open_producer(id)?;
        Ok(Self { log, id: id.to_owned(), epoch, open: None, tainted: None, broken: None })
    }

    fn enter(&mut self, call: Call) -> Result<After, LogError> {
        if let Some(reason) = &self.broken {
            return Err(LogError::fatal(reason.clone()));
        }
        let entered = self.log.handle.before(call);
        if let Err(error) = &entered {
            match error.kind {
                LogErrorKind::Fatal => self.broken = Some(error.message.clone()),
                LogErrorKind::Aborted => self.tainted = Some(error.message.clone()),
                _ => {}
            }
        }
        self.bury_if_dead();
        entered
    }

    fn leave(&self, after: After) -> Result<(), LogError> {
        let left = self.log.handle.after(after, ());
        self.bury_if_dead();
        left
    }

    fn bury_if_dead(&self) {
        if self.log.handle.is_dead() {
            self.log.lock().expel(self.log.handle.id);
        }
    }

    fn transaction(&self) -> Result<usize, LogError> {
        self.open.ok_or_else(|| LogError::fatal("no transaction is open"))
    }

    fn check_sound(&self) -> Result<(), LogError> {
        match &self.tainted {
            Some(reason) => Err(LogError::new(LogErrorKind::Aborted, reason.clone())),
            None => Ok(()),
        }
    }
}

impl TransactionalProducer for MemoryProducer {
    fn begin(&mut self) -> Result<(), LogError> {
        let after = self.enter(Call::Begin)?;
        if self.open.is_some() {
            return Err(LogError::fatal("a transaction is open already"));
        }
        // As in Kafka this is local: a fenced producer learns it later.
        let mut state = self.log.lock();
        if state.check_epoch(&self.id, self.epoch).is_ok() {
            self.open = Some(state.begin(&self.id));
        } else {
            self.open = Some(usize::MAX);
        }
        drop(state);
        self.leave(after)
    }

    fn send(&mut self, record: NewRecord) -> Result<(), LogError> {
        let after = self.enter(Call::Send)?;
        let transaction = self.transaction()?;
        self.check_sound()?;
        {
            let mut state = self.log.lock();
            state.check_epoch(&self.id, self.epoch)?;
            state.append(record, Some(transaction))?;
        }
        self.leave(after)
    }

    fn commit(&mut self, offsets: &[Position], group: &GroupToken) -> Result<(), LogError> {
        let after = self.enter(Call::Commit)?;
        let transaction = self.transaction()?;
        self.check_sound()?;
        let Some(token) = group.0.downcast_ref::<Token>() else {
            return Err(LogError::fatal("the group token is of another log"));
        };
        {
            let mut state = self.log.lock();
            state.check_epoch(&self.id, self.epoch)?;
            if let Err(error) = token.check(&mut state) {
                self.tainted = Some(error.message.clone());
                return Err(error);
            }
            if !offsets.is_empty() {
                state.add_offsets(transaction, &token.group, offsets);
            }
            state.end(transaction, true);
        }
        self.open = None;
        self.leave(after)
    }

    fn abort(&mut self) -> Result<(), LogError> {
        let after = self.enter(Call::Abort)?;
        if let Some(transaction) = self.open {
            let mut state = self.log.lock();
            state.check_epoch(&self.id, self.epoch)?;
            state.end(transaction, false);
        }
        self.open = None;
        self.tainted = None;
        self.leave(after)
    }
}

/// A report that is due or held back.
pub(super) struct Delivery {
    told: Arc<Told>,
    token: usize,
    outcome: Result<(i32, i64), LogError>,
}

struct Told {
    on_delivery: OnDelivery,
    in_flight: AtomicUsize,
}

impl Delivery {
    /// Must run without the state locked: the listener may call the log.
    pub(super) fn report(self) {
        self.told.in_flight.fetch_sub(1, Ordering::SeqCst);
        (self.told.on_delivery)(self.token, self.outcome);
    }
}

/// An appender; see [`crate::Appender`]. It reports at once, on the caller's thread, unless
/// [`MemoryLog::hold_deliveries`] was called.
pub struct MemoryAppender {
    log: MemoryLog,
    told: Arc<Told>,
}

impl MemoryAppender {
    pub(super) fn new(log: MemoryLog, on_delivery: OnDelivery) -> Self {
        Self { log, told: Arc::new(Told { on_delivery, in_flight: AtomicUsize::new(0) }) }
    }
}

impl Appender for MemoryAppender {
    fn append(&self, record: NewRecord, token: usize) -> Result<(), AppendError> {
        self.log.handle.before(Call::Append)?;
        let due = {
            let mut state = self.log.lock();
            if state.hold_deliveries.is_some_and(|capacity| self.in_flight() >= capacity) {
                return Err(AppendError::QueueFull(record));
            }
            let outcome = state.append(record, None);
            if let Err(error) = &outcome
                && error.kind == LogErrorKind::TooLarge
            {
                return Err(AppendError::Log(error.clone()));
            }
            self.told.in_flight.fetch_add(1, Ordering::SeqCst);
            state.deliver(Delivery { told: Arc::clone(&self.told), token, outcome })
        };
        if let Some(due) = due {
            due.report();
        }
        Ok(())
    }

    fn flush(&self, _deadline: Duration) -> Result<(), LogError> {
        match self.in_flight() {
            0 => Ok(()),
            count => Err(LogError::unavailable(format!("{count} records are still in flight"))),
        }
    }

    fn in_flight(&self) -> usize {
        self.told.in_flight.load(Ordering::SeqCst)
    }
}

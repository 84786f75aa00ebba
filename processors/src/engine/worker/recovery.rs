//! After a failure: back to what is committed, by the shortest way that is sure.

use eventlog::{Log, LogErrorKind, Record};

use super::{Job, Slot, Step, Trouble, Worker, WorkerError};

impl<L: Log, J: Job> Worker<L, J> {
    pub(super) fn recover(&mut self, trouble: Trouble) -> Result<Step, WorkerError> {
        let (error, committing) = match trouble {
            Trouble::Fatal(error) => {
                // Best effort: the broker aborts it anyway once the transaction times out.
                self.abort();
                self.session = None;
                return Err(error);
            }
            Trouble::Log(error) => (error, false),
            Trouble::Commit(error) => (error, true),
        };
        tracing::warn!(%error, committing, "log failed");
        metrics::counter!("varta_processors_log_failures_total").increment(1);
        self.note(&error.message);
        match &error.kind {
            LogErrorKind::OffsetOutOfRange { .. } => {
                self.session = None;
                return Err(WorkerError::LostRange(error));
            }
            LogErrorKind::TooLarge => {
                self.session = None;
                return Err(WorkerError::Refused(error));
            }
            LogErrorKind::Aborted => self.abort(),
            LogErrorKind::Rebalanced => self.step_back(),
            // Nothing is decided yet, so an abort takes it back.
            LogErrorKind::Unavailable if !committing => self.abort(),
            // Fenced, fatal, or a commit whose answer is lost: only a new producer knows what became of it.
            _ => self.session = None,
        }
        Ok(Step::Waiting(self.backoff.next_delay()))
    }

    /// The group moved on without us: nothing in memory counts until it says what we own.
    pub(super) fn step_back(&mut self) {
        let now = self.ticker.now();
        self.abort();
        let Some(session) = &mut self.session else { return };
        session.token = None;
        session.tokenless_since = Some(now);
        for slot in session.slots.values_mut() {
            *slot = Slot::Restoring { since: now, retry_at: now };
        }
    }

    pub(super) fn mark_touched(&mut self, records: &[Record]) {
        let Some(session) = &mut self.session else { return };
        for record in records {
            if let Some(Slot::Active(active)) = session.slots.get_mut(&record.partition) {
                active.touched = true;
            }
        }
    }

    /// Nothing is waited for any more. A spare worker without partitions is as ready as it can be.
    pub(super) fn is_well(&mut self) {
        let is_restoring = |slot: &Slot<J::State>| matches!(slot, Slot::Restoring { .. });
        let restored = self.session.as_ref().is_some_and(|session| !session.slots.values().any(is_restoring));
        if self.noted && restored {
            self.noted = false;
            if let Some(health) = &self.health {
                health.ready();
            }
        }
    }

    pub(super) fn note(&mut self, why: &str) {
        self.noted = true;
        if let Some(health) = &self.health {
            health.waiting(why);
        }
    }
}

//! One channel: claims a message, sends it, marks what became of it; by itself, so that a dead service holds up nobody else.

use std::{sync::Arc, time::Duration};

use runtime::{backoff::Backoff, failpoint, fate::Fate, health::Component, shutdown::Shutdown};
use sqlx::PgConnection;
use tokio::sync::Notify;

use super::{
    config::{Channel, NotifierConfig},
    line::Lines,
    service::{Answer, Missed, Service, words},
    store::{self, Claimed, Next, Outcome},
};
use crate::{SinkError, postgres::answered};

/// How long a channel waits for the dealer of its own process before it looks whether another process has dealt.
const IDLE: Duration = Duration::from_secs(1);
/// The same for what one mailbox could not take, which is rare.
const SPARE_IDLE: Duration = Duration::from_secs(30);
/// Longest pause between two attempts at a service that does not say how long it wants to be left alone.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What a channel knows of its service.
struct Known {
    backoff: Backoff,
    /// A message that was told when the database was away; another notifier would tell it again.
    unmarked: Option<Told>,
    /// What the service refused last, until it takes a message whole.
    refusal: Option<String>,
}

/// A message that the service has, and what is left to do about it.
struct Told {
    claimed: Claimed,
    /// Who did not get it, and why.
    reason: Option<String>,
    /// Queues in which what is in it is to wait.
    again: Vec<String>,
}

impl Told {
    fn outcome(&self) -> Outcome<'_> {
        Outcome::Sent { reason: self.reason.as_deref(), again: &self.again }
    }
}

/// The queue of one of several mailboxes.
pub(super) struct Spare {
    pub(super) mailbox: String,
    pub(super) queue: String,
    /// Something was put into it.
    pub(super) deferred: Arc<Notify>,
}

pub(super) struct Speaker {
    pub(super) config: Arc<NotifierConfig>,
    pub(super) channel: Channel,
    pub(super) service: Service,
    pub(super) lines: Lines,
    pub(super) component: Component,
    /// Rows were dealt.
    pub(super) dealt: Arc<Notify>,
    /// Of an e-mail channel with several mailboxes.
    pub(super) spares: Vec<Spare>,
    /// Whether this is one: its connection is kept only while it has something to tell.
    pub(super) is_spare: bool,
}

impl Speaker {
    /// Until `shutdown`. A message that is being sent is finished.
    pub(super) async fn run(self, shutdown: Shutdown) -> Result<(), SinkError> {
        let mut connection = None;
        let mut database = Backoff::new(Duration::from_millis(200), store::LONGEST_PAUSE);
        let mut known = Known {
            backoff: Backoff::new(Duration::from_secs(1), LONGEST_PAUSE),
            unmarked: None,
            refusal: None,
        };
        while !shutdown.is_requested() {
            let wait = match self.turn(&mut connection, &mut known, &shutdown).await {
                Ok(wait) => {
                    database.reset();
                    wait
                }
                Err(error) if error.fate() == Fate::Fatal => {
                    self.component.failed(error.to_string());
                    return Err(error);
                }
                Err(error) => {
                    // Its state is not known.
                    connection = None;
                    if database.attempts() == 0 {
                        tracing::warn!(channel = %self.channel.name, %error, "waiting for the outbox in PostgreSQL");
                    }
                    self.component.waiting(error.to_string());
                    Some(database.next_delay())
                }
            };
            let idle = if self.is_spare { SPARE_IDLE } else { IDLE };
            if self.is_spare && wait.is_none() {
                connection = None;
            }
            tokio::select! {
                () = shutdown.wait() => {}
                () = self.dealt.notified(), if wait.is_none() => {}
                () = tokio::time::sleep(wait.unwrap_or(idle)) => {}
            }
        }
        Ok(())
    }

    /// What the database answers. A step is a few statements, each of which it ends itself after `timeout`; a stop waits
    /// for one that hangs no longer than that.
    async fn answer<T>(
        &self,
        shutdown: &Shutdown,
        work: impl Future<Output = Result<T, SinkError>>,
    ) -> Result<T, SinkError> {
        tokio::select! {
            outcome = answered(10 * self.config.timeout, work) => outcome,
            () = store::given_up(shutdown, self.config.timeout) => {
                Err(SinkError::unavailable("postgres", "no answer before the stop"))
            }
        }
    }

    /// One message at most. How long to wait then; `None`: until something is dealt.
    async fn turn(
        &self,
        connection: &mut Option<PgConnection>,
        known: &mut Known,
        shutdown: &Shutdown,
    ) -> Result<Option<Duration>, SinkError> {
        let database = match connection {
            Some(connection) => connection,
            None => connection.insert(self.answer(shutdown, store::connect(&self.config)).await?),
        };
        if let Some(told) = &known.unmarked {
            let marking = store::mark(database, &self.channel, &told.claimed, told.outcome());
            self.answer(shutdown, marking).await?;
            self.wake(&told.again);
            known.unmarked = None;
        }
        let characters = self.service.characters();
        let lease = self.config.lease();
        let claiming = store::claim(database, &self.channel, &self.lines, characters, lease);
        match self.answer(shutdown, claiming).await? {
            Next::Idle => {
                match &known.refusal {
                    Some(refusal) => self.component.waiting(refusal),
                    None if known.backoff.attempts() == 0 => self.component.ready(),
                    None => {}
                }
                Ok(None)
            }
            Next::Wait(wait) => Ok(Some(wait.min(IDLE))),
            Next::Send(claimed) => {
                failpoint::hit("notifier.after_claim");
                let answer = self.service.send(&claimed.message).await;
                failpoint::hit("notifier.after_send");
                self.mark(database, *claimed, answer, known, shutdown).await?;
                failpoint::hit("notifier.after_mark");
                Ok(Some(Duration::ZERO))
            }
        }
    }

    async fn mark(
        &self,
        database: &mut PgConnection,
        claimed: Claimed,
        answer: Answer,
        known: &mut Known,
        shutdown: &Shutdown,
    ) -> Result<(), SinkError> {
        let (channel, kind) = (self.channel.name.as_str(), self.service.kind());
        let (message, items) = (claimed.message.id, claimed.message.total);
        self.count(&answer, items);
        match answer {
            Answer::Taken => {
                known.backoff.reset();
                known.refusal = None;
                let told = Told { claimed, reason: None, again: Vec::new() };
                let is_digest = told.claimed.message.is_digest;
                self.told(database, told, known, shutdown).await?;
                self.component.ready();
                tracing::info!(channel, service = kind, %message, items, digest = is_digest, "told");
            }
            Answer::TakenInPart(missed) => {
                known.backoff.reset();
                let reason = words(&missed);
                let (for_good, for_now): (Vec<_>, Vec<_>) =
                    missed.iter().partition(|missed| missed.is_for_good);
                if for_good.is_empty() {
                    known.refusal = None;
                    tracing::warn!(channel, service = kind, %message, items, %reason, "told, to some of them later");
                } else {
                    let words = words(for_good);
                    self.refused(known, format!("{kind} does not take it for everybody: {words}"));
                    tracing::error!(channel, service = kind, %message, items, %reason, "told, but not to everybody");
                }
                let again = self.queues(&for_now);
                self.told(database, Told { claimed, reason: Some(reason), again }, known, shutdown).await?;
                if known.refusal.is_none() {
                    self.component.ready();
                }
            }
            Answer::Refused(reason) => {
                self.refused(known, format!("{kind} refuses messages: {reason}"));
                tracing::error!(channel, service = kind, %message, items, %reason, "refused, nobody is told");
                let marking = store::mark(database, &self.channel, &claimed, Outcome::Failed(&reason));
                self.answer(shutdown, marking).await?;
            }
            Answer::Later { reason, retry_after } => {
                let pause =
                    retry_after.unwrap_or_else(|| known.backoff.next_delay().max(Duration::from_millis(200)));
                let attempt = claimed.attempts + 1;
                let wait_ms = pause.as_millis() as u64;
                tracing::warn!(channel, service = kind, %message, items, attempt, %reason, wait_ms, "not told yet");
                self.component.waiting(format!("{kind} {reason}"));
                let outcome = Outcome::Postponed(&reason, pause);
                let marking = store::mark(database, &self.channel, &claimed, outcome);
                if self.answer(shutdown, marking).await? {
                    tracing::error!(channel, service = kind, %message, items, %reason, "given up, nobody is told");
                    self.refused(known, format!("{kind} takes other messages, but not one: {reason}"));
                }
            }
        }
        Ok(())
    }

    /// Marks what the service has; when that fails it is marked later.
    async fn told(
        &self,
        database: &mut PgConnection,
        told: Told,
        known: &mut Known,
        shutdown: &Shutdown,
    ) -> Result<(), SinkError> {
        let marking = store::mark(database, &self.channel, &told.claimed, told.outcome());
        let marked = self.answer(shutdown, marking).await;
        match marked {
            Ok(_) => self.wake(&told.again),
            Err(_) => known.unmarked = Some(told),
        }
        marked.map(drop)
    }

    /// The queues of mailboxes.
    fn queues(&self, missed: &[&Missed]) -> Vec<String> {
        let is_missed = |spare: &&Spare| missed.iter().any(|missed| missed.mailbox == spare.mailbox);
        self.spares.iter().filter(is_missed).map(|spare| spare.queue.clone()).collect()
    }

    fn wake(&self, queues: &[String]) {
        let spares = self.spares.iter().filter(|spare| queues.contains(&spare.queue));
        spares.for_each(|spare| spare.deferred.notify_one());
    }

    fn count(&self, answer: &Answer, items: usize) {
        let (channel, service) = (self.channel.name.clone(), self.service.kind());
        let outcome = match answer {
            Answer::Taken => "sent",
            Answer::TakenInPart(_) => "sent_in_part",
            Answer::Refused(_) => "refused",
            Answer::Later { .. } => "later",
        };
        metrics::counter!(
            "varta_notifier_attempts_total", "channel" => channel.clone(), "service" => service, "outcome" => outcome
        )
        .increment(1);
        if !matches!(answer, Answer::Later { .. }) {
            metrics::counter!(
                "varta_notifier_items_total", "channel" => channel, "service" => service, "outcome" => outcome
            )
            .increment(items as u64);
        }
    }

    /// Health says so until the service takes a message whole.
    fn refused(&self, known: &mut Known, refusal: String) {
        self.component.waiting(&refusal);
        known.refusal = Some(refusal);
    }
}

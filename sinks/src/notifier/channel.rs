//! One channel: claims a message, sends it, marks what became of it; by itself, so that a dead service holds up nobody else.

use std::{sync::Arc, time::Duration};

use runtime::{backoff::Backoff, failpoint, fate::Fate, health::Component, shutdown::Shutdown};
use sqlx::PgConnection;
use tokio::sync::Notify;

use super::{
    config::{Channel, NotifierConfig},
    line::Lines,
    service::{Answer, Service},
    store::{self, Claimed, Next, Outcome},
};
use crate::{SinkError, postgres::answered};

/// How long a channel waits for the dealer of its own process before it looks whether another process has dealt.
const IDLE: Duration = Duration::from_secs(1);
/// Longest pause between two attempts at a service that does not say how long it wants to be left alone.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What a channel knows of its service.
struct Known {
    backoff: Backoff,
    /// A message that was told when the database was away; another notifier would tell it again.
    unmarked: Option<Claimed>,
    /// What the service refused last, until it takes a message whole.
    refusal: Option<String>,
}

pub(super) struct Speaker {
    pub(super) config: Arc<NotifierConfig>,
    pub(super) channel: Channel,
    pub(super) service: Service,
    pub(super) lines: Lines,
    pub(super) component: Component,
    /// Rows were dealt.
    pub(super) dealt: Arc<Notify>,
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
            let wait = match self.turn(&mut connection, &mut known).await {
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
            tokio::select! {
                () = shutdown.wait() => {}
                () = self.dealt.notified(), if wait.is_none() => {}
                () = tokio::time::sleep(wait.unwrap_or(IDLE)) => {}
            }
        }
        Ok(())
    }

    /// How long the database may take for a step: a few statements, each of which it ends itself after `timeout`.
    fn limit(&self) -> Duration {
        10 * self.config.timeout
    }

    /// One message at most. How long to wait then; `None`: until something is dealt.
    async fn turn(
        &self,
        connection: &mut Option<PgConnection>,
        known: &mut Known,
    ) -> Result<Option<Duration>, SinkError> {
        let limit = self.limit();
        let database = match connection {
            Some(connection) => connection,
            None => connection.insert(answered(limit, store::connect(&self.config)).await?),
        };
        if let Some(told) = &known.unmarked {
            answered(limit, store::mark(database, &self.channel, told, Outcome::Sent(None))).await?;
            known.unmarked = None;
        }
        let characters = self.service.characters();
        let lease = self.config.lease();
        let claiming = store::claim(database, &self.channel, &self.lines, characters, lease);
        match answered(limit, claiming).await? {
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
                let was_taken = matches!(answer, Answer::Taken | Answer::TakenInPart(_));
                let marked = answered(limit, self.mark(database, &claimed, answer, known)).await;
                if was_taken && marked.is_err() {
                    known.unmarked = Some(*claimed);
                }
                marked?;
                failpoint::hit("notifier.after_mark");
                Ok(Some(Duration::ZERO))
            }
        }
    }

    async fn mark(
        &self,
        database: &mut PgConnection,
        claimed: &Claimed,
        answer: Answer,
        known: &mut Known,
    ) -> Result<(), SinkError> {
        let (channel, kind) = (self.channel.name.as_str(), self.service.kind());
        let (message, items) = (claimed.message.id, claimed.message.total);
        let outcome = match &answer {
            Answer::Taken => "sent",
            Answer::TakenInPart(_) => "sent_in_part",
            Answer::Refused(_) => "refused",
            Answer::Later { .. } => "later",
        };
        metrics::counter!(
            "varta_notifier_attempts_total", "channel" => channel.to_owned(), "service" => kind, "outcome" => outcome
        )
        .increment(1);
        if !matches!(answer, Answer::Later { .. }) {
            metrics::counter!(
                "varta_notifier_items_total", "channel" => channel.to_owned(), "service" => kind, "outcome" => outcome
            )
            .increment(items as u64);
        }
        match answer {
            Answer::Taken => {
                known.backoff.reset();
                known.refusal = None;
                store::mark(database, &self.channel, claimed, Outcome::Sent(None)).await?;
                self.component.ready();
                tracing::info!(channel, service = kind, %message, items, digest = claimed.message.is_digest, "told");
            }
            Answer::TakenInPart(reason) => {
                known.backoff.reset();
                self.refused(known, format!("{kind} does not take it for everybody: {reason}"));
                tracing::error!(channel, service = kind, %message, items, %reason, "told, but not to everybody");
                store::mark(database, &self.channel, claimed, Outcome::Sent(Some(&reason))).await?;
            }
            Answer::Refused(reason) => {
                self.refused(known, format!("{kind} refuses messages: {reason}"));
                tracing::error!(channel, service = kind, %message, items, %reason, "refused, nobody is told");
                store::mark(database, &self.channel, claimed, Outcome::Failed(&reason)).await?;
            }
            Answer::Later { reason, retry_after } => {
                let pause =
                    retry_after.unwrap_or_else(|| known.backoff.next_delay().max(Duration::from_millis(200)));
                let attempt = claimed.attempts + 1;
                let wait_ms = pause.as_millis() as u64;
                tracing::warn!(channel, service = kind, %message, items, attempt, %reason, wait_ms, "not told yet");
                self.component.waiting(format!("{kind} {reason}"));
                let outcome = Outcome::Postponed(&reason, pause);
                if store::mark(database, &self.channel, claimed, outcome).await? {
                    tracing::error!(channel, service = kind, %message, items, %reason, "given up, nobody is told");
                    self.refused(known, format!("{kind} takes other messages, but not one: {reason}"));
                }
            }
        }
        Ok(())
    }

    /// Health says so until the service takes a message whole.
    fn refused(&self, known: &mut Known, refusal: String) {
        self.component.waiting(&refusal);
        known.refusal = Some(refusal);
    }
}

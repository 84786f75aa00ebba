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
        let mut service = Backoff::new(Duration::from_secs(1), LONGEST_PAUSE);
        let mut unmarked = None;
        while !shutdown.is_requested() {
            let wait = match self.turn(&mut connection, &mut service, &mut unmarked).await {
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

    /// One message at most. How long to wait then; `None`: until something is dealt. `unmarked` is a message that was told
    /// when the database was away; another notifier would tell it again.
    async fn turn(
        &self,
        connection: &mut Option<PgConnection>,
        backoff: &mut Backoff,
        unmarked: &mut Option<Claimed>,
    ) -> Result<Option<Duration>, SinkError> {
        let limit = self.limit();
        let database = match connection {
            Some(connection) => connection,
            None => connection.insert(answered(limit, store::connect(&self.config)).await?),
        };
        if let Some(told) = unmarked {
            answered(limit, store::mark(database, &self.channel, told, Outcome::Sent)).await?;
            *unmarked = None;
        }
        let characters = self.service.characters();
        let lease = self.config.lease();
        let claiming = store::claim(database, &self.channel, &self.lines, characters, lease);
        match answered(limit, claiming).await? {
            Next::Idle => {
                if backoff.attempts() == 0 {
                    self.component.ready();
                }
                Ok(None)
            }
            Next::Wait(wait) => Ok(Some(wait.min(IDLE))),
            Next::Send(claimed) => {
                failpoint::hit("notifier.after_claim");
                let answer = self.service.send(&claimed.message).await;
                failpoint::hit("notifier.after_send");
                let was_taken = answer == Answer::Taken;
                let marked = answered(limit, self.mark(database, &claimed, answer, backoff)).await;
                if was_taken && marked.is_err() {
                    *unmarked = Some(*claimed);
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
        backoff: &mut Backoff,
    ) -> Result<(), SinkError> {
        let (channel, kind) = (self.channel.name.as_str(), self.service.kind());
        let (message, items) = (claimed.message.id, claimed.message.total);
        let outcome = match &answer {
            Answer::Taken => "sent",
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
                store::mark(database, &self.channel, claimed, Outcome::Sent).await?;
                backoff.reset();
                self.component.ready();
                tracing::info!(channel, service = kind, %message, items, digest = claimed.message.is_digest, "told");
            }
            Answer::Refused(reason) => {
                store::mark(database, &self.channel, claimed, Outcome::Failed(&reason)).await?;
                tracing::error!(channel, service = kind, %message, items, %reason, "refused, nobody is told");
                self.component.waiting(format!("{kind} refuses messages: {reason}"));
            }
            Answer::Later { reason, retry_after } => {
                let pause =
                    retry_after.unwrap_or_else(|| backoff.next_delay().max(Duration::from_millis(200)));
                let attempt = claimed.attempts + 1;
                let wait_ms = pause.as_millis() as u64;
                tracing::warn!(channel, service = kind, %message, items, attempt, %reason, wait_ms, "not told yet");
                self.component.waiting(format!("{kind} {reason}"));
                let outcome = Outcome::Postponed(&reason, pause);
                store::mark(database, &self.channel, claimed, outcome).await?;
            }
        }
        Ok(())
    }
}

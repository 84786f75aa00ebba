//! Deals rows of the outbox to the channels, and deletes what was told long ago.

use std::{sync::Arc, time::Duration};

use runtime::{backoff::Backoff, fate::Fate, health::Component, shutdown::Shutdown};
use sqlx::PgConnection;
use tokio::{sync::Notify, time::Instant};

use super::{config::NotifierConfig, filter::Filter, store, upkeep};
use crate::{SinkError, postgres::answered};

/// How often what waits is counted for the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// How often old rows are deleted.
const PURGE_EVERY: Duration = Duration::from_mins(10);

pub(super) struct Dealer {
    pub(super) config: Arc<NotifierConfig>,
    pub(super) channels: Vec<(String, Filter)>,
    pub(super) dealt: Vec<Arc<Notify>>,
    pub(super) component: Component,
}

impl Dealer {
    /// Until `shutdown`.
    pub(super) async fn run(self, shutdown: Shutdown) -> Result<(), SinkError> {
        let mut connection = None;
        let mut backoff = Backoff::new(Duration::from_millis(200), store::LONGEST_PAUSE);
        let (mut count_at, mut purge_at) = (Instant::now(), Instant::now());
        while !shutdown.is_requested() {
            let turn = self.turn(&mut connection, &mut count_at, &mut purge_at);
            let outcome = tokio::select! {
                outcome = answered(10 * self.config.timeout, turn) => outcome,
                // What is under way is rolled back, and dealt by who comes next.
                () = store::given_up(&shutdown, self.config.timeout) => return Ok(()),
            };
            let wait = match outcome {
                Ok(more) => {
                    if backoff.attempts() > 0 {
                        tracing::info!("the outbox is back");
                    }
                    backoff.reset();
                    self.component.ready();
                    if more { Duration::ZERO } else { self.config.poll }
                }
                Err(error) if error.fate() == Fate::Fatal => {
                    self.component.failed(error.to_string());
                    return Err(error);
                }
                Err(error) => {
                    connection = None;
                    if backoff.attempts() == 0 {
                        tracing::warn!(%error, "waiting for the outbox in PostgreSQL, nobody is told meanwhile");
                    }
                    self.component.waiting(error.to_string());
                    backoff.next_delay()
                }
            };
            tokio::select! {
                () = shutdown.wait() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        Ok(())
    }

    /// One round; whether more rows wait.
    async fn turn(
        &self,
        connection: &mut Option<PgConnection>,
        count_at: &mut Instant,
        purge_at: &mut Instant,
    ) -> Result<bool, SinkError> {
        let database = match connection {
            Some(connection) => connection,
            None => connection.insert(store::connect(&self.config).await?),
        };
        let (rows, more) = store::deal(database, &self.channels).await?;
        if rows > 0 {
            metrics::counter!("varta_notifier_dealt_total").increment(rows as u64);
            self.dealt.iter().for_each(|channel| channel.notify_one());
        }
        let now = Instant::now();
        if now >= *count_at {
            *count_at = now + COUNT_EVERY;
            for standing in upkeep::standing(database).await? {
                let gauge = |name: &'static str, value: i64| {
                    metrics::gauge!(name, "channel" => standing.channel.clone()).set(value as f64);
                };
                gauge("varta_notifier_waiting_items", standing.waiting);
                gauge("varta_notifier_open_messages", standing.open);
                gauge("varta_notifier_refused_messages", standing.refused);
            }
        }
        if now >= *purge_at && !more {
            let queues = self.config.queues();
            let (purged, more) = upkeep::purge(database, self.config.retention, &queues).await?;
            // In pieces, between which rows are dealt, until all is done.
            *purge_at = if more { now } else { now + PURGE_EVERY };
            tracing::debug!(purged, "old notifications deleted");
        }
        Ok(more)
    }
}

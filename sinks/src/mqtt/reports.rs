//! Reports on the bus: `reports/fleet/{kind}`, `reports/agent/{agent_id}/{kind}`, `reports/user/{name}/{kind}`, QoS 1, JSON.
//!
//! The broker keeps the newest period of each topic for whoever subscribes later. An older period that was computed again,
//! because an agent brought what it had seen long ago, passes by those who listen and is not kept.
//!
//! At least once: the table `reports` says of each report which version the broker has acknowledged, and that is written
//! after the acknowledgement. One process publishes at a time, by a lock of the transaction that reads and marks; another
//! version that is computed meanwhile differs from what is marked and is published next.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use runtime::{backoff::Backoff, failpoint, fate::Fate, health::Health, shutdown::Shutdown};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::{
    config::{MqttConfig, Scope},
    payload,
    publisher::{Message, Publisher},
};
use crate::{
    SinkError,
    postgres::{PostgresConfig, answered, connect_migrated, failed},
};

/// Reports that are published in one transaction.
const ROUND: i64 = 20;
/// Held by the process that publishes; any number that nothing else uses.
const LOCK: i64 = 0x7661_7262_7573;

/// A version of a report that the broker has not acknowledged.
struct Report {
    kind: String,
    period_start: NaiveDate,
    scope: String,
    key: String,
    computed_at: DateTime<Utc>,
    is_newest: bool,
    body: Value,
}

pub(super) struct Reports {
    config: MqttConfig,
    postgres: PostgresConfig,
    connection: Option<PgConnection>,
    publisher: Option<Publisher>,
    /// Given to the broker, and not known to be marked: another process may have published a newer version meanwhile,
    /// which ours has then replaced.
    doubtful: Vec<Report>,
}

impl Reports {
    pub(super) fn new(config: MqttConfig, postgres: PostgresConfig) -> Self {
        Self { config, postgres, connection: None, publisher: None, doubtful: Vec::new() }
    }

    /// Publishes what is not on the bus, until `shutdown` or a fatal error. A database or broker that is away is waited for.
    pub(super) async fn run(mut self, health: Health, shutdown: Shutdown) -> Result<(), SinkError> {
        if self.config.reports.is_empty() || !self.postgres.enabled {
            return Ok(());
        }
        let component = health.component("mqtt.reports");
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
        // what was told last; nothing is told twice in a row
        let mut told = String::new();
        while !shutdown.is_requested() {
            let limit = 10 * self.postgres.timeout + self.config.timeout;
            let outcome = tokio::select! {
                outcome = answered(limit, self.round()) => outcome,
                () = shutdown.wait() => return Ok(()),
            };
            let pause = match outcome {
                Ok(0) => {
                    backoff.reset();
                    told.clear();
                    component.ready();
                    self.config.reports_every
                }
                Ok(published) => {
                    metrics::counter!("varta_sinks_mqtt_reports_total").increment(published as u64);
                    Duration::ZERO
                }
                Err(error) if error.fate() == Fate::Transient => {
                    // Their state is not known.
                    (self.connection, self.publisher) = (None, None);
                    let why = error.to_string();
                    component.waiting(&why);
                    if told != why {
                        tracing::warn!(%error, "reports are not on the bus yet");
                        told = why;
                    }
                    backoff.next_delay()
                }
                Err(error) => {
                    component.failed(error.to_string());
                    return Err(error);
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.wait() => {}
            }
        }
        Ok(())
    }

    /// How many were published; none when all are on the bus or another process publishes.
    async fn round(&mut self) -> Result<usize, SinkError> {
        let mut connection = if let Some(connection) = self.connection.take() {
            connection
        } else {
            connect_migrated(&self.postgres, "varta-mqtt-reports").await?
        };
        let mut transaction = connection.begin().await.map_err(failed)?;
        let is_ours: bool = sqlx::query_scalar("select pg_try_advisory_xact_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
        let mut published = 0;
        if is_ours {
            for report in &self.doubtful {
                mark(&mut transaction, report, None).await?;
            }
            let reports = waiting(&mut transaction, &self.config.reports).await?;
            let messages: Vec<Message> = reports.iter().map(|report| self.message(report)).collect();
            published = messages.len();
            // From here on they may be on the bus, whatever becomes of the transaction.
            self.doubtful.extend(reports);
            self.publish(&messages).await?;
            failpoint::hit("mqtt.reports_after_publish");
            let first = self.doubtful.len() - published;
            for report in &self.doubtful[first..] {
                mark(&mut transaction, report, Some(report.computed_at)).await?;
            }
        }
        transaction.commit().await.map_err(failed)?;
        if is_ours {
            self.doubtful.clear();
        }
        self.connection = Some(connection);
        Ok(published)
    }

    fn message(&self, report: &Report) -> Message {
        let with_people = self.config.reports.contains(&Scope::User);
        Message {
            topic: payload::report_topic(&report.scope, &report.key, &report.kind),
            payload: payload::report(
                report.body.clone(),
                report.computed_at,
                with_people,
                self.config.max_payload.bytes() as usize,
            ),
            is_retained: report.is_newest,
        }
    }

    async fn publish(&mut self, messages: &[Message]) -> Result<(), SinkError> {
        if messages.is_empty() {
            return Ok(());
        }
        let mut publisher = match self.publisher.take() {
            Some(publisher) if !publisher.has_ended() => publisher,
            _ => Publisher::start(&self.config, format!("{}-reports", self.config.client_id))?,
        };
        let publishing = publisher.publish(messages, || {});
        match tokio::time::timeout(self.config.timeout, publishing).await {
            Ok(Ok(())) => {
                self.publisher = Some(publisher);
                Ok(())
            }
            Ok(Err(error)) => Err(SinkError::unavailable(self.config.broker(), error)),
            Err(_) => Err(SinkError::unavailable(self.config.broker(), "it acknowledges nothing")),
        }
    }
}

/// The oldest periods first, so that the newest of a topic is published last.
async fn waiting(connection: &mut PgConnection, scopes: &[Scope]) -> Result<Vec<Report>, SinkError> {
    let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    let rows = sqlx::query(
        "select r.kind, r.period_start, r.scope, r.key, r.computed_at, r.body, not exists \
         (select from reports n where n.kind = r.kind and n.scope = r.scope and n.key = r.key \
         and n.period_start > r.period_start) as is_newest \
         from reports r where r.on_bus is distinct from r.computed_at and r.scope = any($1) \
         order by r.period_start, r.kind, r.scope, r.key limit $2",
    )
    .bind(scopes)
    .bind(ROUND)
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let report = |row: &sqlx::postgres::PgRow| {
        Ok(Report {
            kind: row.try_get(0)?,
            period_start: row.try_get(1)?,
            scope: row.try_get(2)?,
            key: row.try_get(3)?,
            computed_at: row.try_get(4)?,
            body: row.try_get(5)?,
            is_newest: row.try_get(6)?,
        })
    };
    rows.iter().map(report).collect::<Result<_, sqlx::Error>>().map_err(failed)
}

async fn mark(
    connection: &mut PgConnection,
    report: &Report,
    on_bus: Option<DateTime<Utc>>,
) -> Result<(), SinkError> {
    sqlx::query(
        "update reports set on_bus = $5 where kind = $1 and period_start = $2 and scope = $3 and key = $4",
    )
    .bind(&report.kind)
    .bind(report.period_start)
    .bind(&report.scope)
    .bind(&report.key)
    .bind(on_bus)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(())
}

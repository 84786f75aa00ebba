//! Which reports are due, and the task that computes them.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, NaiveDate, Utc};
use runtime::{
    backoff::Backoff,
    fate::Fate,
    health::{Component, Health},
    shutdown::Shutdown,
};
use sqlx::{Connection as _, PgConnection, Row as _};

use super::{
    Cadence, Kind, Period, ReportsConfig, Subject,
    compute::{compute, store, zone_or_failed},
};
use crate::{
    SinkError,
    postgres::{PostgresConfig, answered, connect_migrated, failed},
};

/// A report must be younger than its newest row by this: longer than a transaction of the sink lasts.
const MARGIN: Duration = Duration::from_mins(3);
/// Reports that are looked for at once.
const ROUND: i64 = 500;
/// Held by the process that computes; any number that nothing else uses.
const LOCK: i64 = 0x7661_7274_6172;

/// A report that is missing or older than what it is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Due {
    /// Which period.
    pub period: Period,
    /// About whom.
    pub subject: Subject,
}

/// The reports that are due of periods that had ended at `until`, oldest first; at most a few hundred.
pub async fn due(
    connection: &mut PgConnection,
    config: &ReportsConfig,
    until: DateTime<Utc>,
) -> Result<Vec<Due>, SinkError> {
    let kinds: Vec<&str> = config.period.kinds().iter().map(|kind| kind.as_str()).collect();
    let enough = if config.period == Cadence::Auto { config.busy_hours } else { 0 };
    let rows = sqlx::query(include_str!("sql/due.sql"))
        .bind(until - config.look_back)
        .bind(until)
        .bind(&config.zone)
        .bind(MARGIN.as_secs_f64())
        .bind(kinds)
        .bind(i64::from(enough))
        .bind(ROUND)
        .fetch_all(connection)
        .await
        .map_err(|error| zone_or_failed(error, &config.zone))?;
    let mut due = Vec::with_capacity(rows.len());
    for row in rows {
        let (kind, start): (String, NaiveDate) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let (scope, key): (String, String) =
            (row.try_get(2).map_err(failed)?, row.try_get(3).map_err(failed)?);
        let kind = if kind == Kind::Week.as_str() { Kind::Week } else { Kind::Day };
        let subject = Subject::stored(&scope, key)
            .ok_or_else(|| SinkError::Fatal(format!("a report about an unknown {scope:?}")))?;
        due.push(Due { period: Period::holding(kind, start), subject });
    }
    Ok(due)
}

/// Computes and stores reports as they become due, until `shutdown` or a fatal error. Of several processes one
/// computes, the others look from time to time whether it still does.
pub async fn run(
    config: ReportsConfig,
    store: PostgresConfig,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), SinkError> {
    if !config.enabled || !store.enabled {
        return Ok(());
    }
    runtime::tls::install_crypto();
    let component = health.component("reports");
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    // what was told last; nothing is told twice in a row
    let mut told = String::new();
    while !shutdown.is_requested() {
        let outcome = tokio::select! {
            outcome = round(&config, &store, &component) => outcome,
            () = shutdown.wait() => return Ok(()),
        };
        let pause = match outcome {
            Ok(()) => {
                backoff.reset();
                told.clear();
                config.every
            }
            Err(error) if error.fate() == Fate::Transient => {
                let why = error.to_string();
                component.waiting(&why);
                if told != why {
                    tracing::warn!(%error, "reports wait");
                    told = why;
                }
                backoff.next_delay()
            }
            Err(error) => return Err(error),
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.wait() => {}
        }
    }
    Ok(())
}

/// Everything that is due now. The lock goes with the connection.
async fn round(
    config: &ReportsConfig,
    postgres: &PostgresConfig,
    component: &Component,
) -> Result<(), SinkError> {
    // The server itself ends each statement that takes longer than `timeout`.
    let limit = 4 * postgres.timeout;
    let mut connection = connect_migrated(postgres, "varta-reports").await?;
    let locking = sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(LOCK).fetch_one(&mut connection);
    let mine: bool = answered(limit, async { locking.await.map_err(failed) }).await?;
    component.ready();
    if !mine {
        tracing::debug!("another process computes reports");
        return Ok(());
    }
    // what is due stays due until the margin has passed, so a round ends when nothing new comes
    let mut done: HashSet<Due> = HashSet::new();
    loop {
        let asking = sqlx::query_scalar("select now()").fetch_one(&mut connection);
        let now: DateTime<Utc> = answered(limit, async { asking.await.map_err(failed) }).await?;
        let asking = due(&mut connection, config, now - config.after);
        let mut found = answered(limit, asking).await?;
        found.retain(|due| !done.contains(due));
        if found.is_empty() {
            break;
        }
        tracing::info!(reports = found.len(), "computing");
        for due in found {
            one(&mut connection, &due, &config.zone, limit).await?;
            done.insert(due);
        }
    }
    Ok(())
}

/// One report. If it alone fails (a sum that overflows, a query that takes too long) the others do not wait for it; it
/// stays due.
async fn one(connection: &mut PgConnection, due: &Due, zone: &str, limit: Duration) -> Result<(), SinkError> {
    let attempt = async {
        let report = compute(connection, due.period, &due.subject, zone, limit).await?;
        answered(limit, store(connection, &report)).await
    };
    let Err(error) = attempt.await else {
        metrics::counter!("varta_sinks_reports_total").increment(1);
        return Ok(());
    };
    let ping = answered(limit, async { connection.ping().await.map_err(failed) });
    if error.fate() == Fate::Fatal || ping.await.is_err() {
        return Err(error);
    }
    // Whose report it is stays in the database: logs are read by others than reports.
    tracing::error!(%error, kind = due.period.kind().as_str(), start = %due.period.start(),
        scope = due.subject.scope(), "a report cannot be computed");
    metrics::counter!("varta_sinks_errors_total", "sink" => "reports").increment(1);
    Ok(())
}

//! The connection: transactions, offsets, and what PostgreSQL's errors mean.

use std::{collections::HashMap, str::FromStr as _, sync::Arc, time::Duration};

use eventlog::TopicPartition;
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, Postgres, Row as _, Transaction,
    postgres::PgConnectOptions,
};

use super::{
    config::PostgresConfig,
    copy::{HEADER, TRAILER},
    migrations::migrate,
    outbox::{self, Merge},
    tables::{Staged, TABLES, Table},
};
use crate::{SinkError, batch::Place};

/// Fails when a server that fell silent, behind a cut cable say, does not answer: it ends no statement by itself, and the
/// connection would be waited on for as long as TCP likes. The connection must not be used again after that.
pub(crate) async fn answered<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, SinkError>>,
) -> Result<T, SinkError> {
    let outcome = tokio::time::timeout(limit, work).await;
    outcome.unwrap_or_else(|_| Err(SinkError::unavailable("postgres", format!("no answer within {limit:?}"))))
}

/// A connection under this name, with nothing asked yet.
///
/// The server looks after a minute whether we are still there: one that cannot hear that we have gone, because the way is
/// cut, would keep what the session has locked for hours.
pub async fn connect(config: &PostgresConfig, name: &str) -> Result<PgConnection, SinkError> {
    let options = PgConnectOptions::from_str(config.url.expose())
        .map_err(|_| SinkError::Fatal("postgres: the URL cannot be used".to_owned()))?
        .application_name(name)
        .options([
            ("statement_timeout", config.timeout.as_millis().to_string()),
            ("idle_in_transaction_session_timeout", (config.timeout * 2).as_millis().to_string()),
            ("tcp_keepalives_idle", "30".to_owned()),
            ("tcp_keepalives_interval", "10".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
        ]);
    let connecting = Box::pin(PgConnection::connect_with(&options));
    answered(config.timeout, async { connecting.await.map_err(failed) }).await
}

/// A connection to a database whose schema is of this version.
pub(crate) async fn connect_migrated(config: &PostgresConfig, name: &str) -> Result<PgConnection, SinkError> {
    let mut connection = connect(config, name).await?;
    // A few statements, of which one waits for who migrates at the same time.
    answered(4 * config.timeout, Box::pin(migrate(&mut connection))).await?;
    Ok(connection)
}

/// Opens a connection, applies what migrations are missing, and makes the staging tables.
pub(super) async fn open(config: &PostgresConfig) -> Result<PgConnection, SinkError> {
    let mut connection = connect_migrated(config, "varta-sink-postgres").await?;
    if let Some(notify) = &config.notify {
        outbox::prepare(&mut connection, notify).await?;
    }
    for statement in TABLES.each_ref().map(|table| table.stage) {
        connection.execute(statement).await.map_err(failed)?;
    }
    Ok(connection)
}

/// The offset to go on from, of each partition that the store has seen.
pub(super) async fn offsets(
    connection: &mut PgConnection,
    sink: &str,
) -> Result<HashMap<TopicPartition, i64>, SinkError> {
    let rows = sqlx::query("select topic, partition, next_offset from offsets where sink = $1")
        .bind(sink)
        .fetch_all(connection)
        .await
        .map_err(failed)?;
    let mut offsets = HashMap::new();
    for row in rows {
        let topic: String = row.try_get(0).map_err(failed)?;
        let of = TopicPartition { topic: Arc::from(topic), partition: row.try_get(1).map_err(failed)? };
        offsets.insert(of, row.try_get(2).map_err(failed)?);
    }
    Ok(offsets)
}

/// A transaction on the connection.
pub(super) async fn begin(connection: &mut PgConnection) -> Result<Transaction<'_, Postgres>, SinkError> {
    connection.begin().await.map_err(failed)
}

/// Moves one offset if it is where this process believes; otherwise the process is stale. The row stays locked
/// until the transaction ends, so of two processes one waits and then fails.
pub(super) async fn move_offset(
    transaction: &mut Transaction<'_, Postgres>,
    sink: &str,
    of: &TopicPartition,
    from: Option<i64>,
    to: i64,
) -> Result<(), SinkError> {
    let query = match from {
        Some(from) => sqlx::query(
            "update offsets set next_offset = $4, moved_at = now() \
             where sink = $1 and topic = $2 and partition = $3 and next_offset = $5",
        )
        .bind(sink)
        .bind(&*of.topic)
        .bind(of.partition)
        .bind(to)
        .bind(from),
        None => sqlx::query(
            "insert into offsets (sink, topic, partition, next_offset) values ($1, $2, $3, $4) on conflict do nothing",
        )
        .bind(sink)
        .bind(&*of.topic)
        .bind(of.partition)
        .bind(to),
    };
    let moved = query.execute(&mut **transaction).await.map_err(failed)?;
    if moved.rows_affected() == 1 {
        return Ok(());
    }
    Err(SinkError::Stale(format!("the offset of {}-{} is no longer {from:?}", of.topic, of.partition)))
}

/// Stores rows of one table. Rows that PostgreSQL refuses are found by halving and returned with its words; all
/// others are stored. With `tells` people are told of what is new. An attempt may take `limit`.
pub(super) async fn store(
    transaction: &mut Transaction<'_, Postgres>,
    table: &Table,
    rows: &[Staged],
    tells: bool,
    limit: Duration,
) -> Result<Vec<(usize, String)>, SinkError> {
    let mut refused = Vec::new();
    let mut parts = if rows.is_empty() { vec![] } else { vec![(0, rows.len())] };
    while let Some((from, to)) = parts.pop() {
        let reason = answered(limit, piece(transaction, table, &rows[from..to], tells)).await?;
        match reason {
            None => {}
            Some(reason) if to - from == 1 => refused.push((from, reason)),
            Some(_) => {
                let middle = from + (to - from) / 2;
                parts.push((middle, to));
                parts.push((from, middle));
            }
        }
    }
    Ok(refused)
}

/// Stores rows, all or none: why PostgreSQL refuses one of them, if it does.
async fn piece(
    transaction: &mut Transaction<'_, Postgres>,
    table: &Table,
    rows: &[Staged],
    tells: bool,
) -> Result<Option<String>, SinkError> {
    let mut savepoint = (**transaction).begin().await.map_err(failed)?;
    match attempt(&mut savepoint, table, rows, tells).await {
        Ok(()) => savepoint.commit().await.map(|()| None).map_err(failed),
        Err(error) if is_about_rows(&error) => {
            savepoint.rollback().await.map_err(failed)?;
            Ok(Some(error.to_string()))
        }
        Err(error) => Err(failed(error)),
    }
}

async fn attempt(
    transaction: &mut Transaction<'_, Postgres>,
    table: &Table,
    rows: &[Staged],
    tells: bool,
) -> Result<(), sqlx::Error> {
    let mut copy = transaction.copy_in_raw(table.copy).await?;
    let mut bytes = HEADER.to_vec();
    for row in rows {
        bytes.extend_from_slice(&row.tuple);
    }
    bytes.extend_from_slice(TRAILER);
    copy.send(bytes).await?;
    copy.finish().await?;
    sqlx::query(AssertSqlSafe(Merge { table, tells }.to_string())).execute(&mut **transaction).await?;
    transaction.execute(table.clear).await?;
    Ok(())
}

/// Classes 22 (data), 23 (constraints), 54 (limits): the fault is in a row, not in the server.
fn is_about_rows(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else {
        return false;
    };
    let code = error.code();
    code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}

/// What to do about an error. Only a missing table or column and the like need a person: the schema is not ours
/// any more. A wrong password or a missing database may be set up later, so they are waited for.
pub(crate) fn failed(error: sqlx::Error) -> SinkError {
    let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
    match code {
        Some(code) if code.starts_with("42") && code != "42501" => {
            SinkError::Fatal(format!("postgres: {error}"))
        }
        _ => SinkError::unavailable("postgres", error),
    }
}

/// Where a staged row came from, for its dead letter.
pub(super) fn origin_of(topic: &str, place: Place) -> String {
    crate::dead_letters::origin(topic, place.partition, place.offset)
}

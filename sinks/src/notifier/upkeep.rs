//! How channels stand, what a person lets wait again, and what is deleted.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgRow};

use crate::{SinkError, postgres::failed};

/// Rows deleted in one statement.
const PURGED_AT_ONCE: i64 = 5000;

/// How a channel stands.
#[derive(Debug)]
pub struct Standing {
    /// The channel.
    pub channel: String,
    /// Items that are in no message yet.
    pub waiting: i64,
    /// Messages that are being sent, or will be again.
    pub open: i64,
    /// Messages that the service refused for good.
    pub refused: i64,
    /// Its words for that, five of them.
    pub reasons: Vec<String>,
}

/// What waits, by channel.
pub(super) async fn standing(connection: &mut PgConnection) -> Result<Vec<Standing>, SinkError> {
    let rows = sqlx::query(
        "select c.channel, \
         (select count(*) from notification_deliveries d where d.channel = c.channel and d.message_id is null), \
         (select count(*) from notification_messages m where m.channel = c.channel and m.state = 'open'), \
         (select count(*) from notification_messages m where m.channel = c.channel and m.state = 'failed'), \
         array(select distinct m.reason from notification_messages m \
         where m.channel = c.channel and m.state = 'failed' and m.reason is not null order by m.reason limit 5) \
         from notification_channels c order by c.channel",
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let read = |row: &PgRow| {
        Ok(Standing {
            channel: row.try_get(0)?,
            waiting: row.try_get(1)?,
            open: row.try_get(2)?,
            refused: row.try_get(3)?,
            reasons: row.try_get(4)?,
        })
    };
    rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(failed)
}

/// Lets what is in refused messages wait again, to be told in digests with what is new: one after the other they would
/// keep new alerts waiting for hours. How many messages.
pub(super) async fn reopen(connection: &mut PgConnection, channel: &str) -> Result<u64, SinkError> {
    let mut transaction = connection.begin().await.map_err(failed)?;
    let ids: Vec<String> = sqlx::query_scalar(
        "select id::text from notification_messages where channel = $1 and state = 'failed' for update",
    )
    .bind(channel)
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed)?;
    for statement in [
        "update notification_deliveries set message_id = null where message_id = any($1::text[]::uuid[])",
        "delete from notification_messages where id = any($1::text[]::uuid[])",
    ] {
        sqlx::query(statement).bind(&ids).execute(&mut *transaction).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok(ids.len() as u64)
}

/// Deletes what was told, or failed, longer ago. What still waits is kept, however old, unless none of `queues` is to
/// tell it. How many rows, and whether there are more.
pub(super) async fn purge(
    connection: &mut PgConnection,
    retention: Duration,
    queues: &[String],
) -> Result<(u64, bool), SinkError> {
    let nobodys = "delete from notification_deliveries where (channel, outbox_id) in (select d.channel, d.outbox_id \
         from notification_deliveries d join notification_outbox o on o.id = d.outbox_id \
         where d.channel <> all($3::text[]) and o.written_at < now() - make_interval(secs => $1) limit $2)";
    let nobodys_messages = "update notification_messages set state = 'failed', done_at = made_at, \
         reason = 'no such channel' where id in (select id from notification_messages where state = 'open' \
         and channel <> all($3::text[]) and made_at < now() - make_interval(secs => $1) limit $2)";
    let outbox = "delete from notification_outbox where id in (select o.id from notification_outbox o \
         where o.written_at < now() - make_interval(secs => $1) and o.routed_at is not null and not exists \
         (select from notification_deliveries d left join notification_messages m on m.id = d.message_id \
         where d.outbox_id = o.id and (m.id is null or m.state = 'open')) limit $2)";
    let messages = "delete from notification_messages where id in (select m.id from notification_messages m \
         where m.state <> 'open' and m.done_at < now() - make_interval(secs => $1) and not exists \
         (select from notification_deliveries d where d.message_id = m.id) limit $2)";
    let (mut purged, mut more) = (0, false);
    for statement in [nobodys, nobodys_messages, outbox, messages] {
        let query = sqlx::query(statement).bind(retention.as_secs_f64()).bind(PURGED_AT_ONCE);
        let query = if statement.contains("$3") { query.bind(queues) } else { query };
        let done = query.execute(&mut *connection).await.map_err(failed)?.rows_affected();
        purged += done;
        more |= done >= PURGED_AT_ONCE as u64;
    }
    Ok((purged, more))
}

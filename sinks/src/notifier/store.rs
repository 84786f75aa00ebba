//! The outbox in PostgreSQL: dealing rows to channels, claiming, marking. Several notifiers do so at once.
//!
//! Times are the database's own, so notifiers whose clocks differ agree. What a channel may do next is decided while its
//! row in `notification_channels` is locked, by [`Pace`]; which rows are taken, with `for update skip locked`. A message is
//! stored, with all that it says, before it is sent, and belongs to a lease: when its notifier dies the lease runs out, and
//! another sends the very same message.

use std::time::Duration;

use runtime::shutdown::Shutdown;
use sqlx::{Connection as _, PgConnection, Postgres, Row as _, Transaction, postgres::PgRow, types::Json};
use uuid::Uuid;

use super::{
    compose::{self, Message, Space},
    config::{Channel, NotifierConfig},
    filter::Filter,
    item::{Change, Item, Kind, Severity},
    line::Lines,
    pace::Paced,
    service::LONGEST_BLOCK,
};
use crate::{
    SinkError,
    postgres::{self, PostgresConfig, failed},
};

/// Longest pause between two attempts to reach the database: so long at most is the first message after it has returned.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Rows dealt in one transaction.
const DEALT_AT_ONCE: i64 = 1000;
/// After so many attempts, some minutes, a message lets others pass: the fault may be its own.
const PATIENCE: i32 = 8;
/// Open messages beyond which none is made that passes: then the service is away, and what waits becomes one digest.
const MOST_OPEN: i64 = 3;

/// A message that is ours to send.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) message: Message,
    pub(super) lease: Uuid,
    /// Attempts before this one.
    pub(super) attempts: i32,
}

/// What a channel is to do.
#[derive(Debug)]
pub(super) enum Next {
    /// Send this.
    Send(Box<Claimed>),
    /// Look again after this.
    Wait(Duration),
    /// There is nothing to tell.
    Idle,
}

/// A connection for one task, to a database whose schema is of this version.
pub(super) async fn connect(config: &NotifierConfig) -> Result<PgConnection, SinkError> {
    let url = config.url.clone().ok_or_else(|| SinkError::Fatal("notifier: no database".to_owned()))?;
    let database = PostgresConfig { url, timeout: config.timeout, ..PostgresConfig::default() };
    postgres::connect_migrated(&database, "varta-notifier").await
}

/// Ends when a stop has been asked for and the database has had time for what is under way: it may hang.
pub(super) async fn given_up(shutdown: &Shutdown, timeout: Duration) {
    shutdown.wait().await;
    tokio::time::sleep(timeout).await;
}

/// The database's clock, in µs since 1970-01-01 UTC.
const NOW: &str = "(extract(epoch from clock_timestamp()) * 1000000)::bigint";

fn item(row: &PgRow) -> Result<Item, sqlx::Error> {
    let (kind, change): (String, String) = (row.try_get("kind")?, row.try_get("change")?);
    Ok(Item {
        id: row.try_get("id")?,
        kind: if kind == "program_start" { Kind::ProgramStart } else { Kind::Alert },
        change: match change.as_str() {
            "closed" => Change::Closed,
            "updated" => Change::Updated,
            _ => Change::New,
        },
        severity: Severity::of(row.try_get("severity_id")?),
        rule_id: row.try_get("rule_id")?,
        title: row.try_get("title")?,
        agent_id: row.try_get("agent_id")?,
        host: row.try_get("host")?,
        user: row.try_get("username")?,
        program: row.try_get("program")?,
        message: row.try_get("message")?,
        count: row.try_get("count")?,
        event_time: row.try_get("event_us")?,
    })
}

/// Deals rows of the outbox to the channels that want them. How many rows were dealt; fewer than asked for: no more wait.
pub(super) async fn deal(
    connection: &mut PgConnection,
    channels: &[(String, Filter)],
) -> Result<(usize, bool), SinkError> {
    let mut transaction = connection.begin().await.map_err(failed)?;
    let rows = sqlx::query(
        "select id, kind, change, severity_id, rule_id, title, agent_id, host, username, program, message, count, \
         (extract(epoch from event_time) * 1000000)::bigint as event_us \
         from notification_outbox where routed_at is null order by id limit $1 for update skip locked",
    )
    .bind(DEALT_AT_ONCE)
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed)?;
    if rows.is_empty() {
        transaction.rollback().await.map_err(failed)?;
        return Ok((0, false));
    }
    let items = rows.iter().map(item).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let (mut names, mut ids, mut severities) = (Vec::new(), Vec::new(), Vec::new());
    for item in &items {
        for (name, _) in channels.iter().filter(|(_, filter)| filter.wants(item)) {
            names.push(name.clone());
            ids.push(item.id);
            severities.push(item.severity.id());
        }
    }
    sqlx::query(
        "insert into notification_deliveries (channel, outbox_id, severity_id) \
         select * from unnest($1::text[], $2::bigint[], $3::integer[]) on conflict do nothing",
    )
    .bind(&names)
    .bind(&ids)
    .bind(&severities)
    .execute(&mut *transaction)
    .await
    .map_err(failed)?;
    let dealt: Vec<i64> = items.iter().map(|item| item.id).collect();
    sqlx::query("update notification_outbox set routed_at = now() where id = any($1)")
        .bind(&dealt)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok((items.len(), items.len() as i64 == DEALT_AT_ONCE))
}

/// Decides what the channel does next, and claims what it sends.
pub(super) async fn claim(
    connection: &mut PgConnection,
    channel: &Channel,
    lines: &Lines,
    characters: usize,
    lease: Duration,
) -> Result<Next, SinkError> {
    let mut transaction = connection.begin().await.map_err(failed)?;
    let Standstill { mut paced, now, is_mended } = paced(&mut transaction, channel).await?;
    let next_repeat = channel.pace.next_repeat(&paced);
    if next_repeat > now {
        leave(transaction, is_mended).await?;
        return Ok(Next::Wait(Duration::from_micros((next_repeat - now) as u64)));
    }
    if let Some(wait) = in_flight(&mut transaction, &channel.name, lease).await? {
        leave(transaction, is_mended).await?;
        return Ok(Next::Wait(wait));
    }
    let open = open_messages(&mut transaction, &channel.name).await?;
    let next_new = channel.pace.next_new(&paced);
    let passes = open.attempts.is_none_or(|attempts| attempts >= PATIENCE && open.count < MOST_OPEN);
    let items =
        if passes && next_new <= now { waiting(&mut transaction, channel, now).await? } else { Vec::new() };
    let claimed = if !items.is_empty() {
        channel.pace.speaks(&mut paced, now);
        let space = Space { lines: channel.lines, characters };
        let message = compose::compose(Uuid::new_v4(), &items, space, lines, now);
        store_message(&mut transaction, channel, message, &items, lease).await?
    } else if let Some(claimed) = open_message(&mut transaction, &channel.name, lease).await? {
        channel.pace.repeats(&mut paced, now);
        claimed
    } else {
        leave(transaction, is_mended).await?;
        let wait = Duration::from_micros((next_new - now).max(0) as u64);
        return Ok(if wait.is_zero() { Next::Idle } else { Next::Wait(wait) });
    };
    store_pace(&mut transaction, &channel.name, &paced).await?;
    transaction.commit().await.map_err(failed)?;
    Ok(Next::Send(Box::new(claimed)))
}

/// What is remembered of a channel, at a time.
struct Standstill {
    paced: Paced,
    now: i64,
    /// What it remembered was of another time, and what it remembers now is to be kept.
    is_mended: bool,
}

/// Ends a claim that came to nothing.
async fn leave(transaction: Transaction<'_, Postgres>, is_mended: bool) -> Result<(), SinkError> {
    let ended = if is_mended { transaction.commit().await } else { transaction.rollback().await };
    ended.map_err(failed)
}

/// What is remembered of a channel, whose row is locked from now on, and the time. What a clock that has stepped back
/// leaves behind is mended, and said once.
async fn paced(
    transaction: &mut Transaction<'_, Postgres>,
    channel: &Channel,
) -> Result<Standstill, SinkError> {
    sqlx::query("insert into notification_channels (channel) values ($1) on conflict do nothing")
        .bind(&channel.name)
        .execute(&mut **transaction)
        .await
        .map_err(failed)?;
    let row = sqlx::query("select pace from notification_channels where channel = $1 for update")
        .bind(&channel.name)
        .fetch_one(&mut **transaction)
        .await
        .map_err(failed)?;
    // Asked after the lock has been waited for.
    let now: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select {NOW}")))
        .fetch_one(&mut **transaction)
        .await
        .map_err(failed)?;
    let Json(mut paced): Json<Paced> = row.try_get(0).map_err(failed)?;
    let is_mended = paced.mend(&channel.pace, LONGEST_BLOCK, now);
    if is_mended {
        tracing::warn!(channel = %channel.name, "the database's clock has stepped back, or the pace was changed");
        store_pace(transaction, &channel.name, &paced).await?;
    }
    Ok(Standstill { paced, now, is_mended })
}

async fn store_pace(
    transaction: &mut Transaction<'_, Postgres>,
    channel: &str,
    paced: &Paced,
) -> Result<(), SinkError> {
    sqlx::query("update notification_channels set pace = $2 where channel = $1")
        .bind(channel)
        .bind(Json(paced))
        .execute(&mut **transaction)
        .await
        .map_err(failed)?;
    Ok(())
}

/// One message of a channel goes at a time: how long at most another notifier may still be sending one. A lease that
/// is longer than any is of a clock that has stepped back, and has run out.
async fn in_flight(
    transaction: &mut Transaction<'_, Postgres>,
    channel: &str,
    lease: Duration,
) -> Result<Option<Duration>, SinkError> {
    let seconds: Option<f64> = sqlx::query_scalar(
        "select max(extract(epoch from leased_until - clock_timestamp()))::double precision \
         from notification_messages where channel = $1 and state = 'open' and leased_until > clock_timestamp() \
         and leased_until <= clock_timestamp() + make_interval(secs => $2)",
    )
    .bind(channel)
    .bind(lease.as_secs_f64())
    .fetch_one(&mut **transaction)
    .await
    .map_err(failed)?;
    // It will hardly take that long.
    Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.001, 0.1))))
}

/// Messages that were not told yet.
struct Open {
    count: i64,
    /// Of the one that was tried least; `None`: there is none.
    attempts: Option<i32>,
}

async fn open_messages(
    transaction: &mut Transaction<'_, Postgres>,
    channel: &str,
) -> Result<Open, SinkError> {
    let row = sqlx::query(
        "select count(*), min(attempts) from notification_messages where channel = $1 and state = 'open'",
    )
    .bind(channel)
    .fetch_one(&mut **transaction)
    .await
    .map_err(failed)?;
    Ok(Open { count: row.try_get(0).map_err(failed)?, attempts: row.try_get(1).map_err(failed)? })
}

/// The oldest message that was not told yet, or of those that were tried too often the one that was so least; nobody
/// is sending it.
async fn open_message(
    transaction: &mut Transaction<'_, Postgres>,
    channel: &str,
    lease: Duration,
) -> Result<Option<Claimed>, SinkError> {
    let row = sqlx::query(
        "select content, attempts from notification_messages \
         where channel = $1 and state = 'open' \
         order by case when attempts >= $2 then attempts else 0 end, made_at limit 1 for update skip locked",
    )
    .bind(channel)
    .bind(PATIENCE)
    .fetch_optional(&mut **transaction)
    .await
    .map_err(failed)?;
    let Some(row) = row else {
        return Ok(None);
    };
    let content: Json<Message> = row.try_get(0).map_err(failed)?;
    let ours = Uuid::new_v4();
    sqlx::query(
        "update notification_messages set lease = $2::uuid, attempts = attempts + 1, \
         leased_until = clock_timestamp() + make_interval(secs => $3) where id = $1::uuid",
    )
    .bind(content.id.to_string())
    .bind(ours.to_string())
    .bind(lease.as_secs_f64())
    .execute(&mut **transaction)
    .await
    .map_err(failed)?;
    Ok(Some(Claimed { message: content.0, lease: ours, attempts: row.try_get(1).map_err(failed)? }))
}

/// Items that wait, the worst and then the oldest first.
async fn waiting(
    transaction: &mut Transaction<'_, Postgres>,
    channel: &Channel,
    now: i64,
) -> Result<Vec<Item>, SinkError> {
    let bound = channel.quiet.as_ref().and_then(|quiet| quiet.bound(now)).map_or(i32::MIN, Severity::id);
    let rows = sqlx::query(
        "select o.id, o.kind, o.change, o.severity_id, o.rule_id, o.title, o.agent_id, o.host, o.username, o.program, \
         o.message, o.count, (extract(epoch from o.event_time) * 1000000)::bigint as event_us \
         from notification_deliveries d join notification_outbox o on o.id = d.outbox_id \
         where d.channel = $1 and d.message_id is null and d.severity_id >= $2 \
         order by d.severity_id desc, d.outbox_id limit $3 for update of d skip locked",
    )
    .bind(&channel.name)
    .bind(bound)
    .bind(i64::from(channel.digest_rows))
    .fetch_all(&mut **transaction)
    .await
    .map_err(failed)?;
    rows.iter().map(item).collect::<Result<_, _>>().map_err(failed)
}

async fn store_message(
    transaction: &mut Transaction<'_, Postgres>,
    channel: &Channel,
    message: Message,
    items: &[Item],
    lease: Duration,
) -> Result<Claimed, SinkError> {
    let ours = Uuid::new_v4();
    sqlx::query(
        "insert into notification_messages (id, channel, content, items, attempts, lease, leased_until) \
         values ($1::uuid, $2, $3, $4, 1, $5::uuid, clock_timestamp() + make_interval(secs => $6))",
    )
    .bind(message.id.to_string())
    .bind(&channel.name)
    .bind(Json(&message))
    .bind(items.len() as i32)
    .bind(ours.to_string())
    .bind(lease.as_secs_f64())
    .execute(&mut **transaction)
    .await
    .map_err(failed)?;
    let ids: Vec<i64> = items.iter().map(|item| item.id).collect();
    sqlx::query(
        "update notification_deliveries set message_id = $1::uuid where channel = $2 and outbox_id = any($3)",
    )
    .bind(message.id.to_string())
    .bind(&channel.name)
    .bind(&ids)
    .execute(&mut **transaction)
    .await
    .map_err(failed)?;
    Ok(Claimed { message, lease: ours, attempts: 0 })
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome<'a> {
    /// It is told; and to whom not. What is in it waits again in these queues.
    Sent { reason: Option<&'a str>, again: &'a [String] },
    /// It never will be, unless a person opens it again.
    Failed(&'a str),
    /// It is tried again after the pause; the channel is left alone until then.
    Postponed(&'a str, Duration),
}

/// Marks a message, and that the channel has just spoken. True: it was to be tried again, but the service has taken
/// younger ones since it was tried too often, so the fault is its own and it is marked failed.
pub(super) async fn mark(
    connection: &mut PgConnection,
    channel: &Channel,
    claimed: &Claimed,
    outcome: Outcome<'_>,
) -> Result<bool, SinkError> {
    let mut transaction = connection.begin().await.map_err(failed)?;
    let Standstill { mut paced, now, .. } = paced(&mut transaction, channel).await?;
    channel.pace.spoke(&mut paced, now);
    let (state, reason) = match outcome {
        Outcome::Sent { reason, again } => {
            defer(&mut transaction, claimed, again).await?;
            ("sent", reason)
        }
        Outcome::Failed(reason) => ("failed", Some(reason)),
        Outcome::Postponed(reason, pause) => {
            paced.block(now.saturating_add(i64::try_from(pause.as_micros()).unwrap_or(i64::MAX / 4)));
            ("open", Some(reason))
        }
    };
    store_pace(&mut transaction, &channel.name, &paced).await?;
    let is_hopeless = state == "open" && is_passed(&mut transaction, channel, claimed).await?;
    let state = if is_hopeless { "failed" } else { state };
    // Whoever sent it: it is told. Only a lease that is still ours may say anything else.
    sqlx::query(
        "update notification_messages set state = $3, reason = $4, lease = null, leased_until = null, \
         done_at = case when $3 = 'open' then null else clock_timestamp() end \
         where id = $1::uuid and state <> 'sent' and ($3 = 'sent' or lease = $2::uuid)",
    )
    .bind(claimed.message.id.to_string())
    .bind(claimed.lease.to_string())
    .bind(state)
    .bind(reason)
    .execute(&mut *transaction)
    .await
    .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(is_hopeless)
}

/// Lets what is in a message wait in other queues as well.
async fn defer(
    transaction: &mut Transaction<'_, Postgres>,
    claimed: &Claimed,
    queues: &[String],
) -> Result<(), SinkError> {
    if queues.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into notification_deliveries (channel, outbox_id, severity_id) \
         select queue, d.outbox_id, d.severity_id from notification_deliveries d, unnest($2::text[]) queue \
         where d.message_id = $1::uuid on conflict do nothing",
    )
    .bind(claimed.message.id.to_string())
    .bind(queues)
    .execute(&mut **transaction)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Whether a message was tried too often while the service took one that is younger.
async fn is_passed(
    transaction: &mut Transaction<'_, Postgres>,
    channel: &Channel,
    claimed: &Claimed,
) -> Result<bool, SinkError> {
    if claimed.attempts < PATIENCE {
        return Ok(false);
    }
    sqlx::query_scalar(
        "select exists (select from notification_messages m join notification_messages younger \
         on younger.channel = m.channel and younger.state = 'sent' and younger.made_at > m.made_at \
         where m.id = $1::uuid and m.channel = $2)",
    )
    .bind(claimed.message.id.to_string())
    .bind(&channel.name)
    .fetch_one(&mut **transaction)
    .await
    .map_err(failed)
}

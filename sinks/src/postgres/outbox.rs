//! What people are to be told, from what a merge says is new.
//!
//! A merge that stores alerts or program starts becomes the first half of a statement whose second half writes rows of
//! `notification_outbox`: only what the merge *returned* gets there, in the transaction that stores it, so people hear of
//! what is stored and of nothing else. The key of a row names the finding's state, so that no state is told twice.

use std::{fmt, time::Duration};

use sqlx::{Executor as _, PgConnection};

use super::{store::failed, tables::Table};
use crate::SinkError;

/// What is worth telling; from the section of the notifier.
#[derive(Debug, Clone)]
pub struct Notify {
    /// Programs whose starts are told, in lower case.
    pub programs: Vec<String>,
    /// Accounts whose program starts are not told, in lower case.
    pub exclude_users: Vec<String>,
    /// Starts of one program by one user on one machine are told once in such a span; zero: each.
    pub repeat: Duration,
    /// Least severity of alerts, by OCSF's number.
    pub severity_id: i32,
    /// Whether the end of a finding is told.
    pub closed: bool,
    /// Whether it is told that a finding goes on.
    pub updated: bool,
}

/// The settings lie in a temporary table of the connection, so that the statements stay the same.
pub(super) async fn prepare(connection: &mut PgConnection, notify: &Notify) -> Result<(), SinkError> {
    connection
        .execute(
            "create temporary table if not exists notification_settings (programs text[] not null, \
             exclude_users text[] not null, repeat_s double precision not null, severity_id integer not null, \
             closed boolean not null, updated boolean not null); truncate notification_settings",
        )
        .await
        .map_err(failed)?;
    sqlx::query("insert into notification_settings values ($1, $2, $3, $4, $5, $6)")
        .bind(&notify.programs)
        .bind(&notify.exclude_users)
        .bind(notify.repeat.as_secs_f64())
        .bind(notify.severity_id)
        .bind(notify.closed)
        .bind(notify.updated)
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}

/// The merge of a table together with the telling of what it returns; the merge alone where nothing is told.
pub(super) struct Merge<'a> {
    pub(super) table: &'a Table,
    pub(super) tells: bool,
}

impl fmt::Display for Merge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match telling(self.table.name) {
            Some(telling) if self.tells => {
                // A row that the statement has inserted was locked by nobody.
                write!(f, "with merged as ({} returning *, (xmax = 0) as is_new) {telling}", self.table.merge)
            }
            _ => f.write_str(self.table.merge),
        }
    }
}

fn telling(table: &str) -> Option<&'static str> {
    match table {
        "alerts" => Some(
            "insert into notification_outbox (key, kind, change, severity_id, rule_id, title, agent_id, host, username, \
             message, count, event_time) \
             select 'alert:' || m.finding_uid || ':' || c.change || \
             case when c.change = 'updated' then ':' || m.count || ':' || extract(epoch from m.last_seen) else '' end, \
             'alert', c.change, m.severity_id, m.rule_id, left(m.rule_title, 300), m.agent_id, m.host, m.username, \
             left(m.message, 1000), m.count, m.event_time \
             from merged m cross join notification_settings s \
             cross join lateral (select case when m.activity_id = 3 then 'closed' when m.is_new then 'new' \
             else 'updated' end as change) c \
             where m.severity_id >= s.severity_id \
             and (m.is_new or (c.change = 'closed' and s.closed) or (c.change = 'updated' and s.updated)) \
             order by m.event_time \
             on conflict (key) do nothing",
        ),
        "program_starts" => Some(
            "insert into notification_outbox (key, kind, change, severity_id, rule_id, title, agent_id, username, \
             program, message, count, event_time) \
             select 'start:' || case when s.repeat_s > 0 then \
             md5(concat_ws(chr(31), m.agent_id, coalesce(m.username, ''), lower(m.process_name))) || ':' || \
             floor(extract(epoch from m.\"timestamp\") / s.repeat_s)::text else m.id::text end, \
             'program_start', 'new', 1, 'program-start', 'Program started', m.agent_id, left(m.username, 300), \
             left(m.process_name, 300), '', 1, m.\"timestamp\" \
             from merged m cross join notification_settings s \
             where m.is_new and lower(m.process_name) = any (s.programs) \
             and not coalesce(lower(m.username) = any (s.exclude_users), false) \
             order by m.\"timestamp\" \
             on conflict (key) do nothing",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tables::TABLES, *};

    #[test]
    fn only_what_is_told_changes_its_merge() {
        for table in &TABLES {
            assert_eq!(Merge { table, tells: false }.to_string(), table.merge);
            let told = Merge { table, tells: true }.to_string();
            let is_told = matches!(table.name, "alerts" | "program_starts");
            assert_eq!(told != table.merge, is_told, "{}", table.name);
            // The merge has no result of its own, and goes on where it ends.
            let goes_on = !table.merge.contains("returning") && !table.merge.trim_end().ends_with(';');
            assert!(goes_on || !is_told, "{}", table.name);
        }
    }
}

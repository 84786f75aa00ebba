//! Which records go into which table, and how staged rows are merged.
//!
//! Each table has a temporary staging table with the same columns; COPY fills it, `merge` moves its rows on. A merge
//! never takes an older state for a newer one, whatever the order and however often rows come.

use std::sync::Arc;

use arrow::array::RecordBatch;
use schemas::{family::Family, record::RecordKind};

use super::{
    columns::{AGENTS, ALERTS, FEATURES_1H, FEATURES_1M, USER_FEATURES_1H, USERS_OF_FEATURES},
    config::Exclude,
    copy::{Cells, Column},
    feedback, programs,
};
use crate::{
    SinkError,
    batch::{Place, Rows},
};

/// A table's statements.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Makes the staging table; once for each connection.
    pub(super) stage: &'static str,
    pub(super) copy: &'static str,
    pub(super) merge: &'static str,
    pub(super) clear: &'static str,
}

/// A row ready for COPY, and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Staged {
    pub(super) tuple: Vec<u8>,
    pub(super) place: Place,
    pub(super) source: Arc<RecordBatch>,
    pub(super) row: u32,
}

/// A row that PostgreSQL cannot store: its number in the batch, and why.
pub(super) type Refused = (usize, String);

/// How many tables there are.
pub(super) const COUNT: usize = 9;

/// What a batch brings for one table.
pub(super) struct ForTable {
    /// Index into [`TABLES`].
    pub(super) table: usize,
    pub(super) staged: Vec<Staged>,
    pub(super) refused: Vec<Refused>,
}

/// In the order in which a transaction fills them.
pub(super) static TABLES: [Table; COUNT] = [
    Table {
        name: "program_starts",
        stage: "create temporary table if not exists staged_program_starts \
                (like program_starts) on commit delete rows",
        copy: "copy staged_program_starts (id, \"timestamp\", username, process_name, agent_id) \
               from stdin (format binary)",
        merge: "insert into program_starts select * from staged_program_starts order by id \
                on conflict (id) do nothing",
        clear: "truncate staged_program_starts",
    },
    Table {
        name: "agents",
        stage: "create temporary table if not exists staged_agents (like agents) on commit delete rows",
        copy: "copy staged_agents (agent_id, seen_at, session, status, host, domain, os, os_version, time_zone, \
               agent_version, policy_version, capabilities, interval_s, queue_rows, queue_bytes, queue_limit_bytes, \
               shed_total, cpu_percent, memory_bytes) from stdin (format binary)",
        merge: include_str!("merge_agents.sql"),
        clear: "truncate staged_agents",
    },
    Table {
        name: "features_1m",
        stage: "create temporary table if not exists staged_features_1m (like features_1m) on commit delete rows",
        copy: "copy staged_features_1m (agent_id, window_start, window_end, host, revision, is_partial, samples, \
               cpu_samples, cpu_mean, cpu_min, cpu_max, mem_used_mean_bytes, mem_used_max_bytes) \
               from stdin (format binary)",
        merge: "insert into features_1m as t \
                select distinct on (agent_id, window_start) * from staged_features_1m \
                order by agent_id, window_start, revision desc \
                on conflict (agent_id, window_start) do update set \
                window_end = excluded.window_end, host = excluded.host, revision = excluded.revision, \
                is_partial = excluded.is_partial, samples = excluded.samples, cpu_samples = excluded.cpu_samples, \
                cpu_mean = excluded.cpu_mean, cpu_min = excluded.cpu_min, cpu_max = excluded.cpu_max, \
                mem_used_mean_bytes = excluded.mem_used_mean_bytes, \
                mem_used_max_bytes = excluded.mem_used_max_bytes \
                where excluded.revision > t.revision",
        clear: "truncate staged_features_1m",
    },
    Table {
        name: "alerts",
        stage: "create temporary table if not exists staged_alerts (like alerts including defaults) \
                on commit delete rows",
        copy: "copy staged_alerts (finding_uid, rule_id, rule_title, rule_set, kind, severity_id, severity, status_id, \
               status, activity_id, class_uid, type_uid, agent_id, session, lane, seq, event_id, host, username, \
               event_time, first_seen, last_seen, count, window_start, window_end, message, attacks, evidence, labels, \
               revision, status_detail, suppressed) from stdin (format binary)",
        merge: "insert into alerts as t \
                select distinct on (finding_uid) * from staged_alerts \
                order by finding_uid, revision desc, last_seen desc, count desc \
                on conflict (finding_uid) do update set \
                severity_id = excluded.severity_id, severity = excluded.severity, status_id = excluded.status_id, \
                status = excluded.status, activity_id = excluded.activity_id, type_uid = excluded.type_uid, \
                last_seen = excluded.last_seen, count = excluded.count, window_end = excluded.window_end, \
                message = excluded.message, evidence = excluded.evidence, labels = excluded.labels, \
                revision = excluded.revision, status_detail = excluded.status_detail, \
                suppressed = excluded.suppressed, stored_at = excluded.stored_at \
                where (excluded.revision, excluded.last_seen, excluded.count) > (t.revision, t.last_seen, t.count)",
        clear: "truncate staged_alerts",
    },
    Table {
        name: "features_1h",
        stage: "create temporary table if not exists staged_features_1h (like features_1h including defaults) \
                on commit delete rows",
        copy: "copy staged_features_1h (agent_id, window_start, window_end, host, revision, is_partial, events, \
               reports_expected, reports_received, coverage, late, lost, samples, cpu_mean, cpu_max, cpu_over_share, \
               load_mean, load_max, mem_used_mean_bytes, mem_used_max_bytes, mem_over_share, disk_used_max_percent, \
               net_rx_mean_bytes_per_s, net_tx_mean_bytes_per_s, starts, first_seen_starts, suspicious_paths, \
               activity_reports, active_s, idle_runs, mouse_events, keyboard_events) from stdin (format binary)",
        merge: include_str!("merge_features_1h.sql"),
        clear: "truncate staged_features_1h",
    },
    Table {
        name: "user_features_1h",
        stage: "create temporary table if not exists staged_user_features_1h \
                (like user_features_1h including defaults) on commit delete rows",
        copy: "copy staged_user_features_1h (agent_id, username, window_start, window_end, host, revision, \
               is_partial, coverage, starts, first_seen_starts, suspicious_paths, activity_reports, active_s, \
               idle_runs, mouse_events, keyboard_events) from stdin (format binary)",
        merge: include_str!("merge_user_features_1h.sql"),
        clear: "truncate staged_user_features_1h",
    },
    Table {
        name: "users",
        stage: "create temporary table if not exists staged_users (like users) on commit delete rows",
        copy: "copy staged_users (username, first_seen, last_seen) from stdin (format binary)",
        merge: "insert into users as t \
                select username, min(first_seen), max(last_seen) from staged_users \
                group by username order by username \
                on conflict (username) do update set \
                first_seen = least(t.first_seen, excluded.first_seen), \
                last_seen = greatest(t.last_seen, excluded.last_seen) \
                where excluded.first_seen < t.first_seen or excluded.last_seen > t.last_seen",
        clear: "truncate staged_users",
    },
    Table {
        name: "programs",
        stage: "create temporary table if not exists staged_programs (like programs) on commit delete rows",
        copy: "copy staged_programs (id, name, path, path_class, first_seen, last_seen) from stdin (format binary)",
        merge: include_str!("merge_programs.sql"),
        clear: "truncate staged_programs",
    },
    feedback::TABLE,
];

/// The rows of a batch, for each table that takes some of them.
pub(super) fn stage(rows: &Rows, exclude: &Exclude) -> Result<Vec<ForTable>, SinkError> {
    let batch = &rows.batch;
    let tables = match rows.kind {
        Some(RecordKind::Family(Family::ProcessEvent)) => {
            let started = programs::stage(batch, exclude)?;
            vec![(0, started.starts), (6, started.users), (7, started.programs)]
        }
        Some(RecordKind::Family(Family::AgentStatus)) => vec![(1, by_column(batch, &AGENTS)?)],
        Some(RecordKind::Feature1m) => vec![(2, by_column(batch, &FEATURES_1M)?)],
        Some(RecordKind::Alert) => vec![(3, by_column(batch, &ALERTS)?)],
        Some(RecordKind::Feature1h) => vec![(4, by_column(batch, &FEATURES_1H)?)],
        Some(RecordKind::UserFeature1h) => {
            vec![(5, by_column(batch, &USER_FEATURES_1H)?), (6, by_column(batch, &USERS_OF_FEATURES)?)]
        }
        Some(RecordKind::Feedback) => vec![(8, by_column(batch, &feedback::COLUMNS)?)],
        _ => vec![],
    };
    let source = Arc::new(batch.clone());
    Ok(tables.into_iter().map(|(table, tuples)| for_table(table, tuples, rows, &source)).collect())
}

fn for_table(table: usize, tuples: Tuples, rows: &Rows, source: &Arc<RecordBatch>) -> ForTable {
    let mut staged = Vec::with_capacity(tuples.len());
    let mut refused = Vec::new();
    for (row, tuple) in tuples {
        match tuple {
            Ok(tuple) => {
                let place = rows.places[row];
                staged.push(Staged { tuple, place, source: Arc::clone(source), row: row as u32 });
            }
            Err(reason) => refused.push((row, reason)),
        }
    }
    ForTable { table, staged, refused }
}

/// Row numbers with their tuples, or why PostgreSQL cannot store the row.
pub(super) type Tuples = Vec<(usize, Result<Vec<u8>, String>)>;

fn by_column(batch: &RecordBatch, columns: &[Column]) -> Result<Tuples, SinkError> {
    let cells = Cells::new(batch, columns)?;
    Ok((0..batch.num_rows()).map(|row| (row, cells.tuple(row))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_columns_and_copy_statements_agree() {
        let columns = [
            (1, AGENTS.len()),
            (2, FEATURES_1M.len()),
            (3, ALERTS.len()),
            (4, FEATURES_1H.len()),
            (5, USER_FEATURES_1H.len()),
            (6, USERS_OF_FEATURES.len()),
            (8, feedback::COLUMNS.len()),
        ];
        for (table, columns) in columns {
            let list = TABLES[table].copy.split(['(', ')']).nth(1).unwrap();
            assert_eq!(list.split(',').count(), columns, "{}", TABLES[table].name);
        }
    }
}

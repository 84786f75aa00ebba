//! Which records go into which table, and how staged rows are merged.
//!
//! Each table has a temporary staging table with the same columns; COPY fills it, `merge` moves its rows on. A merge
//! never takes an older state for a newer one, whatever the order and however often rows come.

use std::sync::Arc;

use arrow::array::RecordBatch;
use schemas::{event::event_type, family::Family, record::RecordKind};
use sha2::{Digest, Sha256};

use super::{
    config::Exclude,
    copy::{Cells, Column, Kind, Tuple},
};
use crate::{
    SinkError,
    batch::{Place, Rows},
    column::{self, cell},
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
pub(super) const COUNT: usize = 4;

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
               event_time, first_seen, last_seen, count, window_start, window_end, message, attacks, evidence, labels) \
               from stdin (format binary)",
        merge: "insert into alerts as t \
                select distinct on (finding_uid) * from staged_alerts \
                order by finding_uid, last_seen desc, count desc \
                on conflict (finding_uid) do update set \
                severity_id = excluded.severity_id, severity = excluded.severity, status_id = excluded.status_id, \
                status = excluded.status, activity_id = excluded.activity_id, type_uid = excluded.type_uid, \
                last_seen = excluded.last_seen, count = excluded.count, window_end = excluded.window_end, \
                message = excluded.message, evidence = excluded.evidence, labels = excluded.labels \
                where (excluded.last_seen, excluded.count) > (t.last_seen, t.count)",
        clear: "truncate staged_alerts",
    },
];

const AGENTS: [Column; 19] = [
    ("agent_id", Kind::Text),
    ("event_time", Kind::Time),
    ("session", Kind::Long),
    ("event_type", Kind::Text),
    ("host", Kind::Text),
    ("domain", Kind::Text),
    ("os", Kind::Text),
    ("os_version", Kind::Text),
    ("time_zone", Kind::Text),
    ("agent_version", Kind::Text),
    ("policy_version", Kind::Text),
    ("capabilities", Kind::Json),
    ("interval_s", Kind::Double),
    ("queue_rows", Kind::Long),
    ("queue_bytes", Kind::Long),
    ("queue_limit_bytes", Kind::Long),
    ("shed_total", Kind::Long),
    ("cpu_percent", Kind::Double),
    ("memory_bytes", Kind::Long),
];

const FEATURES: [Column; 13] = [
    ("agent_id", Kind::Text),
    ("window_start", Kind::Time),
    ("window_end", Kind::Time),
    ("host", Kind::Text),
    ("revision", Kind::Int),
    ("is_partial", Kind::Boolean),
    ("samples", Kind::Long),
    ("cpu_samples", Kind::Long),
    ("cpu_mean", Kind::Double),
    ("cpu_min", Kind::Double),
    ("cpu_max", Kind::Double),
    ("mem_used_mean_bytes", Kind::Double),
    ("mem_used_max_bytes", Kind::Long),
];

const ALERTS: [Column; 29] = [
    ("finding_uid", Kind::Text),
    ("rule_id", Kind::Text),
    ("rule_title", Kind::Text),
    ("rule_set", Kind::Text),
    ("kind", Kind::Text),
    ("severity_id", Kind::Int),
    ("severity", Kind::Text),
    ("status_id", Kind::Int),
    ("status", Kind::Text),
    ("activity_id", Kind::Int),
    ("class_uid", Kind::Int),
    ("type_uid", Kind::Long),
    ("agent_id", Kind::Text),
    ("session", Kind::Long),
    ("lane", Kind::Text),
    ("seq", Kind::Long),
    ("event_id", Kind::Text),
    ("host", Kind::Text),
    ("user", Kind::Text),
    ("event_time", Kind::Time),
    ("first_seen", Kind::Time),
    ("last_seen", Kind::Time),
    ("count", Kind::Long),
    ("window_start", Kind::Time),
    ("window_end", Kind::Time),
    ("message", Kind::Text),
    ("attacks", Kind::Json),
    ("evidence", Kind::Json),
    ("labels", Kind::Json),
];

/// The rows of a batch that some table takes.
pub(super) fn stage(rows: &Rows, exclude: &Exclude) -> Result<Option<ForTable>, SinkError> {
    let (table, tuples) = match rows.kind {
        Some(RecordKind::Family(Family::ProcessEvent)) => (0, program_starts(&rows.batch, exclude)?),
        Some(RecordKind::Family(Family::AgentStatus)) => (1, by_column(&rows.batch, &AGENTS)?),
        Some(RecordKind::Feature1m) => (2, by_column(&rows.batch, &FEATURES)?),
        Some(RecordKind::Alert) => (3, by_column(&rows.batch, &ALERTS)?),
        _ => return Ok(None),
    };
    let source = Arc::new(rows.batch.clone());
    let mut staged = Vec::with_capacity(tuples.len());
    let mut refused = Vec::new();
    for (row, tuple) in tuples {
        match tuple {
            Ok(tuple) => {
                let place = rows.places[row];
                staged.push(Staged { tuple, place, source: Arc::clone(&source), row: row as u32 });
            }
            Err(reason) => refused.push((row, reason)),
        }
    }
    Ok(Some(ForTable { table, staged, refused }))
}

type Tuples = Vec<(usize, Result<Vec<u8>, String>)>;

fn by_column(batch: &RecordBatch, columns: &[Column]) -> Result<Tuples, SinkError> {
    let cells = Cells::new(batch, columns)?;
    Ok((0..batch.num_rows()).map(|row| (row, cells.tuple(row))).collect())
}

fn program_starts(batch: &RecordBatch, exclude: &Exclude) -> Result<Tuples, SinkError> {
    let (kind, agent) = (column::text(batch, "event_type")?, column::text(batch, "agent_id")?);
    let (user, name) = (column::text(batch, "user")?, column::text(batch, "name")?);
    let (class, lane) = (column::text(batch, "path_class")?, column::text(batch, "lane")?);
    let (session, seq) = (column::long(batch, "session")?, column::long(batch, "seq")?);
    let (time, event_id) = (column::long(batch, "event_time")?, column::text(batch, "event_id")?);
    let mut tuples = Vec::new();
    for row in 0..batch.num_rows() {
        let (user, name) = (cell(user, row), cell(name, row));
        if kind.value(row) != event_type::PROCESS_STARTED
            || is_excluded(exclude, name, user, cell(class, row))
        {
            continue;
        }
        let id = identity_hash(
            agent.value(row),
            session.value(row),
            lane.value(row),
            seq.value(row),
            cell(event_id, row),
        );
        let mut tuple = Tuple::new(5);
        tuple.uuid(id);
        let timed = tuple.time("event_time", time.value(row));
        for text in [user, name, Some(agent.value(row))] {
            match text {
                Some(text) => tuple.text(text),
                None => tuple.null(),
            }
        }
        tuples.push((row, timed.map(|()| tuple.finish())));
    }
    Ok(tuples)
}

fn is_excluded(exclude: &Exclude, name: Option<&str>, user: Option<&str>, class: Option<&str>) -> bool {
    let listed = |list: &[String], value: Option<&str>| {
        value.is_some_and(|value| list.iter().any(|listed| listed.to_lowercase() == value.to_lowercase()))
    };
    listed(&exclude.names, name) || listed(&exclude.users, user) || listed(&exclude.path_classes, class)
}

/// 128 bits of SHA-256 over the event's identity, shaped as a UUID of version 8 (RFC 9562).
fn identity_hash(agent: &str, session: i64, lane: &str, seq: i64, event_id: Option<&str>) -> [u8; 16] {
    let mut hash = Sha256::new();
    for text in [agent, lane, event_id.unwrap_or("")] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hash.update(session.to_be_bytes());
    hash.update(seq.to_be_bytes());
    let digest = hash.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    *uuid::Builder::from_custom_bytes(id).into_uuid().as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn system_programs_are_excluded_only_when_asked() {
        let exclude = Exclude {
            names: vec!["Svchost.EXE".to_owned()],
            users: vec![],
            path_classes: vec!["system".to_owned()],
        };
        assert!(is_excluded(&exclude, Some("svchost.exe"), None, None));
        assert!(is_excluded(&exclude, Some("x"), None, Some("system")));
        assert!(!is_excluded(&exclude, Some("x"), Some("root"), Some("home")));
        assert!(!is_excluded(&Exclude::default(), Some("svchost.exe"), Some("SYSTEM"), Some("system")));
    }

    #[test]
    fn staged_columns_and_copy_statements_agree() {
        for (table, columns) in
            [(&TABLES[1], AGENTS.len()), (&TABLES[2], FEATURES.len()), (&TABLES[3], ALERTS.len())]
        {
            let list = table.copy.split(['(', ')']).nth(1).unwrap();
            assert_eq!(list.split(',').count(), columns, "{}", table.name);
        }
    }

    proptest! {
        #[test]
        fn an_identity_always_has_the_same_id_and_another_has_another(
            agent in ".{0,8}", session: i64, seq in 0..i64::MAX,
        ) {
            let id = identity_hash(&agent, session, "normal", seq, None);
            prop_assert_eq!(id, identity_hash(&agent, session, "normal", seq, None));
            prop_assert_ne!(id, identity_hash(&agent, session, "normal", seq - 1, None));
            prop_assert_ne!(id, identity_hash(&agent, session, "bulk", seq, None));
            prop_assert_ne!(id, identity_hash(&agent, session, "normal", seq, Some("x")));
        }
    }
}

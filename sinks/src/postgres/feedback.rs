//! What people say about alerts: the newest word of an author about an alert holds.

use super::copy::{Column, Kind};
use super::tables::Table;

/// The table and how rows are merged into it. Of two words of one time the one that is stored stays.
pub(super) const TABLE: Table = Table {
    name: "alert_feedback",
    stage: "create temporary table if not exists staged_alert_feedback (like alert_feedback including defaults) \
            on commit delete rows",
    copy: "copy staged_alert_feedback (alert_id, author, verdict, verdict_id, note, given_at) \
           from stdin (format binary)",
    merge: "insert into alert_feedback as t (alert_id, author, verdict, verdict_id, note, given_at) \
            select distinct on (alert_id, author) alert_id, author, verdict, verdict_id, note, given_at \
            from staged_alert_feedback order by alert_id, author, given_at desc \
            on conflict (alert_id, author) do update set verdict = excluded.verdict, \
            verdict_id = excluded.verdict_id, note = excluded.note, given_at = excluded.given_at, \
            stored_at = excluded.stored_at \
            where excluded.given_at > t.given_at",
    clear: "truncate staged_alert_feedback",
};

/// In the order of the COPY.
pub(super) const COLUMNS: [Column; 6] = [
    ("alert_id", Kind::Text),
    ("author", Kind::Text),
    ("verdict", Kind::Text),
    ("verdict_id", Kind::Int),
    ("note", Kind::Text),
    ("given_at", Kind::Time),
];

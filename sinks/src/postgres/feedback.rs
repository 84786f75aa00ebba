//! What people say about alerts: the last word of an author about an alert holds.
//!
//! The last is the one that stands last in the log, where all words of an author about an alert lie in one partition; the
//! time that it bears is that of a clock, and clocks step.

use super::copy::{Column, Kind};
use super::tables::Table;

/// The table and how rows are merged into it. They come in the order of the log, each once, for offsets move with them;
/// from the beginning again they end with the same word.
pub(super) const TABLE: Table = Table {
    name: "alert_feedback",
    stage: "create temporary table if not exists staged_alert_feedback (like alert_feedback including defaults, \
            place bigint generated always as identity) on commit delete rows",
    copy: "copy staged_alert_feedback (alert_id, author, verdict, verdict_id, note, given_at) \
           from stdin (format binary)",
    merge: "insert into alert_feedback as t (alert_id, author, verdict, verdict_id, note, given_at) \
            select distinct on (alert_id, author) alert_id, author, verdict, verdict_id, note, given_at \
            from staged_alert_feedback order by alert_id, author, place desc \
            on conflict (alert_id, author) do update set verdict = excluded.verdict, \
            verdict_id = excluded.verdict_id, note = excluded.note, given_at = excluded.given_at, \
            stored_at = excluded.stored_at \
            where (excluded.verdict, excluded.verdict_id, excluded.note, excluded.given_at) \
            is distinct from (t.verdict, t.verdict_id, t.note, t.given_at)",
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

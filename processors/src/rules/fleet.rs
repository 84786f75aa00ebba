//! Rules over the whole fleet: which rows of a partition they get, and what is told of a window over all of them.
//!
//! ```text
//! partition 0: rows ─▶ where ─▶ in time? ─▶ fleet rows ─┐ by rule and group
//!              minute ─▶ the partition's watermark ─────┤
//! partition 1: …  ──────────────────────────────────────┴▶ windows ─▶ having ─▶ suppress ─▶ alerts
//! ```
//!
//! Whether a row is in time is decided where it is read, by the watermark that its partition has announced before it. So
//! what a window holds depends on each partition's own order and not on how partitions come together; a window ends when
//! all of them have announced a time past its end, and is judged then and never again.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use schemas::columns::arrow_schema;
use schemas::record::RecordKind;
use serde_json::{Map, Value};

use super::RuleError;
use super::judge::{Judge, wrong};
use super::keyed::{Key, Keyed, Remembered, joined};
use super::predicates::Predicates;
use super::reads::Reads;
use super::rule::{Condition, Rule};
use super::state::RuleState;
use super::suppress::Asks;
use crate::alerts::{Alert, AlertError, OfFleet, rows};
use crate::engine::operator::{Operator, definition_hash};
use crate::functions::Functions;

/// A window ends at every minute, µs.
pub(crate) const SLIDE: i64 = 60_000_000;
/// A row is evidence up to this many bytes; of a longer one the longest texts are left out.
const EVIDENCE: usize = 2048;
/// Longest text of a value that rows are grouped by, in bytes; the group is told apart by the whole value.
const VALUE: usize = 256;

/// A rule over the fleet, ready to be asked.
#[derive(Debug)]
pub(super) struct Planned {
    /// Its number in the set.
    rule: usize,
    /// Hash of what decides which rows it gets.
    definition: String,
    /// Whether a window is told.
    having: Predicates,
}

/// The rules over the fleet of a set.
pub(super) fn planned(rules: &[Arc<Rule>], functions: &Functions) -> Result<Vec<Planned>, RuleError> {
    let mut all = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        let Condition::Fleet { group_by, window, .. } = &rule.condition else { continue };
        let sql = rule.sql();
        let (Some((reads, sql)), Some(having)) = (sql.first(), Predicates::of_step(rule, 1, functions)?)
        else {
            continue;
        };
        let window = window.as_micros().to_string();
        let hash = definition_hash(&[&rule.id, reads.name(), sql, &group_by.join("\u{1f}"), &window]);
        all.push(Planned { rule: number, definition: format!("{hash:016x}"), having });
    }
    Ok(all)
}

/// Where fleet rows come from: one partition of the input, how many there are, and how far it has come (µs).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) source: i32,
    pub(crate) sources: i32,
    pub(crate) watermark: Option<i64>,
}

/// A row of a partition for a rule over the fleet.
#[derive(Debug)]
struct FleetRow {
    rule_id: String,
    definition: String,
    window: i64,
    key: String,
    values: String,
    agent_id: String,
    user: Option<String>,
    time: i64,
    evidence: String,
}

/// What a batch of rows brought for rules over the fleet.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Rows of the record `FleetRow`, in the order of the batch.
    pub(crate) rows: RecordBatch,
    /// Rows that were late.
    pub(crate) late: u64,
}

impl Judge {
    /// Whether any rule is over the fleet.
    pub(crate) fn watches_fleet(&self) -> bool {
        !self.fleet.is_empty()
    }

    /// Leaves out what rules over the fleet got: nobody counts it.
    pub(crate) fn leave_fleet(&mut self) {
        self.hits_of_fleet();
    }

    /// Takes what rules over the fleet got of the batch that [`rows`](Self::rows) was last given: rows that are in time
    /// by the watermark that their partition has announced.
    pub(crate) fn take_fleet(&mut self, batch: &RecordBatch, origin: Origin) -> Result<Taken, RuleError> {
        let (mut taken, mut late) = (Vec::new(), 0);
        for (rule, row, time) in self.hits_of_fleet() {
            let end = time.div_euclid(SLIDE).saturating_mul(SLIDE).saturating_add(SLIDE);
            if origin.watermark.is_some_and(|watermark| end <= watermark) {
                late += 1;
                continue;
            }
            let name = self.rules[rule].condition.reads().name();
            taken.extend(self.fleet_row(rule, batch, row, time).map_err(wrong(name))?);
        }
        let rows = to_batch(origin, &taken).map_err(|error| wrong(Reads::Fleet.name())(error.into()))?;
        Ok(Taken { rows, late })
    }

    fn fleet_row(
        &self,
        number: usize,
        batch: &RecordBatch,
        row: usize,
        time: i64,
    ) -> Result<Option<FleetRow>, AlertError> {
        let rule = &self.rules[number];
        let planned = self.fleet.iter().find(|planned| planned.rule == number);
        let (Condition::Fleet { group_by, window, .. }, Some(planned)) = (&rule.condition, planned) else {
            return Ok(None);
        };
        let mut parts = vec![Some(rule.id.clone()), Some(planned.definition.clone())];
        let mut values = Map::new();
        for column in group_by {
            // null agrees with nothing
            let Some(value) = rows::display(batch, column, row) else { return Ok(None) };
            parts.push(Some(value.clone()));
            values.insert(column.clone(), Value::String(rows::shortened(value, VALUE)));
        }
        Ok(Some(FleetRow {
            rule_id: rule.id.clone(),
            definition: planned.definition.clone(),
            window: window.as_micros() as i64,
            key: joined(parts.into_iter()),
            values: Value::Object(values).to_string(),
            agent_id: rows::texts(batch, "agent_id")?.value(row).to_owned(),
            user: rows::text(batch, "user", row),
            time,
            evidence: Value::Object(rows::evidence_within(batch, row, EVIDENCE)?).to_string(),
        }))
    }

    /// Judges windows over the fleet that have ended: the results of `fleet.sql` with `window_end`. Alerts in the order
    /// of window ends and groups; beside them how many windows are of rules that are not in force (any more).
    pub(crate) fn windows_of_fleet(
        &mut self,
        windows: &RecordBatch,
        state: &mut RuleState,
    ) -> Result<(Vec<Alert>, u64), RuleError> {
        let name = Reads::Fleet.name();
        let mut held = Vec::new();
        let mut known = 0;
        let (ids, definitions) = (
            rows::texts(windows, "rule_id").map_err(wrong(name))?,
            rows::texts(windows, "definition").map_err(wrong(name))?,
        );
        for planned in &mut self.fleet {
            let rule = &self.rules[planned.rule];
            let is_of =
                |row: &usize| ids.value(*row) == rule.id && definitions.value(*row) == planned.definition;
            let own: Vec<u32> = (0..windows.num_rows()).filter(is_of).map(|row| row as u32).collect();
            if own.is_empty() {
                continue;
            }
            known += own.len();
            let asked = asked(windows, &own).map_err(|error| wrong(name)(error.into()))?;
            for (_, holds) in planned.having.all(&asked)? {
                let numbered = own.iter().enumerate();
                let those = numbered.filter(|(at, _)| holds.is_valid(*at) && holds.value(*at));
                held.extend(those.map(|(_, row)| (*row as usize, planned.rule)));
            }
        }
        let ends = rows::times(windows, "window_end").map_err(wrong(name))?;
        let keys = rows::texts(windows, "group_key").map_err(wrong(name))?;
        held.sort_unstable_by_key(|(row, _)| (ends.value(*row), keys.value(*row)));
        let mut alerts = Vec::new();
        for (row, rule) in held {
            let rule = &self.rules[rule];
            let (end, key) = (ends.value(row), keys.value(row));
            // Windows that share rows with one that was told say nothing new, and are not counted.
            let asks = Asks { agent: key, by: "", time: end, watermark: end, counts: false };
            if state.suppressions.admit(rule, asks).is_none() {
                continue;
            }
            let found = finding(windows, row).map_err(wrong(name))?;
            alerts.push(Alert::of_fleet(rule, &self.rule_set, found));
        }
        Ok((alerts, (windows.num_rows() - known) as u64))
    }

    /// Forgets what was held back in windows that ended long before `watermark`, µs.
    pub(crate) fn sweep_fleet(&self, state: &mut RuleState, watermark: i64) {
        state.suppressions.sweep(|_| watermark, |id| self.suppression_of(id));
    }
}

/// The rows of windows that one rule is asked about, with the columns that it may name.
fn asked(windows: &RecordBatch, own: &[u32]) -> Result<RecordBatch, ArrowError> {
    let schema = Reads::Fleet.schema();
    let positions = schema.fields().iter().map(|field| windows.schema_ref().index_of(field.name()));
    let some = windows.project(&positions.collect::<Result<Vec<_>, _>>()?)?;
    let some = take_record_batch(&some, &UInt32Array::from(own.to_vec()))?;
    RecordBatch::try_new(schema, some.columns().to_vec())
}

fn finding(windows: &RecordBatch, row: usize) -> Result<OfFleet<'_>, AlertError> {
    let time = |name: &str| rows::times(windows, name).map(|times| times.value(row));
    let values: Map<String, Value> = serde_json::from_str(rows::texts(windows, "group_values")?.value(row))?;
    let evidence = rows::maybe(windows, "evidence", row).map_or(Ok(Vec::new()), serde_json::from_str)?;
    Ok(OfFleet {
        key: rows::texts(windows, "group_key")?.value(row),
        window: (time("window_start")?, time("window_end")?),
        first_seen: time("first_seen")?,
        last_seen: time("last_seen")?,
        count: rows::longs(windows, "rows")?.value(row),
        evidence,
        value: Box::new(move |column| match values.get(column) {
            Some(value) => rows::display_value(value),
            None => rows::display(windows, column, row),
        }),
    })
}

/// The record that says how far a partition has come, and nothing else.
pub(crate) fn announcement(origin: Origin) -> Result<RecordBatch, ArrowError> {
    to_columns(origin, &[None])
}

fn to_batch(origin: Origin, rows: &[FleetRow]) -> Result<RecordBatch, ArrowError> {
    to_columns(origin, &rows.iter().map(Some).collect::<Vec<_>>())
}

fn to_columns(origin: Origin, of: &[Option<&FleetRow>]) -> Result<RecordBatch, ArrowError> {
    let text = |get: fn(&FleetRow) -> Option<&str>| -> ArrayRef {
        Arc::new(of.iter().map(|row| row.and_then(get)).collect::<StringArray>())
    };
    let times = |times: Vec<Option<i64>>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("+00:00"))
    };
    RecordBatch::try_new(
        arrow_schema(RecordKind::FleetRow),
        vec![
            Arc::new(Int32Array::from(vec![origin.source; of.len()])),
            Arc::new(Int32Array::from(vec![origin.sources; of.len()])),
            times(vec![origin.watermark; of.len()]),
            text(|row| Some(&row.rule_id)),
            text(|row| Some(&row.definition)),
            Arc::new(of.iter().map(|row| row.map(|row| row.window)).collect::<Int64Array>()),
            text(|row| Some(&row.key)),
            text(|row| Some(&row.values)),
            text(|row| Some(&row.agent_id)),
            text(|row| row.user.as_deref()),
            times(of.iter().map(|row| row.map(|row| row.time)).collect()),
            text(|row| Some(&row.evidence)),
        ],
    )
}

impl Remembered for (i64, i32) {}

/// How far the sources of fleet rows have come: in the job that reads events its own partition, in the job `fleet` all.
#[derive(Debug)]
pub(super) struct Sources {
    /// By source: its watermark (µs) and how many sources it knows of.
    rows: Keyed<(i64, i32)>,
}

impl Default for Sources {
    fn default() -> Self {
        Self { rows: Keyed::new("fleet_sources") }
    }
}

impl Sources {
    fn key() -> Key {
        Key::new("", "")
    }

    /// Its keyed state.
    pub(super) fn operator(&mut self) -> &mut dyn Operator {
        &mut self.rows
    }

    fn get(&self, source: i32) -> Option<(i64, i32)> {
        self.rows.get(&source.to_string(), &Self::key()).copied()
    }

    /// A source has come so far; it never goes back. Answers how far it has come now.
    fn advance(&mut self, source: i32, sources: i32, watermark: i64) -> i64 {
        let known = self.get(source);
        let watermark = known.map_or(watermark, |(known, _)| known.max(watermark));
        if known != Some((watermark, sources)) {
            self.rows.put(&source.to_string(), Self::key(), (watermark, sources));
        }
        watermark
    }

    /// How far all have come; `None` as long as one has said nothing.
    fn least(&self) -> Option<i64> {
        let told = self.rows.keys().into_iter();
        let told: Vec<_> = told.filter_map(|(source, key)| self.rows.get(&source, &key)).collect();
        #[cfg(test)]
        if crate::planted::is_planted(crate::planted::Planted::FirstSourceDecides) {
            return told.iter().map(|(watermark, _)| *watermark).max();
        }
        let sources = told.iter().map(|(_, sources)| *sources).max()?;
        let is_whole = (0..sources).all(|source| self.get(source).is_some());
        if is_whole { told.iter().map(|(watermark, _)| *watermark).min() } else { None }
    }
}

impl RuleState {
    /// How far a source of fleet rows has come, µs.
    pub(crate) fn source_watermark(&self, source: i32) -> Option<i64> {
        self.sources.get(source).map(|(watermark, _)| watermark)
    }

    /// A source of fleet rows has come so far (µs), and knows of so many sources.
    pub(crate) fn advance_source(&mut self, source: i32, sources: i32, watermark: i64) -> i64 {
        self.sources.advance(source, sources, watermark)
    }

    /// How far all sources of fleet rows have come, µs.
    pub(crate) fn fleet_watermark(&self) -> Option<i64> {
        self.sources.least()
    }
}

/// The sources that rows of the record `FleetRow` say something new of: source, how many there are, watermark (µs).
pub(crate) fn announced(
    fleet: &RecordBatch,
) -> Result<impl Iterator<Item = (i32, i32, i64)> + '_, AlertError> {
    let ids = rows::texts(fleet, "rule_id")?;
    let watermarks = rows::times(fleet, "watermark")?;
    let int = |name: &'static str| -> Result<&Int32Array, AlertError> {
        let column = fleet.column_by_name(name).and_then(|column| column.as_primitive_opt());
        column.ok_or(AlertError::Column { column: name.to_owned(), expected: "int" })
    };
    let (sources, of) = (int("source")?, int("sources")?);
    let told = (0..fleet.num_rows()).filter(move |row| ids.is_null(*row) && watermarks.is_valid(*row));
    Ok(told.map(move |row| (sources.value(row), of.value(row), watermarks.value(row))))
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;

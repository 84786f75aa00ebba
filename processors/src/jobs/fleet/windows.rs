//! Open windows over the fleet, of all lengths and groups.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use schemas::columns::arrow_schema;
use schemas::record::RecordKind;

use crate::engine::operator::Operator;
use crate::functions::Functions;
use crate::plan::PlanError;
use crate::rules::FLEET_WINDOWS;
use crate::rules::fleet::SLIDE;
use crate::windows::{Aggregate, Closed, Closing, Sliding, Timed, WINDOW_START, Windows};

/// Names of the operators, of [`FLEET_WINDOWS`].
const NAMES: [&str; FLEET_WINDOWS.len()] =
    ["fleet_windows.5m", "fleet_windows.10m", "fleet_windows.30m", "fleet_windows.1h"];
/// A row of state is at most about 30 KB (ten rows of evidence, hashes of 512 agents and of 512 users), and of most
/// groups less than 1 KB. With this many rows of one length in a partition at a commit, groups that are new are left out.
const MOST_ROWS: usize = 100_000;

/// The plan of all windows over the fleet; it holds no rows and serves all partitions.
pub(in crate::jobs) struct FleetPlan {
    aggregate: Aggregate,
}

impl FleetPlan {
    pub(in crate::jobs) fn new(functions: &Functions) -> Result<Self, PlanError> {
        let rows = arrow_schema(RecordKind::FleetRow);
        let sql = include_str!("../../../sql/fleet.sql");
        Ok(Self { aggregate: Aggregate::keyed_by("group_key", sql, "fleet", &rows, functions)? })
    }
}

/// Rows that are in no window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::jobs) struct LeftOut {
    /// Because there are too many groups.
    pub(in crate::jobs) dropped: u64,
    /// Because their window has ended. Whoever sent them has decided that they are in time, so there are none unless an
    /// installation changed from `core` to `detect` or back, which reads once more what was read before.
    pub(in crate::jobs) late: u64,
}

/// See the module.
#[derive(Debug)]
pub(in crate::jobs) struct FleetWindows {
    /// In the order of [`FLEET_WINDOWS`].
    of: Vec<Sliding>,
    /// Rows of one length.
    most: usize,
}

/// Lengths of windows, µs.
fn lengths() -> impl Iterator<Item = i64> {
    FLEET_WINDOWS.into_iter().map(|length| length.as_micros() as i64)
}

impl FleetWindows {
    pub(in crate::jobs) fn new(plan: &FleetPlan) -> Self {
        let named = NAMES.into_iter().zip(lengths());
        let of = named.map(|(name, length)| Sliding::new(name, SLIDE, length, &plan.aggregate));
        Self { of: of.collect(), most: MOST_ROWS }
    }

    pub(in crate::jobs) fn operators(&mut self) -> impl Iterator<Item = &mut dyn Operator> {
        self.of.iter_mut().map(Windows::operator)
    }

    /// How many partial rows are kept.
    pub(in crate::jobs) fn open(&self) -> usize {
        self.of.iter().map(Sliding::live).sum()
    }

    /// Takes rows of the record `FleetRow` that are of rules. `watermark`: up to where windows have been closed, µs.
    pub(in crate::jobs) fn add(&mut self, rows: &RecordBatch, watermark: i64) -> Result<LeftOut, PlanError> {
        let missing = |name: &str| PlanError::Columns(arrow::error::ArrowError::SchemaError(name.to_owned()));
        let column = |name: &str| rows.column_by_name(name).ok_or_else(|| missing(name));
        let wanted = column("window_us")?.as_primitive::<Int64Type>();
        let keys = column("group_key")?.as_string::<i32>();
        let mut left_out = LeftOut::default();
        for (windows, length) in self.of.iter_mut().zip(lengths()) {
            let is_full = windows.live() >= self.most;
            let takes = |row: usize| {
                let is_of = wanted.value(row) == length;
                let has_room = !is_full || windows.has(keys.value(row));
                left_out.dropped += u64::from(is_of && !has_room);
                Some(is_of && has_room)
            };
            let is_own: BooleanArray = (0..rows.num_rows()).map(takes).collect();
            if is_own.has_true() {
                let own = filter_record_batch(rows, &is_own)?;
                let times = own.column_by_name("event_time").ok_or_else(|| missing("event_time"))?;
                let times = times.as_primitive::<TimestampMicrosecondType>().values().iter();
                let times: Vec<_> = times.map(|time| Timed { time: *time, watermark }).collect();
                left_out.late += windows.add(&own, &times)?.len() as u64;
            }
        }
        Ok(left_out)
    }

    /// Makes what waits partial rows. To be called before each commit.
    pub(in crate::jobs) fn settle(&mut self, plan: &mut FleetPlan) -> Result<(), PlanError> {
        for windows in &mut self.of {
            windows.close(&mut plan.aggregate, &[])?;
        }
        Ok(())
    }

    /// Takes out the windows that ended after `before` and not after `watermark`, µs: the results of `fleet.sql` with
    /// `window_end`, for each length that has any.
    pub(in crate::jobs) fn close(
        &mut self,
        plan: &mut FleetPlan,
        before: i64,
        watermark: i64,
    ) -> Result<Vec<RecordBatch>, PlanError> {
        let mut ended = Vec::new();
        for (windows, length) in self.of.iter_mut().zip(lengths()) {
            // What waits must have its key there.
            windows.close(&mut plan.aggregate, &[])?;
            let closing = |agent: &Arc<str>| Closing { agent: Arc::clone(agent), before, watermark };
            let mut closings: Vec<_> = windows.keys().map(closing).collect();
            closings.sort_unstable_by(|a, b| a.agent.cmp(&b.agent));
            for Closed { rows, .. } in windows.close(&mut plan.aggregate, &closings)? {
                let results = plan.aggregate.results(rows)?;
                if results.num_rows() > 0 {
                    ended.push(with_ends(&results, length)?);
                }
            }
        }
        Ok(ended)
    }
}

fn with_ends(results: &RecordBatch, length: i64) -> Result<RecordBatch, PlanError> {
    let starts = results.column_by_name(WINDOW_START).map(|starts| {
        let starts = starts.as_primitive::<TimestampMicrosecondType>();
        starts.iter().map(|start| start.map(|start| start.saturating_add(length)))
    });
    let ends: TimestampMicrosecondArray = starts.into_iter().flatten().collect();
    let kind = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    let mut fields: Vec<_> = results.schema_ref().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("window_end", kind, false)));
    let mut columns: Vec<ArrayRef> = results.columns().to_vec();
    columns.push(Arc::new(ends.with_timezone("+00:00")));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use serde_json::{Value, json};

    use super::*;
    use crate::rules::testing::rows_of;

    const TEN: i64 = 600_000_000;

    fn row(group: &str, agent: &str, time: i64) -> Value {
        json!({"source": 0, "sources": 1, "rule_id": "r", "definition": "d", "window_us": TEN, "group_key": group,
            "group_values": "{}", "agent_id": agent, "event_time": time, "evidence": format!("{{\"at\":{time}}}")})
    }

    fn add(windows: &mut FleetWindows, rows: &[Value], watermark: i64) -> LeftOut {
        windows.add(&rows_of(RecordKind::FleetRow, rows).unwrap(), watermark).unwrap()
    }

    /// Group, end in minutes, rows, agents and evidence of what has ended.
    fn ended(
        windows: &mut FleetWindows,
        plan: &mut FleetPlan,
        before: i64,
        to: i64,
    ) -> Vec<(String, i64, i64, i64, String)> {
        let mut found = Vec::new();
        for batch in windows.close(plan, before * SLIDE, to * SLIDE).unwrap() {
            let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
            let long = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
            let ends = batch.column_by_name("window_end").unwrap();
            let ends = ends.as_primitive::<TimestampMicrosecondType>();
            let (groups, evidence, rows, agents) =
                (text("group_key"), text("evidence"), long("rows"), long("agents"));
            found.extend((0..batch.num_rows()).map(|row| {
                assert!(evidence.is_valid(row));
                let end = ends.value(row) / SLIDE;
                (
                    groups.value(row).to_owned(),
                    end,
                    rows.value(row),
                    agents.value(row),
                    evidence.value(row).to_owned(),
                )
            }));
        }
        found
    }

    #[test]
    fn what_is_new_is_left_out_when_there_is_no_room_and_what_is_known_goes_on() {
        let mut plan = FleetPlan::new(&Functions::new()).unwrap();
        let mut windows = FleetWindows { most: 3, ..FleetWindows::new(&plan) };
        let groups: Vec<_> = (0..3).map(|number| row(&format!("g{number}"), "a", number)).collect();
        assert_eq!(add(&mut windows, &groups, i64::MIN), LeftOut::default());
        windows.settle(&mut plan).unwrap();
        let more = [row("g0", "b", 7), row("new", "a", 7), row("new", "b", 7)];
        assert_eq!(add(&mut windows, &more, i64::MIN), LeftOut { dropped: 2, late: 0 });
        let first = &ended(&mut windows, &mut plan, 0, 1)[0];
        assert_eq!(first, &("g0".to_owned(), 1, 2, 2, "[{\"at\":0},{\"at\":7}]".to_owned()));
        // room again when the last window that held them has ended
        assert_eq!(ended(&mut windows, &mut plan, 1, 10).len(), 9 * 3);
        assert_eq!(windows.open(), 0);
        assert_eq!(
            add(&mut windows, &[row("new", "a", 10 * SLIDE), row("new", "a", 0)], 10 * SLIDE),
            LeftOut { dropped: 0, late: 1 }
        );
    }
}

//! Where each column of a feature row comes from, and how one wide row is made of what the families found.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;

use super::ledger::Standing;
use super::{HOST_METRICS, MEASURED, PROCESS_EVENT, PROCESS_SAMPLE, SIZES, USER_ACTIVITY};
use crate::plan::PlanError;
use crate::windows::{Aggregate, WINDOW_START};

/// What each family found for windows of one size, sorted by agent, window and user; `None` for nothing.
pub(super) type Results = [Option<RecordBatch>; MEASURED.len()];

/// The result column that `input_ratio` is made of.
const ACTIVE: &str = "active_s";

/// What stands where a family has no row for a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absent {
    /// Nobody looked.
    Null,
    /// The column counts readings: there was none.
    Zero,
    /// Somebody looked if there were samples of processes, and then there was nothing.
    ZeroIfSampled,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Agent,
    User,
    Host,
    Start,
    End,
    Revision,
    Partial,
    Events,
    Late,
    Lost,
    Expected,
    Received,
    Coverage,
    InputRatio,
    Measured { family: usize, column: usize, absent: Absent },
}

/// The columns of machines' rows, or of users'.
#[derive(Debug)]
pub(super) struct Layout {
    schema: SchemaRef,
    sources: Vec<Source>,
    by_user: bool,
    /// Column of [`ACTIVE`] in the results of user activity.
    active: usize,
}

/// Whose row it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    agent: &'a str,
    start: i64,
    user: Option<&'a str>,
}

impl Layout {
    /// Finds the source of each column. `aggregates` are by family.
    pub(super) fn new(schema: &SchemaRef, aggregates: &[Aggregate]) -> Result<Self, PlanError> {
        let mut sources = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            let name = field.name().as_str();
            let of_engine = match name {
                "agent_id" => Some(Source::Agent),
                "user" => Some(Source::User),
                "host" => Some(Source::Host),
                WINDOW_START => Some(Source::Start),
                "window_end" => Some(Source::End),
                "revision" => Some(Source::Revision),
                "is_partial" => Some(Source::Partial),
                "events" => Some(Source::Events),
                "late" => Some(Source::Late),
                "lost" => Some(Source::Lost),
                "reports_expected" => Some(Source::Expected),
                "reports_received" => Some(Source::Received),
                "coverage" => Some(Source::Coverage),
                "input_ratio" => Some(Source::InputRatio),
                _ => None,
            };
            let of_family = || {
                let mut families = aggregates.iter().enumerate();
                families.find_map(|(family, aggregate)| {
                    let column = aggregate.result().index_of(name).ok()?;
                    let is_count = aggregate.result().field(column).data_type() == &DataType::Int64;
                    let absent = match family {
                        HOST_METRICS if name.ends_with("samples") => Absent::Zero,
                        PROCESS_EVENT if is_count => Absent::ZeroIfSampled,
                        _ => Absent::Null,
                    };
                    Some(Source::Measured { family, column, absent })
                })
            };
            sources.push(of_engine.or_else(of_family).ok_or_else(|| missing(name))?);
        }
        let active = aggregates[USER_ACTIVITY].result().index_of(ACTIVE).map_err(|_| missing(ACTIVE))?;
        let by_user = schema.index_of("user").is_ok();
        Ok(Self { schema: Arc::clone(schema), sources, by_user, active })
    }

    /// One row for each window of `standings`, or for each user in them; sorted by agent, window and user.
    pub(super) fn rows(
        &self,
        standings: &[Standing],
        results: &Results,
        level: usize,
        is_partial: bool,
    ) -> Result<RecordBatch, PlanError> {
        let mut found = Vec::with_capacity(results.len());
        for result in results {
            found.push(result.as_ref().map_or(Ok(Vec::new()), keys)?);
        }
        let (keys, standings): (Vec<Key<'_>>, Vec<&Standing>) = if self.by_user {
            let mut users: Vec<Key<'_>> = found.iter().flatten().copied().collect();
            users.sort_unstable();
            users.dedup();
            let standing = |key: &Key<'_>| {
                let place = |standing: &Standing| {
                    (&*standing.agent, standing.entry.start).cmp(&(key.agent, key.start))
                };
                standings.binary_search_by(place).ok().map(|at| &standings[at])
            };
            users.iter().filter_map(|key| Some((*key, standing(key)?))).unzip()
        } else {
            standings
                .iter()
                .map(|standing| {
                    (Key { agent: &standing.agent, start: standing.entry.start, user: None }, standing)
                })
                .unzip()
        };
        if keys.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let rows: Vec<UInt32Array> = found.iter().map(|of_family| matches(&keys, of_family)).collect();
        let columns = self.sources.iter().zip(self.schema.fields()).map(|(source, field)| {
            let joined =
                Joined { keys: &keys, standings: &standings, results, rows: &rows, level, is_partial };
            joined.column(*source, self.active).and_then(|column| cast(&column, field.data_type()))
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// What the columns of some rows are made of.
struct Joined<'a> {
    keys: &'a [Key<'a>],
    standings: &'a [&'a Standing],
    results: &'a Results,
    /// By family, the row of the results that belongs to each key.
    rows: &'a [UInt32Array],
    level: usize,
    is_partial: bool,
}

impl Joined<'_> {
    fn column(&self, source: Source, active: usize) -> Result<ArrayRef, ArrowError> {
        let size = SIZES[self.level];
        let keys = self.keys.iter();
        let standings = self.standings.iter();
        let reports = || self.standings.iter().map(|standing| standing.entry.reports(self.level));
        let long = |of: fn(&Standing) -> i64| -> ArrayRef {
            Arc::new(self.standings.iter().map(|standing| Some(of(standing))).collect::<Int64Array>())
        };
        let time = |of: fn(i64, i64) -> i64| -> ArrayRef {
            let times = self.keys.iter().map(|key| of(key.start, size));
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("+00:00"))
        };
        Ok(match source {
            Source::Agent => Arc::new(keys.map(|key| Some(key.agent)).collect::<StringArray>()),
            Source::User => Arc::new(keys.map(|key| key.user).collect::<StringArray>()),
            Source::Host => {
                Arc::new(standings.map(|standing| standing.entry.host.as_deref()).collect::<StringArray>())
            }
            Source::Start => time(|start, _| start),
            Source::End => time(i64::saturating_add),
            Source::Revision => {
                Arc::new(standings.map(|standing| Some(standing.entry.revision)).collect::<Int32Array>())
            }
            Source::Partial => Arc::new(BooleanArray::from(vec![self.is_partial; self.keys.len()])),
            Source::Events => long(|standing| standing.entry.events),
            Source::Late => long(|standing| standing.entry.late),
            Source::Lost => long(|standing| standing.entry.lost),
            Source::Expected => Arc::new(reports().map(|reports| Some(reports?.0)).collect::<Float64Array>()),
            Source::Received => Arc::new(reports().map(|reports| Some(reports?.1)).collect::<Int64Array>()),
            Source::Coverage => {
                let share = |(expected, received): (f64, i64)| (received as f64 / expected).min(1.0);
                Arc::new(reports().map(|reports| reports.map(share)).collect::<Float64Array>())
            }
            Source::InputRatio => {
                let active = self.measured(USER_ACTIVITY, active, &DataType::Float64)?;
                let seconds = size as f64 / 1e6;
                let ratio = |active: f64| (active / seconds).clamp(0.0, 1.0);
                Arc::new(active.as_primitive::<Float64Type>().unary::<_, Float64Type>(ratio))
            }
            Source::Measured { family, column, absent } => {
                let kind = if absent == Absent::Null { None } else { Some(DataType::Int64) };
                let found = match (&kind, &self.results[family]) {
                    (Some(kind), _) => self.measured(family, column, kind)?,
                    (None, Some(result)) => {
                        self.measured(family, column, result.column(column).data_type())?
                    }
                    (None, None) => self.measured(family, column, &DataType::Null)?,
                };
                let is_zero = |row: usize| match absent {
                    Absent::Null => false,
                    Absent::Zero => true,
                    Absent::ZeroIfSampled => self.rows[PROCESS_SAMPLE].is_valid(row),
                };
                if absent == Absent::Null || found.null_count() == 0 {
                    return Ok(found);
                }
                let counts = found.as_primitive::<Int64Type>();
                let filled = counts.iter().enumerate().map(|(row, count)| {
                    let absent = is_zero(row).then_some(0);
                    count.or(absent)
                });
                Arc::new(filled.collect::<Int64Array>())
            }
        })
    }

    /// A column of a family's results, null where the family has no row; of `kind`.
    fn measured(&self, family: usize, column: usize, kind: &DataType) -> Result<ArrayRef, ArrowError> {
        match &self.results[family] {
            Some(result) => cast(&take(result.column(column), &self.rows[family], None)?, kind),
            None => Ok(arrow::array::new_null_array(kind, self.keys.len())),
        }
    }
}

/// The keys of results, which are sorted by them.
fn keys(result: &RecordBatch) -> Result<Vec<Key<'_>>, PlanError> {
    let text = |name: &str| result.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
    let agents = text("agent_id").ok_or_else(|| missing("agent_id"))?;
    let starts = result.column_by_name(WINDOW_START);
    let starts = starts
        .and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>())
        .ok_or_else(|| missing(WINDOW_START))?;
    let users = text("user");
    let user = |row: usize| users.filter(|users| users.is_valid(row)).map(|users| users.value(row));
    let key = |row: usize| Key { agent: agents.value(row), start: starts.value(row), user: user(row) };
    Ok((0..result.num_rows()).map(key).collect())
}

/// For each key its place among `found`; both are sorted.
fn matches(keys: &[Key<'_>], found: &[Key<'_>]) -> UInt32Array {
    let mut at = 0;
    let place = |key: &Key<'_>| {
        while let Some(next) = found.get(at) {
            match next.cmp(key) {
                Ordering::Less => at += 1,
                Ordering::Equal => return Some(at as u32),
                Ordering::Greater => return None,
            }
        }
        None
    };
    keys.iter().map(place).collect()
}

fn missing(name: &str) -> PlanError {
    ArrowError::SchemaError(format!("no query of the features has a column {name}")).into()
}

//! Feature windows: what each machine, and each user on it, did in a minute, five minutes, an hour.
//!
//! ```text
//! host_metrics ──▶ aggregate ─┐
//! process_event ─▶ aggregate ─┤ partial rows by agent, minute (and user)
//! process_sample ▶ aggregate ─┤        └─ closed minutes ─▶ five minutes ─▶ hour
//! user_activity ─▶ aggregate ─┤
//! all families ──▶ ledger ────┴─▶ one wide row for each window that the ledger has, by agent ─▶ features.<size>
//!                                          and for each user in it                    ─▶ user_features.<size>
//! ```
//!
//! Each family is aggregated by one query (`sql/features_*.sql`) for the shortest windows; longer ones are made of its
//! partial rows. The rows of a window are joined when it closes. A machine's row is the total over its users, known or
//! not, from the same partial rows. What nobody measured is null; what was looked for and not there is zero.

mod layout;
mod ledger;

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{filter_record_batch, is_not_null, is_null};
use schemas::columns::arrow_schema;
use schemas::family::Family;
use schemas::record::RecordKind;
use schemas::topics::FEATURE_SIZES;

use self::layout::{Layout, Results};
use self::ledger::{Ledger, Run, Standing};
use crate::engine::operator::Operator;
use crate::functions::Functions;
use crate::plan::PlanError;
use crate::windows::{Aggregate, Closed, Closing, Late, Timed, Tumbling, Windows};

/// One minute, µs.
pub(super) const MINUTE: i64 = 60_000_000;
const LEVELS: usize = FEATURE_SIZES.len();
/// Lengths of [`FEATURE_SIZES`], µs.
const SIZES: [i64; LEVELS] = [MINUTE, 5 * MINUTE, 60 * MINUTE];

/// A family whose rows are measured.
struct Measured {
    family: Family,
    /// Name of the operator.
    name: &'static str,
    sql: &'static str,
}

const MEASURED: [Measured; 4] = [
    Measured {
        family: Family::HostMetrics,
        name: "features.host_metrics",
        sql: include_str!("../../../sql/features_host_metrics.sql"),
    },
    Measured {
        family: Family::ProcessEvent,
        name: "features.process_event",
        sql: include_str!("../../../sql/features_process_event.sql"),
    },
    Measured {
        family: Family::ProcessSample,
        name: "features.process_sample",
        sql: include_str!("../../../sql/features_process_sample.sql"),
    },
    Measured {
        family: Family::UserActivity,
        name: "features.user_activity",
        sql: include_str!("../../../sql/features_user_activity.sql"),
    },
];

/// Position in [`MEASURED`].
const HOST_METRICS: usize = 0;
const PROCESS_EVENT: usize = 1;
const PROCESS_SAMPLE: usize = 2;
const USER_ACTIVITY: usize = 3;

/// The plans of all feature windows; they hold no rows and serve all partitions.
pub(super) struct FeaturePlans {
    aggregates: Vec<Aggregate>,
    machines: Layout,
    users: Layout,
}

impl FeaturePlans {
    /// Plans everything once. Errors: a query is wrong, or a column of the features comes from nowhere.
    pub(super) fn new(functions: &Functions) -> Result<Self, PlanError> {
        let mut aggregates = Vec::with_capacity(MEASURED.len());
        for measured in &MEASURED {
            let rows = arrow_schema(RecordKind::Family(measured.family));
            aggregates.push(Aggregate::new(measured.sql, "events", &rows, functions)?);
        }
        let layout = |kind| Layout::new(&arrow_schema(kind), &aggregates);
        let (machines, users) = (layout(RecordKind::Feature1m)?, layout(RecordKind::UserFeature1m)?);
        Ok(Self { aggregates, machines, users })
    }
}

/// What the scan found out about a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// Number of its agent.
    pub(super) agent: u32,
    /// The agent's reporting interval when the row came, µs; 0 if it told none.
    pub(super) interval: i64,
    /// Told about the agent, not by it: it was not heard.
    pub(super) hearsay: bool,
}

/// Feature rows to be sent.
pub(super) struct Emission {
    pub(super) kind: RecordKind,
    /// Position of the size in [`FEATURE_SIZES`].
    pub(super) level: usize,
    /// Sorted by agent, window and user.
    pub(super) rows: RecordBatch,
}

/// The open feature windows of one partition.
#[derive(Debug)]
pub(super) struct FeatureWindows {
    ledger: Ledger,
    families: Vec<Tumbling>,
}

impl FeatureWindows {
    pub(super) fn new(plans: &FeaturePlans) -> Self {
        let pairs = MEASURED.iter().zip(&plans.aggregates);
        let families = pairs.map(|(measured, aggregate)| Tumbling::new(measured.name, &SIZES, aggregate));
        Self { ledger: Ledger::default(), families: families.collect() }
    }

    pub(super) fn operators(&mut self) -> impl Iterator<Item = &mut dyn Operator> {
        let ledger: &mut dyn Operator = &mut self.ledger;
        std::iter::once(ledger).chain(self.families.iter_mut().map(Windows::operator))
    }

    /// How many windows are open, of all sizes and agents.
    pub(super) fn open(&self) -> usize {
        self.ledger.live_rows()
    }

    /// Whether moving from one watermark to the other closes a window.
    pub(super) fn closes(before: i64, after: i64) -> bool {
        after.div_euclid(MINUTE) > before.div_euclid(MINUTE)
    }

    /// Whether windows of an agent are open that ended before its watermark.
    pub(super) fn have_ended(&self, agent: &str, watermark: i64) -> bool {
        self.ledger.has_ended(agent, watermark)
    }

    /// Takes normalised rows of a family, in offset order; answers those that are late. Rows of families that are not
    /// measured only tell that their agent was heard.
    pub(super) fn add(
        &mut self,
        family: Family,
        rows: &RecordBatch,
        times: &[Timed],
        heard: &[Heard],
        agent: impl Fn(u32) -> Arc<str>,
    ) -> Result<Vec<Late>, PlanError> {
        let measured = MEASURED.iter().position(|measured| measured.family == family);
        let hosts = rows.column_by_name("host").and_then(|hosts| hosts.as_string_opt::<i32>());
        let mut run: Option<(u32, i64, Run<'_>)> = None;
        for (row, (timed, heard)) in times.iter().zip(heard).enumerate() {
            if heard.hearsay {
                continue;
            }
            let mut start = timed.time.div_euclid(MINUTE).saturating_mul(MINUTE);
            let is_late = start.saturating_add(MINUTE) <= timed.watermark;
            if is_late {
                if measured.is_none() {
                    continue;
                }
                start = timed.watermark.div_euclid(MINUTE).saturating_mul(MINUTE);
            }
            let current = match &mut run {
                Some((agent, minute, run)) if *agent == heard.agent && *minute == start => run,
                _ => {
                    let next = (heard.agent, start, Run::default());
                    if let Some((number, minute, run)) = run.replace(next) {
                        self.ledger.note(&agent(number), minute, &run);
                    }
                    match &mut run {
                        Some((.., run)) => run,
                        None => continue,
                    }
                }
            };
            if is_late {
                current.late += 1;
                continue;
            }
            current.events += 1;
            current.interval = current.interval.max(heard.interval);
            let second = (timed.time - start).clamp(0, MINUTE - 1) / 1_000_000;
            current.seconds |= 1 << second;
            if let Some(hosts) = hosts
                && hosts.is_valid(row)
                && current.host.is_none_or(|known| known < hosts.value(row))
            {
                current.host = Some(hosts.value(row));
            }
        }
        if let Some((number, minute, run)) = run {
            self.ledger.note(&agent(number), minute, &run);
        }
        match measured {
            Some(measured) => self.families[measured].add(rows, times),
            None => Ok(Vec::new()),
        }
    }

    /// Notes numbers that an agent lost while its time stood at `watermark`.
    pub(super) fn lost(&mut self, agent: &Arc<str>, watermark: i64, count: i64) {
        let start = watermark.div_euclid(MINUTE).saturating_mul(MINUTE);
        self.ledger.note(agent, start, &Run { lost: count, ..Run::default() });
    }

    /// Closes the windows that the watermarks have passed.
    pub(super) fn close(
        &mut self,
        plans: &mut FeaturePlans,
        closings: &[Closing],
    ) -> Result<Vec<Emission>, PlanError> {
        let mut closed = Vec::with_capacity(self.families.len());
        for (windows, aggregate) in self.families.iter_mut().zip(&mut plans.aggregates) {
            closed.push(windows.close(aggregate, closings)?);
        }
        emissions(plans, &self.ledger.close(closings), closed, false)
    }

    /// The open windows of some agents as they stand; they stay open.
    pub(super) fn peek(
        &mut self,
        plans: &mut FeaturePlans,
        agents: &[Closing],
    ) -> Result<Vec<Emission>, PlanError> {
        let mut open = Vec::with_capacity(self.families.len());
        for (windows, aggregate) in self.families.iter_mut().zip(&mut plans.aggregates) {
            open.push(windows.peek(aggregate, agents)?);
        }
        emissions(plans, &self.ledger.peek(agents), open, true)
    }
}

/// Joins what the families found to what the ledger says. `found` is by family.
fn emissions(
    plans: &mut FeaturePlans,
    standings: &[Vec<Standing>; LEVELS],
    found: Vec<Vec<Closed>>,
    is_partial: bool,
) -> Result<Vec<Emission>, PlanError> {
    let mut machines: [Results; LEVELS] = Default::default();
    let mut users: [Results; LEVELS] = Default::default();
    for (family, closed) in found.into_iter().enumerate() {
        let aggregate = &mut plans.aggregates[family];
        for Closed { level, rows } in closed {
            let results = aggregate.results_and_totals(&rows)?;
            if let Some(of) = results.column_by_name("user") {
                users[level][family] = Some(filter_record_batch(&results, &is_not_null(of)?)?);
                machines[level][family] = Some(filter_record_batch(&results, &is_null(of)?)?);
            } else {
                machines[level][family] = Some(results);
            }
        }
    }
    let mut emissions = Vec::new();
    for (level, standings) in standings.iter().enumerate() {
        for (layout, kinds, results) in [
            (&plans.machines, RecordKind::FEATURES, &machines[level]),
            (&plans.users, RecordKind::USER_FEATURES, &users[level]),
        ] {
            let rows = layout.rows(standings, results, level, is_partial)?;
            if rows.num_rows() > 0 {
                emissions.push(Emission { kind: kinds[level], level, rows });
            }
        }
    }
    Ok(emissions)
}

#[cfg(test)]
mod tests;

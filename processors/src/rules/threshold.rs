use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::record_batch::RecordBatch;
use schemas::record::RecordKind;

use super::rule::{Condition, Rule};
use super::{RuleError, RuleSet, compile};
use crate::alerts::{Alert, rows};
use crate::plan::CachedPlan;

/// Whose windows are counted, and by which rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsecutiveKey {
    /// The agent.
    pub agent_id: Arc<str>,
    /// Id of the rule.
    pub rule_id: Arc<str>,
}

/// Windows in a row that a rule held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// How many.
    pub count: u32,
    /// Start of the first, in µs.
    pub first_start: i64,
    /// End of the last, in µs.
    pub last_end: i64,
}

/// What threshold rules remember of one partition: only runs that go on, so it is empty while nothing is wrong.
///
/// The engine keeps it in the changelog: [`take_changes`](Self::take_changes) after each batch, [`put`](Self::put)
/// when it restores, [`rows`](Self::rows) for a snapshot.
#[derive(Debug, Default)]
pub struct ConsecutiveState {
    runs: BTreeMap<ConsecutiveKey, Run>,
    changed: BTreeSet<ConsecutiveKey>,
}

impl ConsecutiveState {
    /// Nothing remembered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets or, with `None`, removes a row while restoring; that is no change to be written again.
    pub fn put(&mut self, key: ConsecutiveKey, run: Option<Run>) {
        match run {
            Some(run) => self.runs.insert(key, run),
            None => self.runs.remove(&key),
        };
    }

    /// All rows, sorted by key.
    pub fn rows(&self) -> impl Iterator<Item = (&ConsecutiveKey, &Run)> {
        self.runs.iter()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The rows that changed since the last call, sorted by key; `None` is a row that went.
    pub fn take_changes(&mut self) -> Vec<(ConsecutiveKey, Option<Run>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|key| (key.clone(), self.runs.get(&key).copied())).collect()
    }

    /// Forgets the runs of an agent that is dropped.
    pub fn forget(&mut self, agent_id: &Arc<str>) {
        let first = ConsecutiveKey { agent_id: Arc::clone(agent_id), rule_id: Arc::from("") };
        let of_agent = self.runs.range(first..).take_while(|(key, _)| key.agent_id == *agent_id);
        let gone: Vec<ConsecutiveKey> = of_agent.map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.runs.remove(&key);
            self.changed.insert(key);
        }
    }

    /// Judges the next window of a key; answers the run if the window counts towards one.
    fn judge(&mut self, key: ConsecutiveKey, holds: bool, start: i64, end: i64) -> Option<Run> {
        let before = self.runs.get(&key).copied();
        if before.is_some_and(|run| start < run.last_end) {
            // a later revision of a window that was judged
            return None;
        }
        if !holds {
            if before.is_some() {
                self.runs.remove(&key);
                self.changed.insert(key);
            }
            return None;
        }
        let run = match before {
            Some(run) if run.last_end == start => {
                Run { count: run.count.saturating_add(1), last_end: end, ..run }
            }
            // none before, or windows are missing between
            _ => Run { count: 1, first_start: start, last_end: end },
        };
        self.runs.insert(key.clone(), run);
        self.changed.insert(key);
        Some(run)
    }
}

/// The threshold rules of a set, planned.
#[derive(Debug)]
pub struct ThresholdRules {
    rules: Vec<(Arc<Rule>, Arc<str>, u32)>,
    plan: Option<CachedPlan>,
    rule_set: Arc<str>,
}

impl ThresholdRules {
    /// Plans the threshold rules of a set.
    pub fn new(set: &RuleSet) -> Result<Self, RuleError> {
        let thresholds = set.thresholds();
        let plan = if thresholds.is_empty() {
            None
        } else {
            Some(compile::plan(&thresholds, RecordKind::Feature1m, &set.functions())?)
        };
        let mut rules = Vec::with_capacity(thresholds.len());
        for rule in thresholds {
            let id = Arc::from(rule.id.as_str());
            let consecutive = match rule.condition {
                Condition::Threshold { consecutive, .. } => consecutive,
                Condition::Match { .. } => continue,
            };
            rules.push((rule, id, consecutive));
        }
        Ok(Self { rules, plan, rule_set: Arc::clone(set.hash()) })
    }

    /// Judges feature rows in the order in which their windows closed. An alert comes once, with the window that
    /// makes the run long enough; the run must break before it comes again.
    ///
    /// Partial rows are not judged: a window that an agent fell silent in says nothing yet. It counts when it comes
    /// again complete.
    pub fn evaluate_features(
        &mut self,
        batch: &RecordBatch,
        state: &mut ConsecutiveState,
    ) -> Result<Vec<Alert>, RuleError> {
        let Some(plan) = self.plan.as_mut().filter(|_| batch.num_rows() > 0) else {
            return Ok(Vec::new());
        };
        let over = RecordKind::Feature1m.name();
        let verdicts = plan.run(batch.clone()).map_err(|source| {
            let rules: Vec<_> = self.rules.iter().map(|(rule, ..)| Arc::clone(rule)).collect();
            compile::error(&rules, RecordKind::Feature1m, source)
        })?;
        if state.is_empty() && !verdicts.columns().iter().any(|column| column.as_boolean().has_true()) {
            return Ok(Vec::new());
        }
        let wrong = |source| RuleError::Rows { over, source };
        let agents = rows::texts(batch, "agent_id").map_err(wrong)?;
        let starts = rows::times(batch, "window_start").map_err(wrong)?;
        let ends = rows::times(batch, "window_end").map_err(wrong)?;
        let partial = rows::booleans(batch, "is_partial").map_err(wrong)?;
        let mut alerts = Vec::new();
        for row in (0..batch.num_rows()).filter(|&row| !partial.value(row)) {
            let agent: Arc<str> = Arc::from(agents.value(row));
            for ((rule, id, consecutive), verdict) in self.rules.iter().zip(verdicts.columns()) {
                let verdict = verdict.as_boolean();
                let holds = verdict.is_valid(row) && verdict.value(row);
                let key = ConsecutiveKey { agent_id: Arc::clone(&agent), rule_id: Arc::clone(id) };
                let run = state.judge(key, holds, starts.value(row), ends.value(row));
                if let Some(run) = run.filter(|run| run.count == *consecutive) {
                    alerts.push(Alert::of_windows(rule, &self.rule_set, batch, row, &run).map_err(wrong)?);
                }
            }
        }
        Ok(alerts)
    }
}

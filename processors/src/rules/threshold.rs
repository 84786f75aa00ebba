//! Thresholds: windows in a row that a predicate holds for, told when the run is long enough, while it goes on, and
//! when it has broken.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use super::keyed::{Key, Keyed, Remembered, joined};
use super::rule::{Condition, Rule, RuleOf, Subject};
use super::suppress::{Asks, Suppressions};
use crate::alerts::{Alert, AlertError, Lasting, Told, rows};
use crate::engine::operator::Operator;

/// Windows in a row that a rule held for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    /// How many.
    count: u32,
    /// Start of the first, in µs.
    first_start: i64,
    /// End of the last, in µs.
    last_end: i64,
    /// What was told of it; nothing while it is too short, or held back.
    told: Option<Told>,
}

impl Remembered for Run {}

/// What threshold rules remember of one partition: only runs that go on, so it is empty while nothing is wrong.
#[derive(Debug)]
pub(super) struct Runs {
    rows: Keyed<Run>,
}

impl Default for Runs {
    fn default() -> Self {
        Self { rows: Keyed::new("runs") }
    }
}

/// One rule and what it said of some feature rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judged<'a> {
    pub(super) rule: &'a Arc<Rule>,
    pub(super) rule_set: &'a Arc<str>,
    pub(super) verdicts: &'a BooleanArray,
}

impl Runs {
    /// Its keyed state.
    pub(super) fn operator(&mut self) -> &mut dyn Operator {
        &mut self.rows
    }

    /// Takes the verdict on the next window of an agent; `row` is its feature row.
    ///
    /// Partial rows are not judged: a window that an agent fell silent in says nothing yet. It counts when it comes
    /// again complete; a later revision of a window that was judged does not count again.
    pub(super) fn see(
        &mut self,
        of: Judged<'_>,
        batch: &RecordBatch,
        row: usize,
        suppressions: &mut Suppressions,
        alerts: &mut Vec<Alert>,
    ) -> Result<(), AlertError> {
        let Condition::Threshold { consecutive, update, .. } = &of.rule.condition else {
            return Ok(());
        };
        let agent = rows::texts(batch, "agent_id")?.value(row);
        let holds = of.verdicts.is_valid(row) && of.verdicts.value(row);
        if !holds && !self.rows.has_agent(agent) {
            return Ok(());
        }
        let (start, end) =
            (rows::times(batch, "window_start")?.value(row), rows::times(batch, "window_end")?.value(row));
        let key = Key::new(&of.rule.id, "");
        let before = self.rows.get(agent, &key).cloned();
        if before.as_ref().is_some_and(|run| start < run.last_end) {
            return Ok(());
        }
        let goes_on = holds && before.as_ref().is_some_and(|run| run.last_end == start);
        let mut run = Run { count: 0, first_start: start, last_end: start, told: None };
        if let Some(broken) = before.clone().filter(|_| !goes_on) {
            self.rows.remove(agent, &key);
            if let Some(told) = broken.told.clone() {
                let (at, why) = if holds {
                    (start, "windows are missing after it")
                } else {
                    (end, "the condition no longer holds")
                };
                let about = lasting(of, batch, row, &broken, at)?;
                alerts.push(Alert::close(about, told, at, why));
            }
        } else if let Some(before) = before {
            run = before;
        }
        if !holds {
            return Ok(());
        }
        run.count = run.count.saturating_add(1);
        run.last_end = end;
        if run.count >= *consecutive {
            let message = of.rule.message.fill(|_, column| rows::display(batch, column, row));
            let about = lasting(of, batch, row, &run, end)?;
            let update_due = |told: &Told| {
                update.is_some_and(|update| end.saturating_sub(told.at) >= update.as_micros() as i64)
            };
            match &mut run.told {
                Some(told) if update_due(told) => alerts.push(Alert::update(about, message, told, end)),
                Some(_) => {}
                None => {
                    let by = suppress_key(of.rule, |column| rows::display(batch, column, row));
                    let counts = run.count == *consecutive;
                    let asks = Asks { agent, by: &by, time: end, watermark: end, counts };
                    if let Some(carried) = suppressions.admit(of.rule, asks) {
                        let (alert, told) = Alert::create(about, message, carried, end);
                        alerts.push(alert);
                        run.told = Some(told);
                    }
                }
            }
        }
        self.rows.put(agent, key, run);
        Ok(())
    }

    /// Forgets runs for the reason that `why` gives; what was told of them is closed at `now`.
    pub(super) fn end(
        &mut self,
        why: impl Fn(&str, &str) -> Option<&'static str>,
        rules: &RuleOf<'_>,
        now: i64,
        alerts: &mut Vec<Alert>,
    ) {
        for (agent, key) in self.rows.keys() {
            let Some(why) = why(&agent, &key.rule) else { continue };
            let Some(run) = self.rows.remove(&agent, &key) else { continue };
            if let (Some(told), Some((rule, rule_set))) = (run.told, rules(&key.rule)) {
                let about = Lasting {
                    rule: &rule,
                    rule_set: &rule_set,
                    subject: Subject::Agent,
                    agent_id: &agent,
                    host: None,
                    first_seen: run.first_start,
                    last_seen: now.max(run.last_end + 1),
                    count: i64::from(run.count),
                    window: Some((run.first_start, run.last_end)),
                    evidence: Vec::new(),
                };
                alerts.push(Alert::close(about, told, now, why));
            }
        }
    }
}

fn lasting<'a>(
    of: Judged<'a>,
    batch: &'a RecordBatch,
    row: usize,
    run: &Run,
    last_seen: i64,
) -> Result<Lasting<'a>, AlertError> {
    Ok(Lasting {
        rule: of.rule,
        rule_set: of.rule_set,
        subject: Subject::Agent,
        agent_id: rows::texts(batch, "agent_id")?.value(row),
        host: rows::text(batch, "host", row),
        first_seen: run.first_start,
        last_seen,
        count: i64::from(run.count),
        window: Some((run.first_start, run.last_end)),
        evidence: vec![rows::evidence(batch, row)?],
    })
}

/// The values of the columns of `suppress`, as the key of its state.
pub(super) fn suppress_key(rule: &Rule, value: impl Fn(&str) -> Option<String>) -> String {
    let columns = rule.suppress.iter().flat_map(|suppress| &suppress.by);
    joined(columns.map(|column| value(column)))
}

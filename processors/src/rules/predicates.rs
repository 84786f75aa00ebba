//! The predicates of all rules over one kind of row, planned: one plan an event type, with a boolean column for each
//! predicate that can hold for rows of that type.
//!
//! Most rules name the event types that they are about. Rows of other types are never shown to them, and of the rest
//! only the columns that some predicate of the plan reads are taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use metrics::{Counter, counter};

use super::reads::Reads;
use super::rule::Rule;
use super::{RuleError, compile};
use crate::functions::Functions;
use crate::plan::{CachedPlan, PlanError};

/// One predicate: the number of its rule in the set, and the step of a sequence, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Predicate {
    pub(super) rule: usize,
    pub(super) step: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Predicates {
    reads: Reads,
    /// The rules, by their places, for errors.
    places: String,
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    /// Rows of other types are not for these predicates; `None`: all rows are.
    event_type: Option<String>,
    predicates: Vec<Predicate>,
    /// Positions of the columns that the plan reads.
    columns: Vec<usize>,
    schema: SchemaRef,
    plan: CachedPlan,
    /// Of each predicate.
    meters: Vec<Meter>,
}

/// How often a rule was asked, and how often it held.
#[derive(Clone, Debug)]
struct Meter {
    evaluations: Counter,
    hits: Counter,
}

impl Meter {
    fn new(rule: &Rule) -> Self {
        let id = || rule.id.clone();
        Self {
            evaluations: counter!("varta_processors_rule_evaluations_total", "rule" => id()),
            hits: counter!("varta_processors_rule_hits_total", "rule" => id()),
        }
    }

    fn note(&self, holds: &BooleanArray) {
        self.evaluations.increment(holds.len() as u64);
        if holds.has_true() {
            self.hits.increment(holds.true_count() as u64);
        }
    }
}

/// What one predicate says of some rows of a batch.
pub(super) struct Verdict<'a> {
    pub(super) predicate: Predicate,
    holds: &'a BooleanArray,
    /// The rows that were asked about; `None`: all.
    rows: Option<&'a UInt32Array>,
}

impl Verdict<'_> {
    /// The rows of the batch that the predicate holds for, ascending.
    pub(super) fn rows(&self) -> impl Iterator<Item = usize> {
        let holds = (0..self.holds.len()).filter(|&row| self.holds.is_valid(row) && self.holds.value(row));
        holds.map(|row| self.rows.map_or(row, |rows| rows.value(row) as usize))
    }
}

/// What is asked of rows of one event type, or of all: predicates, their SQL, the columns that they need.
type Wanted<'a> = (Vec<Predicate>, Vec<Meter>, Vec<&'a str>, BTreeSet<String>);

impl Predicates {
    /// Plans the predicates of these rules that are about rows of this kind; `None` if there are none.
    pub(super) fn new(
        rules: &[Arc<Rule>],
        reads: Reads,
        functions: &Functions,
    ) -> Result<Option<Self>, RuleError> {
        let mut wanted = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            let steps = rule.sql().into_iter().enumerate().filter(|(_, (of, _))| *of == reads);
            wanted.extend(steps.map(|(step, (_, sql))| (Predicate { rule: number, step }, rule, sql)));
        }
        Self::plan(&wanted, reads, functions)
    }

    /// Plans one predicate of one rule, for people who want to see it.
    pub(super) fn of_step(
        rule: &Arc<Rule>,
        step: usize,
        functions: &Functions,
    ) -> Result<Option<Self>, RuleError> {
        let Some((reads, sql)) = rule.sql().into_iter().nth(step) else {
            return Ok(None);
        };
        Self::plan(&[(Predicate { rule: 0, step }, rule, sql)], reads, functions)
    }

    fn plan(
        wanted: &[(Predicate, &Arc<Rule>, String)],
        reads: Reads,
        functions: &Functions,
    ) -> Result<Option<Self>, RuleError> {
        let mut groups: BTreeMap<Option<String>, Wanted<'_>> = BTreeMap::new();
        for (predicate, rule, sql) in wanted {
            // the rule was checked when it was read
            let needs = compile::needs(sql, reads, functions).unwrap_or_default();
            let types = match needs.event_types {
                None => vec![None],
                Some(types) => types.into_iter().map(Some).collect(),
            };
            for event_type in types {
                let (predicates, meters, texts, columns) = groups.entry(event_type).or_default();
                predicates.push(*predicate);
                meters.push(Meter::new(rule));
                texts.push(sql);
                columns.extend(needs.columns.iter().cloned());
            }
        }
        if groups.is_empty() {
            return Ok(None);
        }
        let places = wanted.iter().map(|(_, rule, _)| format!("{} at {}", rule.id, rule.origin));
        let places = places.collect::<Vec<_>>().join(", ");
        let mut planned = Vec::with_capacity(groups.len());
        for (event_type, (predicates, meters, texts, names)) in groups {
            let (schema, columns) = compile::project(&reads.schema(), &names);
            let plan = compile::plan(texts, Arc::clone(&schema), functions)
                .map_err(|source| error(reads, &places, source))?;
            planned.push(Group { event_type, predicates, columns, schema, plan, meters });
        }
        Ok(Some(Self { reads, places, groups: planned }))
    }

    /// Shows a batch with the columns of [`Reads::schema`] to the predicates; `each` gets those that hold for some row.
    pub(super) fn judge(
        &mut self,
        batch: &RecordBatch,
        mut each: impl FnMut(Verdict<'_>),
    ) -> Result<(), RuleError> {
        for group in &mut self.groups {
            group.judge(batch, &mut each).map_err(|source| error(self.reads, &self.places, source))?;
        }
        Ok(())
    }

    /// Shows a batch to the predicates; all of their answers, for rows that have no event type.
    pub(super) fn all(&mut self, batch: &RecordBatch) -> Result<Vec<(Predicate, BooleanArray)>, RuleError> {
        let mut answers = Vec::new();
        for Group { predicates, columns, schema, plan, meters, .. } in &mut self.groups {
            let columns = columns.iter().map(|&at| Arc::clone(batch.column(at))).collect();
            let asked = RecordBatch::try_new(Arc::clone(schema), columns).map_err(PlanError::from);
            let verdicts = asked.and_then(|asked| plan.run(asked));
            let verdicts = verdicts.map_err(|source| error(self.reads, &self.places, source))?;
            let columns = verdicts.columns().iter().map(|column| column.as_boolean().clone());
            let columns = columns.zip(meters.iter()).inspect(|(holds, meter)| meter.note(holds));
            let columns = columns.map(|(holds, _)| holds);
            answers.extend(predicates.iter().copied().zip(columns));
        }
        Ok(answers)
    }

    /// The plans as text, for people.
    pub(super) fn text(&self) -> String {
        let groups = self.groups.iter().map(|group| {
            let rows = group.event_type.as_ref().map_or_else(
                || "all rows".to_owned(),
                |event_type| format!("rows with event_type {event_type}"),
            );
            format!("{rows}:\n{}", group.plan.text())
        });
        groups.collect::<Vec<_>>().join("\n")
    }
}

impl Group {
    fn judge(&mut self, batch: &RecordBatch, each: &mut impl FnMut(Verdict<'_>)) -> Result<(), PlanError> {
        let rows = match &self.event_type {
            None => None,
            Some(event_type) => match rows_of_type(batch, event_type) {
                rows if rows.is_empty() => return Ok(()),
                rows if rows.len() == batch.num_rows() => None,
                rows => Some(UInt32Array::from(rows)),
            },
        };
        let columns = self.columns.iter().map(|&at| batch.column(at)).map(|column| match &rows {
            None => Ok(Arc::clone(column)),
            Some(rows) => take(column, rows, None),
        });
        let columns = columns.collect::<Result<_, _>>()?;
        let asked = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let verdicts = self.plan.run(asked)?;
        for ((predicate, meter), holds) in self.predicates.iter().zip(&self.meters).zip(verdicts.columns()) {
            let holds = holds.as_boolean();
            meter.note(holds);
            // nearly always nothing matches: one look at the bits is all that such a predicate costs here
            if holds.has_true() {
                each(Verdict { predicate: *predicate, holds, rows: rows.as_ref() });
            }
        }
        Ok(())
    }
}

fn rows_of_type(batch: &RecordBatch, event_type: &str) -> Vec<u32> {
    let column = batch.column_by_name("event_type").and_then(|column| column.as_string_opt::<i32>());
    let Some(column) = column else { return Vec::new() };
    (0..column.len() as u32).filter(|&row| column.value(row as usize) == event_type).collect()
}

fn error(reads: Reads, places: &str, source: PlanError) -> RuleError {
    RuleError::Plan { over: reads.name(), rules: places.to_owned(), source }
}

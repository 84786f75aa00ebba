//! The normalisation of one family.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringBuilder};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use schemas::columns::arrow_schema;
use schemas::family::Family;
use schemas::record::RecordKind;

use super::{NormaliseError, Normalised};
use crate::functions::Functions;
use crate::plan::{CachedPlan, PlanError};

const TABLE: &str = "events";
const FLAGS: &str = "flags";

/// What a column of the query's answer is for.
#[derive(Debug)]
enum Role {
    /// Replaces the column of the family at this position.
    Column(usize),
    /// Adds this flag where true.
    Flag(String),
    /// Drops the row by this rule where true.
    Drop(String),
}

#[derive(Debug)]
pub(super) struct FamilyPlan {
    family: &'static str,
    schema: SchemaRef,
    flags: usize,
    roles: Vec<Role>,
    plan: CachedPlan,
}

impl FamilyPlan {
    pub(super) fn new(family: Family, sql: &str, functions: &Functions) -> Result<Self, NormaliseError> {
        let schema = arrow_schema(RecordKind::Family(family));
        let family = family.name();
        let plan = CachedPlan::new(sql, TABLE, Arc::clone(&schema), functions)
            .map_err(|source| NormaliseError::Plan { family, source })?;
        let wrong = |what: String| NormaliseError::Query { family, what };
        let mut roles = Vec::new();
        for answer in plan.schema().fields() {
            let name = answer.name();
            let role = if let Some(flag) = name.strip_prefix("flag_") {
                Role::Flag(flag.to_owned())
            } else if let Some(rule) = name.strip_prefix("drop_") {
                Role::Drop(rule.to_owned())
            } else {
                let at = schema.index_of(name).map_err(|_| wrong(format!("there is no column `{name}`")))?;
                Role::Column(at)
            };
            let expected = match role {
                Role::Column(at) => schema.field(at).data_type(),
                Role::Flag(_) | Role::Drop(_) => &DataType::Boolean,
            };
            if answer.data_type() != expected {
                return Err(wrong(format!("`{name}` is {}, but must be {expected}", answer.data_type())));
            }
            roles.push(role);
        }
        let flags = schema.index_of(FLAGS).map_err(|_| wrong(format!("there is no column `{FLAGS}`")))?;
        Ok(Self { family, schema, flags, roles, plan })
    }

    pub(super) fn apply(&mut self, batch: RecordBatch) -> Result<Normalised, NormaliseError> {
        let family = self.family;
        self.normalise(batch).map_err(|source| NormaliseError::Plan { family, source })
    }

    fn normalise(&mut self, batch: RecordBatch) -> Result<Normalised, PlanError> {
        let rows = batch.num_rows();
        let mut columns = batch.columns().to_vec();
        let answer = self.plan.run(batch)?;
        if answer.num_rows() != rows {
            let what = format!("the query answered {} rows for {rows}", answer.num_rows());
            return Err(arrow::error::ArrowError::ComputeError(what).into());
        }
        let mut raised = Vec::new();
        let mut dropping = Vec::new();
        for (role, column) in self.roles.iter().zip(answer.columns()) {
            match role {
                Role::Column(at) => columns[*at] = Arc::clone(column),
                Role::Flag(name) if column.as_boolean().has_true() => {
                    raised.push((name, column.as_boolean()));
                }
                Role::Drop(rule) if column.as_boolean().has_true() => {
                    dropping.push((rule, column.as_boolean()));
                }
                Role::Flag(_) | Role::Drop(_) => {}
            }
        }
        if !raised.is_empty() {
            columns[self.flags] = with_flags(&columns[self.flags], &raised);
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        if dropping.is_empty() {
            return Ok(Normalised { batch, kept: (0..rows as u32).collect(), dropped: Vec::new() });
        }
        let (drop, dropped) = decide(rows, &dropping);
        let keep = not(&drop)?;
        let kept = (0..rows as u32).filter(|&row| keep.value(row as usize)).collect();
        Ok(Normalised { batch: filter_record_batch(&batch, &keep)?, kept, dropped })
    }
}

fn is_true(column: &BooleanArray, row: usize) -> bool {
    column.is_valid(row) && column.value(row)
}

/// Which rows go, and how many by the first rule that drops each.
fn decide(rows: usize, dropping: &[(&String, &BooleanArray)]) -> (BooleanArray, Vec<(String, u64)>) {
    let mut counts = vec![0_u64; dropping.len()];
    let verdicts = (0..rows).map(|row| {
        let by = dropping.iter().position(|(_, column)| is_true(column, row));
        if let Some(rule) = by {
            counts[rule] += 1;
        }
        Some(by.is_some())
    });
    let drop = verdicts.collect::<BooleanArray>();
    let counted = dropping.iter().zip(counts).filter(|(_, count)| *count > 0);
    (drop, counted.map(|((rule, _), count)| ((*rule).clone(), count)).collect())
}

/// The column `flags` with the raised ones added; what a source had set stays, and nothing is said twice.
fn with_flags(before: &ArrayRef, raised: &[(&String, &BooleanArray)]) -> ArrayRef {
    let before = before.as_string::<i32>();
    let mut result = StringBuilder::new();
    let mut flags: Vec<&str> = Vec::new();
    for row in 0..before.len() {
        flags.clear();
        if before.is_valid(row) {
            flags.extend(before.value(row).split(',').map(str::trim).filter(|flag| !flag.is_empty()));
        }
        for (name, column) in raised {
            if is_true(column, row) && !flags.contains(&name.as_str()) {
                flags.push(name);
            }
        }
        if flags.is_empty() {
            result.append_null();
        } else {
            result.append_value(flags.join(","));
        }
    }
    Arc::new(result.finish())
}

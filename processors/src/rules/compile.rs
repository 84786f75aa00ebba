//! From the predicates of rules to one plan.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::Expr;
use schemas::columns::arrow_schema;
use schemas::record::RecordKind;

use super::RuleError;
use super::rule::Rule;
use crate::functions::Functions;
use crate::plan::{CachedPlan, PlanError, refuse_impure, session};

const TABLE: &str = "events";

/// Whether the predicate of a rule is one expression that yields true or false for a row by itself.
pub(super) fn check(rule: &Rule, functions: &Functions) -> Result<(), String> {
    let schema = arrow_schema(rule.condition.reads());
    let columns = DFSchema::try_from(Arc::clone(&schema)).map_err(plain)?;
    let expression = session(functions).state().create_logical_expr(rule.condition.predicate(), &columns);
    let expression = expression.map_err(plain)?;
    of_one_row(&expression)?;
    refuse_impure(&expression).map_err(|error| error.to_string())?;
    let plan = CachedPlan::new(&select([rule]), TABLE, schema, functions).map_err(|error| match error {
        PlanError::Engine(error) => plain(error),
        other => other.to_string(),
    })?;
    match plan.schema().field(0).data_type() {
        DataType::Boolean => Ok(()),
        other => Err(format!("must be true or false for each row, but is {other}")),
    }
}

/// One plan with a boolean column for each rule, in their order.
pub(super) fn plan(
    rules: &[Arc<Rule>],
    reads: RecordKind,
    functions: &Functions,
) -> Result<CachedPlan, RuleError> {
    let sql = select(rules.iter().map(Arc::as_ref));
    CachedPlan::new(&sql, TABLE, arrow_schema(reads), functions).map_err(|source| error(rules, reads, source))
}

/// The error of a plan, with the places of its rules.
pub(super) fn error(rules: &[Arc<Rule>], reads: RecordKind, source: PlanError) -> RuleError {
    let places = rules.iter().map(|rule| format!("{} at {}", rule.id, rule.origin));
    RuleError::Plan { over: reads.name(), rules: places.collect::<Vec<_>>().join(", "), source }
}

fn select<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> String {
    let columns = rules.into_iter().enumerate().map(|(index, rule)| format!("{} AS \"{index}\"", rule.sql()));
    format!("SELECT {} FROM {TABLE}", columns.collect::<Vec<_>>().join(",\n"))
}

fn of_one_row(expression: &Expr) -> Result<(), String> {
    let mut other = None;
    let walked = expression.apply(|part| {
        let what = match part {
            Expr::AggregateFunction(_) => "an aggregate",
            Expr::WindowFunction(_) => "a window function",
            Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) => "a subquery",
            Expr::Placeholder(_) => "a placeholder",
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        other = Some(what);
        Ok(TreeNodeRecursion::Stop)
    });
    walked.map_err(plain)?;
    other.map_or(Ok(()), |what| Err(format!("{what} does not judge a row by itself")))
}

#[expect(clippy::needless_pass_by_value, reason = "it is used as the function of map_err")]
fn plain(error: datafusion::error::DataFusionError) -> String {
    error.strip_backtrace().replace('\n', " ")
}

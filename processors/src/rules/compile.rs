//! From the predicates of rules to plans.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Operator};

use super::reads::Reads;
use crate::functions::Functions;
use crate::plan::{CachedPlan, PlanError, refuse_impure, session};

const TABLE: &str = "events";
/// The column by which rows are sorted out before any predicate is asked.
const EVENT_TYPE: &str = "event_type";

/// Whether a predicate is one expression that yields true or false for a row by itself. `sql` is the predicate with
/// its exceptions.
pub(super) fn check(predicate: &str, sql: &str, reads: Reads, functions: &Functions) -> Result<(), String> {
    let expression = parse(predicate, reads, functions)?;
    of_one_row(&expression)?;
    refuse_impure(&expression).map_err(|error| error.to_string())?;
    let plan = plan([sql], reads.schema(), functions).map_err(|error| match error {
        PlanError::Engine(error) => plain(error),
        other => other.to_string(),
    })?;
    match plan.schema().field(0).data_type() {
        DataType::Boolean => Ok(()),
        other => Err(format!("must be true or false for each row, but is {other}")),
    }
}

/// One plan with a boolean column for each predicate, in their order, over rows of these columns.
pub(super) fn plan<'a>(
    predicates: impl IntoIterator<Item = &'a str>,
    columns: SchemaRef,
    functions: &Functions,
) -> Result<CachedPlan, PlanError> {
    let verdicts = predicates.into_iter().enumerate().map(|(index, sql)| format!("{sql} AS \"{index}\""));
    let sql = format!("SELECT {} FROM {TABLE}", verdicts.collect::<Vec<_>>().join(",\n"));
    CachedPlan::new(&sql, TABLE, columns, functions)
}

/// What is known of a predicate before any row is seen.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// It holds only for rows of these event types; `None`: for any.
    pub(super) event_types: Option<BTreeSet<String>>,
    /// Columns that it reads.
    pub(super) columns: BTreeSet<String>,
    /// Lists that it asks.
    pub(super) lists: BTreeSet<String>,
}

/// Takes a predicate apart. What cannot be taken apart needs everything.
pub(super) fn needs(sql: &str, reads: Reads, functions: &Functions) -> Result<Needs, String> {
    let expression = parse(sql, reads, functions)?;
    let mut needs = Needs {
        columns: expression.column_refs().into_iter().map(|column| column.name.clone()).collect(),
        ..Needs::default()
    };
    for part in split_conjunction(&expression) {
        if let Some(types) = event_types(part) {
            needs.event_types = Some(match needs.event_types.take() {
                None => types,
                Some(before) => before.intersection(&types).cloned().collect(),
            });
        }
    }
    let walked = expression.apply(|part| {
        if let Expr::ScalarFunction(call) = part {
            let texts = call.args.iter().skip(1).filter_map(literal);
            match call.func.name() {
                "in_list" | "in_hours" => needs.lists.extend(texts),
                _ => needs.lists.extend(texts.filter_map(|text| text.strip_prefix('@').map(str::to_owned))),
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.map_err(plain)?;
    Ok(needs)
}

/// The columns of `schema` with these names, in its order, and their positions; the first one, if there are none,
/// because a batch without columns does not know how many rows it has.
pub(super) fn project(schema: &SchemaRef, names: &BTreeSet<String>) -> (SchemaRef, Vec<usize>) {
    let is_wanted = |at: usize, name: &String| names.contains(name) || (names.is_empty() && at == 0);
    let fields = schema.fields().iter().enumerate();
    let wanted = fields.filter(|(at, field)| is_wanted(*at, field.name()));
    let (positions, fields): (Vec<_>, Vec<_>) = wanted.map(|(at, field)| (at, Arc::clone(field))).unzip();
    (Arc::new(Schema::new(fields)), positions)
}

fn parse(sql: &str, reads: Reads, functions: &Functions) -> Result<Expr, String> {
    let columns = DFSchema::try_from(reads.schema()).map_err(plain)?;
    session(functions).state().create_logical_expr(sql, &columns).map_err(plain)
}

/// The event types of which one must be there for the expression to hold, if it says so.
fn event_types(expression: &Expr) -> Option<BTreeSet<String>> {
    let is_type = |side: &Expr| matches!(side, Expr::Column(column) if column.name == EVENT_TYPE);
    match expression {
        Expr::BinaryExpr(binary) if binary.op == Operator::Eq => {
            let value = match (&*binary.left, &*binary.right) {
                (column, value) | (value, column) if is_type(column) => value,
                _ => return None,
            };
            Some(BTreeSet::from([literal(value)?]))
        }
        Expr::BinaryExpr(binary) if binary.op == Operator::Or => {
            let mut types = event_types(&binary.left)?;
            types.extend(event_types(&binary.right)?);
            Some(types)
        }
        Expr::InList(list) if !list.negated && is_type(&list.expr) => list.list.iter().map(literal).collect(),
        _ => None,
    }
}

fn literal(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Literal(value, _) => ScalarValue::try_as_str(value).flatten().map(str::to_owned),
        _ => None,
    }
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
fn plain(error: DataFusionError) -> String {
    error.strip_backtrace().replace('\n', " ")
}

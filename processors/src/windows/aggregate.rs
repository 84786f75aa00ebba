//! An SQL aggregate taken apart: rows → partial rows, partial rows → fewer partial rows, partial rows → result.
//!
//! The query is planned once as a whole. Its `AggregateExec` then gives three plans: `Partial` over the rows,
//! `PartialReduce` over partial rows, and `Final` with whatever stood above it (renaming, arithmetic). It holds no
//! rows, so one serves all partitions of a worker.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, new_null_array};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};

use crate::functions::Functions;
use crate::plan::{CachedPlan, PlanError, Slot};

/// Column that the engine adds to the rows: start of the window that each belongs to (µs, UTC).
pub const WINDOW_START: &str = "window_start";

/// What windows are kept by unless it is said otherwise.
const KEY: &str = "agent_id";
/// How many keys every query groups by first: whose window it is, and where it starts.
const KEYS: usize = 2;

/// Aggregates whose result depends on the order in which rows or partial rows come.
const UNSTEADY: [&str; 8] = [
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "approx_median",
    "array_agg",
    "string_agg",
    "first_value",
    "last_value",
    "nth_value",
];

/// The three plans of one aggregate.
#[derive(Debug)]
pub struct Aggregate {
    partial: CachedPlan,
    reduce: CachedPlan,
    finish: CachedPlan,
    rows: SchemaRef,
    state: SchemaRef,
    keys: Vec<String>,
    sql: String,
}

impl Aggregate {
    /// Plans `sql`, which reads one table named `table` and groups by `agent_id`, [`WINDOW_START`] and perhaps further
    /// columns, in this order; all of them are among the results. `rows` are the columns of the table without
    /// [`WINDOW_START`], which is known to the grouping only.
    ///
    /// Refused is what depends on the order of rows, such as `approx_percentile_cont` and `last_value`: how the log is
    /// cut decides which rows are merged first. `quantile` and `gauge` take their places.
    pub fn new(sql: &str, table: &str, rows: &Schema, functions: &Functions) -> Result<Self, PlanError> {
        Self::keyed_by(KEY, sql, table, rows, functions)
    }

    /// The same for windows that are kept by the text column `key` in place of `agent_id`.
    pub fn keyed_by(
        key: &str,
        sql: &str,
        table: &str,
        rows: &Schema,
        functions: &Functions,
    ) -> Result<Self, PlanError> {
        let input = with_window_start(rows);
        let whole = CachedPlan::new(sql, table, Arc::clone(&input), functions)?;
        let found =
            find(whole.physical()).ok_or_else(|| refused("the query has no aggregate in one step"))?;
        let Some(aggregate) = found.downcast_ref::<AggregateExec>() else {
            return Err(refused("the query has no aggregate in one step"));
        };
        let keys: Vec<String> = aggregate.group_expr().expr().iter().map(|(_, name)| name.clone()).collect();
        if keys.iter().take(KEYS).ne([key, WINDOW_START]) {
            return Err(refused(&format!("the query must group by {key}, {WINDOW_START}")));
        }
        if let Some(key) = keys.iter().find(|key| whole.schema().index_of(key).is_err()) {
            return Err(refused(&format!("the key {key} is not among the results")));
        }
        for call in aggregate.aggr_expr() {
            if UNSTEADY.contains(&call.fun().name()) {
                return Err(refused(&format!("{} depends on the order of rows", call.fun().name())));
            }
        }
        let make = |mode: AggregateMode, input: Arc<dyn ExecutionPlan>| {
            let group = match mode {
                AggregateMode::Partial => aggregate.group_expr().clone(),
                _ => aggregate.group_expr().as_final(),
            };
            AggregateExec::try_new(
                mode,
                group,
                aggregate.aggr_expr().to_vec(),
                aggregate.filter_expr().to_vec(),
                input,
                aggregate.input_schema(),
            )
            .map(Arc::new)
        };
        let context = Arc::clone(whole.task_context());
        let partial = make(AggregateMode::Partial, Arc::clone(aggregate.input()))?;
        let state = nullable(&partial.schema());
        let reduce_slot = Slot::new(Arc::clone(&state));
        let reduce = make(AggregateMode::PartialReduce, reduce_slot.scan()?)?;
        let finish_slot = Slot::new(Arc::clone(&state));
        let last = make(AggregateMode::Final, finish_slot.scan()?)? as Arc<dyn ExecutionPlan>;
        let above = Arc::clone(whole.physical())
            .transform_down(|node| {
                if Arc::ptr_eq(&node, &found) {
                    return Ok(Transformed::new(Arc::clone(&last), true, TreeNodeRecursion::Stop));
                }
                Ok(Transformed::no(node))
            })
            .data()?;
        Ok(Self {
            partial: CachedPlan::from_physical(partial, Arc::clone(whole.slot()), Arc::clone(&context))?,
            reduce: CachedPlan::from_physical(reduce, reduce_slot, Arc::clone(&context))?,
            finish: CachedPlan::from_physical(above, finish_slot, context)?,
            rows: input,
            state,
            keys,
            sql: sql.to_owned(),
        })
    }

    /// Columns of the rows, [`WINDOW_START`] last.
    pub(super) fn rows(&self) -> &SchemaRef {
        &self.rows
    }

    /// The query.
    pub(super) fn sql(&self) -> &str {
        &self.sql
    }

    /// Columns of partial rows: the keys, then the partial values. All but the first two may be null.
    pub fn state(&self) -> &SchemaRef {
        &self.state
    }

    /// The columns that the query groups by; they lead the partial rows.
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Columns of results.
    pub fn result(&self) -> &SchemaRef {
        self.finish.schema()
    }

    /// Rows (with [`WINDOW_START`] as last column) to partial rows, mostly one per key.
    pub(super) fn partial(&mut self, rows: Vec<RecordBatch>) -> Result<RecordBatch, PlanError> {
        self.partial.run_all(rows).and_then(|batch| self.fit(&batch))
    }

    /// Partial rows to one partial row per key.
    pub(super) fn reduce(&mut self, partial: RecordBatch) -> Result<RecordBatch, PlanError> {
        self.reduce.run(partial).and_then(|batch| self.fit(&batch))
    }

    /// Partial rows to results, one per key, sorted by the keys with null first.
    pub fn results(&mut self, partial: RecordBatch) -> Result<RecordBatch, PlanError> {
        let result = self.finish.run(partial)?;
        let values = self.keys.iter().filter_map(|key| result.column_by_name(key));
        let by: Vec<_> =
            values.map(|values| SortColumn { values: Arc::clone(values), options: None }).collect();
        let order = lexsort_to_indices(&by, None)?;
        Ok(take_record_batch(&result, &order)?)
    }

    /// The same with a total beside: for each agent and window a result over all values of the further keys, which
    /// are null in it. What had null in them counts in the total only.
    pub fn results_and_totals(&mut self, partial: &RecordBatch) -> Result<RecordBatch, PlanError> {
        if self.keys.len() <= KEYS {
            return self.results(partial.clone());
        }
        let further = KEYS..self.keys.len();
        let mut columns = partial.columns().to_vec();
        for column in &mut columns[further.clone()] {
            *column = new_null_array(column.data_type(), partial.num_rows());
        }
        let total = RecordBatch::try_new(Arc::clone(&self.state), columns)?;
        let is_known = |row: usize| further.clone().all(|key| partial.column(key).is_valid(row));
        let known = (0..partial.num_rows()).map(|row| Some(is_known(row))).collect();
        let known = arrow::compute::filter_record_batch(partial, &known)?;
        self.results(concat_batches(&self.state, [&total, &known])?)
    }

    fn fit(&self, batch: &RecordBatch) -> Result<RecordBatch, PlanError> {
        Ok(RecordBatch::try_new(Arc::clone(&self.state), batch.columns().to_vec())?)
    }
}

/// The [`WINDOW_START`] column of partial rows, µs.
pub(super) fn starts(partial: &RecordBatch) -> &[i64] {
    partial.column(1).as_primitive::<TimestampMicrosecondType>().values()
}

/// Partial rows with other window starts (µs).
pub(super) fn with_starts(partial: &RecordBatch, starts: Vec<i64>) -> Result<RecordBatch, PlanError> {
    let mut columns = partial.columns().to_vec();
    columns[1] = start_column(starts);
    Ok(RecordBatch::try_new(partial.schema(), columns)?)
}

/// Window starts (µs) as a column.
pub(super) fn start_column(starts: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(starts).with_timezone("+00:00"))
}

fn refused(why: &str) -> PlanError {
    PlanError::Engine(datafusion::error::DataFusionError::Plan(why.to_owned()))
}

fn find(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let mut node = Arc::clone(plan);
    loop {
        if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
            let in_one_step =
                matches!(aggregate.mode(), AggregateMode::Single | AggregateMode::SinglePartitioned);
            return in_one_step.then_some(node);
        }
        let next = match node.children().as_slice() {
            [only] => Arc::clone(only),
            _ => return None,
        };
        node = next;
    }
}

fn with_window_start(rows: &Schema) -> SchemaRef {
    let kind = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    let mut fields: Vec<_> = rows.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(WINDOW_START, kind, false)));
    Arc::new(Schema::new(fields))
}

/// A deleted key has no values, and a total no further keys.
fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().enumerate().map(|(at, field)| {
        Field::new(field.name(), field.data_type().clone(), at >= KEYS || field.is_nullable())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use schemas::columns::arrow_schema;
    use schemas::family::Family;
    use schemas::record::RecordKind;

    use super::*;

    fn plan(of: &str, by: &str) -> Result<Aggregate, PlanError> {
        let rows = arrow_schema(RecordKind::Family(Family::HostMetrics));
        let sql = format!("SELECT agent_id, window_start, {of} AS x FROM events GROUP BY {by}");
        Aggregate::new(&sql, "events", &rows, &Functions::new())
    }

    #[test]
    fn what_depends_on_the_order_of_rows_is_refused() {
        let by = "agent_id, window_start";
        for of in ["approx_percentile_cont(cpu_percent, 0.5)", "last_value(cpu_percent)", "array_agg(host)"] {
            let error = plan(of, by).unwrap_err().to_string();
            assert!(error.contains("order of rows"), "{error}");
        }
        for of in ["quantile(cpu_percent, 0.5)", "percentile_cont(cpu_percent, 0.5)", "count(DISTINCT host)"]
        {
            plan(of, by).unwrap();
        }
    }

    #[test]
    fn other_keys_are_refused() {
        for by in ["window_start, agent_id", "agent_id, window_start, host"] {
            plan("count(*)", by).unwrap_err();
        }
        let further = plan("host, count(*)", "agent_id, window_start, host").unwrap();
        assert_eq!(further.keys(), ["agent_id", "window_start", "host"]);
    }
}

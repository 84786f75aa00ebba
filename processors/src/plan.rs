//! A query planned once and run on batch after batch.
//!
//! Planning costs most of a millisecond, running a cached physical plan a few microseconds (the measurements are in
//! the benchmarks), so operators plan at construction and only swap the input.
//!
//! What holds, and why:
//! - every run starts from [`reset_plan_states`]: without it a join answers from the build side of an earlier batch,
//!   `ORDER BY … LIMIT` loses rows, and metrics pile up;
//! - dynamic filters are off, because a reset does not reach them;
//! - one target partition: a run never spawns work elsewhere and keeps the order of rows under projection and filter;
//! - `now()` would be frozen at planning, so [`CachedPlan::new`] refuses functions whose value is not decided by their
//!   arguments: time comes as a column.

use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use datafusion::prelude::{SessionConfig, SessionContext};
use parking_lot::Mutex;
use tokio::runtime::Runtime;

use crate::functions::Functions;

/// Why a plan cannot be made or run.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The engine refused the query or failed while running it.
    #[error("{0}")]
    Engine(#[from] DataFusionError),
    /// The batch given has other columns than the plan was made for.
    #[error("the batch does not have the columns that the plan was made for: {0}")]
    Columns(#[from] arrow::error::ArrowError),
    /// The query uses a function that does not depend on its arguments alone, such as `now()`.
    #[error(
        "`{0}` is not decided by its arguments: the same log must give the same output, so pass time as a column"
    )]
    NotPure(String),
    /// The runtime that drives the plan could not be made.
    #[error("cannot start the thread-local runtime of a plan: {0}")]
    Runtime(#[from] std::io::Error),
}

/// The place in a plan where the current input lies: a table of one partition whose rows are swapped between runs.
#[derive(Debug)]
pub struct Slot {
    schema: SchemaRef,
    batches: Mutex<Vec<RecordBatch>>,
}

impl Slot {
    /// An empty slot for batches of exactly these columns.
    pub fn new(schema: SchemaRef) -> Arc<Self> {
        Arc::new(Self { schema, batches: Mutex::new(Vec::new()) })
    }

    /// Columns of every batch put in.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Replaces what the next run reads.
    ///
    /// A batch whose schema differs only in metadata or in being stricter about nulls is accepted; other names or
    /// types are an error, and the slot is left empty.
    pub fn put(&self, batches: Vec<RecordBatch>) -> Result<(), PlanError> {
        self.clear();
        let mut fitted = Vec::with_capacity(batches.len());
        for batch in batches {
            fitted.push(fit(&self.schema, batch)?);
        }
        *self.batches.lock() = fitted;
        Ok(())
    }

    /// Forgets the rows, so that a plan at rest holds no memory of its last input.
    pub fn clear(&self) {
        self.batches.lock().clear();
    }

    /// The slot as a leaf of a physical plan made by hand.
    pub fn scan(self: &Arc<Self>) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
        let partition: Arc<dyn PartitionStream> = Arc::clone(self) as _;
        let exec =
            StreamingTableExec::try_new(Arc::clone(&self.schema), vec![partition], None, [], false, None)?;
        Ok(Arc::new(exec))
    }
}

impl PartitionStream for Slot {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = self.batches.lock().clone();
        let rows = futures::stream::iter(batches.into_iter().map(Ok));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

/// A physical plan over one [`Slot`], run on one batch at a time.
///
/// Not for use inside an asynchronous task: [`run`](Self::run) blocks its thread.
pub struct CachedPlan {
    plan: Arc<dyn ExecutionPlan>,
    slot: Arc<Slot>,
    context: Arc<TaskContext>,
    schema: SchemaRef,
    runtime: Runtime,
}

impl std::fmt::Debug for CachedPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedPlan").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl CachedPlan {
    /// Plans `sql` over one table named `input_table` with the columns `input`.
    ///
    /// Errors: the query does not parse, names unknown columns or functions, or is not pure.
    pub fn new(
        sql: &str,
        input_table: &str,
        input: SchemaRef,
        functions: &Functions,
    ) -> Result<Self, PlanError> {
        let context = session(functions);
        let slot = Slot::new(Arc::clone(&input));
        let partition: Arc<dyn PartitionStream> = Arc::clone(&slot) as _;
        context.register_table(input_table, Arc::new(StreamingTable::try_new(input, vec![partition])?))?;
        let runtime = runtime()?;
        let plan = runtime.block_on(async {
            let state = context.state();
            let logical = context.sql(sql).await?.into_unoptimized_plan();
            refuse_impure_plan(&logical)?;
            let optimized = state.optimize(&logical)?;
            let plan = state.query_planner().create_physical_plan(&optimized, &state).await?;
            Ok::<_, PlanError>(plan)
        })?;
        let schema = plan.schema();
        Ok(Self { plan, slot, context: context.task_ctx(), schema, runtime })
    }

    /// Wraps a physical plan made by hand, for example from the parts of an aggregate that another plan holds.
    ///
    /// `plan` must read `slot` and nothing else; `context` is usually [`task_context`](Self::task_context) of the plan
    /// that the parts come from, whose functions it knows.
    pub fn from_physical(
        plan: Arc<dyn ExecutionPlan>,
        slot: Arc<Slot>,
        context: Arc<TaskContext>,
    ) -> Result<Self, PlanError> {
        let schema = plan.schema();
        Ok(Self { plan, slot, context, schema, runtime: runtime()? })
    }

    /// Columns of every result.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The physical plan, to take parts out of it.
    pub fn physical(&self) -> &Arc<dyn ExecutionPlan> {
        &self.plan
    }

    /// The physical plan as text, an operator a line, for people.
    pub fn text(&self) -> String {
        displayable(self.plan.as_ref()).indent(false).to_string()
    }

    /// The slot that the plan reads.
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// What a plan made from parts of this one runs in.
    pub fn task_context(&self) -> &Arc<TaskContext> {
        &self.context
    }

    /// Runs the plan on one batch; the result is one batch, possibly without rows.
    pub fn run(&mut self, batch: RecordBatch) -> Result<RecordBatch, PlanError> {
        self.run_all(vec![batch])
    }

    /// Runs the plan on several batches as one input.
    pub fn run_all(&mut self, batches: Vec<RecordBatch>) -> Result<RecordBatch, PlanError> {
        self.slot.put(batches)?;
        let result = self.collect();
        self.slot.clear();
        result
    }

    fn collect(&mut self) -> Result<RecordBatch, PlanError> {
        let fresh = reset_plan_states(Arc::clone(&self.plan))?;
        let mut results = self.runtime.block_on(collect(fresh, Arc::clone(&self.context)))?;
        match results.len() {
            0 => Ok(RecordBatch::new_empty(Arc::clone(&self.schema))),
            1 => Ok(results.swap_remove(0)),
            _ => Ok(concat_batches(&self.schema, &results)?),
        }
    }
}

/// A session as every plan here needs it: one partition, no dynamic filters, our functions.
pub(crate) fn session(functions: &Functions) -> SessionContext {
    let config = SessionConfig::new()
        .with_target_partitions(1)
        // larger than any micro-batch, so that a plan does not cut a batch and put it together again
        .with_batch_size(1 << 16)
        .set_bool("datafusion.optimizer.enable_dynamic_filter_pushdown", false)
        .set_bool("datafusion.optimizer.enable_topk_dynamic_filter_pushdown", false)
        .set_bool("datafusion.optimizer.enable_join_dynamic_filter_pushdown", false)
        .set_bool("datafusion.optimizer.enable_aggregate_dynamic_filter_pushdown", false)
        .set_bool("datafusion.execution.coalesce_batches", false);
    let context = SessionContext::new_with_config(config);
    functions.register(&context);
    context
}

/// Refuses an expression with a function whose value its arguments do not decide.
pub(crate) fn refuse_impure(expression: &Expr) -> Result<(), PlanError> {
    let mut impure = None;
    expression.apply(|part| {
        if let Expr::ScalarFunction(call) = part
            && call.func.signature().volatility != Volatility::Immutable
        {
            impure = Some(call.func.name().to_owned());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    impure.map_or(Ok(()), |name| Err(PlanError::NotPure(name)))
}

fn refuse_impure_plan(plan: &LogicalPlan) -> Result<(), PlanError> {
    let mut found = Ok(());
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            found = refuse_impure(expression);
            Ok(if found.is_err() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    })?;
    found
}

fn runtime() -> Result<Runtime, std::io::Error> {
    // no timers and no sockets: a plan over memory needs neither, and the runtime then costs no file descriptor
    tokio::runtime::Builder::new_current_thread().build()
}

fn fit(schema: &SchemaRef, batch: RecordBatch) -> Result<RecordBatch, PlanError> {
    if Arc::ptr_eq(batch.schema_ref(), schema) || batch.schema_ref() == schema {
        return Ok(batch);
    }
    let same_names = names(batch.schema_ref()).eq(names(schema));
    if !same_names {
        let had: Vec<_> = names(batch.schema_ref()).collect();
        let what = format!("expected {:?}, found {had:?}", names(schema).collect::<Vec<_>>());
        return Err(arrow::error::ArrowError::SchemaError(what).into());
    }
    Ok(RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec())?)
}

fn names(schema: &Schema) -> impl Iterator<Item = &str> {
    schema.fields().iter().map(|field| field.name().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type};

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("value", DataType::Int64, true),
        ]))
    }

    fn batch(rows: &[(&str, i64)]) -> RecordBatch {
        let keys = StringArray::from_iter_values(rows.iter().map(|row| row.0));
        let values = Int64Array::from_iter_values(rows.iter().map(|row| row.1));
        RecordBatch::try_new(schema(), vec![Arc::new(keys), Arc::new(values)]).unwrap()
    }

    fn plan(sql: &str) -> Result<CachedPlan, PlanError> {
        CachedPlan::new(sql, "events", schema(), &Functions::new())
    }

    fn values(batch: &RecordBatch, column: usize) -> Vec<i64> {
        batch.column(column).as_primitive::<Int64Type>().values().to_vec()
    }

    #[test]
    fn knows_its_columns_before_any_row() {
        let plan = plan("SELECT value + 1 AS next, key FROM events").unwrap();
        assert_eq!(names(plan.schema()).collect::<Vec<_>>(), ["next", "key"]);
    }

    #[test]
    fn each_run_sees_its_own_rows_only() {
        let mut plan = plan("SELECT value FROM events WHERE value > 1").unwrap();
        assert_eq!(values(&plan.run(batch(&[("a", 1), ("b", 2), ("c", 3)])).unwrap(), 0), [2, 3]);
        assert_eq!(values(&plan.run(batch(&[("d", 9)])).unwrap(), 0), [9]);
        assert_eq!(plan.run(batch(&[])).unwrap().num_rows(), 0);
    }

    #[test]
    fn a_join_does_not_answer_from_an_earlier_build_side() {
        let mut plan =
            plan("SELECT a.value, b.value AS other FROM events a JOIN events b ON a.key = b.key").unwrap();
        assert_eq!(values(&plan.run(batch(&[("a", 1), ("b", 2)])).unwrap(), 1), [1, 2]);
        let second = plan.run(batch(&[("c", 7), ("d", 8), ("e", 9)])).unwrap();
        assert_eq!(values(&second, 1), [7, 8, 9]);
    }

    #[test]
    fn a_limit_after_an_order_keeps_finding_rows() {
        let mut plan = plan("SELECT value FROM events ORDER BY value DESC LIMIT 2").unwrap();
        assert_eq!(values(&plan.run(batch(&[("a", 100), ("b", 200), ("c", 300)])).unwrap(), 0), [300, 200]);
        // all smaller than what the first run saw: a filter that survived the run would hide them
        assert_eq!(values(&plan.run(batch(&[("a", 1), ("b", 2), ("c", 3)])).unwrap(), 0), [3, 2]);
    }

    #[test]
    fn groups_do_not_survive_a_run() {
        let mut plan = plan("SELECT key, sum(value) AS total FROM events GROUP BY key").unwrap();
        for _ in 0..3 {
            assert_eq!(values(&plan.run(batch(&[("a", 1), ("a", 2)])).unwrap(), 1), [3]);
        }
    }

    #[test]
    fn metrics_do_not_pile_up() {
        let mut plan = plan("SELECT value FROM events WHERE value > 1").unwrap();
        for _ in 0..20 {
            plan.run(batch(&[("a", 2)])).unwrap();
        }
        let recorded = plan.physical().metrics().map_or(0, |metrics| metrics.iter().count());
        assert_eq!(recorded, 0, "the cached plan itself is never executed, only fresh copies");
    }

    #[test]
    fn a_clock_is_refused_at_planning() {
        for sql in [
            "SELECT now() AS t FROM events",
            "SELECT key FROM events WHERE CAST(current_date AS BIGINT) > value",
        ] {
            assert!(matches!(plan(sql), Err(PlanError::NotPure(_))), "{sql}");
        }
    }

    #[test]
    fn other_columns_are_refused_and_looser_schemas_are_not() {
        let mut plan = plan("SELECT value FROM events").unwrap();
        let strict = Arc::new(Schema::new(vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("value", DataType::Int64, false),
        ]));
        let rows = RecordBatch::try_new(strict, batch(&[("a", 5)]).columns().to_vec()).unwrap();
        assert_eq!(values(&plan.run(rows).unwrap(), 0), [5]);

        let renamed = Arc::new(Schema::new(vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("amount", DataType::Int64, true),
        ]));
        let rows = RecordBatch::try_new(renamed, batch(&[("a", 5)]).columns().to_vec()).unwrap();
        assert!(matches!(plan.run(rows), Err(PlanError::Columns(_))));
        assert_eq!(
            values(&plan.run(batch(&[("a", 6)])).unwrap(), 0),
            [6],
            "a refused batch leaves nothing behind"
        );
    }

    #[test]
    fn several_batches_come_back_as_one_in_order() {
        let mut plan = plan("SELECT value FROM events").unwrap();
        let result = plan.run_all(vec![batch(&[("a", 1)]), batch(&[("b", 2), ("c", 3)])]).unwrap();
        assert_eq!(values(&result, 0), [1, 2, 3]);
    }

    #[test]
    fn a_plan_made_from_parts_of_another_runs() {
        let mut whole = plan("SELECT value FROM events").unwrap();
        let slot = Slot::new(schema());
        let mut scan = CachedPlan::from_physical(
            slot.scan().unwrap(),
            Arc::clone(&slot),
            Arc::clone(whole.task_context()),
        )
        .unwrap();
        assert_eq!(scan.run(batch(&[("a", 4)])).unwrap().column(1).len(), 1);
        assert_eq!(values(&whole.run(batch(&[("a", 4)])).unwrap(), 0), [4]);
    }
}

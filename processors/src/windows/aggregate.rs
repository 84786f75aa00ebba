//! An SQL aggregate taken apart: rows → partial rows, partial rows → fewer partial rows, partial rows → result.
//!
//! The query is planned once as a whole. Its `AggregateExec` then gives three plans: `Partial` over the rows,
//! `PartialReduce` over partial rows, and `Final` with whatever stood above it (renaming, arithmetic).

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};

use crate::functions::Functions;
use crate::plan::{CachedPlan, PlanError, Slot};

/// Column that the engine adds to the rows: start of the window that each belongs to (µs, UTC).
pub const WINDOW_START: &str = "window_start";

/// The three plans of one aggregate.
#[derive(Debug)]
pub struct Aggregate {
    partial: CachedPlan,
    reduce: CachedPlan,
    finish: CachedPlan,
    state: SchemaRef,
    keys: usize,
}

impl Aggregate {
    /// Plans `sql`, which reads one table named `table` and groups by `agent_id` and [`WINDOW_START`], in
    /// this order. `rows` are the columns of the table without [`WINDOW_START`].
    pub fn new(sql: &str, table: &str, rows: &Schema, functions: &Functions) -> Result<Self, PlanError> {
        let whole = CachedPlan::new(sql, table, with_window_start(rows), functions)?;
        let found =
            find(whole.physical()).ok_or_else(|| refused("the query has no aggregate in one step"))?;
        let Some(aggregate) = found.downcast_ref::<AggregateExec>() else {
            return Err(refused("the query has no aggregate in one step"));
        };
        let keys = aggregate.group_expr().expr().len();
        let names: Vec<&str> = aggregate.group_expr().expr().iter().map(|(_, name)| name.as_str()).collect();
        if names != ["agent_id", WINDOW_START] {
            return Err(refused("the query must group by agent_id, window_start"));
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
        let state = nullable(&partial.schema(), keys);
        let reduce_slot = Slot::new(Arc::clone(&state));
        let reduce = make(AggregateMode::PartialReduce, reduce_slot.scan()?)?;
        let finish_slot = Slot::new(Arc::clone(&state));
        let last = make(AggregateMode::Final, finish_slot.scan()?)? as Arc<dyn ExecutionPlan>;
        let above = Arc::clone(whole.physical())
            .transform_down(|node| {
                if Arc::ptr_eq(&node, &found) {
                    return Ok(Transformed::new(
                        Arc::clone(&last),
                        true,
                        datafusion::common::tree_node::TreeNodeRecursion::Stop,
                    ));
                }
                Ok(Transformed::no(node))
            })
            .data()?;
        Ok(Self {
            partial: CachedPlan::from_physical(partial, Arc::clone(whole.slot()), Arc::clone(&context))?,
            reduce: CachedPlan::from_physical(reduce, reduce_slot, Arc::clone(&context))?,
            finish: CachedPlan::from_physical(above, finish_slot, context)?,
            state,
            keys,
        })
    }

    /// Columns of partial rows: the keys, then the partial values, all nullable.
    pub fn state(&self) -> &SchemaRef {
        &self.state
    }

    /// How many leading columns of the partial rows are keys.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Columns of results.
    pub fn result(&self) -> &SchemaRef {
        self.finish.schema()
    }

    /// Rows (with [`WINDOW_START`] as last column) to partial rows.
    pub fn partial(&mut self, rows: RecordBatch) -> Result<RecordBatch, PlanError> {
        self.partial.run(rows).and_then(|batch| self.fit(&batch))
    }

    /// Partial rows to one partial row per key.
    pub fn reduce(&mut self, states: Vec<RecordBatch>) -> Result<RecordBatch, PlanError> {
        self.reduce.run_all(states).and_then(|batch| self.fit(&batch))
    }

    /// Partial rows to results.
    pub fn finish(&mut self, states: Vec<RecordBatch>) -> Result<RecordBatch, PlanError> {
        self.finish.run_all(states)
    }

    fn fit(&self, batch: &RecordBatch) -> Result<RecordBatch, PlanError> {
        Ok(RecordBatch::try_new(Arc::clone(&self.state), batch.columns().to_vec())?)
    }
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

pub(super) fn with_window_start(rows: &Schema) -> SchemaRef {
    let kind = rows.field_with_name("event_time").map_or(
        arrow::datatypes::DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("+00:00".into())),
        |field| field.data_type().clone(),
    );
    let mut fields: Vec<_> = rows.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(WINDOW_START, kind, false)));
    Arc::new(Schema::new(fields))
}

/// A deleted key has no values, so values in the changelog are nullable.
fn nullable(schema: &Schema, keys: usize) -> SchemaRef {
    let fields = schema.fields().iter().enumerate().map(|(at, field)| {
        Field::new(field.name(), field.data_type().clone(), at >= keys || field.is_nullable())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

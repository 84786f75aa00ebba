//! Tumbling windows of one or several sizes.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;

use super::aggregate::{Aggregate, starts, with_starts};
use super::store::Store;
use super::{Closed, Closing, Late, Timed, Windows, floor};
use crate::engine::operator::Operator;
use crate::plan::PlanError;

/// Tumbling windows. The shortest are made of rows, each longer size of the closed windows of the one before: a row is
/// aggregated once, and late for all sizes or for none.
#[derive(Debug)]
pub struct Tumbling {
    /// µs, each a multiple of the one before.
    sizes: Vec<i64>,
    store: Store,
}

impl Tumbling {
    /// Windows of `sizes` µs, the shortest first, each a multiple of the one before. `name` is that of the operator.
    pub fn new(name: &'static str, sizes: &[i64], aggregate: &Aggregate) -> Self {
        debug_assert!(!sizes.is_empty() && sizes.windows(2).all(|pair| pair[1] % pair[0] == 0));
        let store = Store::new(name, "tumbling 1", sizes, sizes.len(), aggregate, &[]);
        Self { sizes: sizes.to_vec(), store }
    }

    /// Partial rows copied so far: what closing has cost.
    pub fn copied(&self) -> u64 {
        self.store.copied()
    }

    /// Partial rows with the starts of the windows of `level`.
    fn lifted(&self, rows: &RecordBatch, level: usize) -> Result<RecordBatch, PlanError> {
        let size = self.sizes[level];
        with_starts(rows, starts(rows).iter().map(|start| floor(*start, size)).collect())
    }

    fn settle(&mut self, aggregate: &mut Aggregate) -> Result<(), PlanError> {
        if let Some(partial) = self.store.settle(aggregate, Aggregate::reduce)? {
            self.store.level(0).insert(partial, true);
        }
        Ok(())
    }
}

impl Windows for Tumbling {
    fn operator(&mut self) -> &mut dyn Operator {
        &mut self.store
    }

    fn add(&mut self, rows: &RecordBatch, times: &[Timed]) -> Result<Vec<Late>, PlanError> {
        let size = self.sizes[0];
        let mut late = Vec::new();
        let mut begins = Vec::with_capacity(times.len());
        for (row, timed) in times.iter().enumerate() {
            let start = floor(timed.time, size);
            let end = start.saturating_add(size);
            if end <= timed.watermark {
                late.push(Late { row, start, end });
            }
            begins.push(start);
        }
        self.store.wait(rows, begins, &late)?;
        Ok(late)
    }

    fn close(&mut self, aggregate: &mut Aggregate, closings: &[Closing]) -> Result<Vec<Closed>, PlanError> {
        self.settle(aggregate)?;
        let mut closed = Vec::new();
        for level in 0..self.sizes.len() {
            let size = self.sizes[level];
            let rows = self.store.take(level, closings, |closing| floor(closing.watermark, size))?;
            if rows.num_rows() == 0 {
                continue;
            }
            if level + 1 < self.sizes.len() {
                let longer = self.lifted(&rows, level + 1)?;
                self.store.level(level + 1).insert(longer, true);
            }
            closed.push(Closed { level, rows });
        }
        Ok(closed)
    }

    fn peek(&mut self, aggregate: &mut Aggregate, agents: &[Closing]) -> Result<Vec<Closed>, PlanError> {
        self.settle(aggregate)?;
        let mut open = Vec::new();
        let mut shorter = RecordBatch::new_empty(Arc::clone(self.store.state()));
        for level in 0..self.sizes.len() {
            let partials = self.store.level(level);
            let mut places = Vec::new();
            for agent in agents {
                places.extend(partials.windows(&agent.agent).iter().flat_map(|window| &window.places));
            }
            let own = partials.gather(&places)?;
            let rows = concat_batches(self.store.state(), [&own, &self.lifted(&shorter, level)?])?;
            if rows.num_rows() > 0 {
                open.push(Closed { level, rows: rows.clone() });
            }
            shorter = rows;
        }
        Ok(open)
    }
}

//! Sliding windows as panes that are merged at the end.
//!
//! A pane is as long as the slide, a window is several panes. Each row is in one pane and so kept once, however many
//! windows hold it; a window is put together from its panes when it ends, and a pane goes with the last window that
//! needs it.
//!
//! ```text
//! panes    [──a──)[──b──)[──c──)[──d──)
//! windows  [────a b c────)                  a goes when this one ends
//!                 [────b c d────)
//! ```
//!
//! A row is late when its pane has closed, that is when the first of its windows has: then no window lacks a row that
//! another of its windows has.

use std::sync::Arc;

use arrow::array::RecordBatch;

use super::aggregate::{Aggregate, with_starts};
use super::store::Store;
use super::{Closed, Closing, Late, Timed, Windows, floor};
use crate::engine::operator::Operator;
use crate::plan::PlanError;

/// Sliding windows of one size. A window is there if at least one row is in it.
#[derive(Debug)]
pub struct Sliding {
    slide: i64,
    size: i64,
    store: Store,
}

impl Sliding {
    /// Windows of `size` µs, one ending at each multiple of `slide` µs, of which `size` is a multiple. `name` is that
    /// of the operator.
    pub fn new(name: &'static str, slide: i64, size: i64, aggregate: &Aggregate) -> Self {
        debug_assert!(slide > 0 && size >= slide && size % slide == 0);
        let store = Store::new(name, "sliding 1", &[slide, size], 1, aggregate, &[]);
        Self { slide, size, store }
    }

    /// Whose windows are open.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.store.keys()
    }

    /// Whether any window of this key is open.
    pub fn has(&self, key: &str) -> bool {
        self.store.has(key)
    }

    /// How many partial rows are kept.
    pub fn live(&self) -> usize {
        self.store.live()
    }

    fn settle(&mut self, aggregate: &mut Aggregate) -> Result<(), PlanError> {
        if let Some(partial) = self.store.settle(aggregate, Aggregate::reduce)? {
            self.store.level(0).insert(partial, true);
        }
        Ok(())
    }

    /// Rows of each window of these agents whose end lies after `from` and not after `to` say.
    fn windows(
        &mut self,
        agents: &[Closing],
        from: impl Fn(&Closing) -> i64,
        to: impl Fn(&Closing) -> i64,
    ) -> Result<Vec<Closed>, PlanError> {
        let (slide, size) = (self.slide, self.size);
        let panes = self.store.level(0);
        let mut places = Vec::new();
        let mut begins = Vec::new();
        for agent in agents {
            let (from, to) = (from(agent), to(agent));
            let panes = panes.windows(&agent.agent);
            for (at, pane) in panes.iter().enumerate() {
                // The windows that hold this pane and no earlier one of those that are kept: each is met once.
                let earlier = at.checked_sub(1).map(|at| panes[at].start);
                let mut start = pane.start.saturating_sub(size - slide);
                if let Some(earlier) = earlier {
                    start = start.max(earlier.saturating_add(slide));
                }
                while start <= pane.start {
                    let end = start.saturating_add(size);
                    if end > from && end <= to {
                        for held in panes.range(at..).take_while(|held| held.start < end) {
                            places.extend_from_slice(&held.places);
                            begins.resize(places.len(), start);
                        }
                    }
                    start = start.saturating_add(slide);
                }
            }
        }
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let rows: RecordBatch = self.store.level(0).gather(&places)?;
        Ok(vec![Closed { level: 0, rows: with_starts(&rows, begins)? }])
    }
}

impl Windows for Sliding {
    fn operator(&mut self) -> &mut dyn Operator {
        &mut self.store
    }

    fn add(&mut self, rows: &RecordBatch, times: &[Timed]) -> Result<Vec<Late>, PlanError> {
        let mut late = Vec::new();
        let mut begins = Vec::with_capacity(times.len());
        for (row, timed) in times.iter().enumerate() {
            let pane = floor(timed.time, self.slide);
            let end = pane.saturating_add(self.slide);
            if end <= timed.watermark {
                late.push(Late { row, start: end.saturating_sub(self.size), end });
            }
            begins.push(pane);
        }
        self.store.wait(rows, begins, &late)?;
        Ok(late)
    }

    fn close(&mut self, aggregate: &mut Aggregate, closings: &[Closing]) -> Result<Vec<Closed>, PlanError> {
        self.settle(aggregate)?;
        let closed = self.windows(closings, |closing| closing.before, |closing| closing.watermark)?;
        let (slide, size) = (self.slide, self.size);
        // A pane is done with when the window that begins with it has ended.
        let done =
            |closing: &Closing| floor(closing.watermark.saturating_sub(size), slide).saturating_add(slide);
        self.store.take(0, closings, done)?;
        Ok(closed)
    }

    fn peek(&mut self, aggregate: &mut Aggregate, agents: &[Closing]) -> Result<Vec<Closed>, PlanError> {
        self.settle(aggregate)?;
        self.windows(agents, |agent| agent.watermark, |_| i64::MAX)
    }
}

//! Windows over event time, keyed by agent: any SQL aggregate, kept as partial rows until its window closes.
//!
//! ```text
//! tumbling  [──────)[──────)[──────)      one after the other; longer ones are made of the partial rows of shorter
//! sliding   [──────────)                  overlapping; the state is panes, which are merged for each window that ends
//!              [──────────)
//! session   [─·──··─)      [··─·──)       as long as rows come closer than a gap; what falls between joins two
//! ```
//!
//! All kinds work alike ([`Windows`]). A row is late if the first window that should hold it has closed, which its
//! agent's watermark *before* the row decides; so what a window holds does not depend on when anybody looks. Rows wait
//! until the commit and become partial rows there, all at once; windows are closed there, too. What comes out are the
//! partial rows of a window, which [`Aggregate::results`] turns into its result.

mod aggregate;
mod partials;
mod session;
mod sliding;
mod store;
mod tumbling;

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;

pub use aggregate::{Aggregate, WINDOW_START};
pub use session::Sessions;
pub use sliding::Sliding;
pub use tumbling::Tumbling;

use crate::engine::operator::Operator;
use crate::plan::PlanError;

/// How far an agent's time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The agent.
    pub agent: Arc<str>,
    /// Its watermark when its windows were last closed, µs.
    pub before: i64,
    /// Its watermark, µs.
    pub watermark: i64,
}

/// When a row happened, and how far its agent's time had come before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed {
    /// Event time, µs.
    pub time: i64,
    /// Watermark, µs.
    pub watermark: i64,
}

/// A row whose window had closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// Its number in the batch.
    pub row: usize,
    /// Start of the first window that it missed, µs.
    pub start: i64,
    /// Its end, exclusive, µs.
    pub end: i64,
}

/// Partial rows of windows of one level; the starts of the windows are in [`WINDOW_START`].
#[derive(Clone, Debug)]
pub struct Closed {
    /// Which size of windows, the shortest first; always 0 where there is one size.
    pub level: usize,
    /// Partial rows, several for a key.
    pub rows: RecordBatch,
}

/// Windows of one kind over one table, keyed by agent. The aggregate is always the one that they were made with.
pub trait Windows {
    /// Its keyed state.
    fn operator(&mut self) -> &mut dyn Operator;

    /// Takes rows in offset order; answers those that are late and were left out.
    fn add(&mut self, rows: &RecordBatch, times: &[Timed]) -> Result<Vec<Late>, PlanError>;

    /// Takes out the windows that ended up to the watermarks given, each once and for all. To be called before each
    /// commit, with all agents whose watermark moved (others close nothing).
    fn close(&mut self, aggregate: &mut Aggregate, closings: &[Closing]) -> Result<Vec<Closed>, PlanError>;

    /// The windows of some agents that are open, as they stand. What could be closed must have been.
    fn peek(&mut self, aggregate: &mut Aggregate, agents: &[Closing]) -> Result<Vec<Closed>, PlanError>;
}

/// Start of the step that holds `time`.
fn floor(time: i64, step: i64) -> i64 {
    time.div_euclid(step).saturating_mul(step)
}

/// The rows that are not late, and what belongs to each of them.
fn in_time<T: Copy>(
    rows: &RecordBatch,
    of: Vec<T>,
    late: &[Late],
) -> Result<(RecordBatch, Vec<T>), PlanError> {
    if late.is_empty() {
        return Ok((rows.clone(), of));
    }
    let mut stays = vec![true; rows.num_rows()];
    for late in late {
        stays[late.row] = false;
    }
    let of = of.into_iter().zip(&stays).filter_map(|(of, stays)| stays.then_some(of)).collect();
    Ok((filter_record_batch(rows, &BooleanArray::from(stays))?, of))
}

#[cfg(test)]
mod tests;

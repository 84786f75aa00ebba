//! From results of windows to rows of `Feature1m`.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::event_time::Tracker;

use super::scan::{micros, text};

/// One minute, µs.
pub(super) const MINUTE: i64 = 60_000_000;

/// Completes results of windows with the columns that the engine knows. A window that was emitted before gets
/// the next revision; `is_partial` says whether it stays open.
pub(super) fn rows(
    results: &RecordBatch,
    schema: &SchemaRef,
    tracker: &mut Tracker,
    is_partial: bool,
) -> Result<RecordBatch, ArrowError> {
    let starts = micros(results, "window_start")?;
    let agents = text(results, "agent_id")?;
    let mut revisions = Vec::with_capacity(starts.len());
    for (row, start) in starts.iter().enumerate() {
        let number = tracker.intern(agents.value(row));
        let before = tracker.agent(number).revisions.iter().position(|(window, _)| window == start);
        let revision = before.map_or(0, |at| tracker.agent(number).revisions[at].1);
        match (before, is_partial) {
            (Some(at), true) => tracker.agent_mut(number).revisions[at].1 += 1,
            (None, true) => tracker.agent_mut(number).revisions.push((*start, 1)),
            (Some(at), false) => {
                tracker.agent_mut(number).revisions.remove(at);
            }
            (None, false) => {}
        }
        revisions.push(revision);
    }
    let columns = schema.fields().iter().map(|field| -> Result<ArrayRef, ArrowError> {
        Ok(match field.name().as_str() {
            "window_end" => {
                let ends: Vec<i64> = starts.iter().map(|start| start + MINUTE).collect();
                Arc::new(TimestampMicrosecondArray::from(ends).with_timezone("+00:00"))
            }
            "revision" => Arc::new(Int32Array::from(revisions.clone())),
            "is_partial" => Arc::new(BooleanArray::from(vec![is_partial; starts.len()])),
            name => {
                let found = results.column_by_name(name);
                let found = found
                    .ok_or_else(|| ArrowError::SchemaError(format!("the query has no column {name}")))?;
                cast(found, field.data_type())?
            }
        })
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?)
}

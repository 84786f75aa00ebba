//! Alerts: what a rule found, as a row of `varta.alerts` and as an OCSF Detection Finding.
//!
//! A finding's id is made of the rule, the subject, and the window or the event's identity, so that the same log gives
//! the same ids and a repetition is recognised wherever it arrives. Evidence is the rows that led to the finding and
//! nothing else.

mod avro;
mod evidence;
mod finding;
mod ocsf;
pub(crate) mod rows;

pub use avro::to_batch;
pub(crate) use evidence::Evidence;
pub use finding::{Activity, Alert, Status};
pub(crate) use finding::{Lasting, OfFleet, Told};
pub use ocsf::to_ocsf;

/// `class_uid` of OCSF's Detection Finding.
pub const CLASS_UID: i32 = 2004;

/// Why an alert cannot be made of a row.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    /// The row lacks a column that every row of its kind has.
    #[error("there is no column `{column}` of the type {expected}")]
    Column {
        /// Its name.
        column: String,
        /// The type that it should have.
        expected: &'static str,
    },
    /// The row cannot be written as JSON, or the alerts not as columns.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// The evidence is no JSON.
    #[error("evidence: {0}")]
    Json(#[from] serde_json::Error),
}

#[cfg(test)]
mod tests;

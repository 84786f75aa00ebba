//! Normalisation: the same columns in and out, cleaned, classed and flagged, less what says nothing.
//!
//! What is done for each family stands in `sql/<family>.sql`; `sql/README.md` says how such a query is read. Nothing
//! impossible is silently put right: the value stays and a flag says what is wrong with it.

mod family;

use arrow::record_batch::RecordBatch;
use schemas::family::Family;

use crate::functions::Functions;
use crate::plan::PlanError;
use family::FamilyPlan;

/// Why rows cannot be normalised.
#[derive(Debug, thiserror::Error)]
pub enum NormaliseError {
    /// The query of a family cannot be planned or run.
    #[error("normalising {family}: {source}")]
    Plan {
        /// Name of the family.
        family: &'static str,
        /// What the plan says.
        source: PlanError,
    },
    /// The query of a family answers something that normalisation cannot use.
    #[error("normalising {family}: {what}")]
    Query {
        /// Name of the family.
        family: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

/// Rows after normalisation.
#[derive(Debug)]
pub struct Normalised {
    /// The rows kept, in their order, with the columns of the family.
    pub batch: RecordBatch,
    /// For each row kept, its position in the input; ascending.
    pub kept: Vec<u32>,
    /// Rows left out, counted by the rule that dropped them; only rules that dropped some.
    pub dropped: Vec<(String, u64)>,
}

/// The normalisation of all families, planned once.
#[derive(Debug)]
pub struct Normaliser {
    plans: Vec<FamilyPlan>,
}

impl Normaliser {
    /// Plans the query of every family.
    pub fn new(functions: &Functions) -> Result<Self, NormaliseError> {
        let plans = Family::ALL.into_iter().map(|family| FamilyPlan::new(family, sql(family), functions));
        Ok(Self { plans: plans.collect::<Result<_, _>>()? })
    }

    /// Normalises rows of one family. The batch must have the family's columns.
    pub fn apply(&mut self, family: Family, batch: RecordBatch) -> Result<Normalised, NormaliseError> {
        self.plans[family as usize].apply(batch)
    }
}

fn sql(family: Family) -> &'static str {
    match family {
        Family::HostMetrics => include_str!("../../sql/host_metrics.sql"),
        Family::ProcessSample => include_str!("../../sql/process_sample.sql"),
        Family::ProcessEvent => include_str!("../../sql/process_event.sql"),
        Family::UserActivity => include_str!("../../sql/user_activity.sql"),
        Family::WindowEvent => include_str!("../../sql/window_event.sql"),
        Family::FileEvent => include_str!("../../sql/file_event.sql"),
        Family::NetworkEvent => include_str!("../../sql/network_event.sql"),
        Family::DeviceEvent => include_str!("../../sql/device_event.sql"),
        Family::AgentStatus => include_str!("../../sql/agent_status.sql"),
        Family::CustomEvent => include_str!("../../sql/custom_event.sql"),
    }
}

#[cfg(test)]
mod tests;

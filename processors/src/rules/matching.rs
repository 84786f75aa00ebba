use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::record_batch::RecordBatch;
use schemas::family::Family;
use schemas::record::RecordKind;

use super::rule::Rule;
use super::{RuleError, RuleSet, compile};
use crate::alerts::Alert;
use crate::plan::CachedPlan;

/// The match rules of a set, planned: one plan a family with a boolean column for each rule.
#[derive(Debug)]
pub struct MatchRules {
    families: Vec<Option<OfFamily>>,
    rule_set: Arc<str>,
}

#[derive(Debug)]
struct OfFamily {
    rules: Vec<Arc<Rule>>,
    plan: CachedPlan,
}

impl MatchRules {
    /// Plans the match rules of a set.
    pub fn new(set: &RuleSet) -> Result<Self, RuleError> {
        let functions = set.functions();
        let mut families = Vec::with_capacity(Family::ALL.len());
        for family in Family::ALL {
            let rules = set.matching(family);
            families.push(if rules.is_empty() {
                None
            } else {
                let plan = compile::plan(&rules, RecordKind::Family(family), &functions)?;
                Some(OfFamily { rules, plan })
            });
        }
        Ok(Self { families, rule_set: Arc::clone(set.hash()) })
    }

    /// Judges normalised rows of one family; alerts come in the order of rows, then of rule ids, however the rows are
    /// cut into batches.
    pub fn evaluate(&mut self, family: Family, batch: &RecordBatch) -> Result<Vec<Alert>, RuleError> {
        let Some(OfFamily { rules, plan }) = &mut self.families[family as usize] else {
            return Ok(Vec::new());
        };
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let kind = RecordKind::Family(family);
        let verdicts = plan.run(batch.clone()).map_err(|source| compile::error(rules, kind, source))?;
        let mut hits = Vec::new();
        for (rule, verdict) in verdicts.columns().iter().enumerate() {
            let verdict = verdict.as_boolean();
            // nearly always nothing matches: one look at the bits is all that such a rule costs here
            if verdict.has_true() {
                let rows = (0..verdict.len()).filter(|&row| verdict.is_valid(row) && verdict.value(row));
                hits.extend(rows.map(|row| (row, rule)));
            }
        }
        hits.sort_unstable();
        let alerts = hits.into_iter().map(|(row, rule)| {
            Alert::of_event(&rules[rule], &self.rule_set, batch, row)
                .map_err(|source| RuleError::Rows { over: family.name(), source })
        });
        alerts.collect()
    }
}

//! Rules: what is worth an alert, as files that people can read, test and change.
//!
//! A rule file holds YAML documents, one rule each (separated by `---`):
//!
//! ```yaml
//! id: program-in-temp                  # small letters, digits, hyphens; unique in the set
//! title: Program started from a temporary directory
//! severity: low                        # informational, low, medium, high, critical, fatal
//! description: Why it matters and what to look at.
//! references: [https://attack.mitre.org/techniques/T1204/002/]
//! attack: { version: "16.1", techniques: [T1204.002] }
//! kind: match                          # or threshold
//! family: process_event                # match: what it reads,
//! where: |                             #   and an SQL predicate over its columns
//!   event_type = 'process_started' AND path_class = 'temp'
//! unless:                              # exceptions by list; `in` compares text, `under` paths
//!   - { column: name, in: trusted_programs }
//! message: "{user} started {name} from {path}"
//! labels: { tactic: execution }        # for data sets
//! ```
//!
//! A `threshold` rule has `window: 1m`, `group_by: [agent_id]`, `having:` (an SQL predicate over a feature row) and
//! `for:` (how many consecutive windows) in place of `family` and `where`. Column names that SQL keeps for itself are
//! quoted: `"user"`. The functions are those of [`functions`](crate::functions); a predicate cannot read a clock.
//!
//! There is no holding back of repetitions yet: the key `suppress` is refused.
//!
//! Lists are text files in `lists/` beside the rules, named without `.txt`: an entry a line, `#` begins a comment.

mod compile;
mod document;
mod format;
mod matching;
mod rule;
mod set;
mod shipped;
mod template;
pub mod testing;
mod threshold;

pub use matching::MatchRules;
pub use rule::{Attack, Condition, Exception, Origin, Rule, Severity, Test};
pub use set::{RuleProblem, RuleSet};
pub use template::Template;
pub use threshold::{ConsecutiveKey, ConsecutiveState, Run, ThresholdRules};

use crate::plan::PlanError;

/// Why rules cannot be planned or evaluated.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The plan that judges all rules over one kind of row cannot be made or run.
    #[error("rules over {over} ({rules}): {source}")]
    Plan {
        /// What the rules read.
        over: &'static str,
        /// Where the rules stand, as file and line.
        rules: String,
        /// What the plan says.
        source: PlanError,
    },
    /// The rows lack a column that an alert is made of.
    #[error("rows of {over}: {source}")]
    Rows {
        /// What the rules read.
        over: &'static str,
        /// Which column, and what is wrong with it.
        source: crate::alerts::AlertError,
    },
}

#[cfg(test)]
mod tests;

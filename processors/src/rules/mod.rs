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
//! kind: match                          # one row; the other kinds are below
//! family: process_event                # match: what it reads,
//! where: |                             #   and an SQL predicate over its columns
//!   event_type = 'process_started' AND path_class = 'temp'
//! unless:                              # exceptions by list; `in` compares text, `under` paths
//!   - { column: name, in: trusted_programs }
//! message: "{user} started {name} from {path}"
//! labels: { tactic: execution }        # for data sets
//! ```
//!
//! Further keys, for every kind: `suppress: { by: [name], for: 10m }` tells an alert once for the agent and these
//! columns and counts its repetitions for 10 minutes of event time. Column names that SQL keeps for itself are quoted:
//! `"user"`. The functions are those of [`functions`](crate::functions); a predicate cannot read a clock.
//!
//! The other kinds have in place of `family` and `where`:
//!
//! ```yaml
//! kind: threshold                      # windows in a row
//! window: 1m
//! group_by: [agent_id]
//! having: cpu_mean >= 90               # over a feature row
//! for: 3                               # windows, 1 if not given
//! update: 15m                          # told again while it lasts; not at all if not given
//! ---
//! kind: threshold
//! scope: fleet                         # windows over all agents together
//! family: process_event
//! where: event_type = 'process_started'
//! group_by: [name]                     # what rows of a window agree on; all of them if not given
//! window: 10m                          # 5m, 10m, 30m or 1h; one ends at every minute
//! having: agents >= 5                  # over the columns of [`fleet_columns`]
//! message: "{name} on {agents} machines"    # the same columns, and those of `group_by`
//! ---
//! kind: absence                        # somebody is silent, on the log's clock
//! of: agent                            # agent, bridge or broker
//! where: in_list(host, 'critical')     # over `subject`, `agent_id`, `host`, `stopped`, `since`; all if not given
//! for: 2m                              # at least a minute
//! update: 1h
//! ---
//! kind: sequence                       # rows of one agent, by event time
//! by: [pid]                            # what else they must agree on
//! within: 90s                          # from the first step to the last
//! steps:
//!   - { family: process_event, where: "event_type = 'process_started'" }
//!   - { family: network_event, where: "remote_port = 3333", waits: false }
//! message: "{1.name} connected to {remote_address}"     # of the first step, of the last step
//! ```
//!
//! A row of a later step may arrive before its predecessors, and waits for them unless `waits` is false: a step that
//! holds for most rows should not wait. A match rule may also name the family `agent_fact`, what the engine itself
//! noticed about an agent ([`fact_columns`]).
//!
//! Lists are text files in `lists/` beside the rules, named without `.txt`: an entry a line, `#` begins a comment.
//!
//! | module | what it is |
//! |---|---|
//! | `document`, `format`, `conditions`, `rule`, `set` | from YAML to rules, with every problem and its line |
//! | `reads`, `compile`, `predicates` | what predicates are about, and their plans |
//! | `judge`, `silence`, `fleet` | rows in, alerts out |
//! | `sequence`, `threshold`, `absence`, `nodes`, `suppress` | what is remembered, as operators (`keyed`) |
//! | `book`, `in_force`, `watch` | which rules hold from which offset on |

mod absence;
mod book;
mod compile;
mod conditions;
mod document;
mod explain;
pub(crate) mod fleet;
mod format;
mod in_force;
mod judge;
mod keyed;
mod nodes;
mod predicates;
mod reads;
mod rule;
mod sequence;
mod set;
mod shipped;
mod silence;
mod state;
mod suppress;
mod template;
pub mod testing;
mod threshold;
pub(crate) mod watch;

pub(crate) use absence::Tick;
pub use book::{Change, Offer, Rulebook};
pub use explain::{Explanation, explain};
pub use in_force::Held;
pub(crate) use judge::Seen;
pub use judge::{Judge, Place};
pub(crate) use reads::FLEET_WINDOWS;
pub use reads::{Reads, fact_columns, fleet_columns, silence_columns};
pub use rule::{Attack, Condition, Exception, Origin, Rule, Severity, Step, Subject, Suppress, Test};
pub(crate) use sequence::Waiting;
pub(crate) use set::listed;
pub use set::{RuleProblem, RuleSet};
pub use state::RuleState;
pub(crate) use suppress::Carried;
pub use template::Template;

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

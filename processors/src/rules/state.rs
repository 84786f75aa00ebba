//! Everything that the rules remember of one partition.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::absence::Absences;
use super::fleet::Sources;
use super::in_force::InForce;
use super::judge::Judge;
use super::nodes::Nodes;
use super::rule::Rule;
use super::sequence::Sequences;
use super::suppress::Suppressions;
use super::threshold::Runs;
use crate::alerts::Alert;
use crate::engine::operator::Operator;

/// See the module.
#[derive(Debug)]
pub struct RuleState {
    pub(super) in_force: InForce,
    pub(super) nodes: Nodes,
    pub(super) sequences: Sequences,
    pub(super) runs: Runs,
    pub(super) absences: Absences,
    pub(super) suppressions: Suppressions,
    pub(super) sources: Sources,
    /// Whether this partition speaks of bridges and brokers.
    pub(super) is_lead: bool,
}

impl RuleState {
    /// Nothing remembered of this partition.
    pub fn new(partition: i32) -> Self {
        Self {
            in_force: InForce::default(),
            nodes: Nodes::default(),
            sequences: Sequences::default(),
            runs: Runs::default(),
            absences: Absences::default(),
            suppressions: Suppressions::default(),
            sources: Sources::default(),
            is_lead: partition == 0,
        }
    }

    /// Its keyed state.
    pub fn operators(&mut self) -> Vec<&mut dyn Operator> {
        let [open, bridges] = self.absences.operators();
        vec![
            &mut self.in_force,
            self.nodes.operator(),
            self.sequences.operator(),
            self.runs.operator(),
            open,
            bridges,
            self.suppressions.operator(),
            self.sources.operator(),
        ]
    }

    /// The rules that held, with the offsets from which they did; the last ones hold now.
    #[cfg(test)]
    pub(crate) fn history(&self) -> Vec<super::Held> {
        self.in_force.history()
    }

    /// Whether the scan must stop at each clock record, because something may be up at the next.
    pub(crate) fn wants_ticks(&self) -> bool {
        self.absences.is_waiting()
    }

    /// The tracker drops an agent, whose number is free from now on. What was told of it has been closed
    /// ([`Judge::forget`]); the rest that is remembered under its name goes with the next hour of the log's clock.
    pub(crate) fn forget(&mut self, number: u32) {
        self.absences.forget(number);
    }

    /// Other rules are in force: what rules remember that are gone, or mean something else now, is forgotten, and what
    /// was told of it is closed at `now` (µs of the log's clock). `before` is `None` if nobody knows the rules before.
    pub(super) fn change_rules(&mut self, before: Option<&Judge>, after: &Judge, now: i64) -> Vec<Alert> {
        let mut alerts = Vec::new();
        let stays =
            |rule: &&Arc<Rule>| before.is_some_and(|before| before.rules.iter().any(|other| other == *rule));
        let staying: BTreeSet<&str> = after.rules.iter().filter(stays).map(|rule| rule.id.as_str()).collect();
        let is_gone = |rule: &str| !staying.contains(rule);
        let rules = |id: &str| before.unwrap_or(after).known(id);
        let why = |_: &str, rule: &str| is_gone(rule).then_some("the rule has been withdrawn or changed");
        self.runs.end(why, &rules, now, &mut alerts);
        self.absences.end(self.absences.open.keys(), why, &rules, now, &mut alerts);
        self.absences.rules_changed();
        self.sequences.forget(&is_gone);
        self.suppressions.forget(&is_gone);
        alerts
    }
}

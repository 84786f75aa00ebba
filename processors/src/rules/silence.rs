//! From silences to alerts: opened, told again, closed; and what is done once a minute of the log's clock.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use super::RuleError;
use super::absence::{Absences, Change, Open, Silent};
use super::judge::{Judge, Seen, wrong};
use super::keyed::Key;
use super::predicates::Predicate;
use super::reads::Reads;
use super::rule::{Condition, Rule, RuleOf, Subject};
use super::sequence::Shape;
use super::state::RuleState;
use super::suppress::Asks;
use super::threshold::suppress_key;
use crate::alerts::{Alert, AlertError, Lasting, rows};
use crate::event_time::Tracker;

impl Judge {
    /// Judges silences at the end of a segment, and sweeps the state where a minute of the log's clock began.
    pub(crate) fn clock(
        &mut self,
        state: &mut RuleState,
        tracker: &Tracker,
        seen: &Seen,
    ) -> Result<Vec<Alert>, RuleError> {
        let mut changes = Vec::new();
        state.absences.heard(seen.noticed.iter().map(|(_, noticed)| noticed), tracker, &mut changes);
        if state.is_lead {
            state.absences.ticks(&self.limits, &seen.ticks, &mut changes);
        }
        if seen.at_tick {
            state.absences.agents(&self.limits, tracker, &state.nodes, &seen.silent, &mut changes);
        }
        let mut alerts = Vec::new();
        self.apply(changes, state, &mut alerts)?;
        if seen.at_minute {
            self.go_on(tracker.now(), state, &mut alerts)?;
            let mut facts = Vec::new();
            state.nodes.minute(&mut facts);
            alerts.extend(self.facts(facts, state)?);
            self.sweep(tracker, state);
        }
        if seen.at_hour {
            alerts.extend(self.forget(|agent| tracker.find(agent).is_none(), tracker.now(), state));
            state.nodes.forget(tracker);
        }
        Ok(alerts)
    }

    /// Ends what rules on agents remember of those that are gone; what was told of them is closed at `now`.
    pub(crate) fn forget(
        &self,
        is_gone: impl Fn(&str) -> bool,
        now: i64,
        state: &mut RuleState,
    ) -> Vec<Alert> {
        let mut alerts = Vec::new();
        let rules = |id: &str| self.known(id);
        let is_of_agents = |id: &str| matches!(self.subject(id), None | Some(Subject::Agent));
        let why = |agent: &str, rule: &str| {
            (is_of_agents(rule) && is_gone(agent)).then_some("the agent has been forgotten")
        };
        state.runs.end(why, &rules, now, &mut alerts);
        let keys = state.absences.open.keys();
        state.absences.end(keys, why, &rules, now, &mut alerts);
        alerts
    }

    fn apply(
        &mut self,
        changes: Vec<Change>,
        state: &mut RuleState,
        alerts: &mut Vec<Alert>,
    ) -> Result<(), RuleError> {
        if changes.is_empty() {
            return Ok(());
        }
        let applies = self.applies(&changes)?;
        for (number, change) in changes.into_iter().enumerate() {
            match change {
                Change::Reached(rule, silent, now) => {
                    let rule = &self.rules[rule];
                    let key = Key::new(&rule.id, "");
                    if !applies[number] || state.absences.open.get(&silent.id, &key).is_some() {
                        continue;
                    }
                    let id = Arc::clone(&silent.id);
                    let mut open =
                        Open { since: silent.since, host: silent.host, stopped: silent.stopped, told: None };
                    let told = self.tell(rule, &id, &mut open, now, true, state);
                    alerts.extend(told.map_err(wrong(Reads::Silence.name()))?);
                    state.absences.open.put(&id, key, open);
                }
                Change::Over(subject, id, now, why) => {
                    let rules = |id: &str| self.known(id);
                    let why = |_: &str, id: &str| (self.subject(id) == Some(subject)).then_some(why);
                    let keys = state.absences.open.keys_of(&id);
                    state.absences.end(keys, why, &rules, now, alerts);
                }
            }
        }
        Ok(())
    }

    /// For each change whether it is a silence that its rule applies to.
    fn applies(&mut self, changes: &[Change]) -> Result<Vec<bool>, RuleError> {
        let mut applies = vec![false; changes.len()];
        let reached = changes.iter().enumerate().filter_map(|(number, change)| match change {
            Change::Reached(rule, silent, _) => Some((number, *rule, silent.clone())),
            Change::Over(..) => None,
        });
        let reached: Vec<_> = reached.collect();
        let Some(predicates) = self.silence.as_mut().filter(|_| !reached.is_empty()) else {
            return Ok(applies);
        };
        let silent: Vec<Silent> = reached.iter().map(|(_, _, silent)| silent.clone()).collect();
        let batch = Silent::rows(&silent).map_err(|error| wrong(Reads::Silence.name())(error.into()))?;
        predicates.judge(&batch, |verdict| {
            let Predicate { rule, .. } = verdict.predicate;
            for row in verdict.rows().filter(|row| reached[*row].1 == rule) {
                applies[reached[row].0] = true;
            }
        })?;
        Ok(applies)
    }

    /// Tells of a silence for the first time, unless it is held back.
    fn tell(
        &self,
        rule: &Arc<Rule>,
        id: &str,
        open: &mut Open,
        now: i64,
        counts: bool,
        state: &mut RuleState,
    ) -> Result<Option<Alert>, AlertError> {
        let batch = open.row(id, rule)?;
        let by = suppress_key(rule, |column| rows::display(&batch, column, 0));
        let asks = Asks { agent: id, by: &by, time: now, watermark: now, counts };
        let Some(carried) = state.suppressions.admit(rule, asks) else {
            return Ok(None);
        };
        let message = rule.message.fill(|_, column| rows::display(&batch, column, 0));
        let of = lasting(rule, &self.rule_set, id, open, now)?;
        let (alert, told) = Alert::create(of, message, carried, now);
        open.told = Some(told);
        Ok(Some(alert))
    }

    /// Silences that last: those held back are told when their period is over, others again if their rule says so.
    fn go_on(&self, now: i64, state: &mut RuleState, alerts: &mut Vec<Alert>) -> Result<(), RuleError> {
        for (id, key) in state.absences.open.keys() {
            let Some((rule, _)) = self.known(&key.rule) else { continue };
            let Condition::Absence { update, .. } = &rule.condition else { continue };
            let Some(mut open) = state.absences.open.get(&id, &key).cloned() else { continue };
            let is_due = |at: i64| update.is_some_and(|update| now - at >= update.as_micros() as i64);
            let alert = match &open.told {
                None => self.tell(&rule, &id, &mut open, now, false, state),
                Some(told) if is_due(told.at) => {
                    let (mut told, message) = (told.clone(), told.message.clone());
                    let of = lasting(&rule, &self.rule_set, &id, &open, now);
                    let alert = of.map(|of| Some(Alert::update(of, message, &mut told, now)));
                    open.told = Some(told);
                    alert
                }
                Some(_) => Ok(None),
            };
            if let Some(alert) = alert.map_err(wrong(Reads::Silence.name()))? {
                alerts.push(alert);
                state.absences.open.put(&id, key, open);
            }
        }
        Ok(())
    }

    fn sweep(&self, tracker: &Tracker, state: &mut RuleState) {
        state.sequences.sweep(tracker, |id| {
            let number = self.number_of(id)?;
            let Condition::Sequence { within, .. } = &self.rules[number].condition else { return None };
            Some(Shape { waits: self.waits(number), within: within.as_micros() as i64 })
        });
        // bridges have no watermark: their log is the clock itself
        let watermark =
            |agent: &str| tracker.find(agent).map_or_else(|| tracker.now(), |agent| agent.watermark);
        state.suppressions.sweep(watermark, |id| self.suppression_of(id));
    }

    /// How long a rule of the set holds back repetitions, µs.
    pub(super) fn suppression_of(&self, id: &str) -> Option<i64> {
        let suppress = self.rules[self.number_of(id)?].suppress.as_ref()?;
        Some(suppress.period.as_micros() as i64)
    }

    /// A rule of the set, with the hash of the set.
    pub(super) fn known(&self, id: &str) -> Option<(Arc<Rule>, Arc<str>)> {
        let number = self.number_of(id)?;
        Some((Arc::clone(&self.rules[number]), Arc::clone(&self.rule_set)))
    }

    /// Whom a rule on silence is about.
    fn subject(&self, id: &str) -> Option<Subject> {
        match self.rules[self.number_of(id)?].condition {
            Condition::Absence { of, .. } => Some(of),
            _ => None,
        }
    }

    pub(super) fn number_of(&self, id: &str) -> Option<usize> {
        self.rules.binary_search_by(|rule| rule.id.as_str().cmp(id)).ok()
    }
}

impl Absences {
    /// Ends open silences for the reason that `why` gives; what was told of them is closed at `now`.
    pub(super) fn end(
        &mut self,
        keys: Vec<(Arc<str>, Key)>,
        why: impl Fn(&str, &str) -> Option<&'static str>,
        rules: &RuleOf<'_>,
        now: i64,
        alerts: &mut Vec<Alert>,
    ) {
        for (id, key) in keys {
            let Some(why) = why(&id, &key.rule) else { continue };
            let Some(open) = self.open.remove(&id, &key) else { continue };
            if let (Some(told), Some((rule, rule_set))) = (open.told.clone(), rules(&key.rule)) {
                // a row of these columns is always one that evidence can be made of
                if let Ok(of) = lasting(&rule, &rule_set, &id, &open, now) {
                    alerts.push(Alert::close(of, told, now, why));
                }
            }
        }
    }
}

impl Open {
    /// As one row with the columns of [`Reads::Silence`].
    fn row(&self, id: &str, rule: &Rule) -> Result<RecordBatch, AlertError> {
        let Condition::Absence { of, .. } = rule.condition else {
            return Err(AlertError::Column { column: rule.id.clone(), expected: "rule on silence" });
        };
        let (id, host, stopped, since) = (Arc::from(id), self.host.clone(), self.stopped, self.since);
        Ok(Silent::rows(&[Silent { subject: of, id, host, stopped, since }])?)
    }
}

fn lasting<'a>(
    rule: &'a Arc<Rule>,
    rule_set: &'a Arc<str>,
    id: &'a str,
    open: &Open,
    now: i64,
) -> Result<Lasting<'a>, AlertError> {
    let subject = match rule.condition {
        Condition::Absence { of, .. } => of,
        _ => Subject::Agent,
    };
    Ok(Lasting {
        rule,
        rule_set,
        subject,
        agent_id: id,
        host: open.host.clone(),
        first_seen: open.since,
        last_seen: now,
        // one row for each time that it was looked at, so that a later message counts more than an earlier one
        count: open.told.as_ref().map_or(1, |told| i64::from(told.revision) + 2),
        window: None,
        evidence: vec![rows::evidence(&open.row(id, rule)?, 0)?],
    })
}

//! All rules of a set, planned: rows go in, alerts come out.
//!
//! ```text
//! rows of a family ─▶ predicates ─┐                      ┌ match ────┐
//! what was noticed ─▶ predicates ─┴▶ hits in log order ─▶┴ sequences ┴▶ suppress ─▶ alerts
//! features ─▶ predicates ─▶ runs of windows ─▶ suppress ─▶ alerts
//! clock records ─▶ silence ─▶ predicates ─▶ open silences ─▶ suppress ─▶ alerts
//! ```
//!
//! Predicates judge columns of a batch at once; whatever has a memory sees hits one by one in the order of the log.

use std::sync::Arc;

use ahash::AHashSet;
use arrow::record_batch::RecordBatch;
use schemas::family::Family;
use schemas::record::RecordKind;

use super::absence::{Limit, Tick};
use super::fleet::{self, Planned};
use super::keyed::{Key, joined};
use super::nodes::Fact;
use super::predicates::{Predicate, Predicates};
use super::reads::Reads;
use super::rule::{Condition, Rule};
use super::sequence::{Shape, Waiting};
use super::state::RuleState;
use super::suppress::Asks;
use super::threshold::{Judged, suppress_key};
use super::{RuleError, RuleSet};
use crate::alerts::{Alert, AlertError, Evidence, rows};
use crate::event_time::{Noticed, Tracker};

/// Where in the log a row stands, and when it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Position in the micro-batch, across record types.
    pub at: u32,
    /// Event time to judge by, µs.
    pub time: i64,
    /// The agent's watermark before the row, µs.
    pub watermark: i64,
}

/// What the scan found beside rows of events.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// What the tracker noticed, with positions in the micro-batch.
    pub(crate) noticed: Vec<(u32, Noticed)>,
    /// Clock records.
    pub(crate) ticks: Vec<Tick>,
    /// Agents that have become silent at the clock record that ends the segment.
    pub(crate) silent: Vec<u32>,
    /// Whether the segment ends with a clock record.
    pub(crate) at_tick: bool,
    /// Whether that record is the first of a minute of the log's clock.
    pub(crate) at_minute: bool,
    /// Whether it is the first of an hour.
    pub(crate) at_hour: bool,
}

/// A row that a predicate holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hit {
    at: u32,
    rule: usize,
    /// Later steps first: a row is no successor of itself.
    step: std::cmp::Reverse<usize>,
    batch: usize,
    row: usize,
    time: i64,
    watermark: i64,
}

/// Rows of a step that does not wait: they matter only if something waits for them.
#[derive(Debug)]
struct Waitless {
    rule: usize,
    step: usize,
    batch: usize,
    rows: Vec<(usize, Place)>,
}

/// What a segment brought so far.
#[derive(Debug, Default)]
struct Round {
    batches: Vec<RecordBatch>,
    hits: Vec<Hit>,
    waitless: Vec<Waitless>,
    /// Batches of `agent_status`, and their rows: position, batch, row.
    status_batches: Vec<RecordBatch>,
    statuses: Vec<(u32, usize, usize)>,
}

/// See the module.
#[derive(Debug)]
pub struct Judge {
    pub(super) rules: Vec<Arc<Rule>>,
    pub(super) rule_set: Arc<str>,
    families: Vec<Option<Predicates>>,
    features: Vec<(RecordKind, Predicates)>,
    facts: Option<Predicates>,
    pub(super) silence: Option<Predicates>,
    pub(super) limits: Vec<Limit>,
    pub(super) fleet: Vec<Planned>,
    /// For each rule that is a sequence, whether its steps wait.
    waits: Vec<Vec<bool>>,
    /// For each rule, the key of what it remembers where it tells no rows apart.
    keys: Vec<Key>,
    round: Round,
}

impl Judge {
    /// Plans the rules of a set.
    pub fn new(set: &RuleSet) -> Result<Self, RuleError> {
        let functions = set.functions();
        let rules = set.rules().to_vec();
        let families = Family::ALL.map(|family| Predicates::new(&rules, Reads::Family(family), &functions));
        let mut features = Vec::new();
        for reads in Reads::windows().filter_map(Reads::of_window) {
            if let (Reads::Features(kind), Some(planned)) =
                (reads, Predicates::new(&rules, reads, &functions)?)
            {
                features.push((kind, planned));
            }
        }
        let limits = rules.iter().enumerate().filter_map(|(rule, of)| match &of.condition {
            Condition::Absence { of, silence, .. } => {
                Some(Limit { rule, of: *of, silence: silence.as_micros() as i64 })
            }
            _ => None,
        });
        let waits = rules.iter().map(|rule| match &rule.condition {
            Condition::Sequence { steps, .. } => steps.iter().map(|step| step.waits).collect(),
            _ => Vec::new(),
        });
        Ok(Self {
            rule_set: Arc::clone(set.hash()),
            families: families.into_iter().collect::<Result<_, _>>()?,
            features,
            facts: Predicates::new(&rules, Reads::Facts, &functions)?,
            silence: Predicates::new(&rules, Reads::Silence, &functions)?,
            limits: limits.collect(),
            fleet: fleet::planned(&rules, &functions)?,
            waits: waits.collect(),
            keys: rules.iter().map(|rule| Key::new(&rule.id, "")).collect(),
            rules,
            round: Round::default(),
        })
    }

    /// Of a rule that is a sequence, whether its steps wait.
    pub(super) fn waits(&self, rule: usize) -> &[bool] {
        &self.waits[rule]
    }

    /// Hash of the set.
    pub fn rule_set(&self) -> &Arc<str> {
        &self.rule_set
    }

    /// Forgets what was taken and not settled: the micro-batch that brought it failed half-way and comes again.
    pub(super) fn begin(&mut self) {
        self.round = Round::default();
    }

    /// Takes normalised rows of one family; `place` knows where each stands. Alerts come with [`settle`](Self::settle).
    pub fn rows(
        &mut self,
        family: Family,
        batch: &RecordBatch,
        place: impl Fn(usize) -> Place,
    ) -> Result<(), RuleError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if family == Family::AgentStatus {
            let number = self.round.status_batches.len();
            self.round.status_batches.push(batch.clone());
            self.round.statuses.extend((0..batch.num_rows()).map(|row| (place(row).at, number, row)));
        }
        let Some(predicates) = &mut self.families[family as usize] else {
            return Ok(());
        };
        gather(predicates, batch, place, &self.waits, &mut self.round)
    }

    /// Takes out the rows that rules over the fleet hold for, of those given since the last settling: rule, row and
    /// event time (µs), in the order of the rows.
    pub(super) fn hits_of_fleet(&mut self) -> Vec<(usize, usize, i64)> {
        if !self.watches_fleet() || self.round.hits.is_empty() {
            return Vec::new();
        }
        let is_of_fleet = |hit: &mut Hit| matches!(self.rules[hit.rule].condition, Condition::Fleet { .. });
        let mut hits: Vec<Hit> = self.round.hits.extract_if(.., is_of_fleet).collect();
        hits.sort_unstable();
        hits.into_iter().map(|hit| (hit.rule, hit.row, hit.time)).collect()
    }

    /// Judges everything that was taken since the last call, in the order of the log.
    pub(crate) fn settle(
        &mut self,
        state: &mut RuleState,
        tracker: &Tracker,
        seen: &Seen,
    ) -> Result<Vec<Alert>, RuleError> {
        let mut round = std::mem::take(&mut self.round);
        let facts =
            facts_in_order(&mut round, state, tracker, seen).map_err(wrong(Family::AgentStatus.name()))?;
        self.judge_facts(facts, &mut round)?;
        self.call_for(state, &mut round);
        self.hits(round, state)
    }

    /// Judges facts by themselves.
    pub(super) fn facts(&mut self, facts: Vec<Fact>, state: &mut RuleState) -> Result<Vec<Alert>, RuleError> {
        let mut round = Round::default();
        let facts = facts.into_iter().enumerate().map(|(at, fact)| (at as u32, fact));
        self.judge_facts(facts.collect(), &mut round)?;
        self.hits(round, state)
    }

    fn hits(&self, mut round: Round, state: &mut RuleState) -> Result<Vec<Alert>, RuleError> {
        round.hits.sort_unstable();
        let mut alerts = Vec::new();
        for hit in &round.hits {
            let rule = &self.rules[hit.rule];
            let found = self.hit(rule, *hit, &round.batches[hit.batch], state);
            alerts.extend(found.map_err(wrong(rule.condition.reads().name()))?);
        }
        Ok(alerts)
    }

    /// Judges feature rows in the order in which the windows of each agent closed.
    pub fn features(
        &mut self,
        kind: RecordKind,
        batch: &RecordBatch,
        state: &mut RuleState,
    ) -> Result<Vec<Alert>, RuleError> {
        let mut alerts = Vec::new();
        let Some((_, predicates)) = self.features.iter_mut().find(|(of, _)| *of == kind) else {
            return Ok(alerts);
        };
        if batch.num_rows() == 0 {
            return Ok(alerts);
        }
        let verdicts = predicates.all(batch)?;
        let partial = rows::booleans(batch, "is_partial").map_err(wrong(kind.name()))?;
        for row in (0..batch.num_rows()).filter(|&row| !partial.value(row)) {
            for (Predicate { rule, .. }, verdicts) in &verdicts {
                let of = Judged { rule: &self.rules[*rule], rule_set: &self.rule_set, verdicts };
                state
                    .runs
                    .see(of, batch, row, &mut state.suppressions, &mut alerts)
                    .map_err(wrong(kind.name()))?;
            }
        }
        Ok(alerts)
    }

    fn judge_facts(&mut self, facts: Vec<(u32, Fact)>, round: &mut Round) -> Result<(), RuleError> {
        let Some(predicates) = self.facts.as_mut().filter(|_| !facts.is_empty()) else {
            return Ok(());
        };
        let (positions, facts): (Vec<_>, Vec<_>) = facts.into_iter().unzip();
        let batch = Fact::rows(&facts).map_err(|error| wrong(Reads::Facts.name())(error.into()))?;
        let times = rows::times(&batch, "event_time").map_err(wrong(Reads::Facts.name()))?.clone();
        // what is noticed has no watermark: nothing is forgotten on its account
        let place = |row: usize| Place { at: positions[row], time: times.value(row), watermark: i64::MIN };
        gather(predicates, &batch, place, &self.waits, round)
    }

    /// Adds the rows that do not wait, of those agents for which something waits or has just come.
    fn call_for(&self, state: &RuleState, round: &mut Round) {
        for Waitless { rule, step, batch, rows } in std::mem::take(&mut round.waitless) {
            let mut come = AHashSet::new();
            for hit in round.hits.iter().filter(|hit| hit.rule == rule) {
                if let Ok(agents) = rows::texts(&round.batches[hit.batch], "agent_id") {
                    come.insert(agents.value(hit.row).to_owned());
                }
            }
            let id = &self.rules[rule].id;
            let waits = state.sequences.has_rule(id);
            let Ok(agents) = rows::texts(&round.batches[batch], "agent_id") else { continue };
            let agents = agents.clone();
            if come.is_empty() && !waits {
                continue;
            }
            for (row, Place { at, time, watermark }) in rows {
                let agent = agents.value(row);
                if come.contains(agent) || (waits && state.sequences.has_agent(agent)) {
                    let step = std::cmp::Reverse(step);
                    round.hits.push(Hit { at, rule, step, batch, row, time, watermark });
                }
            }
        }
    }

    fn hit(
        &self,
        rule: &Arc<Rule>,
        hit: Hit,
        batch: &RecordBatch,
        state: &mut RuleState,
    ) -> Result<Option<Alert>, AlertError> {
        let Condition::Sequence { by, within, .. } = &rule.condition else {
            let agent = rows::texts(batch, "agent_id")?.value(hit.row);
            let by = suppress_key(rule, |column| rows::display(batch, column, hit.row));
            let asks = Asks { agent, by: &by, time: hit.time, watermark: hit.watermark, counts: true };
            let Some(carried) = state.suppressions.admit(rule, asks) else {
                return Ok(None);
            };
            return Alert::of_row(rule, &self.rule_set, batch, hit.row, carried).map(Some);
        };
        let shape = Shape { waits: &self.waits[hit.rule], within: within.as_micros() as i64 };
        let values: Option<Vec<String>> =
            by.iter().map(|column| rows::display(batch, column, hit.row)).collect();
        // null agrees with nothing
        let Some(by) = values.map(|values| joined(values.into_iter().map(Some))) else {
            return Ok(None);
        };
        let agent = rows::texts(batch, "agent_id")?.value(hit.row);
        let row = Evidence::new(batch, hit.row)?;
        let row = Waiting::new(hit.step.0, hit.time, identity(batch, hit.row)?, row);
        let key = self.keys[hit.rule].with(&by);
        let Some(chain) = state.sequences.see(agent, &key, shape, row, hit.watermark) else {
            return Ok(None);
        };
        let Some(last) = chain.last() else {
            return Ok(None);
        };
        let told = last.row.fields()?;
        let same = suppress_key(rule, |column| rows::display_value(told.get(column)?));
        let asks = Asks { agent, by: &same, time: last.time, watermark: hit.watermark, counts: true };
        let Some(carried) = state.suppressions.admit(rule, asks) else {
            return Ok(None);
        };
        Alert::of_chain(rule, &self.rule_set, &by, &chain, (batch, hit.row), carried).map(Some)
    }
}

/// The identity of an event, as text.
fn identity(batch: &RecordBatch, row: usize) -> Result<String, AlertError> {
    let session = rows::longs(batch, "session")?.value(row);
    let lane = rows::texts(batch, "lane")?.value(row);
    let seq = rows::longs(batch, "seq")?.value(row);
    let event_id = rows::maybe(batch, "event_id", row).unwrap_or_default();
    Ok(format!("{session}/{lane}/{seq}/{event_id}"))
}

/// Shows a batch to predicates and keeps what they hold for.
fn gather(
    predicates: &mut Predicates,
    batch: &RecordBatch,
    place: impl Fn(usize) -> Place,
    waits: &[Vec<bool>],
    round: &mut Round,
) -> Result<(), RuleError> {
    let number = round.batches.len();
    let mut is_used = false;
    predicates.judge(batch, |verdict| {
        is_used = true;
        let Predicate { rule, step } = verdict.predicate;
        if waits[rule].get(step).is_some_and(|waits| !waits) {
            let rows = verdict.rows().map(|row| (row, place(row))).collect();
            round.waitless.push(Waitless { rule, step, batch: number, rows });
            return;
        }
        round.hits.extend(verdict.rows().map(|row| {
            let Place { at, time, watermark } = place(row);
            Hit { at, rule, step: std::cmp::Reverse(step), batch: number, row, time, watermark }
        }));
    })?;
    if is_used {
        round.batches.push(batch.clone());
    }
    Ok(())
}

/// What was noticed, each with what agents had said about themselves up to there.
fn facts_in_order(
    round: &mut Round,
    state: &mut RuleState,
    tracker: &Tracker,
    seen: &Seen,
) -> Result<Vec<(u32, Fact)>, AlertError> {
    round.statuses.sort_unstable();
    let mut statuses = round.statuses.iter().peekable();
    let mut facts = Vec::new();
    for (at, noticed) in &seen.noticed {
        while let Some((_, batch, row)) = statuses.next_if(|(status, ..)| status < at) {
            state.nodes.see(&round.status_batches[*batch], *row)?;
        }
        facts.extend(Fact::of(noticed, tracker, &state.nodes).map(|fact| (*at, fact)));
    }
    for (_, batch, row) in statuses {
        state.nodes.see(&round.status_batches[*batch], *row)?;
    }
    Ok(facts)
}

/// An error about rows of this kind.
pub(super) fn wrong(over: &'static str) -> impl Fn(AlertError) -> RuleError {
    move |source| RuleError::Rows { over, source }
}

//! The rules of a worker: those that are offered, and those that each partition's state says are in force.
//!
//! A set of rules is loaded outside of the job, from a folder that a person changes while the job runs, and *offered*.
//! A partition takes it over at the beginning of a micro-batch and notes set and offset in its state, which commits in
//! one transaction with what the set found. So whatever happens to the worker, the rules that a committed output was
//! made by are the rules that the state names for its offset. Until a partition has taken over a set, the one in its
//! state holds, whatever lies in the folder: a worker that wakes after it lost the partition cannot commit, and one
//! that gets the partition with older rules at hand goes on with those in the state.

use std::sync::Arc;

use parking_lot::Mutex;

use super::RuleError;
use super::in_force::Held;
use super::judge::Judge;
use super::set::RuleSet;
use super::state::RuleState;
use crate::alerts::Alert;

/// More sets are not kept planned; partitions of one worker are rarely on more than two.
const PLANNED: usize = 4;

/// The rules that workers of this process should take over; clones share it.
#[derive(Debug, Clone)]
pub struct Offer {
    offered: Arc<Mutex<Arc<Offered>>>,
}

#[derive(Debug)]
struct Offered {
    set: RuleSet,
    version: i64,
}

impl Offer {
    /// Offers a set that was loaded at `version`, in µs of the wall clock: among several processes the rules that were
    /// loaded last win.
    pub fn new(set: RuleSet, version: i64) -> Self {
        Self { offered: Arc::new(Mutex::new(Arc::new(Offered { set, version }))) }
    }

    /// Offers another set in place of it.
    pub fn put(&self, set: RuleSet, version: i64) {
        *self.offered.lock() = Arc::new(Offered { set, version });
    }

    /// Hash of the set that is offered.
    pub fn rule_set(&self) -> Arc<str> {
        Arc::clone(self.get().set.hash())
    }

    fn get(&self) -> Arc<Offered> {
        Arc::clone(&self.offered.lock())
    }
}

/// The planned rules of a worker.
#[derive(Debug)]
pub struct Rulebook {
    offer: Offer,
    /// The one used last is last.
    planned: Vec<Judge>,
    /// An offer that could not be planned.
    refused: Option<i64>,
}

/// A partition goes on with other rules.
#[derive(Debug)]
pub struct Change {
    /// The set that holds now, and from where.
    pub held: Held,
    /// What ends with rules that are gone.
    pub alerts: Vec<Alert>,
}

impl Rulebook {
    /// Plans the set on offer.
    pub fn new(offer: Offer) -> Result<Self, RuleError> {
        let judge = Judge::new(&offer.get().set)?;
        Ok(Self { offer, planned: vec![judge], refused: None })
    }

    /// Settles which rules hold for the records of a partition from `offset` on; `now` is the log's clock in µs. After
    /// it [`judge`](Self::judge) gives them, ready for the first row.
    pub fn open(
        &mut self,
        state: &mut RuleState,
        offset: i64,
        now: i64,
    ) -> Result<Option<Change>, RuleError> {
        self.planned.iter_mut().for_each(Judge::begin);
        let offered = self.offer.get();
        let Some(held) = state.in_force.held().cloned() else {
            self.plan(&offered.set)?;
            return Ok(Some(self.take(state, &offered, None, offset, now)));
        };
        let is_newer = held.rule_set != **offered.set.hash()
            && offered.version > held.version
            && self.refused != Some(offered.version);
        let known = self.use_planned(&held.rule_set) || self.rebuild(state, &held);
        if !is_newer && known {
            return Ok(None);
        }
        if let Err(error) = self.plan(&offered.set) {
            metrics::counter!("varta_processors_rule_sets_refused_total").increment(1);
            tracing::error!(%error, rule_set = %offered.set.hash(), "rules cannot be planned, the old ones stay");
            self.refused = Some(offered.version);
            if !known {
                return Err(error);
            }
            self.use_planned(&held.rule_set);
            return Ok(None);
        }
        let before = known.then_some(held.rule_set.as_str());
        Ok(Some(self.take(state, &offered, before, offset, now)))
    }

    /// Whether the next [`open`](Self::open) of this partition would take over other rules.
    pub fn is_change_due(&self, state: &RuleState) -> bool {
        let offered = self.offer.get();
        state.in_force.held().is_some_and(|held| {
            *held.rule_set != **offered.set.hash()
                && offered.version > held.version
                && self.refused != Some(offered.version)
        })
    }

    /// Goes back to the rules that a partition holds; false if it holds none yet. After it [`judge`](Self::judge)
    /// gives them.
    pub fn hold(&mut self, state: &RuleState) -> Result<bool, RuleError> {
        let Some(held) = state.in_force.held().cloned() else { return Ok(false) };
        if !self.use_planned(&held.rule_set) && !self.rebuild(state, &held) {
            let offered = self.offer.get();
            self.plan(&offered.set)?;
        }
        Ok(true)
    }

    /// The rules that the last [`open`](Self::open) settled on.
    pub fn judge(&mut self) -> &mut Judge {
        let last = self.planned.len() - 1;
        &mut self.planned[last]
    }

    fn take(
        &mut self,
        state: &mut RuleState,
        offered: &Offered,
        before: Option<&str>,
        offset: i64,
        now: i64,
    ) -> Change {
        let last = self.planned.len() - 1;
        let before = before.and_then(|hash| self.planned.iter().find(|judge| **judge.rule_set() == *hash));
        let alerts = state.change_rules(before, &self.planned[last], now);
        state.in_force.take(&offered.set, offered.version, offset);
        metrics::counter!("varta_processors_rule_sets_taken_total").increment(1);
        let (rule_set, version) = (offered.set.hash().to_string(), offered.version);
        Change { held: Held { rule_set, version, from_offset: offset }, alerts }
    }

    /// Moves a planned set to the end; false if it is not planned.
    fn use_planned(&mut self, rule_set: &str) -> bool {
        let Some(at) = self.planned.iter().position(|judge| **judge.rule_set() == *rule_set) else {
            return false;
        };
        if at + 1 < self.planned.len() {
            let judge = self.planned.remove(at);
            self.planned.push(judge);
        }
        true
    }

    fn plan(&mut self, set: &RuleSet) -> Result<(), RuleError> {
        if !self.use_planned(set.hash()) {
            let judge = Judge::new(set)?;
            if self.planned.len() >= PLANNED {
                self.planned.remove(0);
            }
            self.planned.push(judge);
        }
        Ok(())
    }

    /// Plans the set that the state names from its own text; false if this program cannot read it any more.
    fn rebuild(&mut self, state: &RuleState, held: &Held) -> bool {
        let Some(sources) = state.in_force.sources() else { return false };
        let why = match sources.parse() {
            Ok(set) if **set.hash() == *held.rule_set => match self.plan(&set) {
                Ok(()) => return true,
                Err(error) => error.to_string(),
            },
            Ok(_) => "its text means something else to this program".to_owned(),
            Err(problems) => super::set::listed(&problems),
        };
        metrics::counter!("varta_processors_rule_sets_unreadable_total").increment(1);
        tracing::error!(
            rule_set = held.rule_set,
            why,
            "rules in the state cannot be used, those on offer replace them"
        );
        false
    }
}

#[cfg(test)]
mod tests {
    use schemas::family::Family;
    use schemas::record::RecordKind;
    use serde_json::json;

    use super::*;
    use crate::event_time::{Hold, Lateness, Tracker};
    use crate::rules::testing::rows_of;
    use crate::rules::{Place, Seen};

    const RULE: &str = "id: one\ntitle: One\nseverity: low\ndescription: D\nkind: match\nfamily: process_event\n\
                        where: pid > 0\nmessage: '{pid}'\n";

    fn set(from: &str, to: &str) -> RuleSet {
        RuleSet::parse([("r.yaml", RULE.replace(from, to).as_str())], []).unwrap()
    }

    fn take(book: &mut Rulebook, pid: i64) {
        let rows =
            rows_of(RecordKind::Family(Family::ProcessEvent), &[json!({"pid": pid, "seq": pid})]).unwrap();
        let place = |_: usize| Place { at: 0, time: 0, watermark: 0 };
        book.judge().rows(Family::ProcessEvent, &rows, place).unwrap();
    }

    #[test]
    fn rows_of_a_batch_that_failed_are_not_judged_with_the_next() {
        let mut book = Rulebook::new(Offer::new(set("", ""), 1)).unwrap();
        let mut state = RuleState::new(0);
        book.open(&mut state, 0, 0).unwrap();
        take(&mut book, 1);
        // the log refused something: the worker begins again, perhaps with another partition
        book.open(&mut state, 0, 0).unwrap();
        take(&mut book, 2);
        let tracker = Tracker::new(Lateness(0), Hold(i64::MAX));
        let alerts = book.judge().settle(&mut state, &tracker, &Seen::default()).unwrap();
        assert_eq!(alerts.iter().map(|alert| alert.message.as_str()).collect::<Vec<_>>(), ["2"]);
    }

    #[test]
    fn the_state_is_served_by_its_own_rules_until_a_later_offer_and_many_sets_may_pass() {
        let offer = Offer::new(set("low", "high"), 5);
        let mut book = Rulebook::new(offer.clone()).unwrap();
        let mut state = RuleState::new(0);
        let first = book.open(&mut state, 7, 0).unwrap().unwrap();
        assert_eq!((first.held.version, first.held.from_offset), (5, 7));
        for (version, severity) in
            ["low", "medium", "fatal", "critical", "informational"].into_iter().enumerate()
        {
            offer.put(set("low", severity), version as i64);
            assert!(book.open(&mut state, 8, 0).unwrap().is_none(), "an older offer");
            assert_eq!(**book.judge().rule_set(), *first.held.rule_set);
        }
        // a worker that never saw the rules of the state plans them from the state's own text
        let mut other = Rulebook::new(Offer::new(set("low", "low"), 1)).unwrap();
        assert!(other.open(&mut state, 9, 0).unwrap().is_none());
        assert_eq!(**other.judge().rule_set(), *first.held.rule_set);
    }

    #[test]
    fn rules_that_cannot_be_read_any_more_are_replaced_by_the_offer() {
        let mut state = RuleState::new(0);
        let gone = set("pid > 0", "pid > 1");
        state.in_force.take(&gone, 9, 0);
        state.in_force.spoil();
        let mut book = Rulebook::new(Offer::new(set("", ""), 1)).unwrap();
        let change = book.open(&mut state, 3, 0).unwrap().unwrap();
        assert_eq!((change.held.version, change.held.from_offset), (1, 3));
        assert!(book.open(&mut state, 4, 0).unwrap().is_none());
    }
}

//! Silence: agents, bridges and brokers of which nothing is heard, and what is told when they are heard again.
//!
//! An agent is silent when nothing of it came for three of its reporting intervals on the quiet clock, which stands
//! while a bridge says that it does not hear its broker, or says nothing; so an outage of ours silences no agent. A
//! bridge is silent when its clock records end without goodbye while another bridge goes on, or when it begins again
//! after a pause. A broker is away while a bridge says that it is not connected. Clock records lie in every partition:
//! only the first partition speaks of bridges and brokers, or each would be told once a partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use super::keyed::{Key, Keyed, Remembered};
use super::nodes::Nodes;
use super::reads::silence_columns;
use super::rule::Subject;
use crate::alerts::Told;
use crate::engine::operator::Operator;
use crate::event_time::{Noticed, Tracker};

/// A bridge that has been silent for so long is forgotten, µs.
const FORGOTTEN: i64 = 30 * 24 * 3_600 * 1_000_000;
/// More bridges are not followed: the one heard longest ago goes.
const MOST_BRIDGES: usize = 1_024;

/// A clock record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tick {
    /// Which bridge wrote it.
    pub(crate) bridge: String,
    /// The log's clock after it, µs.
    pub(crate) now: i64,
    /// Whether the bridge hears its broker.
    pub(crate) connected: bool,
    /// Whether it is the last before a clean stop.
    pub(crate) goodbye: bool,
}

/// A silence that a rule applies to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    /// When it was last heard, µs of the log's clock.
    pub(super) since: i64,
    pub(super) host: Option<String>,
    pub(super) stopped: bool,
    /// What was told of it; nothing if it is held back.
    pub(super) told: Option<Told>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Bridge {
    heard: i64,
    /// Since when it says that it does not hear its broker.
    away: Option<i64>,
}

impl Remembered for Open {}

impl Remembered for Bridge {}

/// Somebody who is silent for as long as some rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Silent {
    pub(super) subject: Subject,
    pub(super) id: Arc<str>,
    pub(super) host: Option<String>,
    pub(super) stopped: bool,
    pub(super) since: i64,
}

impl Silent {
    /// As rows with [`silence_columns`].
    pub(super) fn rows(silent: &[Self]) -> Result<RecordBatch, ArrowError> {
        let text = |of: &dyn Fn(&Self) -> Option<String>| -> ArrayRef {
            Arc::new(silent.iter().map(of).collect::<StringArray>())
        };
        let since: Vec<i64> = silent.iter().map(|one| one.since).collect();
        RecordBatch::try_new(
            silence_columns(),
            vec![
                text(&|one| Some(one.subject.name().to_owned())),
                text(&|one| Some(one.id.to_string())),
                text(&|one| one.host.clone()),
                Arc::new(silent.iter().map(|one| Some(one.stopped)).collect::<BooleanArray>()),
                Arc::new(TimestampMicrosecondArray::from(since).with_timezone("+00:00")),
            ],
        )
    }
}

/// What happened to a silence, in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It has lasted as long as the rule of this number says.
    Reached(usize, Silent, i64),
    /// Over at this time of the log's clock, for a reason.
    Over(Subject, Arc<str>, i64, &'static str),
}

/// A rule on silence, by its number: whose, and for how long, µs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) rule: usize,
    pub(super) of: Subject,
    pub(super) silence: i64,
}

/// What rules on silence remember of one partition.
#[derive(Debug)]
pub(super) struct Absences {
    pub(super) open: Keyed<Open>,
    bridges: Keyed<Bridge>,
    key: Key,
    /// Silent agents for which some rule's time is not up, with the silence that was judged last. Made anew after a
    /// restore: judging a silence twice changes nothing, for what a predicate may ask does not change while it lasts.
    waiting: Option<BTreeMap<u32, i64>>,
}

impl Default for Absences {
    fn default() -> Self {
        Self {
            open: Keyed::new("absences"),
            bridges: Keyed::new("bridges"),
            key: Key::new("", ""),
            waiting: None,
        }
    }
}

impl Absences {
    /// Its keyed state.
    pub(super) fn operators(&mut self) -> [&mut dyn Operator; 2] {
        [&mut self.open, &mut self.bridges]
    }

    /// Other rules are in force: every silence is judged anew.
    pub(super) fn rules_changed(&mut self) {
        self.waiting = None;
    }

    /// Whether the time of some rule may be up at the next clock record.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.as_ref().is_none_or(|waiting| !waiting.is_empty())
    }

    /// Agents that are heard again.
    pub(super) fn heard<'a>(
        &mut self,
        noticed: impl Iterator<Item = &'a Noticed>,
        tracker: &Tracker,
        changes: &mut Vec<Change>,
    ) {
        for one in noticed {
            if let Noticed::Back { agent, now } = one {
                if let Some(waiting) = &mut self.waiting {
                    waiting.remove(agent);
                }
                let id = Arc::clone(&tracker.agent(*agent).id);
                changes.push(Change::Over(Subject::Agent, id, *now, "it is heard again"));
            }
        }
    }

    /// The number of an agent is free from now on.
    pub(super) fn forget(&mut self, number: u32) {
        if let Some(waiting) = &mut self.waiting {
            waiting.remove(&number);
        }
    }

    /// Agents that are silent at a clock record; `silent` are those that have just become so.
    pub(super) fn agents(
        &mut self,
        limits: &[Limit],
        tracker: &Tracker,
        nodes: &Nodes,
        silent: &[u32],
        changes: &mut Vec<Change>,
    ) {
        let waiting =
            self.waiting.get_or_insert_with(|| tracker.silent().map(|number| (number, 0)).collect());
        waiting.extend(silent.iter().map(|number| (*number, 0)));
        let of_agents = || limits.iter().filter(|limit| limit.of == Subject::Agent);
        let longest = of_agents().map(|limit| limit.silence).max().unwrap_or(0);
        let (now, quiet) = (tracker.now(), tracker.quiet());
        waiting.retain(|number, judged| {
            let agent = tracker.agent(*number);
            let silence = quiet.saturating_sub(agent.heard);
            for limit in of_agents().filter(|limit| *judged < limit.silence && limit.silence <= silence) {
                let node = nodes.get(&agent.id);
                let one = Silent {
                    subject: Subject::Agent,
                    id: Arc::clone(&agent.id),
                    host: node.and_then(|node| node.host.clone()),
                    stopped: node.is_some_and(super::nodes::Node::has_stopped),
                    since: now - silence,
                };
                changes.push(Change::Reached(limit.rule, one, now));
            }
            *judged = silence;
            silence < longest
        });
    }

    /// Bridges and brokers, clock record after clock record.
    pub(super) fn ticks(&mut self, limits: &[Limit], ticks: &[Tick], changes: &mut Vec<Change>) {
        for tick in ticks {
            for (id, _) in self.bridges.keys() {
                self.judge(&id, limits, tick.now, changes);
            }
            let id: Arc<str> = Arc::from(tick.bridge.as_str());
            let known = self.bridges.get(&id, &self.key).cloned();
            let reached = |change: &Change| matches!(change, Change::Reached(_, one, _) if one.id == id);
            let may_be_open = self.open.has_agent(&id) || changes.iter().any(reached);
            let mut over = |subject, why| {
                if may_be_open {
                    changes.push(Change::Over(subject, Arc::clone(&id), tick.now, why));
                }
            };
            over(Subject::Bridge, "it is heard again");
            if tick.goodbye {
                over(Subject::Broker, "its bridge has stopped");
                self.bridges.remove(&id, &self.key);
                continue;
            }
            if tick.connected {
                over(Subject::Broker, "it is heard again");
            }
            let away = match known.and_then(|bridge| bridge.away) {
                _ if tick.connected => None,
                None => Some(tick.now),
                since => since,
            };
            self.bridges.put(&id, self.key.clone(), Bridge { heard: tick.now, away });
            self.bound(tick.now, changes);
        }
    }

    /// Asks whether the time of a rule is up for one bridge.
    fn judge(&self, id: &Arc<str>, limits: &[Limit], now: i64, changes: &mut Vec<Change>) {
        let Some(bridge) = self.bridges.get(id, &self.key) else { return };
        for limit in limits {
            let since = match limit.of {
                Subject::Agent | Subject::Fleet => continue,
                Subject::Bridge => bridge.heard,
                Subject::Broker => match bridge.away {
                    Some(away) => away,
                    None => continue,
                },
            };
            if now.saturating_sub(since) >= limit.silence {
                let one = Silent { subject: limit.of, id: Arc::clone(id), host: None, stopped: false, since };
                changes.push(Change::Reached(limit.rule, one, now));
            }
        }
    }

    /// Forgets bridges that are too many or were silent for too long; so do those who were told of them.
    fn bound(&mut self, now: i64, changes: &mut Vec<Change>) {
        let mut keys = self.bridges.keys();
        let mut gone = Vec::new();
        if keys.len() > MOST_BRIDGES {
            let heard = |(id, key): &(Arc<str>, Key)| self.bridges.get(id, key).map(|bridge| bridge.heard);
            let longest = (0..keys.len()).min_by_key(|at| heard(&keys[*at]));
            gone.extend(longest.map(|at| keys.remove(at)));
        }
        let is_old = |(id, key): &(Arc<str>, Key)| {
            self.bridges.get(id, key).is_some_and(|bridge| now - bridge.heard > FORGOTTEN)
        };
        gone.extend(keys.into_iter().filter(is_old));
        for (id, key) in gone {
            self.bridges.remove(&id, &key);
            for subject in [Subject::Bridge, Subject::Broker] {
                changes.push(Change::Over(subject, Arc::clone(&id), now, "the bridge has been forgotten"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_that_never_returns_is_not_silent_for_ever() {
        const SECOND: i64 = 1_000_000;
        let mut absences = Absences::default();
        let limits = [Limit { rule: 0, of: Subject::Bridge, silence: 60 * SECOND }];
        let tick =
            |bridge: &str, now: i64| Tick { bridge: bridge.into(), now, connected: true, goodbye: false };
        let mut changes = Vec::new();
        let mut of_gone = |absences: &mut Absences, ticks: &[Tick]| {
            changes.clear();
            absences.ticks(&limits, ticks, &mut changes);
            let of = |change: &Change| match change {
                Change::Reached(_, one, _) if &*one.id == "gone" => Some("reached"),
                Change::Over(Subject::Bridge, id, ..) if &**id == "gone" => Some("over"),
                _ => None,
            };
            changes.iter().filter_map(of).collect::<Vec<_>>()
        };
        assert_eq!(of_gone(&mut absences, &[tick("gone", 0), tick("stays", 61 * SECOND)]), ["reached"]);
        assert_eq!(of_gone(&mut absences, &[tick("stays", FORGOTTEN)]), ["reached"]);
        assert_eq!(of_gone(&mut absences, &[tick("stays", FORGOTTEN + 1)]), ["reached", "over"]);
        assert!(of_gone(&mut absences, &[tick("stays", FORGOTTEN + 2)]).is_empty());
    }
}

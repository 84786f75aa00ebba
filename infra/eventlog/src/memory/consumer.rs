//! A member of a group in memory.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::MemoryLog;
use super::faults::{After, Call};
use super::groups::Phase;
use super::state::State;
use crate::error::{LogError, LogErrorKind};
use crate::log::{Consumer, GroupToken, Polled, StartAt};
use crate::record::{Position, TopicPartition};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) group: String,
    member: u64,
    generation: u64,
}

impl Token {
    /// Whether the member is still one and no newer generation has begun.
    pub(super) fn check(&self, state: &mut State) -> Result<(), LogError> {
        let group = state.group(&self.group);
        if group.generation == self.generation && group.members.contains_key(&self.member) {
            return Ok(());
        }
        let message = format!("group {} has changed since generation {}", self.group, self.generation);
        Err(LogError::new(LogErrorKind::Rebalanced, message))
    }
}

/// A member of a group; see [`crate::Consumer`]. Dropping it leaves the group, unless it is a static member or its
/// handle was killed.
pub struct MemoryConsumer {
    log: MemoryLog,
    group: String,
    topics: Vec<Arc<str>>,
    instance: Option<String>,
    reset: StartAt,
    member: u64,
    owned: Vec<TopicPartition>,
    reading: BTreeMap<TopicPartition, i64>,
    paused: HashSet<TopicPartition>,
    token: Option<Token>,
    /// Which partition is read first next time, so that none starves.
    turn: usize,
}

impl MemoryConsumer {
    pub(super) fn join(
        log: MemoryLog,
        group: &str,
        topics: &[&str],
        instance: Option<&str>,
        reset: StartAt,
    ) -> Self {
        let topics: Vec<Arc<str>> = topics.iter().map(|topic| Arc::from(*topic)).collect();
        let member = log.lock().group(group).join(log.handle.id, &topics, instance);
        Self {
            log,
            group: group.to_owned(),
            topics,
            instance: instance.map(str::to_owned),
            reset,
            member,
            owned: Vec::new(),
            reading: BTreeMap::new(),
            paused: HashSet::new(),
            token: None,
            turn: 0,
        }
    }

    fn enter(&self, call: Call) -> Result<After, LogError> {
        let entered = self.log.handle.before(call);
        self.bury_if_dead();
        entered
    }

    fn leave<T>(&self, after: After, answer: T) -> Result<T, LogError> {
        let left = self.log.handle.after(after, answer);
        self.bury_if_dead();
        left
    }

    fn bury_if_dead(&self) {
        if self.log.handle.is_dead() {
            self.log.lock().expel(self.log.handle.id);
        }
    }

    /// Rebalances first; `None` when this member may read.
    fn poll_group(&mut self, state: &mut State) -> Option<Polled> {
        loop {
            let Some(member) = state.group(&self.group).members.get_mut(&self.member) else {
                return Some(self.rejoin(state));
            };
            match std::mem::replace(&mut member.phase, Phase::Stable) {
                Phase::Stable => return None,
                Phase::MustRevoke => {
                    member.phase = Phase::Revoked;
                    member.owned.clear();
                    return Some(Polled::Revoked { partitions: self.give_back(), lost: false });
                }
                Phase::Revoked => member.phase = Phase::Joining,
                Phase::Joining => {
                    member.phase = Phase::Joining;
                    state.try_complete(&self.group);
                    let still = state.group(&self.group).members.get(&self.member);
                    if still.is_none_or(|member| member.phase == Phase::Joining) {
                        return Some(Polled::Records(Vec::new()));
                    }
                }
                Phase::Assigned(partitions) => {
                    member.owned.clone_from(&partitions);
                    let generation = state.group(&self.group).generation;
                    self.token = Some(Token { group: self.group.clone(), member: self.member, generation });
                    self.owned.clone_from(&partitions);
                    return Some(Polled::Assigned(partitions));
                }
            }
        }
    }

    /// This member was thrown out: it says so if it owned anything, and joins as a new one.
    fn rejoin(&mut self, state: &mut State) -> Polled {
        let partitions = self.give_back();
        self.member =
            state.group(&self.group).join(self.log.handle.id, &self.topics, self.instance.as_deref());
        if partitions.is_empty() {
            return Polled::Records(Vec::new());
        }
        Polled::Revoked { partitions, lost: true }
    }

    fn give_back(&mut self) -> Vec<TopicPartition> {
        self.reading.clear();
        self.paused.clear();
        std::mem::take(&mut self.owned)
    }

    fn fetch(&mut self, state: &State, max_records: usize) -> Result<Polled, LogError> {
        let mut records = Vec::new();
        let partitions: Vec<TopicPartition> = self.reading.keys().cloned().collect();
        let count = partitions.len();
        for of in (0..count).map(|n| &partitions[(self.turn + n) % count]) {
            if self.paused.contains(of) || records.len() == max_records {
                continue;
            }
            let Some(next) = self.reading.get_mut(of) else {
                continue;
            };
            let partition = state.partition(of)?;
            if *next < partition.start || *next > partition.end {
                return Err(LogError::out_of_range(&of.topic, of.partition, *next, partition.start));
            }
            let (found, then) = state.read_committed(of, *next, max_records - records.len())?;
            *next = then;
            records.extend(found);
        }
        self.turn = self.turn.wrapping_add(1);
        Ok(Polled::Records(records))
    }

    fn begin_at(&self, state: &mut State, of: &TopicPartition) -> Result<i64, LogError> {
        if let Some(offset) = state.stable_offset(&self.group, of)? {
            return Ok(offset);
        }
        let partition = state.partition(of)?;
        Ok(match self.reset {
            StartAt::Earliest => partition.start,
            StartAt::Latest => partition.end,
        })
    }
}

impl Consumer for MemoryConsumer {
    fn poll(&mut self, max_records: usize, _max_wait: Duration) -> Result<Polled, LogError> {
        let after = self.enter(Call::Poll)?;
        let log = self.log.clone();
        let mut state = log.lock();
        let polled = match self.poll_group(&mut state) {
            Some(polled) => Ok(polled),
            None => self.fetch(&state, max_records),
        };
        drop(state);
        self.leave(after, polled?)
    }

    fn start(&mut self, at: &[Position]) -> Result<(), LogError> {
        let after = self.enter(Call::Start)?;
        let log = self.log.clone();
        let mut state = log.lock();
        let named: BTreeMap<TopicPartition, i64> =
            at.iter().map(|at| (at.topic_partition(), at.offset)).collect();
        if let Some(stranger) = named.keys().find(|of| !self.owned.contains(of)) {
            return Err(LogError::new(LogErrorKind::Rebalanced, format!("{stranger} is not assigned")));
        }
        for of in &self.owned {
            if let Some(offset) = named.get(of) {
                self.reading.insert(of.clone(), *offset);
            } else if !self.reading.contains_key(of) {
                let offset = self.begin_at(&mut state, of)?;
                self.reading.insert(of.clone(), offset);
            }
        }
        drop(state);
        self.leave(after, ())
    }

    fn positions(&mut self) -> Vec<Position> {
        self.reading.iter().map(|(of, next)| of.at(*next)).collect()
    }

    fn pause(&mut self, of: &[TopicPartition]) {
        self.paused.extend(of.iter().cloned());
    }

    fn resume(&mut self, of: &[TopicPartition]) {
        for partition in of {
            self.paused.remove(partition);
        }
    }

    fn committed(&mut self, of: &[TopicPartition]) -> Result<Vec<Option<i64>>, LogError> {
        let after = self.enter(Call::Committed)?;
        let offsets = {
            let mut state = self.log.lock();
            of.iter().map(|of| state.stable_offset(&self.group, of)).collect::<Result<Vec<_>, _>>()?
        };
        self.leave(after, offsets)
    }

    fn bounds(&mut self, of: &TopicPartition) -> Result<(i64, i64), LogError> {
        let after = self.enter(Call::Bounds)?;
        let bounds = self.log.lock().partition(of).map(|partition| (partition.start, partition.end))?;
        self.leave(after, bounds)
    }

    fn commit(&mut self, at: &[Position]) -> Result<(), LogError> {
        let after = self.enter(Call::ConsumerCommit)?;
        let Some(token) = &self.token else {
            return Err(LogError::new(LogErrorKind::Rebalanced, "nothing is assigned yet"));
        };
        {
            let mut state = self.log.lock();
            token.check(&mut state)?;
            let group = state.group(&self.group);
            group.committed.extend(at.iter().map(|at| (at.topic_partition(), at.offset)));
        }
        self.leave(after, ())
    }

    fn group_token(&mut self) -> Result<GroupToken, LogError> {
        self.log.handle.check_alive()?;
        match &self.token {
            Some(token) => Ok(GroupToken(Arc::new(token.clone()))),
            None => Err(LogError::new(LogErrorKind::Rebalanced, "nothing is assigned yet")),
        }
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        if !self.log.handle.is_dead() {
            self.log.lock().group(&self.group).leave(self.member);
        }
    }
}

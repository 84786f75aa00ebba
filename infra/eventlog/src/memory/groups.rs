//! A consumer group: members, generations and the eager protocol.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::record::TopicPartition;

/// Where a member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for the others.
    Joining,
    /// Has an assignment that its next poll will bring.
    Assigned(Vec<TopicPartition>),
    /// Reads.
    Stable,
    /// Its next poll will tell it to give its partitions back.
    MustRevoke,
    /// Was told so; its next poll joins.
    Revoked,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) handle: u64,
    pub(super) topics: Vec<Arc<str>>,
    pub(super) instance: Option<String>,
    pub(super) owned: Vec<TopicPartition>,
    pub(super) phase: Phase,
    /// A static member whose process is gone; it keeps its partitions until a rebalance.
    pub(super) absent: bool,
}

#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) generation: u64,
    next_member: u64,
    pub(super) members: BTreeMap<u64, Member>,
    pub(super) committed: HashMap<TopicPartition, i64>,
    pub(super) pinned: Option<Vec<Vec<TopicPartition>>>,
}

impl Group {
    /// Adds a member and begins a rebalance, unless it is a static member that comes back.
    pub(super) fn join(&mut self, handle: u64, topics: &[Arc<str>], instance: Option<&str>) -> u64 {
        let number = self.next_member;
        self.next_member += 1;
        let mut member = Member {
            handle,
            topics: topics.to_vec(),
            instance: instance.map(str::to_owned),
            owned: Vec::new(),
            phase: Phase::Joining,
            absent: false,
        };
        if let Some(before) = self.take_instance(instance) {
            let holds = matches!(before.phase, Phase::Stable | Phase::Assigned(_));
            if holds && before.topics == member.topics {
                member.phase = match before.phase {
                    Phase::Assigned(partitions) => Phase::Assigned(partitions),
                    _ => Phase::Assigned(before.owned),
                };
                self.members.insert(number, member);
                return number;
            }
        }
        self.members.insert(number, member);
        self.begin_rebalance();
        number
    }

    fn take_instance(&mut self, instance: Option<&str>) -> Option<Member> {
        let instance = instance?;
        let number = self.members.iter().find(|(_, member)| member.instance.as_deref() == Some(instance))?.0;
        let number = *number;
        self.members.remove(&number)
    }

    /// A member goes of its own will; a static one only leaves its place empty.
    pub(super) fn leave(&mut self, number: u64) {
        match self.members.get_mut(&number) {
            Some(member) if member.instance.is_some() => member.absent = true,
            Some(_) => self.remove(number),
            None => {}
        }
    }

    pub(super) fn remove(&mut self, number: u64) {
        if self.members.remove(&number).is_some() {
            self.begin_rebalance();
        }
    }

    /// Everyone must give back and join again. Static members that are absent are given up.
    pub(super) fn begin_rebalance(&mut self) {
        self.members.retain(|_, member| !member.absent);
        for member in self.members.values_mut() {
            member.phase = match member.phase {
                Phase::Stable if !member.owned.is_empty() => Phase::MustRevoke,
                Phase::MustRevoke => Phase::MustRevoke,
                Phase::Revoked => Phase::Revoked,
                // An assignment that was never seen need not be given back.
                Phase::Stable | Phase::Assigned(_) | Phase::Joining => Phase::Joining,
            };
        }
    }

    /// Begins the next generation once all members have joined. `counts` are partitions by topic.
    pub(super) fn try_complete(&mut self, counts: &BTreeMap<Arc<str>, i32>) {
        if !self.members.values().all(|member| member.phase == Phase::Joining) {
            return;
        }
        self.generation += 1;
        let mut lists = self.pinned.clone().unwrap_or_else(|| self.ranges(counts)).into_iter();
        for member in self.members.values_mut() {
            member.phase = Phase::Assigned(lists.next().unwrap_or_default());
        }
    }

    /// Kafka's range assignor: each topic's partitions in consecutive runs over its members.
    fn ranges(&self, counts: &BTreeMap<Arc<str>, i32>) -> Vec<Vec<TopicPartition>> {
        let mut lists = vec![Vec::new(); self.members.len()];
        for (topic, count) in counts {
            let interested: Vec<usize> = self
                .members
                .values()
                .enumerate()
                .filter(|(_, member)| member.topics.contains(topic))
                .map(|(place, _)| place)
                .collect();
            let among = interested.len() as i32;
            let mut next = 0;
            for (rank, place) in interested.into_iter().enumerate() {
                let share = count / among + i32::from((rank as i32) < count % among);
                lists[place].extend(
                    (next..next + share).map(|number| TopicPartition::new(Arc::clone(topic), number)),
                );
                next += share;
            }
        }
        lists
    }
}

//! All that the handles share.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use schemas::topics::TopicSpec;

use super::groups::Group;
use super::partition::{Content, Entry, Partition};
use super::producer::Delivery;
use crate::error::{LogError, LogErrorKind};
use crate::partitioner::partition_of;
use crate::record::{NewRecord, Position, Record, TopicPartition};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Open,
    Committed,
    Aborted,
}

#[derive(Debug)]
struct Transaction {
    status: Status,
    /// Partitions written to that have no marker yet.
    unmarked: HashSet<TopicPartition>,
    /// Offsets by group that have not landed yet.
    offsets: BTreeMap<String, Vec<Position>>,
}

#[derive(Debug, Default)]
struct ProducerState {
    epoch: u64,
    last: Option<usize>,
}

#[derive(Default)]
struct Topic {
    partitions: Vec<Partition>,
    spec: Option<TopicSpec>,
}

#[derive(Default)]
pub(super) struct State {
    topics: BTreeMap<Arc<str>, Topic>,
    groups: HashMap<String, Group>,
    producers: HashMap<String, ProducerState>,
    transactions: Vec<Transaction>,
    pub(super) handles: u64,
    pub(super) now_ms: i64,
    pub(super) delayed: HashSet<TopicPartition>,
    pub(super) delayed_offsets: HashSet<String>,
    pub(super) hold_deliveries: Option<usize>,
    held: VecDeque<Delivery>,
}

impl State {
    pub(super) fn create(&mut self, topic: &str, partitions: i32, spec: Option<TopicSpec>) {
        let partitions = (0..partitions).map(|_| Partition::default()).collect();
        self.topics.insert(Arc::from(topic), Topic { partitions, spec });
    }

    pub(super) fn settings(&self, topic: &str) -> Vec<(&'static str, String)> {
        let spec = self.topics.get(topic).and_then(|topic| topic.spec.as_ref());
        spec.map(TopicSpec::settings).unwrap_or_default()
    }

    pub(super) fn partition_count(&self, topic: &str) -> Result<i32, LogError> {
        let found = self.topics.get(topic).ok_or_else(|| unknown(topic))?;
        Ok(found.partitions.len() as i32)
    }

    pub(super) fn partition(&self, of: &TopicPartition) -> Result<&Partition, LogError> {
        let topic = self.topics.get(&of.topic).ok_or_else(|| unknown(&of.topic))?;
        topic.partitions.get(of.partition as usize).ok_or_else(|| unknown(&of.to_string()))
    }

    pub(super) fn partition_mut(&mut self, of: &TopicPartition) -> Result<&mut Partition, LogError> {
        let topic = self.topics.get_mut(&of.topic).ok_or_else(|| unknown(&of.topic))?;
        topic.partitions.get_mut(of.partition as usize).ok_or_else(|| unknown(&of.to_string()))
    }

    pub(super) fn group(&mut self, name: &str) -> &mut Group {
        self.groups.entry(name.to_owned()).or_default()
    }

    /// Lets a group's rebalance end if everyone is there.
    pub(super) fn try_complete(&mut self, group: &str) {
        let counts = self
            .topics
            .iter()
            .map(|(name, topic)| (Arc::clone(name), topic.partitions.len() as i32))
            .collect();
        self.group(group).try_complete(&counts);
    }

    pub(super) fn expel(&mut self, handle: u64) {
        for group in self.groups.values_mut() {
            let gone: Vec<u64> =
                group.members.iter().filter(|(_, member)| member.handle == handle).map(|(n, _)| *n).collect();
            for number in gone {
                group.remove(number);
            }
        }
    }

    /// Appends a record; the transaction, if any, is open.
    pub(super) fn append(
        &mut self,
        record: NewRecord,
        transaction: Option<usize>,
    ) -> Result<(i32, i64), LogError> {
        let topic = self.topics.get_mut(&record.topic).ok_or_else(|| unknown(&record.topic))?;
        let size = record.key.as_ref().map_or(0, bytes::Bytes::len)
            + record.value.as_ref().map_or(0, bytes::Bytes::len);
        if let Some(spec) = topic.spec.as_ref().filter(|spec| size > spec.max_message_bytes as usize) {
            let message =
                format!("{size} bytes are more than topic {} takes ({})", spec.name, spec.max_message_bytes);
            return Err(LogError::new(LogErrorKind::TooLarge, message));
        }
        let count = topic.partitions.len() as i32;
        let number =
            record.partition.unwrap_or_else(|| record.key.as_ref().map_or(0, |key| partition_of(key, count)));
        let of = TopicPartition { topic: record.topic, partition: number };
        let now = self.now_ms;
        let content = Content::Record { key: record.key, value: record.value, headers: record.headers };
        let offset = self.partition_mut(&of)?.append(content, now, transaction);
        if let Some(transaction) = transaction {
            self.transactions[transaction].unmarked.insert(of);
        }
        Ok((number, offset))
    }

    /// Settled records from an offset on, at most `max`, and the offset to go on from.
    pub(super) fn read_committed(
        &self,
        of: &TopicPartition,
        from: i64,
        max: usize,
    ) -> Result<(Vec<Record>, i64), LogError> {
        let partition = self.partition(of)?;
        let end = partition.stable_end();
        let mut records = Vec::new();
        if from >= end {
            return Ok((records, from));
        }
        for (offset, entry) in partition.entries.range(from..end) {
            if records.len() == max {
                return Ok((records, *offset));
            }
            let Content::Record { key, value, headers } = &entry.content else {
                continue;
            };
            if entry.transaction.is_some_and(|number| self.transactions[number].status == Status::Aborted) {
                continue;
            }
            records.push(Record {
                topic: Arc::clone(&of.topic),
                partition: of.partition,
                offset: *offset,
                timestamp: entry.timestamp,
                key: key.clone(),
                value: value.clone(),
                headers: headers.clone(),
            });
        }
        Ok((records, end))
    }

    pub(super) fn raw(&self, topic: &str) -> BTreeMap<(i32, i64), Entry> {
        let partitions = self.topics.get(topic).map(|topic| topic.partitions.iter()).into_iter().flatten();
        partitions
            .enumerate()
            .flat_map(|(number, partition)| {
                partition.entries.iter().map(move |(offset, entry)| ((number as i32, *offset), entry.clone()))
            })
            .collect()
    }

    pub(super) fn compact(&mut self, topic: &str) {
        let transactions = &self.transactions;
        let Some(topic) = self.topics.get_mut(topic) else {
            return;
        };
        for partition in &mut topic.partitions {
            let end = partition.stable_end();
            let mut newest = HashMap::new();
            for (offset, entry) in partition.entries.range(..end) {
                let aborted = entry.transaction.is_some_and(|n| transactions[n].status == Status::Aborted);
                if let Content::Record { key: Some(key), .. } = &entry.content
                    && !aborted
                {
                    newest.insert(key.clone(), *offset);
                }
            }
            partition.entries.retain(|offset, entry| match &entry.content {
                Content::Record { key: Some(key), .. } if *offset < end => newest.get(key) == Some(offset),
                Content::Record { .. } => true,
                Content::Marker { .. } => *offset >= end,
            });
        }
    }

    // ---- transactions ----

    /// A new epoch for a transactional id. What the older producer left open is aborted; what is still landing
    /// must land first.
    pub(super) fn open_producer(&mut self, id: &str) -> Result<u64, LogError> {
        let producer = self.producers.entry(id.to_owned()).or_default();
        producer.epoch += 1;
        let (epoch, last) = (producer.epoch, producer.last);
        if let Some(last) = last {
            if self.transactions[last].status == Status::Open {
                self.end(last, false);
            }
            let landing = &self.transactions[last];
            if !landing.unmarked.is_empty() || !landing.offsets.is_empty() {
                return Err(LogError::unavailable(format!(
                    "the last transaction of {id} is still being settled"
                )));
            }
        }
        Ok(epoch)
    }

    pub(super) fn check_epoch(&self, id: &str, epoch: u64) -> Result<(), LogError> {
        if self.producers.get(id).is_some_and(|producer| producer.epoch == epoch) {
            return Ok(());
        }
        Err(LogError::new(LogErrorKind::Fenced, format!("a newer producer has the transactional id {id}")))
    }

    pub(super) fn begin(&mut self, id: &str) -> usize {
        let number = self.transactions.len();
        self.transactions.push(Transaction {
            status: Status::Open,
            unmarked: HashSet::new(),
            offsets: BTreeMap::new(),
        });
        if let Some(producer) = self.producers.get_mut(id) {
            producer.last = Some(number);
        }
        number
    }

    pub(super) fn add_offsets(&mut self, transaction: usize, group: &str, offsets: &[Position]) {
        self.transactions[transaction].offsets.insert(group.to_owned(), offsets.to_vec());
    }

    pub(super) fn end(&mut self, number: usize, commit: bool) {
        let transaction = &mut self.transactions[number];
        transaction.status = if commit { Status::Committed } else { Status::Aborted };
        let mut partitions: Vec<TopicPartition> = transaction.unmarked.iter().cloned().collect();
        partitions.sort();
        let groups: Vec<String> = transaction.offsets.keys().cloned().collect();
        for of in partitions.iter().filter(|of| !self.delayed.contains(of)).cloned().collect::<Vec<_>>() {
            self.mark(number, &of);
        }
        for group in
            groups.iter().filter(|group| !self.delayed_offsets.contains(*group)).cloned().collect::<Vec<_>>()
        {
            self.land(number, &group);
        }
    }

    fn mark(&mut self, number: usize, of: &TopicPartition) {
        let committed = self.transactions[number].status == Status::Committed;
        self.transactions[number].unmarked.remove(of);
        let now = self.now_ms;
        if let Ok(partition) = self.partition_mut(of) {
            partition.append(Content::Marker { committed }, now, Some(number));
        }
    }

    fn land(&mut self, number: usize, group: &str) {
        let transaction = &mut self.transactions[number];
        let committed = transaction.status == Status::Committed;
        let Some(offsets) = transaction.offsets.remove(group) else {
            return;
        };
        if committed {
            let group = self.group(group);
            group.committed.extend(offsets.into_iter().map(|at| (at.topic_partition(), at.offset)));
        }
    }

    pub(super) fn release_markers(&mut self, of: &TopicPartition) {
        self.delayed.remove(of);
        for number in 0..self.transactions.len() {
            let transaction = &self.transactions[number];
            if transaction.status != Status::Open && transaction.unmarked.contains(of) {
                self.mark(number, of);
            }
        }
    }

    pub(super) fn release_offsets(&mut self, group: &str) {
        self.delayed_offsets.remove(group);
        for number in 0..self.transactions.len() {
            if self.transactions[number].status != Status::Open {
                self.land(number, group);
            }
        }
    }

    pub(super) fn time_out_transactions(&mut self) {
        let mut open: Vec<usize> = Vec::new();
        for producer in self.producers.values_mut() {
            let Some(last) = producer.last else { continue };
            if self.transactions[last].status == Status::Open {
                producer.epoch += 1;
                open.push(last);
            }
        }
        open.sort_unstable();
        for number in open {
            self.end(number, false);
        }
    }

    /// The committed offset, unless a transaction that is not settled may change it.
    pub(super) fn stable_offset(
        &mut self,
        group: &str,
        of: &TopicPartition,
    ) -> Result<Option<i64>, LogError> {
        let is_pending = |transaction: &Transaction| {
            transaction.offsets.get(group).is_some_and(|offsets| {
                offsets.iter().any(|at| at.partition == of.partition && at.topic == of.topic)
            })
        };
        if self.transactions.iter().any(is_pending) {
            return Err(LogError::unavailable(format!(
                "offsets of group {group} in {of} are pending in a transaction"
            )));
        }
        Ok(self.group(group).committed.get(of).copied())
    }

    // ---- deliveries ----

    /// Gives the report back when it is due now.
    pub(super) fn deliver(&mut self, delivery: Delivery) -> Option<Delivery> {
        if self.hold_deliveries.is_none() {
            return Some(delivery);
        }
        self.held.push_back(delivery);
        None
    }

    pub(super) fn take_deliveries(&mut self, count: usize) -> Vec<Delivery> {
        if count == usize::MAX {
            self.hold_deliveries = None;
        }
        let count = count.min(self.held.len());
        self.held.drain(..count).collect()
    }
}

fn unknown(what: &str) -> LogError {
    LogError::new(LogErrorKind::UnknownTopic, format!("there is no {what}"))
}

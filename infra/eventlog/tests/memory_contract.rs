//! The memory log keeps the promises of every log, and models what Kafka's tests cannot provoke.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod contract;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use contract::World;
use eventlog::memory::{Call, Fault, MemoryLog};
use eventlog::{
    AppendError, Appender, Consumer, Log, LogErrorKind, NewRecord, Polled, StartAt, TopicPartition,
    TransactionalProducer,
};

struct Memory {
    log: MemoryLog,
    names: AtomicU32,
}

impl Memory {
    fn new() -> Self {
        Self { log: MemoryLog::new(), names: AtomicU32::new(0) }
    }
}

impl World for Memory {
    type Log = MemoryLog;

    fn log(&self) -> MemoryLog {
        self.log.clone()
    }

    fn trim(&self, of: &TopicPartition, before: i64) {
        self.log.trim(of, before);
    }

    fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }
}

promises!(Memory::new());

const NO_WAIT: Duration = Duration::ZERO;

fn record(topic: &str, number: i32) -> NewRecord {
    NewRecord::keyed(topic, "key", format!("{number}")).to_partition(0)
}

fn values(log: &MemoryLog, topic: &str) -> Vec<String> {
    log.records(topic).into_iter().map(|r| String::from_utf8(r.value.unwrap().to_vec()).unwrap()).collect()
}

/// A member that reads all of `in`.
fn member(log: &MemoryLog) -> <MemoryLog as Log>::Consumer {
    let mut consumer = log.consumer("group", &["in"], None, StartAt::Earliest).unwrap();
    loop {
        if let Polled::Assigned(_) = consumer.poll(10, NO_WAIT).unwrap() {
            consumer.start(&[]).unwrap();
            return consumer;
        }
    }
}

fn log() -> MemoryLog {
    let log = MemoryLog::new();
    log.create("in", 2);
    log.create("out", 2);
    log
}

#[test]
fn markers_of_one_transaction_land_apart() {
    let log = log();
    let mut consumer = member(&log);
    let token = consumer.group_token().unwrap();
    let mut producer = log.transactional_producer("w").unwrap();
    let [out0, out1] = [0, 1].map(|partition| TopicPartition::new("out", partition));
    log.delay_markers(&out1);
    producer.begin().unwrap();
    producer.send(record("out", 1)).unwrap();
    producer.send(record("out", 2).to_partition(1)).unwrap();
    producer.commit(&[], &token).unwrap();
    assert_eq!(values(&log, "out"), ["1"]);
    assert_eq!(consumer.bounds(&out0).unwrap(), (0, 2));
    assert_eq!(consumer.bounds(&out1).unwrap(), (0, 1));
    let error = log.read_partition(&out1, 0, 1, &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Unavailable);
    // The same id cannot go on before its last transaction has landed.
    assert_eq!(log.transactional_producer("w").err().unwrap().kind, LogErrorKind::Unavailable);
    log.release_markers(&out1);
    assert_eq!(values(&log, "out"), ["1", "2"]);
    assert!(log.transactional_producer("w").is_ok());
}

#[test]
fn an_open_transaction_hides_what_comes_after_it() {
    let log = log();
    let mut slow = log.transactional_producer("slow").unwrap();
    slow.begin().unwrap();
    slow.send(record("out", 1)).unwrap();
    let appender = log.appender(Box::new(|_, _| ())).unwrap();
    appender.append(record("out", 2), 0).unwrap();
    assert!(values(&log, "out").is_empty());
    assert_eq!(log.raw("out").len(), 2);
    log.time_out_transactions();
    assert_eq!(values(&log, "out"), ["2"]);
    assert_eq!(slow.send(record("out", 3)).unwrap_err().kind, LogErrorKind::Fenced);
}

#[test]
fn pending_offsets_make_committed_fail_until_they_land() {
    let log = log();
    let mut consumer = member(&log);
    let token = consumer.group_token().unwrap();
    let in0 = TopicPartition::new("in", 0);
    let mut producer = log.transactional_producer("w").unwrap();
    log.delay_offsets("group");
    producer.begin().unwrap();
    producer.commit(&[in0.at(3)], &token).unwrap();
    let error = consumer.committed(std::slice::from_ref(&in0)).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Unavailable);
    log.release_offsets("group");
    assert_eq!(consumer.committed(std::slice::from_ref(&in0)).unwrap(), [Some(3)]);
}

#[test]
fn a_call_can_be_broken_in_every_way() {
    let commit = |fault: Fault| {
        let log = log();
        let mut consumer = member(&log);
        let token = consumer.group_token().unwrap();
        let worker = log.handle();
        // begin, send, commit
        worker.fail_at(3, fault);
        let mut producer = worker.transactional_producer("w").unwrap();
        producer.begin().unwrap();
        producer.send(record("out", 1)).unwrap();
        let kind = producer.commit(&[], &token).unwrap_err().kind;
        let next = producer.begin().map_err(|error| error.kind);
        assert_eq!(worker.calls()[..3], [Call::Begin, Call::Send, Call::Commit]);
        (kind, values(&log, "out").len(), next.err())
    };
    assert_eq!(commit(Fault::Unavailable), (LogErrorKind::Unavailable, 0, Some(LogErrorKind::Fatal)));
    assert_eq!(commit(Fault::Aborted), (LogErrorKind::Aborted, 0, Some(LogErrorKind::Fatal)));
    assert_eq!(commit(Fault::LostAnswer), (LogErrorKind::Unavailable, 1, None));
    assert_eq!(commit(Fault::Fatal), (LogErrorKind::Fatal, 0, Some(LogErrorKind::Fatal)));
    assert_eq!(commit(Fault::Kill), (LogErrorKind::Fatal, 0, Some(LogErrorKind::Fatal)));
    assert_eq!(commit(Fault::KillAfter), (LogErrorKind::Fatal, 1, Some(LogErrorKind::Fatal)));
}

#[test]
fn a_killed_worker_leaves_its_transaction_to_its_successor() {
    let log = log();
    let (one, two) = (log.handle(), log.handle());
    let mut first = member(&one);
    let token = first.group_token().unwrap();
    let mut producer = one.transactional_producer("w").unwrap();
    producer.begin().unwrap();
    producer.send(record("out", 1)).unwrap();
    one.kill();
    assert_eq!(first.poll(1, NO_WAIT).unwrap_err().kind, LogErrorKind::Fatal);
    assert_eq!(producer.commit(&[], &token).unwrap_err().kind, LogErrorKind::Fatal);
    drop((first, producer));
    let mut second = member(&two);
    let token = second.group_token().unwrap();
    let mut producer = two.transactional_producer("w").unwrap();
    producer.begin().unwrap();
    producer.send(record("out", 2)).unwrap();
    producer.commit(&[], &token).unwrap();
    assert_eq!(values(&log, "out"), ["2"]);
}

#[test]
fn an_expelled_member_hears_that_its_partitions_are_lost() {
    let log = log();
    let (one, two) = (log.handle(), log.handle());
    let mut first = member(&one);
    let token = first.group_token().unwrap();
    one.expel();
    let mut second = member(&two);
    let mut producer = one.transactional_producer("w").unwrap();
    producer.begin().unwrap();
    let error = producer.commit(&[TopicPartition::new("in", 0).at(1)], &token).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Rebalanced);
    let Polled::Revoked { partitions, lost } = first.poll(1, NO_WAIT).unwrap() else { panic!("not told") };
    assert_eq!((partitions.len(), lost), (2, true));
    // It comes back as a new member.
    assert!(matches!(second.poll(1, NO_WAIT).unwrap(), Polled::Revoked { lost: false, .. }));
    assert_eq!(second.poll(1, NO_WAIT).unwrap(), Polled::Assigned(vec![TopicPartition::new("in", 0)]));
    assert_eq!(first.poll(1, NO_WAIT).unwrap(), Polled::Assigned(vec![TopicPartition::new("in", 1)]));
}

#[test]
fn a_test_can_decide_who_gets_what() {
    let log = log();
    log.pin("group", &[vec![TopicPartition::new("in", 1)]]);
    let mut consumer = log.consumer("group", &["in"], None, StartAt::Earliest).unwrap();
    assert_eq!(consumer.poll(1, NO_WAIT).unwrap(), Polled::Assigned(vec![TopicPartition::new("in", 1)]));
    log.pin("group", &[]);
    log.rebalance("group");
    assert!(matches!(consumer.poll(1, NO_WAIT).unwrap(), Polled::Revoked { .. }));
    let Polled::Assigned(all) = consumer.poll(1, NO_WAIT).unwrap() else { panic!("not assigned") };
    assert_eq!(all.len(), 2);
}

#[test]
fn the_clock_stamps_and_compaction_keeps_the_newest() {
    let log = log();
    let appender = log.appender(Box::new(|_, _| ())).unwrap();
    for (number, key) in (0..).zip(["a", "b", "a", "a"]) {
        log.set_time(1000 + number);
        let new = NewRecord::keyed("in", key, Bytes::from(number.to_string())).to_partition(0);
        appender.append(new, 0).unwrap();
    }
    log.compact("in");
    let left: Vec<(i64, i64)> =
        log.records("in").iter().map(|record| (record.offset, record.timestamp)).collect();
    assert_eq!(left, [(1, 1001), (3, 1003)]);
}

#[test]
fn deliveries_can_be_held_back() {
    let log = log();
    let told = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&told);
    let appender = log
        .appender(Box::new(move |token, outcome| {
            assert_eq!(outcome.unwrap().1, token as i64);
            counted.fetch_add(1, Ordering::SeqCst);
        }))
        .unwrap();
    log.hold_deliveries(2);
    appender.append(record("in", 0), 0).unwrap();
    appender.append(record("in", 1), 1).unwrap();
    let Err(AppendError::QueueFull(refused)) = appender.append(record("in", 2), 2) else { panic!("taken") };
    assert_eq!((appender.in_flight(), told.load(Ordering::SeqCst)), (2, 0));
    assert!(appender.flush(NO_WAIT).is_err());
    log.release_deliveries(1);
    appender.append(refused, 2).unwrap();
    log.release_deliveries(usize::MAX);
    assert_eq!((appender.in_flight(), told.load(Ordering::SeqCst)), (0, 3));
}

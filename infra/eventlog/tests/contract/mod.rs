//! What every log promises, whatever it is made of. Each function is one promise; the memory log and Kafka keep
//! the same ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use eventlog::{
    AppendError, Appender, Consumer, GroupToken, Log, LogError, LogErrorKind, NewRecord, Polled, Position,
    Record, StartAt, TopicPartition, TransactionalProducer, partition_of,
};
use schemas::topics::{Cleanup, TopicSpec};

/// A place where logs live.
pub trait World {
    type Log: Log;

    fn log(&self) -> Self::Log;

    /// Removes what is below an offset, as retention would.
    fn trim(&self, of: &TopicPartition, before: i64);

    /// A name that nobody has used.
    fn name(&self, what: &str) -> String;

    /// A topic that nobody has used.
    fn topic(&self, partitions: i32) -> String {
        let name = self.name("topic");
        self.log().create_topics(&[spec(&name)], partitions).unwrap();
        name
    }
}

/// Every wait ends by then.
const PATIENCE: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(20);

pub fn spec(name: &str) -> TopicSpec {
    TopicSpec {
        name: Arc::from(name),
        cleanup: Cleanup::Delete,
        retention: Some(Duration::from_hours(1)),
        append_time: true,
        max_message_bytes: 64 * 1024,
    }
}

fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within {PATIENCE:?}");
    }
}

fn value(number: usize) -> Bytes {
    Bytes::from(format!("value-{number}"))
}

fn record(topic: &str, partition: i32, number: usize) -> NewRecord {
    NewRecord::keyed(topic, format!("key-{number}"), value(number)).to_partition(partition)
}

/// Appends records with these numbers to a partition and waits for them.
fn fill<L: Log>(log: &L, topic: &str, partition: i32, numbers: std::ops::Range<usize>) {
    let failures = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&failures);
    let appender = log
        .appender(Box::new(move |token, outcome| {
            if let Err(error) = outcome {
                told.lock().unwrap().push((token, error));
            }
        }))
        .unwrap();
    for number in numbers {
        appender.append(record(topic, partition, number), number).unwrap();
    }
    appender.flush(PATIENCE).unwrap();
    assert!(failures.lock().unwrap().is_empty(), "{failures:?}");
}

fn assigned<C: Consumer>(consumer: &mut C) -> Vec<TopicPartition> {
    until("assignment", || match consumer.poll(10, STEP).unwrap() {
        Polled::Assigned(partitions) => Some(partitions),
        Polled::Records(records) => {
            assert!(records.is_empty(), "records before start: {records:?}");
            None
        }
        Polled::Revoked { .. } => None,
    })
}

/// A member that owns all partitions and reads from where its group is.
fn reading<L: Log>(log: &L, group: &str, topic: &str) -> L::Consumer {
    let mut consumer = log.consumer(group, &[topic], None, StartAt::Earliest).unwrap();
    assigned(&mut consumer);
    consumer.start(&[]).unwrap();
    consumer
}

fn take<C: Consumer>(consumer: &mut C, count: usize) -> Vec<Record> {
    let mut taken = Vec::new();
    until(&format!("{count} records"), || {
        match consumer.poll(count - taken.len(), STEP).unwrap() {
            Polled::Records(records) => taken.extend(records),
            other => panic!("{other:?} instead of records; have {}", taken.len()),
        }
        (taken.len() >= count).then_some(())
    });
    assert_eq!(taken.len(), count, "more than was asked for");
    taken
}

/// Nothing comes for a moment.
fn assert_quiet<C: Consumer>(consumer: &mut C) {
    for _ in 0..5 {
        assert_eq!(consumer.poll(10, STEP).unwrap(), Polled::Records(Vec::new()));
    }
}

fn numbers(records: &[Record]) -> Vec<usize> {
    let number = |record: &Record| {
        let text = String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap();
        text.strip_prefix("value-").unwrap().parse().unwrap()
    };
    records.iter().map(number).collect()
}

fn committed<C: Consumer>(consumer: &mut C, of: &TopicPartition) -> Option<i64> {
    consumer.committed(std::slice::from_ref(of)).unwrap()[0]
}

fn end_of<C: Consumer>(consumer: &mut C, of: &TopicPartition) -> i64 {
    consumer.bounds(of).unwrap().1
}

/// One transaction of records with these numbers.
fn transact<P: TransactionalProducer>(
    producer: &mut P,
    topic: &str,
    numbers: std::ops::Range<usize>,
    offsets: &[Position],
    token: &GroupToken,
) -> Result<(), LogError> {
    producer.begin()?;
    for number in numbers {
        producer.send(record(topic, 0, number))?;
    }
    producer.commit(offsets, token)
}

// ---- the promises ----

pub fn appended_records_arrive_once_in_order_with_all_they_carry<W: World>(world: &W) {
    let (log, topic) = (world.log(), world.topic(3));
    let delivered = Arc::new(Mutex::new(BTreeMap::new()));
    let told = Arc::clone(&delivered);
    let appender = log
        .appender(Box::new(move |token, outcome| {
            assert!(told.lock().unwrap().insert(token, outcome.unwrap()).is_none(), "{token} reported twice");
        }))
        .unwrap();
    for number in 0..300 {
        let key = format!("agent-{}", number % 20);
        let mut new = NewRecord::keyed(topic.as_str(), key, value(number));
        new.headers =
            vec![("trace".to_owned(), Bytes::from(number.to_string())), ("none".to_owned(), Bytes::new())];
        appender.append(new, number).unwrap();
    }
    let tombstone = NewRecord {
        topic: topic.as_str().into(),
        partition: Some(1),
        key: Some("gone".into()),
        value: None,
        headers: vec![],
    };
    appender.append(tombstone, 300).unwrap();
    appender.flush(PATIENCE).unwrap();
    assert_eq!(appender.in_flight(), 0);

    let mut consumer = log.consumer(&world.name("group"), &[&topic], None, StartAt::Earliest).unwrap();
    let partitions = assigned(&mut consumer);
    assert_eq!(partitions.len(), 3);
    assert_quiet(&mut consumer);
    consumer.start(&[]).unwrap();
    let records = take(&mut consumer, 301);
    assert_quiet(&mut consumer);

    let delivered = delivered.lock().unwrap();
    let mut last = BTreeMap::new();
    for record in &records {
        assert_eq!(&*record.topic, topic);
        assert!(last.insert(record.partition, record.offset).is_none_or(|before| before < record.offset));
        let Some(value) = &record.value else {
            assert_eq!((record.partition, record.key.as_deref()), (1, Some("gone".as_bytes())));
            continue;
        };
        let key = record.key.as_ref().unwrap();
        assert_eq!(record.partition, partition_of(key, 3));
        let number: usize = std::str::from_utf8(record.header("trace").unwrap()).unwrap().parse().unwrap();
        assert_eq!(*value, self::value(number));
        assert_eq!(record.header("none").unwrap().len(), 0);
        assert_eq!(delivered[&number], (record.partition, record.offset));
    }
    let origins: BTreeSet<String> = records.iter().map(Record::origin).collect();
    assert_eq!(origins.len(), 301);
}

pub fn a_transaction_shows_all_or_nothing<W: World>(world: &W) {
    let (log, input, output, group) = (world.log(), world.topic(1), world.topic(1), world.name("group"));
    fill(&log, &input, 0, 0..10);
    let mut worker = reading(&log, &group, &input);
    let token = worker.group_token().unwrap();
    let mut reader = reading(&log, &world.name("reader"), &output);
    let (in0, out0) = (TopicPartition::new(input.as_str(), 0), TopicPartition::new(output.as_str(), 0));
    let mut producer = log.transactional_producer(&world.name("id")).unwrap();
    take(&mut worker, 10);
    assert_eq!(committed(&mut worker, &in0), None);

    producer.begin().unwrap();
    producer.send(record(&output, 0, 1)).unwrap();
    producer.send(record(&output, 0, 2)).unwrap();
    assert_quiet(&mut reader);
    producer.commit(&[in0.at(4)], &token).unwrap();
    assert_eq!(numbers(&take(&mut reader, 2)), [1, 2]);
    assert_eq!(committed(&mut worker, &in0), Some(4));
    assert!(end_of(&mut worker, &out0) >= 3, "the marker has an offset of its own");

    producer.begin().unwrap();
    producer.send(record(&output, 0, 3)).unwrap();
    producer.abort().unwrap();
    producer.abort().unwrap();
    transact(&mut producer, &output, 4..5, &[in0.at(10)], &token).unwrap();
    assert_eq!(numbers(&take(&mut reader, 1)), [4]);
    assert_eq!(committed(&mut worker, &in0), Some(10));

    // After the abort of its commit a worker goes back and reads the same again.
    worker.start(&[in0.at(4)]).unwrap();
    assert_eq!(numbers(&take(&mut worker, 6)), [4, 5, 6, 7, 8, 9]);
    assert_quiet(&mut worker);

    // An empty transaction moves offsets only.
    transact(&mut producer, &output, 0..0, &[in0.at(7)], &token).unwrap();
    assert_eq!(committed(&mut worker, &in0), Some(7));
}

pub fn a_large_transaction_can_be_aborted_in_full_flight<W: World>(world: &W) {
    // On Kafka the smaller limit makes the broker refuse whole batches, so that records fail under way.
    for max_message_bytes in [1 << 20, 64 * 1024] {
        let (log, topic) = (world.log(), world.name("topic"));
        log.create_topics(&[TopicSpec { max_message_bytes, ..spec(&topic) }], 1).unwrap();
        let mut reader = reading(&log, &world.name("group"), &topic);
        let token = reader.group_token().unwrap();
        let mut producer = log.transactional_producer(&world.name("id")).unwrap();
        for round in 0..3 {
            producer.begin().unwrap();
            for number in 0..20_000 {
                if producer.send(record(&topic, 0, number)).is_err() {
                    break;
                }
            }
            producer.abort().unwrap();
            transact(&mut producer, &topic, round..round + 1, &[], &token).unwrap();
        }
        assert_eq!(numbers(&take(&mut reader, 3)), [0, 1, 2]);
        assert_quiet(&mut reader);
    }
}

pub fn the_newer_producer_fences_the_older<W: World>(world: &W) {
    let (log, input, output, group, id) =
        (world.log(), world.topic(1), world.topic(1), world.name("group"), world.name("id"));
    let mut worker = reading(&log, &group, &input);
    let token = worker.group_token().unwrap();
    let in0 = TopicPartition::new(input.as_str(), 0);
    let mut older = log.transactional_producer(&id).unwrap();
    older.begin().unwrap();
    older.send(record(&output, 0, 1)).unwrap();
    let mut newer = log.transactional_producer(&id).unwrap();
    transact(&mut newer, &output, 2..3, &[in0.at(0)], &token).unwrap();
    let error = older.commit(&[in0.at(0)], &token).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Fenced, "{error}");
    let mut reader = reading(&log, &world.name("reader"), &output);
    assert_eq!(numbers(&take(&mut reader, 1)), [2]);
    assert_quiet(&mut reader);
    transact(&mut newer, &output, 3..4, &[in0.at(0)], &token).unwrap();
    assert_eq!(numbers(&take(&mut reader, 1)), [3]);
}

pub fn a_commit_with_an_old_membership_fails<W: World>(world: &W) {
    let (log, input, output, group) = (world.log(), world.topic(2), world.topic(1), world.name("group"));
    fill(&log, &input, 0, 0..5);
    let mut first = reading(&log, &group, &input);
    let before = first.group_token().unwrap();
    let in0 = TopicPartition::new(input.as_str(), 0);
    let mut producer = log.transactional_producer(&world.name("id")).unwrap();
    take(&mut first, 5);

    let mut second = log.consumer(&group, &[&input], None, StartAt::Earliest).unwrap();
    let (given_back, lost) = until("revocation", || {
        assert!(matches!(second.poll(10, STEP).unwrap(), Polled::Records(records) if records.is_empty()));
        match first.poll(10, STEP).unwrap() {
            Polled::Revoked { partitions, lost } => Some((partitions, lost)),
            other => {
                assert_eq!(other, Polled::Records(Vec::new()));
                None
            }
        }
    });
    assert_eq!((given_back.len(), lost), (2, false));
    // Until the next poll the partitions are still ours.
    transact(&mut producer, &output, 0..1, &[in0.at(5)], &before).unwrap();

    let (mut of_first, mut of_second) = (None, None);
    until("both assignments", || {
        if let Polled::Assigned(partitions) = first.poll(10, STEP).unwrap() {
            of_first = Some(partitions);
        }
        if let Polled::Assigned(partitions) = second.poll(10, STEP).unwrap() {
            of_second = Some(partitions);
        }
        (of_first.is_some() && of_second.is_some()).then_some(())
    });
    let (of_first, of_second) = (of_first.unwrap(), of_second.unwrap());
    assert_eq!((of_first.len(), of_second.len()), (1, 1));
    assert_ne!(of_first, of_second);

    let error = transact(&mut producer, &output, 1..2, &[in0.at(1)], &before).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Rebalanced, "{error}");
    producer.abort().unwrap();
    let now = first.group_token().unwrap();
    transact(&mut producer, &output, 2..3, &[], &now).unwrap();
    let mut reader = reading(&log, &world.name("reader"), &output);
    assert_eq!(numbers(&take(&mut reader, 2)), [0, 2]);
    assert_eq!(committed(&mut second, &in0), Some(5));

    // What the new owner reads begins where the old one ended.
    fill(&log, &input, 0, 5..7);
    let owner = if of_first.contains(&in0) { &mut first } else { &mut second };
    owner.start(&[]).unwrap();
    assert_eq!(numbers(&take(owner, 2)), [5, 6]);
}

pub fn whoever_leaves_gives_way<W: World>(world: &W) {
    let (log, topic, group) = (world.log(), world.topic(2), world.name("group"));
    fill(&log, &topic, 0, 0..4);
    fill(&log, &topic, 1, 10..14);
    let mut first = reading(&log, &group, &topic);
    let both = [TopicPartition::new(topic.as_str(), 0), TopicPartition::new(topic.as_str(), 1)];
    take(&mut first, 8);
    first.commit(&[both[0].at(1), both[1].at(3)]).unwrap();
    drop(first);
    let mut second = log.consumer(&group, &[&topic], None, StartAt::Latest).unwrap();
    assert_eq!(assigned(&mut second).into_iter().collect::<BTreeSet<_>>(), both.iter().cloned().collect());
    assert_eq!(second.committed(&both).unwrap(), [Some(1), Some(3)]);
    second.start(&[]).unwrap();
    let mut seen = numbers(&take(&mut second, 4));
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3, 13]);
}

pub fn records_fetched_before_a_rebalance_are_not_handed_out_after_it<W: World>(world: &W) {
    let (log, topic, group) = (world.log(), world.topic(2), world.name("group"));
    fill(&log, &topic, 0, 0..500);
    fill(&log, &topic, 1, 500..1000);
    let mut first = reading(&log, &group, &topic);
    let mut read: Vec<usize> = numbers(&take(&mut first, 10));
    let mut second = log.consumer(&group, &[&topic], None, StartAt::Earliest).unwrap();
    until("revocation", || {
        let _ = second.poll(10, STEP).unwrap();
        match first.poll(1, STEP).unwrap() {
            Polled::Records(records) => {
                read.extend(numbers(&records));
                None
            }
            Polled::Revoked { .. } => Some(()),
            Polled::Assigned(_) => panic!("assigned without having been revoked"),
        }
    });
    // Neither member may bring a record before it has been started anew.
    let mut started = 0;
    until("both assignments", || {
        for member in [&mut first, &mut second] {
            match member.poll(10, STEP).unwrap() {
                Polled::Assigned(_) => started += 1,
                Polled::Records(records) => assert!(records.is_empty()),
                Polled::Revoked { .. } => {}
            }
        }
        (started >= 2).then_some(())
    });
    // The group has committed nothing, so together they read everything.
    first.start(&[]).unwrap();
    second.start(&[]).unwrap();
    let mut all = numbers(&take(&mut first, 500));
    all.extend(numbers(&take(&mut second, 500)));
    all.sort_unstable();
    assert_eq!(all, (0..1000).collect::<Vec<_>>());
}

pub fn a_static_member_comes_back_without_a_rebalance<W: World>(world: &W) {
    let (log, topic, group) = (world.log(), world.topic(2), world.name("group"));
    fill(&log, &topic, 0, 0..3);
    fill(&log, &topic, 1, 3..6);
    let mut stays = log.consumer(&group, &[&topic], Some("stays"), StartAt::Earliest).unwrap();
    let mut goes = log.consumer(&group, &[&topic], Some("goes"), StartAt::Earliest).unwrap();
    let mut owned: [Vec<TopicPartition>; 2] = [Vec::new(), Vec::new()];
    until("one partition each", || {
        for (owned, member) in owned.iter_mut().zip([&mut stays, &mut goes]) {
            match member.poll(10, STEP).unwrap() {
                Polled::Assigned(partitions) => *owned = partitions,
                Polled::Revoked { .. } => owned.clear(),
                Polled::Records(_) => {}
            }
        }
        (owned[0].len() == 1 && owned[1].len() == 1).then_some(())
    });
    stays.start(&[]).unwrap();
    take(&mut stays, 3);
    drop(goes);
    let mut back = log.consumer(&group, &[&topic], Some("goes"), StartAt::Earliest).unwrap();
    assert_eq!(assigned(&mut back), owned[1]);
    assert_quiet(&mut stays);
    back.start(&[]).unwrap();
    assert_eq!(take(&mut back, 3).len(), 3);
}

pub fn paused_partitions_wait_and_lose_nothing<W: World>(world: &W) {
    let (log, topic) = (world.log(), world.topic(2));
    fill(&log, &topic, 0, 0..50);
    fill(&log, &topic, 1, 100..150);
    let mut consumer = reading(&log, &world.name("group"), &topic);
    let mut seen = numbers(&take(&mut consumer, 7));
    let quiet = [TopicPartition::new(topic.as_str(), 0)];
    consumer.pause(&quiet);
    let rest = 50 - seen.iter().filter(|number| **number >= 100).count();
    let records = take(&mut consumer, rest);
    assert!(records.iter().all(|record| record.partition == 1));
    seen.extend(numbers(&records));
    assert_quiet(&mut consumer);
    consumer.resume(&quiet);
    let rest = 100 - seen.len();
    seen.extend(numbers(&take(&mut consumer, rest)));
    assert_quiet(&mut consumer);
    seen.sort_unstable();
    assert_eq!(seen, (0..50).chain(100..150).collect::<Vec<_>>());
}

pub fn a_group_without_offsets_begins_where_it_is_told<W: World>(world: &W) {
    let (log, topic, group) = (world.log(), world.topic(1), world.name("group"));
    fill(&log, &topic, 0, 0..3);
    let mut consumer = log.consumer(&group, &[&topic], None, StartAt::Latest).unwrap();
    assigned(&mut consumer);
    consumer.start(&[]).unwrap();
    assert_quiet(&mut consumer);
    fill(&log, &topic, 0, 3..5);
    assert_eq!(numbers(&take(&mut consumer, 2)), [3, 4]);
    let stranger = TopicPartition::new(topic.as_str(), 7);
    assert_eq!(consumer.start(&[stranger.at(0)]).unwrap_err().kind, LogErrorKind::Rebalanced);
}

pub fn what_retention_took_is_an_error_that_names_it<W: World>(world: &W) {
    let (log, topic, group) = (world.log(), world.topic(1), world.name("group"));
    let of = TopicPartition::new(topic.as_str(), 0);
    fill(&log, &topic, 0, 0..10);
    let mut consumer = reading(&log, &group, &topic);
    take(&mut consumer, 2);
    consumer.commit(&[of.at(2)]).unwrap();
    drop(consumer);
    world.trim(&of, 6);
    let mut consumer = reading(&log, &group, &topic);
    assert_eq!(consumer.bounds(&of).unwrap(), (6, 10));
    let error = until("error", || match consumer.poll(10, STEP) {
        Ok(polled) => {
            assert_eq!(polled, Polled::Records(Vec::new()));
            None
        }
        Err(error) => Some(error),
    });
    let expected =
        LogErrorKind::OffsetOutOfRange { topic: topic.clone(), partition: 0, wanted: 2, earliest: 6 };
    assert_eq!(error.kind, expected);
    assert!(error.message.contains("2 to 5"), "{error}");
    consumer.start(&[of.at(6)]).unwrap();
    assert_eq!(numbers(&take(&mut consumer, 4)), [6, 7, 8, 9]);
    let error = log.read_partition(&of, 0, 10, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error.kind, LogErrorKind::OffsetOutOfRange { wanted: 0, earliest: 6, .. }), "{error}");
}

pub fn a_partition_is_read_to_its_true_end<W: World>(world: &W) {
    let (log, input, state) = (world.log(), world.topic(1), world.topic(2));
    let of = TopicPartition::new(state.as_str(), 0);
    let mut worker = reading(&log, &world.name("group"), &input);
    let token = worker.group_token().unwrap();
    let mut producer = log.transactional_producer(&world.name("id")).unwrap();
    let read = |from: i64, to: i64| {
        let mut records = Vec::new();
        log.read_partition(&of, from, to, &mut |record| {
            records.push(record);
            Ok(())
        })
        .map(|()| records)
    };
    assert_eq!(read(0, 0).unwrap(), []);
    transact(&mut producer, &state, 0..3, &[], &token).unwrap();
    producer.begin().unwrap();
    producer.send(record(&state, 0, 99)).unwrap();
    producer.abort().unwrap();
    transact(&mut producer, &state, 3..5, &[], &token).unwrap();
    producer.begin().unwrap();
    producer.send(record(&state, 0, 98)).unwrap();
    producer.abort().unwrap();
    // 3 + marker, 1 + marker, 2 + marker, 1 + marker; what an abort purged unsent leaves no trace.
    let end = end_of(&mut worker, &of);
    assert!((7..=11).contains(&end), "{end}");
    assert_eq!(numbers(&read(0, end).unwrap()), [0, 1, 2, 3, 4]);
    assert_eq!(numbers(&read(1, 3).unwrap()), [1, 2]);
    // A second reading is as good as the first, and an unwilling listener ends it.
    assert_eq!(read(0, end).unwrap().len(), 5);
    let mut calls = 0;
    let error = log
        .read_partition(&of, 0, end, &mut |_| {
            calls += 1;
            Err(LogError::fatal("enough"))
        })
        .unwrap_err();
    assert_eq!((error.message.as_str(), calls), ("enough", 1));
}

pub fn the_end_counts_what_is_not_yet_visible<W: World>(world: &W) {
    let (log, topic) = (world.log(), world.topic(1));
    let of = TopicPartition::new(topic.as_str(), 0);
    let mut consumer = reading(&log, &world.name("group"), &topic);
    let mut producer = log.transactional_producer(&world.name("id")).unwrap();
    producer.begin().unwrap();
    for number in 0..3 {
        producer.send(record(&topic, 0, number)).unwrap();
    }
    until("open records to arrive", || (end_of(&mut consumer, &of) == 3).then_some(()));
    assert_quiet(&mut consumer);
    producer.abort().unwrap();
    until("the marker to arrive", || (end_of(&mut consumer, &of) == 4).then_some(()));
    assert_quiet(&mut consumer);
}

pub fn a_record_that_is_too_large_is_poison<W: World>(world: &W) {
    let (log, topic) = (world.log(), world.topic(1));
    let large = NewRecord::keyed(topic.as_str(), "key", random_bytes(200 * 1024)).to_partition(0);
    let (told, outcome) = std::sync::mpsc::sync_channel(1);
    let appender = log.appender(Box::new(move |_, outcome| told.send(outcome).unwrap())).unwrap();
    let error = match appender.append(large, 1) {
        Ok(()) => outcome.recv_timeout(PATIENCE).unwrap().unwrap_err(),
        Err(AppendError::Log(error)) => error,
        Err(AppendError::QueueFull(_)) => panic!("one record fills no queue"),
    };
    assert_eq!(error.kind, LogErrorKind::TooLarge, "{error}");
    // The appender goes on.
    drop(appender);
    fill(&log, &topic, 0, 0..1);
}

/// Bytes that no compression makes smaller.
fn random_bytes(count: usize) -> Bytes {
    let mut state = 88_172_645_463_325_252_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..count).map(next).collect()
}

pub fn topics_are_made_once_and_compared_after<W: World>(world: &W) {
    let (log, name) = (world.log(), world.name("topic"));
    let unknown = log.partitions(&name).unwrap_err();
    assert_eq!(unknown.kind, LogErrorKind::UnknownTopic, "{unknown}");
    let made = log.create_topics(&[spec(&name)], 3).unwrap();
    assert_eq!((made[0].is_new, made[0].drift.len()), (true, 0));
    assert_eq!(log.partitions(&name).unwrap(), 3);
    let other = TopicSpec { retention: Some(Duration::from_hours(2)), ..spec(&name) };
    let again = log.create_topics(&[other, spec(&world.name("topic"))], 3).unwrap();
    assert_eq!((again[0].is_new, again[1].is_new), (false, true));
    let drift = &again[0].drift;
    assert_eq!(drift.len(), 1, "{drift:?}");
    assert_eq!((drift[0].setting.as_str(), drift[0].found.as_str()), ("retention.ms", "3600000"));
    let error = log.create_topics(&[spec(&name)], 4).unwrap_err();
    assert_eq!(error.kind, LogErrorKind::Fatal);
    assert!(error.message.contains("has 3 partitions, not 4"), "{error}");
}

/// Makes a test of each promise.
#[macro_export]
macro_rules! promises {
    ($world:expr) => {
        $crate::promises!(@ $world;
            appended_records_arrive_once_in_order_with_all_they_carry
            a_transaction_shows_all_or_nothing
            a_large_transaction_can_be_aborted_in_full_flight
            the_newer_producer_fences_the_older
            a_commit_with_an_old_membership_fails
            whoever_leaves_gives_way
            records_fetched_before_a_rebalance_are_not_handed_out_after_it
            a_static_member_comes_back_without_a_rebalance
            paused_partitions_wait_and_lose_nothing
            a_group_without_offsets_begins_where_it_is_told
            what_retention_took_is_an_error_that_names_it
            a_partition_is_read_to_its_true_end
            the_end_counts_what_is_not_yet_visible
            a_record_that_is_too_large_is_poison
            topics_are_made_once_and_compared_after
        );
    };
    (@ $world:expr; $($name:ident)*) => {
        $(#[test] fn $name() { contract::$name(&$world); })*
    };
}

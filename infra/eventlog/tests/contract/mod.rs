//! What every log promises, whatever it is made of. Each function is one promise; the memory log and Kafka keep
//! the same ones.

mod groups;
mod records;
mod transactions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use eventlog::{
    AppendError, Appender, Consumer, GroupToken, Log, LogError, LogErrorKind, NewRecord, Polled, Position,
    Record, StartAt, TopicPartition, TransactionalProducer, partition_of,
};
use schemas::topics::{Cleanup, TopicSpec};

pub use groups::*;
pub use records::*;
pub use transactions::*;

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

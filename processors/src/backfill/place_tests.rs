use eventlog::memory::MemoryLog;
use eventlog::{Appender, Consumer, NewRecord, TransactionalProducer};

use super::*;

#[test]
fn places_are_read_as_they_are_written() {
    for text in ["earliest", "latest", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.250Z", "0:12,1:7"] {
        assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
    }
    assert_eq!(
        "2026-01-02T05:04:05+02:00".parse::<Place>().unwrap(),
        "2026-01-02T03:04:05Z".parse().unwrap()
    );
    for text in ["", "yesterday", "2026-01-02", "1", "0:-1", "-1:3", "0:1,0:2", "0:1,", "0:x"] {
        assert!(text.parse::<Place>().is_err(), "{text:?}");
    }
}

/// A partition with a record a second, the first at second 0, and one that is empty.
fn log() -> MemoryLog {
    let log = MemoryLog::new();
    log.create("raw", 2);
    let writer = log.handle().appender(Box::new(|_, _| {})).unwrap();
    for second in 0..10 {
        log.set_time(second * 1_000);
        writer.append(NewRecord::keyed("raw", "k", "v").to_partition(0), 0).unwrap();
    }
    log
}

fn between(log: &MemoryLog, from: &str, to: &str) -> Result<Stretch, String> {
    let found = stretches(log, "raw", &from.parse().unwrap(), &to.parse().unwrap());
    let found = found.map_err(|error| error.to_string())?;
    assert_eq!(found.len(), 2);
    assert_eq!(found[&1], Stretch { from: 0, to: 0 });
    Ok(found[&0])
}

#[test]
fn times_and_offsets_become_stretches() {
    let log = log();
    let of = |from, to| Ok(Stretch { from, to });
    assert_eq!(between(&log, "earliest", "latest"), of(0, 10));
    assert_eq!(between(&log, "1970-01-01T00:00:03Z", "1970-01-01T00:00:07Z"), of(3, 7));
    assert_eq!(between(&log, "1970-01-01T00:00:02.5Z", "1970-01-01T00:00:06.000001Z"), of(3, 7));
    assert_eq!(between(&log, "0:4,1:0", "0:4,1:0"), of(4, 4));
    assert_eq!(between(&log, "1971-01-01T00:00:00Z", "latest"), of(10, 10));
    assert!(between(&log, "0:7,1:0", "0:3,1:0").unwrap_err().contains("before it begins at 7"));
    assert!(between(&log, "0:7,1:0", "0:11,1:0").unwrap_err().contains("the log ends at 10"));
    assert!(between(&log, "0:7", "latest").unwrap_err().contains("--from names partitions [0]"));
    assert!(between(&log, "earliest", "0:7,1:0,2:0").unwrap_err().contains("--to names partitions"));
}

#[test]
fn what_retention_took_is_named() {
    let log = log();
    log.trim(&TopicPartition::new("raw", 0), 4);
    assert_eq!(between(&log, "earliest", "latest"), Ok(Stretch { from: 4, to: 10 }));
    assert_eq!(between(&log, "1970-01-01T00:00:04Z", "latest"), Ok(Stretch { from: 4, to: 10 }));
    let lost = between(&log, "0:2,1:0", "latest").unwrap_err();
    assert!(lost.contains("raw-0: offsets 2 to 3 are gone"), "{lost}");
    let lost = between(&log, "1970-01-01T00:00:01Z", "latest").unwrap_err();
    assert!(lost.contains("from 1970-01-01T00:00:01Z to 1970-01-01T00:00:04Z is gone"), "{lost}");
}

#[test]
fn a_stretch_ends_with_a_record_that_can_be_read() {
    let log = log();
    let mut producer = log.handle().transactional_producer("id").unwrap();
    let group = log.handle();
    let mut member = group.consumer("g", &["raw"], None, eventlog::StartAt::Earliest).unwrap();
    while !matches!(member.poll(1, std::time::Duration::ZERO).unwrap(), eventlog::Polled::Assigned(_)) {}
    for _ in 0..30 {
        producer.begin().unwrap();
        producer.send(NewRecord::keyed("raw", "k", "taken back").to_partition(0)).unwrap();
        producer.abort().unwrap();
    }
    producer.begin().unwrap();
    producer.send(NewRecord::keyed("raw", "k", "v").to_partition(1)).unwrap();
    producer.commit(&[], &member.group_token().unwrap()).unwrap();
    let found = stretches(&log, "raw", &Place::Earliest, &Place::Latest).unwrap();
    assert_eq!(found[&0], Stretch { from: 0, to: 10 });
    assert_eq!(found[&1], Stretch { from: 0, to: 1 });
    assert!(log.bounds(&TopicPartition::new("raw", 0)).unwrap().1 > 60);
}

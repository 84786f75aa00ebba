//! What the log itself costs: records per CPU-second through consumer, producer and transaction, nothing else.
//!
//! `VARTA_KAFKA=host:port cargo run --release -p eventlog --example throughput -- [records]`
#![allow(clippy::print_stdout, reason = "a measurement speaks to whoever runs it")]

use std::error::Error;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use eventlog::kafka::{KafkaConfig, KafkaLog};
use eventlog::{AppendError, Appender, Consumer, Log, NewRecord, Polled, StartAt, TransactionalProducer};
use schemas::topics::{Cleanup, TopicSpec};

const PARTITIONS: i32 = 4;
const SIZE: usize = 220;
const COMMIT_EVERY: Duration = Duration::from_millis(50);

fn main() -> Result<(), Box<dyn Error>> {
    let records: usize = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let brokers = std::env::var("VARTA_KAFKA")?;
    let log = KafkaLog::connect(&KafkaConfig { brokers, ..KafkaConfig::default() })?;
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let (input, output) = (format!("throughput.in.{stamp}"), format!("throughput.out.{stamp}"));
    log.create_topics(&[spec(&input), spec(&output)], PARTITIONS)?;

    report("append, idempotent", records, || fill(&log, &input, records))?;
    report("consume", records, || drain(&log, &input, records))?;
    let mut commits = Vec::new();
    report("consume, produce, commit", records, || relay(&log, [&input, &output], records, &mut commits))?;
    commits.sort_unstable();
    let at = |share: usize| commits[(commits.len() - 1) * share / 100];
    println!("{} commits: p50 {:?}, p99 {:?}", commits.len(), at(50), at(99));
    report("read_committed of the output", records, || drain(&log, &output, records))
}

fn spec(name: &str) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        cleanup: Cleanup::Delete,
        retention: Some(Duration::from_hours(1)),
        append_time: false,
        max_message_bytes: 1 << 20,
    }
}

fn report(
    what: &str,
    records: usize,
    work: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let (began, cpu) = (Instant::now(), cpu_seconds()?);
    work()?;
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    println!("{what}: {:.0} records/s, {:.0} per CPU-second", records as f64 / wall, records as f64 / cpu);
    Ok(())
}

/// User and system time of this process; Linux counts in hundredths of a second.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}

fn fill(log: &KafkaLog, topic: &str, records: usize) -> Result<(), Box<dyn Error>> {
    let appender = log.appender(Box::new(|_, outcome| assert!(outcome.is_ok(), "{outcome:?}")))?;
    let topic: std::sync::Arc<str> = topic.into();
    for number in 0..records {
        let value: Vec<u8> = (0..SIZE).map(|at| (at * 7 + number * (1 + at % 5)) as u8).collect();
        let key = Bytes::from(format!("agent-{}", number % 200));
        let mut record = NewRecord { headers: Vec::new(), ..NewRecord::keyed(topic.clone(), key, value) };
        loop {
            record = match appender.append(record, number) {
                Ok(()) => break,
                Err(AppendError::QueueFull(back)) => back,
                Err(AppendError::Log(error)) => return Err(error.into()),
            };
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(appender.flush(Duration::from_mins(1))?)
}

fn started(log: &KafkaLog, topic: &str) -> Result<<KafkaLog as Log>::Consumer, Box<dyn Error>> {
    let mut consumer = log.consumer(&format!("{topic}.group"), &[topic], None, StartAt::Earliest)?;
    while !matches!(consumer.poll(1, Duration::from_millis(100))?, Polled::Assigned(_)) {}
    consumer.start(&[])?;
    Ok(consumer)
}

fn drain(log: &KafkaLog, topic: &str, records: usize) -> Result<(), Box<dyn Error>> {
    let mut consumer = started(log, topic)?;
    let mut seen = 0;
    while seen < records {
        if let Polled::Records(records) = consumer.poll(4000, Duration::from_millis(20))? {
            seen += records.len();
        }
    }
    Ok(())
}

fn relay(
    log: &KafkaLog,
    [input, output]: [&str; 2],
    records: usize,
    commits: &mut Vec<Duration>,
) -> Result<(), Box<dyn Error>> {
    let mut consumer = started(log, input)?;
    let token = consumer.group_token()?;
    let mut producer = log.transactional_producer(&format!("{input}.relay"))?;
    let output: std::sync::Arc<str> = output.into();
    let mut seen = 0;
    while seen < records {
        let opened_at = Instant::now();
        let mut positions = std::collections::BTreeMap::new();
        producer.begin()?;
        while opened_at.elapsed() < COMMIT_EVERY && seen < records {
            let Polled::Records(batch) = consumer.poll(4000, Duration::from_millis(5))? else {
                continue;
            };
            seen += batch.len();
            for record in batch {
                positions.insert(record.partition, record.topic_partition().at(record.offset + 1));
                let (topic, partition) = (output.clone(), Some(record.partition));
                producer.send(NewRecord {
                    topic,
                    partition,
                    key: record.key,
                    value: record.value,
                    headers: Vec::new(),
                })?;
            }
        }
        let positions: Vec<_> = positions.into_values().collect();
        let commit_at = Instant::now();
        producer.commit(&positions, &token)?;
        commits.push(commit_at.elapsed());
    }
    Ok(())
}

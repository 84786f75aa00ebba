//! How far topics and consumer groups have come, asked from outside.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::part::Part;

/// One question.
const ASK: Duration = Duration::from_secs(10);
/// A topic that was just made has no leader for a moment.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again while the answer is an error, until [`PATIENCE`] is over.
fn patiently<T>(mut ask: impl FnMut() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
            answer => return answer,
        }
    }
}

/// Asks Kafka; belongs to no group unless one is named.
pub struct Watermarks {
    consumer: BaseConsumer,
}

impl Watermarks {
    /// Offsets committed by `group` can be asked for as well.
    pub fn connect(kafka: &str, group: &str) -> anyhow::Result<Self> {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", kafka)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .create()?;
        Ok(Self { consumer })
    }

    /// How many partitions a topic has.
    pub fn partitions(&self, topic: &str) -> anyhow::Result<i32> {
        let metadata = patiently(|| self.consumer.fetch_metadata(Some(topic), ASK))?;
        let partitions = metadata.topics().first().context("no such topic")?.partitions().len();
        Ok(i32::try_from(partitions)?)
    }

    /// Sum of the ends of all partitions.
    pub fn end(&self, topic: &str) -> anyhow::Result<i64> {
        let mut end = 0;
        for partition in 0..self.partitions(topic)? {
            end += patiently(|| self.consumer.fetch_watermarks(topic, partition, ASK))?.1;
        }
        Ok(end)
    }

    /// Sum of the offsets that the group has committed.
    pub fn committed(&self, topic: &str) -> anyhow::Result<i64> {
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions(topic)? {
            list.add_partition(topic, partition);
        }
        let committed = patiently(|| self.consumer.committed_offsets(list.clone(), ASK))?;
        Ok(committed
            .elements()
            .iter()
            .map(|element| match element.offset() {
                Offset::Offset(offset) => offset,
                _ => 0,
            })
            .sum())
    }
}

/// Polls until the condition holds; fails when the part ends or `give_up` passes without the condition.
pub fn wait_until(
    what: &str,
    part: &mut Part,
    give_up: Duration,
    mut condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + give_up;
    while !condition()? {
        part.must_run()?;
        if Instant::now() > deadline {
            bail!("{what}: not reached within {give_up:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

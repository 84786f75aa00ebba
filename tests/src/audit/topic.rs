//! A topic read from its beginning to its end, as a plain read_committed consumer sees it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// One record of a topic.
#[derive(Clone, Debug)]
pub struct TopicRecord {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its value; empty where there is none.
    pub value: Vec<u8>,
    /// Its key, as text.
    pub key: String,
    /// Its headers, as text.
    pub headers: BTreeMap<String, String>,
}

/// Reads every committed record of the topic. The end is that of the moment of the call.
pub fn read_topic(kafka: &str, topic: &str) -> anyhow::Result<Vec<TopicRecord>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", format!("varta-audit-{}", uuid::Uuid::new_v4()))
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(15))?;
    let partitions = metadata.topics().first().context("no such topic")?.partitions().len();
    if partitions == 0 {
        bail!("topic {topic} does not exist");
    }
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition as i32, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let mut at_end = vec![false; partitions];
    let mut records = Vec::new();
    let mut progress = Instant::now();
    while at_end.iter().any(|end| !end) {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                progress = Instant::now();
                records.push(TopicRecord {
                    partition: message.partition(),
                    offset: message.offset(),
                    value: message.payload().unwrap_or_default().to_vec(),
                    key: lossy(message.key().unwrap_or_default()),
                    headers: message.headers().map(texts).unwrap_or_default(),
                });
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => at_end[partition as usize] = true,
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure,
            )))
            | None => {}
            Some(Err(error)) => return Err(error).with_context(|| format!("reading {topic}")),
        }
        if progress.elapsed() > Duration::from_mins(1) {
            bail!(
                "{topic}: the end was not reached within 60 s of the last record; is a transaction left open?"
            );
        }
    }
    Ok(records)
}

fn texts(headers: &BorrowedHeaders) -> BTreeMap<String, String> {
    headers.iter().map(|header| (header.key.to_owned(), lossy(header.value.unwrap_or_default()))).collect()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

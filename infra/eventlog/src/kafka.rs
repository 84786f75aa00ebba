//! The log on Kafka.
//!
//! How groups are used: the eager protocol, in which a rebalance takes everything and gives everything anew. When
//! partitions are assigned, the callback assigns *nothing* to the client, which satisfies the protocol and fetches
//! no record; [`crate::Consumer::start`] then assigns the partitions with explicit offsets. When they are revoked,
//! the client gives them back at the *next* poll, so that the owner may still commit: the group waits for it.

mod appender;
mod config;
mod consumer;
mod errors;
mod message;
mod producer;
mod reader;
mod serving;
mod topics;
mod voice;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schemas::topics::TopicSpec;

pub use appender::KafkaAppender;
pub use config::{Compression, KafkaConfig};
pub use consumer::KafkaConsumer;
pub use producer::KafkaProducer;

use crate::error::{LogError, LogErrorKind};
use crate::log::{Created, Log, OnDelivery, StartAt};
use crate::record::{Record, TopicPartition};
use reader::Reader;
use voice::{Voice, VoiceContext};

/// How long one question to a broker may take before it is asked again.
const ASK: Duration = Duration::from_secs(5);

/// A connection to Kafka; clones share it.
#[derive(Clone)]
pub struct KafkaLog {
    inner: Arc<Inner>,
}

struct Inner {
    config: KafkaConfig,
    voice: Arc<Voice>,
    /// Reads uncommitted, so that ends are true ends; belongs to no group.
    inquirer: BaseConsumer<VoiceContext>,
    /// Readers of single partitions that are not in use.
    readers: Mutex<Vec<Reader>>,
}

impl KafkaLog {
    /// Makes the client. Brokers need not be there: whatever needs them waits up to `request_timeout` and then
    /// fails with `Unavailable`.
    ///
    /// # Errors
    /// `Fatal` when a property is unknown or wrong.
    pub fn connect(config: &KafkaConfig) -> Result<Self, LogError> {
        let voice = Arc::new(Voice::new(&config.brokers));
        let inquirer = config
            .inquirer()
            .create_with_context(VoiceContext(Arc::clone(&voice)))
            .map_err(|error| errors::of(&error, "kafka client"))?;
        let inner = Inner { config: config.clone(), voice, inquirer, readers: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    fn partitions(&self, topic: &str) -> Result<i32, LogError> {
        self.voice.patiently(self.config.request_timeout, || {
            let doing = format!("metadata of {topic}");
            let metadata =
                self.inquirer.fetch_metadata(Some(topic), ASK).map_err(|error| errors::of(&error, &doing))?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            if let Some(code) = found.and_then(rdkafka::metadata::MetadataTopic::error) {
                return Err(errors::of_code(code.into(), &doing));
            }
            match found.map_or(0, |found| found.partitions().len()) {
                0 => Err(LogError::new(LogErrorKind::UnknownTopic, format!("there is no topic {topic}"))),
                count => Ok(count as i32),
            }
        })
    }

    fn bounds(&self, of: &TopicPartition) -> Result<(i64, i64), LogError> {
        self.voice.patiently(self.config.request_timeout, || {
            self.inquirer
                .fetch_watermarks(&of.topic, of.partition, ASK)
                .map_err(|error| errors::of(&error, &format!("bounds of {of}")))
        })
    }

    fn offset_at(&self, of: &TopicPartition, at: i64) -> Result<i64, LogError> {
        let doing = format!("offset of {of} at {at} ms");
        let found = self.voice.patiently(self.config.request_timeout, || {
            let mut asked = TopicPartitionList::new();
            asked
                .add_partition_offset(&of.topic, of.partition, Offset::Offset(at))
                .map_err(|error| errors::of(&error, &doing))?;
            let answer =
                self.inquirer.offsets_for_times(asked, ASK).map_err(|error| errors::of(&error, &doing))?;
            let missing = || LogError::unavailable(format!("{doing}: no answer"));
            let element = answer.find_partition(&of.topic, of.partition).ok_or_else(missing)?;
            element.error().map_err(|error| errors::of(&error, &doing))?;
            Ok(element.offset())
        })?;
        match found {
            Offset::Offset(offset) => Ok(offset),
            // No record is that young.
            _ => self.bounds(of).map(|(_, end)| end),
        }
    }
}

impl Log for KafkaLog {
    type Consumer = KafkaConsumer;
    type Producer = KafkaProducer;
    type Appender = KafkaAppender;

    fn consumer(
        &self,
        group: &str,
        topics: &[&str],
        instance: Option<&str>,
        reset: StartAt,
    ) -> Result<KafkaConsumer, LogError> {
        KafkaConsumer::join(Arc::clone(&self.inner), group, topics, instance, reset)
    }

    fn transactional_producer(&self, transactional_id: &str) -> Result<KafkaProducer, LogError> {
        KafkaProducer::open(Arc::clone(&self.inner), transactional_id)
    }

    fn appender(&self, on_delivery: OnDelivery) -> Result<KafkaAppender, LogError> {
        KafkaAppender::open(&self.inner.config, &self.inner.voice, on_delivery)
    }

    fn read_partition(
        &self,
        of: &TopicPartition,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(Record) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let pooled = self.inner.readers.lock().pop();
        let reader = match pooled {
            Some(reader) => reader,
            None => Reader::open(&self.inner.config, &self.inner.voice)?,
        };
        let read = reader.read(of, from, to, each);
        // One that failed may hold a broken connection; it is dropped.
        if read.is_ok() {
            self.inner.readers.lock().push(reader);
        }
        read
    }

    fn bounds(&self, of: &TopicPartition) -> Result<(i64, i64), LogError> {
        self.inner.bounds(of)
    }

    fn offset_at(&self, of: &TopicPartition, at: i64) -> Result<i64, LogError> {
        self.inner.offset_at(of, at)
    }

    fn partitions(&self, topic: &str) -> Result<i32, LogError> {
        self.inner.partitions(topic)
    }

    fn create_topics(&self, specs: &[TopicSpec], partitions: i32) -> Result<Vec<Created>, LogError> {
        topics::create(&self.inner, specs, partitions)
    }
}

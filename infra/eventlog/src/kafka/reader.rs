//! One partition read from one offset to another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::config::KafkaConfig;
use super::message::owned;
use super::voice::{Voice, VoiceContext};
use super::{ASK, errors};
use crate::error::LogError;
use crate::record::{Record, TopicPartition};

/// How often is asked whether open transactions are settled.
const SETTLE_STEP: Duration = Duration::from_millis(5);

/// A read_committed client without a group, used again and again: connecting costs more than reading.
pub(super) struct Reader {
    consumer: BaseConsumer<VoiceContext>,
    voice: Arc<Voice>,
    settle_limit: Duration,
    stall_limit: Duration,
}

impl Reader {
    pub(super) fn open(config: &KafkaConfig, voice: &Arc<Voice>) -> Result<Self, LogError> {
        let consumer = config
            .reader()
            .create_with_context(VoiceContext(Arc::clone(voice)))
            .map_err(|error| errors::of(&error, "reader"))?;
        Ok(Self {
            consumer,
            voice: Arc::clone(voice),
            // The broker looks for transactions to abort every 10 s.
            settle_limit: config.transaction_timeout + Duration::from_secs(10) + config.request_timeout,
            stall_limit: config.request_timeout,
        })
    }

    pub(super) fn read(
        &self,
        of: &TopicPartition,
        from: i64,
        to: i64,
        each: &mut dyn FnMut(Record) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        if from >= to {
            return Ok(());
        }
        let earliest = self.wait_until_settled(of, to)?;
        if from < earliest {
            return Err(LogError::out_of_range(&of.topic, of.partition, from, earliest));
        }
        let mut list = TopicPartitionList::new();
        let placed = list.add_partition_offset(&of.topic, of.partition, Offset::Offset(from));
        placed
            .and_then(|()| self.consumer.assign(&list))
            .map_err(|error| errors::of(&error, &of.to_string()))?;
        let read = self.take(of, to, each);
        let given_back = self.consumer.unassign().map_err(|error| errors::of(&error, &of.to_string()));
        read.and(given_back)
    }

    /// Ends when the last stable offset has reached `to`; gives the first offset that exists.
    fn wait_until_settled(&self, of: &TopicPartition, to: i64) -> Result<i64, LogError> {
        let deadline = Instant::now() + self.settle_limit;
        loop {
            let (earliest, stable) = self.voice.patiently(self.stall_limit, || {
                let asked = self.consumer.fetch_watermarks(&of.topic, of.partition, ASK);
                asked.map_err(|error| errors::of(&error, &format!("bounds of {of}")))
            })?;
            if stable >= to {
                return Ok(earliest);
            }
            if Instant::now() >= deadline {
                let message = format!(
                    "{of}: transactions from {stable} on are still open after {:?}",
                    self.settle_limit
                );
                return Err(LogError::unavailable(message));
            }
            std::thread::sleep(SETTLE_STEP);
        }
    }

    fn take(
        &self,
        of: &TopicPartition,
        to: i64,
        each: &mut dyn FnMut(Record) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let mut heard_at = Instant::now();
        loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    if message.partition() != of.partition || message.topic() != &*of.topic {
                        continue;
                    }
                    if message.offset() >= to {
                        return Ok(());
                    }
                    each(owned(&of.topic, &message))?;
                    heard_at = Instant::now();
                    if message.offset() + 1 == to {
                        return Ok(());
                    }
                }
                // The end as of a fetch made after the last stable offset had reached `to`: only markers and
                // aborted records are left below it.
                Some(Err(KafkaError::PartitionEOF(partition))) if partition == of.partition => return Ok(()),
                Some(Err(error)) => {
                    let judged = errors::of(&error, &of.to_string());
                    if judged.fate() != runtime::fate::Fate::Transient {
                        return Err(judged);
                    }
                }
                None => {}
            }
            if heard_at.elapsed() >= self.stall_limit {
                return Err(LogError::unavailable(format!("{of}: nothing came for {:?}", self.stall_limit)));
            }
        }
    }
}

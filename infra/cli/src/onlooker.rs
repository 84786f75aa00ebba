//! Reading topics without belonging to them: a group of one's own that nobody else ever joins or sees again.

use eventlog::kafka::KafkaLog;
use eventlog::{Consumer, Log, LogError, Position, StartAt, TopicPartition};

/// Where an onlooker begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With the oldest record that is kept.
    Oldest,
    /// With the next one that is written.
    Next,
}

/// A consumer of these topics for `command`, in a group of its own; nothing is read before [`begin`].
pub(crate) fn consumer(
    log: &KafkaLog,
    command: &str,
    topics: &[&str],
) -> Result<<KafkaLog as Log>::Consumer, LogError> {
    let group = format!("varta-{command}-{}", uuid::Uuid::new_v4());
    log.consumer(&group, topics, None, StartAt::Earliest)
}

/// Starts reading partitions that were just assigned.
pub(crate) fn begin(
    consumer: &mut impl Consumer,
    partitions: Vec<TopicPartition>,
    from: Begin,
) -> Result<(), LogError> {
    let mut at = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let (oldest, end) = consumer.bounds(&partition)?;
        let offset = if from == Begin::Oldest { oldest } else { end };
        at.push(Position { topic: partition.topic, partition: partition.partition, offset });
    }
    consumer.start(&at)
}

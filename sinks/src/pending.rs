//! What a sink whose store keeps no offsets still owes when its store has the rows: dead letters, and positions for the
//! log's consumer group.

use std::{collections::BTreeMap, sync::Arc};

use eventlog::{Position, TopicPartition, dead_letter::DeadLetter};

use crate::{DeadLetters, SinkError, batch::Batch};

/// Grows with each batch that is accepted, is settled by a flush.
#[derive(Default)]
pub(crate) struct Pending {
    letters: Vec<(Arc<str>, i32, DeadLetter)>,
    /// Offsets to go on from once everything before them is durable.
    positions: BTreeMap<(Arc<str>, i32), i64>,
}

impl Pending {
    /// A batch comes: where it ends is kept, and what could not be decoded of it is buried.
    pub(crate) fn take(&mut self, batch: &mut Batch, dead: &DeadLetters) {
        let topic = Arc::clone(&batch.topic);
        for (partition, _, letter) in dead.take_poison(batch) {
            self.bury(&topic, partition, letter);
        }
        for span in &batch.spans {
            self.positions.insert((Arc::clone(&topic), span.partition), span.to);
        }
    }

    /// A row that the store never takes.
    pub(crate) fn bury(&mut self, topic: &Arc<str>, partition: i32, letter: DeadLetter) {
        self.letters.push((Arc::clone(topic), partition, letter));
    }

    /// The store has everything but what begins at `held` of a partition. Delivers the dead letters, and gives the
    /// positions to be stored, which never go past what is held.
    pub(crate) async fn settle(
        &mut self,
        dead: &DeadLetters,
        held: &BTreeMap<(Arc<str>, i32), i64>,
    ) -> Result<Vec<Position>, SinkError> {
        let letters = self.letters.iter().map(|(_, _, letter)| letter.clone()).collect();
        dead.deliver(letters).await?;
        self.letters.clear();
        let mut positions = Vec::with_capacity(self.positions.len());
        self.positions.retain(|of, position| {
            let durable = held.get(of).map_or(*position, |first| (*first).min(*position));
            let (topic, partition) = of.clone();
            positions.push(Position { topic, partition, offset: durable });
            durable < *position
        });
        Ok(positions)
    }

    /// Another process is going to read these partitions from where the group stands.
    pub(crate) fn discard(&mut self, of: &[TopicPartition]) {
        self.positions.retain(|(topic, partition), _| !is_among(of, topic, *partition));
        self.letters.retain(|(topic, partition, _)| !is_among(of, topic, *partition));
    }

    /// Whether nothing is owed.
    pub(crate) fn is_empty(&self) -> bool {
        self.positions.is_empty() && self.letters.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn buried(&self) -> Vec<i32> {
        self.letters.iter().map(|(_, partition, _)| *partition).collect()
    }
}

/// Whether a partition is one of these.
pub(crate) fn is_among(of: &[TopicPartition], topic: &Arc<str>, partition: i32) -> bool {
    of.iter().any(|of| of.topic == *topic && of.partition == partition)
}

//! Rebuilds the state of a partition from its changelog.

use std::collections::BTreeMap;

use bytes::Bytes;
use eventlog::{Consumer, Log, LogError, Record, TopicPartition};
use serde::Deserialize;
use thiserror::Error;

use super::changelog::Standing;
use super::chunk::{self, ChunkError, Header, OFFSET, RowsReader};
use super::operator::{Operator, StateError, lasting};
use super::pieces::batch_bytes;

/// What to do with state that another definition of an operator wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnMismatch {
    /// Stop and say which operator differs.
    #[default]
    Refuse,
    /// Drop that operator's state and go on from the committed offset with an empty one: dedup forgets what
    /// it saw, open windows start anew.
    Rebuild,
}

/// Why a state cannot be restored.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The log did not answer.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A chunk cannot be read.
    #[error("{topic}-{partition} at offset {offset}: {source}")]
    Chunk {
        /// State topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Where.
        offset: i64,
        /// Why.
        source: ChunkError,
    },
    /// The operator refused its rows.
    #[error(transparent)]
    State(#[from] StateError),
    /// Chunks are missing in the middle of a generation.
    #[error(
        "operator `{operator}`, partition {partition}: chunk {missing} of generation {generation} is missing in the state topic; it was truncated or retention is not `compact`"
    )]
    Incomplete {
        /// Whose.
        operator: String,
        /// Partition.
        partition: i32,
        /// Generation.
        generation: u32,
        /// First missing number.
        missing: u32,
    },
    /// The state was written by another definition.
    #[error(
        "operator `{operator}`, partition {partition}: state was written by definition {found:016x}, this program has {expected:016x}; run the version that wrote it, or set on_state_mismatch = \"rebuild\" to go on from the committed offset with empty state"
    )]
    Mismatch {
        /// Whose.
        operator: String,
        /// Partition.
        partition: i32,
        /// Hash in the state topic.
        found: u64,
        /// Hash of this program.
        expected: u64,
    },
}

/// Chunks of one generation by number: definition hash, whether the schema is left out, and rows.
type Generation = BTreeMap<u32, (u64, bool, Bytes)>;

/// What the state topic holds for one partition, before it is judged.
#[derive(Debug, Default)]
pub(crate) struct Found {
    chunks: BTreeMap<String, BTreeMap<u32, Generation>>,
    /// The input offset that the last commit named.
    pub(crate) next_offset: Option<i64>,
    /// Bytes of all values that were read.
    pub(crate) bytes: usize,
}

impl Found {
    fn add(&mut self, record: &Record) -> Result<(), ChunkError> {
        let Some(key) = record.key.as_deref().and_then(chunk::parse_key) else {
            return Err(ChunkError::NotAChunk("key is not operator/generation/number"));
        };
        let Some(value) = &record.value else {
            let (operator, generation, number) = key;
            if let Some(generations) = self.chunks.get_mut(operator)
                && let Some(numbers) = generations.get_mut(&generation)
            {
                numbers.remove(&number);
                if numbers.is_empty() {
                    generations.remove(&generation);
                }
            }
            return Ok(());
        };
        self.bytes += value.len();
        let (header, rows) = chunk::decode(value)?;
        self.next_offset = Some(header.next_offset);
        if header.operator == OFFSET {
            return Ok(());
        }
        let Header { operator, definition, generation, number, without_schema, .. } = header;
        self.chunks
            .entry(operator)
            .or_default()
            .entry(generation)
            .or_default()
            .insert(number, (definition, without_schema, rows));
        Ok(())
    }
}

/// Reads the state partition of `of` up to `end`. Committed records only.
pub(crate) fn read<L: Log>(log: &L, of: &TopicPartition, from: i64, end: i64) -> Result<Found, RestoreError> {
    let mut found = Found::default();
    let mut broken = None;
    if from < end {
        log.read_partition(of, from, end, &mut |record| {
            if broken.is_none()
                && let Err(source) = found.add(&record)
            {
                broken = Some(RestoreError::Chunk {
                    topic: of.topic.to_string(),
                    partition: of.partition,
                    offset: record.offset,
                    source,
                });
            }
            Ok(())
        })?;
    }
    broken.map_or(Ok(found), Err)
}

/// Gives the rows found to the operators.
pub(crate) fn apply(
    found: Found,
    partition: i32,
    operators: Vec<&mut dyn Operator>,
    on_mismatch: OnMismatch,
) -> Result<BTreeMap<String, Standing>, RestoreError> {
    let mut chunks = found.chunks;
    let mut standings = BTreeMap::new();
    for operator in operators {
        let mut generations = chunks.remove(operator.name()).unwrap_or_default();
        let Some((generation, numbers)) = generations.pop_last() else {
            continue;
        };
        let mut standing = Standing {
            generation,
            // Older generations are normally tombstoned already; compaction may lag, never the log itself.
            stale: generations.iter().map(|(older, numbers)| (*older, after_last(numbers))).collect(),
            ..Standing::default()
        };
        let expected = operator.definition_hash();
        if let Some((found, ..)) = numbers.values().find(|(definition, ..)| *definition != expected) {
            if on_mismatch == OnMismatch::Refuse {
                return Err(RestoreError::Mismatch {
                    operator: operator.name().to_owned(),
                    partition,
                    found: *found,
                    expected,
                });
            }
            tracing::warn!(operator = operator.name(), partition, "state of another definition is dropped");
            standing.stale.push((generation, after_last(&numbers)));
            standing.generation += 1;
            standings.insert(operator.name().to_owned(), standing);
            continue;
        }
        let mut reader = RowsReader::default();
        // Each chunk goes once it is applied: what was read shrinks while the state grows.
        for (number, (_, without_schema, rows)) in numbers {
            if number != standing.next_number {
                return Err(RestoreError::Incomplete {
                    operator: operator.name().to_owned(),
                    partition,
                    generation,
                    missing: standing.next_number,
                });
            }
            standing.next_number += 1;
            for batch in reader.read(&rows, without_schema).map_err(|source| RestoreError::Chunk {
                topic: operator.name().to_owned(),
                partition,
                offset: i64::from(number),
                source,
            })? {
                standing.rows += lasting(&batch);
                standing.row_bytes += batch_bytes(&batch);
                operator.restore(&batch)?;
            }
            if number > 0 {
                standing.delta_bytes += rows.len();
            }
        }
        standing.schema = reader.schema().clone();
        operator.restored()?;
        standings.insert(operator.name().to_owned(), standing);
    }
    if let Some((operator, generations)) = chunks.into_iter().next() {
        if on_mismatch == OnMismatch::Refuse {
            let found = generations
                .values()
                .next_back()
                .and_then(|numbers| numbers.values().next())
                .map_or(0, |(definition, ..)| *definition);
            return Err(RestoreError::Mismatch { operator, partition, found, expected: 0 });
        }
        tracing::warn!(operator, partition, "state of an operator that the job no longer has is left alone");
    }
    Ok(standings)
}

fn after_last(numbers: &Generation) -> u32 {
    numbers.last_key_value().map_or(0, |(number, _)| number + 1)
}

/// What one attempt to restore a partition found out.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// State and committed offset agree.
    Agreed {
        /// What to apply.
        found: Found,
        /// Where processing goes on.
        next: i64,
    },
    /// They do not agree yet.
    Disagreed {
        /// What the group committed.
        committed: Option<i64>,
        /// What was read all the same.
        found: Found,
    },
}

/// One attempt. The order matters: once the committed offset is read as stable no older owner can commit
/// any more, and what it did commit stands below the true end of the state partition, its marker perhaps
/// still on the way; `read_partition` waits for that marker. A job that never committed starts at `begin`, without one
/// at the first offset that exists.
pub(crate) fn attempt<L: Log>(
    log: &L,
    consumer: &mut L::Consumer,
    input: &TopicPartition,
    state: &TopicPartition,
    to: ReadTo,
    begin: Option<i64>,
) -> Result<Attempt, RestoreError> {
    let committed = consumer.committed(std::slice::from_ref(input))?.into_iter().next().flatten();
    let (from, true_end) = consumer.bounds(state)?;
    let end = match to {
        ReadTo::TrueEnd => true_end,
        #[cfg(test)]
        ReadTo::Given(end) => end.min(true_end),
    };
    let found = read(log, state, from, end)?;
    match (committed, found.next_offset) {
        (None, None) => {
            let next = begin.map_or_else(|| consumer.bounds(input).map(|(earliest, _)| earliest), Ok)?;
            Ok(Attempt::Agreed { found, next })
        }
        (Some(next), Some(named)) if next == named => Ok(Attempt::Agreed { found, next }),
        (committed, _) => Ok(Attempt::Disagreed { committed, found }),
    }
}

/// How far the state is read. Anything but the true end is a defect that tests plant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReadTo {
    /// The log's true end (high watermark).
    TrueEnd,
    /// Planted defect.
    #[cfg(test)]
    Given(i64),
}

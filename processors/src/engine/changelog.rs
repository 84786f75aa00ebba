//! Writes the state of one partition as chunks: deltas each commit, a new generation when they outgrow it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use eventlog::{LogError, NewRecord};
use metrics::{Gauge, gauge};
use thiserror::Error;

use super::chunk::{self, ChunkError, Header, MAX_CHUNK_BYTES, OFFSET};
use super::operator::{Operator, StateError, lasting};
use super::pieces::batch_bytes;

/// Deltas may grow to this multiple of the live state before a new generation is written.
const OUTGROWN: usize = 3;
/// Below this many bytes of deltas no new generation is worth its chunks.
const SMALL: usize = 256 * 1024;

/// The changelog could not be written.
#[derive(Debug, Error)]
pub enum ChangelogError {
    /// A chunk could not be made.
    #[error("operator `{operator}`: {source}")]
    Chunk {
        /// Whose rows.
        operator: &'static str,
        /// Why.
        source: ChunkError,
    },
    /// The operator could not give its rows.
    #[error(transparent)]
    State(#[from] StateError),
    /// The log did not take a chunk.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Takes the records of a commit as they are made, so that no more than one piece of a state is held.
pub(crate) type Send<'a> = dyn FnMut(NewRecord) -> Result<(), LogError> + 'a;

/// Where one operator's changelog stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Standing {
    /// Current generation.
    pub(crate) generation: u32,
    /// Number of the next chunk in it.
    pub(crate) next_number: u32,
    /// Bytes written in this generation after its snapshot.
    pub(crate) delta_bytes: usize,
    /// Bytes of all rows in this generation, less what each chunk costs by itself.
    pub(crate) row_bytes: usize,
    /// Rows in this generation that say what there is, not what is gone.
    pub(crate) rows: usize,
    /// How the stream of the last chunk in this generation began; the next leaves it out.
    pub(crate) schema: Bytes,
    /// Older chunks that are still to be tombstoned: generation and how many numbers it used.
    pub(crate) stale: Vec<(u32, u32)>,
}

/// The changelog writer of one partition.
#[derive(Debug)]
pub(crate) struct Changelog {
    topic: Arc<str>,
    partition: i32,
    standings: BTreeMap<String, Standing>,
    small: usize,
    meters: BTreeMap<&'static str, Meter>,
}

/// What one operator's state of a partition amounts to.
#[derive(Debug)]
struct Meter {
    rows: Gauge,
    bytes: Gauge,
    written: Gauge,
}

impl Meter {
    fn new(operator: &'static str, partition: i32) -> Self {
        let of = partition.to_string();
        Self {
            rows: gauge!("varta_processors_state_rows", "operator" => operator, "partition" => of.clone()),
            bytes: gauge!("varta_processors_state_bytes", "operator" => operator, "partition" => of.clone()),
            written: gauge!("varta_processors_changelog_bytes", "operator" => operator, "partition" => of),
        }
    }

    fn set(&self, rows: usize, bytes: usize, written: usize) {
        self.rows.set(rows as f64);
        self.bytes.set(bytes as f64);
        self.written.set(written as f64);
    }
}

impl Drop for Meter {
    /// The partition is given away.
    fn drop(&mut self) {
        self.set(0, 0, 0);
    }
}

impl Changelog {
    /// A writer that goes on from `standings` (empty for a new partition).
    pub(crate) fn new(topic: Arc<str>, partition: i32, standings: BTreeMap<String, Standing>) -> Self {
        Self { topic, partition, standings, small: SMALL, meters: BTreeMap::new() }
    }

    #[cfg(test)]
    pub(crate) fn with_small(mut self, bytes: usize) -> Self {
        self.small = bytes;
        self
    }

    /// Sends the records of one commit: changes of each operator, then the note of the next input offset.
    pub(crate) fn commit(
        &mut self,
        operators: Vec<&mut dyn Operator>,
        next_offset: i64,
        send: &mut Send<'_>,
    ) -> Result<(), ChangelogError> {
        for operator in operators {
            self.operator(operator, next_offset, send)?;
        }
        let note = Header {
            operator: OFFSET.to_owned(),
            definition: 0,
            generation: 0,
            number: 0,
            next_offset,
            last_of_commit: true,
            without_schema: false,
        };
        Ok(send(self.record(note.key(), Some(chunk::encode_header(&note))))?)
    }

    fn operator(
        &mut self,
        operator: &mut dyn Operator,
        next_offset: i64,
        send: &mut Send<'_>,
    ) -> Result<(), ChangelogError> {
        let name = operator.name();
        let mut standing = self.standings.remove(name).unwrap_or_default();
        let outgrown =
            standing.delta_bytes > OUTGROWN * live_bytes(&standing, operator.live_rows()).max(self.small);
        let fresh = !standing.stale.is_empty() && standing.next_number == 0;
        if outgrown || fresh {
            self.rewrite(operator, &mut standing, next_offset, send)?;
        } else {
            let definition = operator.definition_hash();
            for rows in operator.changes() {
                let written = self.write(name, definition, &mut standing, next_offset, &rows?, send)?;
                standing.delta_bytes += written;
            }
        }
        let live = operator.live_rows();
        let meter = self.meters.entry(name).or_insert_with(|| Meter::new(name, self.partition));
        meter.set(live, live_bytes(&standing, live), standing.row_bytes);
        self.standings.insert(name.to_owned(), standing);
        Ok(())
    }

    /// A new generation with all live rows; the chunks of older ones become tombstones.
    fn rewrite(
        &self,
        operator: &mut dyn Operator,
        standing: &mut Standing,
        next_offset: i64,
        send: &mut Send<'_>,
    ) -> Result<(), ChangelogError> {
        let mut stale = std::mem::take(&mut standing.stale);
        if standing.next_number > 0 {
            stale.push((standing.generation, standing.next_number));
            standing.generation += 1;
        }
        *standing = Standing { generation: standing.generation, ..Standing::default() };
        let (name, definition) = (operator.name(), operator.definition_hash());
        for rows in operator.all() {
            self.write(name, definition, standing, next_offset, &rows?, send)?;
        }
        if standing.next_number == 0 {
            // An empty state is one, too: without a chunk nobody would know of the generation.
            let none = RecordBatch::new_empty(operator.state_schema());
            self.encode(name, definition, standing, next_offset, &none, send)?;
        }
        for (generation, numbers) in stale {
            for number in 0..numbers {
                send(self.record(chunk::key(name, generation, number), None))?;
            }
        }
        metrics::counter!("varta_processors_state_generations_total", "operator" => operator.name())
            .increment(1);
        Ok(())
    }

    /// Sends one piece, cut into chunks if it is too large for one; answers the bytes sent.
    fn write(
        &self,
        operator: &'static str,
        definition: u64,
        standing: &mut Standing,
        next_offset: i64,
        rows: &RecordBatch,
        send: &mut Send<'_>,
    ) -> Result<usize, ChangelogError> {
        if rows.num_rows() == 0 {
            return Ok(0);
        }
        let size = self.encode(operator, definition, standing, next_offset, rows, send)?;
        if size <= MAX_CHUNK_BYTES {
            return Ok(size);
        }
        if rows.num_rows() < 2 {
            return Err(ChangelogError::Chunk { operator, source: ChunkError::RowTooLarge(size) });
        }
        let parts = (size / MAX_CHUNK_BYTES + 1).max(2);
        let step = rows.num_rows().div_ceil(parts).max(1);
        let mut written = 0;
        for from in (0..rows.num_rows()).step_by(step) {
            let part = rows.slice(from, step.min(rows.num_rows() - from));
            written += self.write(operator, definition, standing, next_offset, &part, send)?;
        }
        Ok(written)
    }

    /// Sends rows as the next chunk unless it would be too large; answers its bytes.
    fn encode(
        &self,
        operator: &'static str,
        definition: u64,
        standing: &mut Standing,
        next_offset: i64,
        rows: &RecordBatch,
        send: &mut Send<'_>,
    ) -> Result<usize, ChangelogError> {
        let header = Header {
            operator: operator.to_owned(),
            definition,
            generation: standing.generation,
            number: standing.next_number,
            next_offset,
            last_of_commit: false,
            without_schema: false,
        };
        let (key, mut schema) = (header.key(), standing.schema.clone());
        let value = chunk::encode(header, rows, &mut schema)
            .map_err(|source| ChangelogError::Chunk { operator, source })?;
        let size = value.len();
        if size <= MAX_CHUNK_BYTES {
            standing.schema = schema;
            standing.next_number += 1;
            standing.rows += lasting(rows);
            standing.row_bytes += batch_bytes(rows);
            send(self.record(key, Some(value)))?;
        }
        Ok(size)
    }

    fn record(&self, key: Bytes, value: Option<Bytes>) -> NewRecord {
        NewRecord {
            topic: Arc::clone(&self.topic),
            partition: Some(self.partition),
            key: Some(key),
            value,
            headers: Vec::new(),
        }
    }
}

/// What the live rows would weigh if written now.
fn live_bytes(standing: &Standing, live_rows: usize) -> usize {
    standing.row_bytes.checked_div(standing.rows).unwrap_or(0) * live_rows
}

#[cfg(test)]
#[path = "changelog_tests.rs"]
mod tests;

//! Partial rows, findable by agent and window.
//!
//! Rows lie in chunks as they came. An index says for each agent's windows where their rows are, so that closing a
//! window costs what the window holds, however much else is open. Rows of one window that pile up are reduced together;
//! chunks that are mostly dead are written anew. Both cost in proportion to what was added or taken since.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, interleave_record_batch};
use arrow::datatypes::SchemaRef;

use super::aggregate::starts;
use crate::engine::pieces::PIECE_ROWS;
use crate::plan::PlanError;

/// A window with this many partial rows is reduced.
const CROWD: usize = 16;
/// Dead rows that are never worth rewriting for.
const FEW: usize = 4096;

/// Where a row lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    chunk: u32,
    row: u32,
}

/// One agent's window (or pane).
#[derive(Debug)]
pub(super) struct Window {
    pub(super) start: i64,
    pub(super) places: Vec<Place>,
    /// The number of rows at which it is reduced.
    crowd: usize,
}

#[derive(Debug)]
struct Chunk {
    rows: RecordBatch,
    live: usize,
    /// Not yet in the changelog.
    is_fresh: bool,
    /// Dead rows, noted while it is fresh.
    gone: Vec<u32>,
}

/// The partial rows of one size of windows.
#[derive(Debug)]
pub(super) struct Partials {
    schema: SchemaRef,
    /// Free slots hold no rows.
    chunks: Vec<Chunk>,
    free: Vec<u32>,
    fresh: Vec<u32>,
    /// Windows by start; an outbox may drain from either end.
    agents: AHashMap<Arc<str>, VecDeque<Window>>,
    crowded: Vec<(Arc<str>, i64)>,
    live: usize,
    dead: usize,
    copied: u64,
}

impl Partials {
    pub(super) fn new(schema: SchemaRef) -> Self {
        Self {
            schema,
            chunks: Vec::new(),
            free: Vec::new(),
            fresh: Vec::new(),
            agents: AHashMap::new(),
            crowded: Vec::new(),
            live: 0,
            dead: 0,
            copied: 0,
        }
    }

    /// Whose rows there are.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.agents.keys()
    }

    /// Whether there are rows of this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.agents.contains_key(key)
    }

    /// Rows that count.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Rows copied out of chunks so far: what all closing and tidying cost.
    pub(super) fn copied(&self) -> u64 {
        self.copied
    }

    /// Adds rows; `is_fresh` if they are still to be written to the changelog.
    pub(super) fn insert(&mut self, rows: RecordBatch, is_fresh: bool) {
        if rows.num_rows() == 0 {
            return;
        }
        let chunk = self.free.pop().unwrap_or(self.chunks.len() as u32);
        let agents = rows.column(0).as_string::<i32>();
        for (row, start) in starts(&rows).iter().enumerate() {
            let (id, place) = (agents.value(row), Place { chunk, row: row as u32 });
            let Some(windows) = self.agents.get_mut(id) else {
                let mut windows = VecDeque::with_capacity(2);
                put(&mut windows, *start, place);
                self.agents.insert(Arc::from(id), windows);
                continue;
            };
            if put(windows, *start, place) {
                self.crowded.push((Arc::from(id), *start));
            }
        }
        let live = rows.num_rows();
        self.live += live;
        let made = Chunk { rows, live, is_fresh, gone: Vec::new() };
        match self.chunks.get_mut(chunk as usize) {
            Some(slot) => *slot = made,
            None => self.chunks.push(made),
        }
        if is_fresh {
            self.fresh.push(chunk);
        }
    }

    /// The windows of an agent, oldest first.
    pub(super) fn windows(&self, agent: &str) -> &VecDeque<Window> {
        static NONE: VecDeque<Window> = VecDeque::new();
        self.agents.get(agent).unwrap_or(&NONE)
    }

    /// Takes the windows of an agent that start before `end` out of the index. Their rows stay readable until they are
    /// [released](Self::release).
    pub(super) fn take(&mut self, agent: &str, end: i64) -> Vec<Window> {
        let Some(windows) = self.agents.get_mut(agent) else {
            return Vec::new();
        };
        let count = windows.partition_point(|window| window.start < end);
        if count == windows.len() {
            return self.agents.remove(agent).unwrap_or_default().into();
        }
        windows.drain(..count).collect()
    }

    /// The same for one window, which need not exist.
    pub(super) fn take_one(&mut self, agent: &str, start: i64) -> Option<Window> {
        let windows = self.agents.get_mut(agent)?;
        let at = windows.binary_search_by_key(&start, |window| window.start).ok()?;
        let window = windows.remove(at)?;
        if windows.is_empty() {
            self.agents.remove(agent);
        }
        Some(window)
    }

    /// Whether some of the rows are in the changelog.
    pub(super) fn is_logged(&self, places: &[Place]) -> bool {
        places.iter().any(|place| !self.chunks[place.chunk as usize].is_fresh)
    }

    /// Copies rows, in this order.
    pub(super) fn gather(&mut self, places: &[Place]) -> Result<RecordBatch, PlanError> {
        if places.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        self.copied += places.len() as u64;
        let mut batches: Vec<&RecordBatch> = Vec::new();
        let mut known: AHashMap<u32, usize> = AHashMap::new();
        let mut indices = Vec::with_capacity(places.len());
        for place in places {
            let batch = *known.entry(place.chunk).or_insert_with(|| {
                batches.push(&self.chunks[place.chunk as usize].rows);
                batches.len() - 1
            });
            indices.push((batch, place.row as usize));
        }
        Ok(interleave_record_batch(&batches, &indices)?)
    }

    /// The rows no longer count.
    pub(super) fn release(&mut self, places: &[Place]) {
        for place in places {
            let chunk = &mut self.chunks[place.chunk as usize];
            chunk.live -= 1;
            self.live -= 1;
            self.dead += 1;
            if chunk.is_fresh {
                chunk.gone.push(place.row);
            } else if chunk.live == 0 {
                self.drop_chunk(place.chunk);
            }
        }
    }

    fn drop_chunk(&mut self, chunk: u32) {
        let empty = RecordBatch::new_empty(Arc::clone(&self.schema));
        let slot = &mut self.chunks[chunk as usize];
        self.dead -= slot.rows.num_rows();
        *slot = Chunk { rows: empty, live: 0, is_fresh: false, gone: Vec::new() };
        self.free.push(chunk);
    }

    /// The rows added since the last call that still count, as they are to be written to the changelog.
    pub(super) fn take_fresh(&mut self) -> Result<Vec<RecordBatch>, PlanError> {
        let mut rows = Vec::new();
        for at in std::mem::take(&mut self.fresh) {
            let chunk = &mut self.chunks[at as usize];
            chunk.is_fresh = false;
            let gone: AHashSet<u32> = std::mem::take(&mut chunk.gone).into_iter().collect();
            if chunk.live == 0 {
                self.drop_chunk(at);
            } else if gone.is_empty() {
                rows.push(chunk.rows.clone());
            } else {
                let stays: BooleanArray =
                    (0..chunk.rows.num_rows() as u32).map(|row| Some(!gone.contains(&row))).collect();
                rows.push(filter_record_batch(&chunk.rows, &stays)?);
            }
        }
        Ok(rows)
    }

    /// Where all rows are that count, chunk by chunk; none of them is fresh any more.
    pub(super) fn places(&mut self) -> Result<Vec<Place>, PlanError> {
        self.take_fresh()?;
        let windows = self.agents.values().flatten();
        let mut places: Vec<Place> = windows.flat_map(|window| window.places.iter().copied()).collect();
        places.sort_unstable();
        Ok(places)
    }

    /// Reduces crowded windows and frees chunks that are mostly dead. Not while rows are fresh: what was reduced could
    /// no longer be written to the changelog.
    pub(super) fn tidy(
        &mut self,
        reduce: impl FnOnce(RecordBatch) -> Result<RecordBatch, PlanError>,
    ) -> Result<(), PlanError> {
        if !self.fresh.is_empty() {
            return Ok(());
        }
        if !self.crowded.is_empty() {
            let mut windows = Vec::new();
            for (agent, start) in std::mem::take(&mut self.crowded) {
                windows.extend(self.take_one(&agent, start).map(|window| (agent, window)));
            }
            let places: Vec<Place> =
                windows.iter().flat_map(|(_, window)| window.places.iter().copied()).collect();
            let reduced = reduce(self.gather(&places)?)?;
            self.release(&places);
            self.insert(reduced, false);
            for (agent, window) in windows {
                let found = self.agents.get_mut(&agent).into_iter().flatten();
                for reduced in found.filter(|found| found.start == window.start) {
                    // With many further keys a window stays large: then it is reduced when it has doubled.
                    reduced.crowd = CROWD.max(2 * reduced.places.len());
                }
            }
            self.crowded.clear();
        }
        if self.dead > self.live + FEW {
            let places = self.places()?;
            let kept = places.chunks(PIECE_ROWS).map(|some| self.gather(some));
            let kept: Vec<RecordBatch> = kept.collect::<Result<_, _>>()?;
            *self = Self { copied: self.copied, ..Self::new(Arc::clone(&self.schema)) };
            for rows in kept {
                self.insert(rows, false);
            }
        }
        Ok(())
    }
}

/// Adds a row to its window; true if the window is crowded now.
fn put(windows: &mut VecDeque<Window>, start: i64, place: Place) -> bool {
    let at = windows.partition_point(|window| window.start < start);
    if windows.get(at).is_none_or(|window| window.start != start) {
        windows.insert(at, Window { start, places: Vec::with_capacity(4), crowd: CROWD });
    }
    let window = &mut windows[at];
    window.places.push(place);
    window.places.len() == window.crowd
}

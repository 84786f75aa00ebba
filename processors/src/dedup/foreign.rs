//! Events of other senders bring an id of their own: remembered for a day of the log's clock.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashMap;
use arrow::array::{
    Array, FixedSizeBinaryArray, FixedSizeBinaryBuilder, Int64Array, Int64Builder, RecordBatch, UInt8Builder,
};
use arrow::datatypes::{DataType, Field, SchemaRef};
use xxhash_rust::xxh3::xxh3_128;

use super::sequence::Seen;
use crate::engine::operator::{
    Op, Operator, StateError, arrow_error, column, definition_hash, ops, schema_text, state_schema,
};
use crate::engine::pieces::{Pieces, pieces};

/// More ids of one agent and hour are not kept: what has them passes flagged.
pub const MOST_AN_HOUR: u32 = 500_000;
/// More ids of one partition are not kept.
const MOST_IDS: usize = 8_000_000;

/// How long an id is remembered, in hours of the log's clock. A repeat that comes later passes.
pub const HORIZON_HOURS: i64 = 24;

const NAME: &str = "foreign";
const HOUR: i64 = 3_600_000_000;

/// How many ids of an agent were kept in the latest hour of the log's clock in which any was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Hours since 1970.
    pub hour: i64,
    /// Kept in it.
    pub kept: u32,
}

impl Share {
    /// Counts one more; whether there is room for it.
    fn take(&mut self, hour: i64) -> bool {
        if self.hour != hour {
            *self = Self { hour, kept: 0 };
        }
        let has_room = self.kept < MOST_AN_HOUR;
        self.kept += u32::from(has_room);
        has_room
    }
}

/// Ids seen, in buckets of one hour. 128-bit hashes: two different ids meet with probability 10⁻²⁰ at 10⁹ ids.
#[derive(Debug)]
pub struct ForeignIds {
    seen: AHashMap<u128, i64>,
    buckets: BTreeMap<i64, Vec<u128>>,
    added: Vec<(u128, i64)>,
    expired: Vec<i64>,
    most: usize,
    schema: SchemaRef,
}

impl Default for ForeignIds {
    fn default() -> Self {
        let schema = state_schema([
            Field::new("id", DataType::FixedSizeBinary(16), true),
            Field::new("hour", DataType::Int64, false),
        ]);
        Self {
            seen: AHashMap::new(),
            buckets: BTreeMap::new(),
            added: Vec::new(),
            expired: Vec::new(),
            most: MOST_IDS,
            schema,
        }
    }
}

impl ForeignIds {
    /// Notes an id; `now` is the log's clock in µs. A new one for which there is no room, or which its agent has no
    /// `share` left to keep, is uncertain whenever it comes.
    pub fn see(&mut self, agent: &str, id: &str, now: i64, share: &mut Share) -> Seen {
        let mut text = Vec::with_capacity(agent.len() + id.len() + 1);
        text.extend_from_slice(agent.as_bytes());
        text.push(0);
        text.extend_from_slice(id.as_bytes());
        let hash = xxh3_128(&text);
        let hour = now.div_euclid(HOUR);
        if self.seen.contains_key(&hash) {
            return Seen::Duplicate;
        }
        if self.seen.len() >= self.most || !share.take(hour) {
            metrics::counter!("varta_processors_foreign_ids_not_kept_total").increment(1);
            return Seen::Uncertain;
        }
        self.insert(hash, hour);
        self.added.push((hash, hour));
        Seen::Fresh
    }

    /// Forgets what is beyond the horizon.
    pub fn expire(&mut self, now: i64) {
        let floor = now.div_euclid(HOUR) - HORIZON_HOURS;
        while let Some(entry) = self.buckets.first_entry().filter(|entry| *entry.key() < floor) {
            let (hour, ids) = entry.remove_entry();
            for id in ids {
                self.seen.remove(&id);
            }
            self.expired.push(hour);
        }
    }

    fn insert(&mut self, hash: u128, hour: i64) {
        self.seen.insert(hash, hour);
        self.buckets.entry(hour).or_default().push(hash);
    }

    /// Rows of ids with their hours, and of hours that are gone.
    fn batch(&self, rows: impl Iterator<Item = (Option<u128>, i64)>) -> Result<RecordBatch, StateError> {
        let error = arrow_error(NAME);
        let mut op = UInt8Builder::new();
        let mut id = FixedSizeBinaryBuilder::new(16);
        let mut hour = Int64Builder::new();
        for (hash, bucket) in rows {
            hour.append_value(bucket);
            if let Some(hash) = hash {
                op.append_value(Op::Put as u8);
                id.append_value(hash.to_be_bytes()).map_err(&error)?;
            } else {
                op.append_value(Op::Delete as u8);
                id.append_null();
            }
        }
        RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![Arc::new(op.finish()), Arc::new(id.finish()), Arc::new(hour.finish())],
        )
        .map_err(error)
    }
}

impl Operator for ForeignIds {
    fn name(&self) -> &'static str {
        NAME
    }

    fn definition_hash(&self) -> u64 {
        definition_hash(&[NAME, "xxh3-128 hour 1", &schema_text(&self.schema)])
    }

    fn state_schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn restore(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        let ids = column::<FixedSizeBinaryArray>(NAME, rows, 1)?;
        let hours = column::<Int64Array>(NAME, rows, 2)?;
        for (row, op) in ops(NAME, rows)?.values().iter().enumerate() {
            let hour = hours.value(row);
            if Op::of(*op) == Some(Op::Delete) {
                for id in self.buckets.remove(&hour).unwrap_or_default() {
                    self.seen.remove(&id);
                }
            } else if ids.is_valid(row) {
                let bytes = ids.value(row).try_into().map_err(|_| StateError::Malformed {
                    operator: NAME,
                    what: "an id is not 16 bytes".into(),
                })?;
                self.insert(u128::from_be_bytes(bytes), hour);
            }
        }
        Ok(())
    }

    fn changes(&mut self) -> Pieces<'_> {
        let added = std::mem::take(&mut self.added).into_iter().map(|(hash, hour)| (Some(hash), hour));
        let expired = std::mem::take(&mut self.expired).into_iter().map(|hour| (None, hour));
        pieces(expired.chain(added), |piece| self.batch(piece))
    }

    fn all(&mut self) -> Pieces<'_> {
        self.added.clear();
        self.expired.clear();
        let kept = &*self;
        let ids = kept.buckets.iter().flat_map(|(hour, ids)| ids.iter().map(|id| (Some(*id), *hour)));
        pieces(ids, |piece| kept.batch(piece))
    }

    fn live_rows(&self) -> usize {
        self.seen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_fresh_once_within_the_horizon_also_after_a_restore() {
        let mut share = Share::default();
        let mut is_fresh = |ids: &mut ForeignIds, agent: &str, id: &str, now: i64| {
            ids.see(agent, id, now, &mut share) == Seen::Fresh
        };
        let mut ids = ForeignIds::default();
        assert!(is_fresh(&mut ids, "a", "1", HOUR));
        assert!(!is_fresh(&mut ids, "a", "1", 2 * HOUR));
        assert!(is_fresh(&mut ids, "b", "1", 2 * HOUR));
        assert!(is_fresh(&mut ids, "a", "2", 2 * HOUR));
        let mut restored = ForeignIds::default();
        restored.restore(&ids.drain_changes().unwrap().unwrap()).unwrap();
        assert!(!is_fresh(&mut restored, "a", "1", 3 * HOUR));
        restored.expire((HORIZON_HOURS + 2) * HOUR);
        assert_eq!(restored.live_rows(), 2);
        assert!(is_fresh(&mut restored, "a", "1", (HORIZON_HOURS + 2) * HOUR));
        let mut again = ForeignIds::default();
        again.restore(&ids.snapshot().unwrap()).unwrap();
        again.restore(&restored.drain_changes().unwrap().unwrap()).unwrap();
        assert_eq!(again.live_rows(), 3);
    }

    #[test]
    fn neither_an_agent_nor_all_of_them_fill_the_memory() {
        let mut ids = ForeignIds { most: 5, ..ForeignIds::default() };
        let (mut loud, mut calm) = (Share { hour: 1, kept: MOST_AN_HOUR - 2 }, Share::default());
        let seen: Vec<_> =
            ["1", "2", "3", "2", "3"].iter().map(|id| ids.see("loud", id, HOUR, &mut loud)).collect();
        assert_eq!(seen, [Seen::Fresh, Seen::Fresh, Seen::Uncertain, Seen::Duplicate, Seen::Uncertain]);
        assert_eq!(ids.see("calm", "3", HOUR, &mut calm), Seen::Fresh);
        assert_eq!(ids.see("loud", "3", 2 * HOUR, &mut loud), Seen::Fresh, "another hour");
        assert_eq!((loud, ids.live_rows()), (Share { hour: 2, kept: 1 }, 4));
        assert_eq!(ids.see("calm", "4", 2 * HOUR, &mut calm), Seen::Fresh);
        assert_eq!(ids.see("calm", "5", 2 * HOUR, &mut calm), Seen::Uncertain);
        assert_eq!((calm.kept, ids.live_rows()), (1, 5));
    }
}

//! Now = the running maximum of Kafka's append time of clock records.
//!
//! Beside it runs a *quiet clock* against which silence and open holes are measured. It moves by at most 10 s
//! at once, and only while every bridge that counts says that it is connected: neither a bridge with a wrong
//! clock nor an outage of ours makes agents look dead.

use std::sync::Arc;

use arrow::array::{BooleanArray, BooleanBuilder, Int64Array, Int64Builder, RecordBatch};
use arrow::array::{StringArray, StringBuilder, UInt8Builder};
use arrow::datatypes::{DataType, Field, SchemaRef};

use crate::engine::operator::{
    Op, Operator, StateError, arrow_error, column, definition_hash, schema_text, state_schema,
};
use crate::engine::pieces::{Pieces, one};

const NAME: &str = "clock";
const SECOND: i64 = 1_000_000;
/// The quiet clock never moves further at once.
const MAX_STEP: i64 = 10 * SECOND;
/// A bridge that has not been heard for this long does not say that it is connected.
const STALE: i64 = 20 * SECOND;
/// A bridge that vanished without goodbye stops counting after this long.
const GONE: i64 = 300 * SECOND;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bridge {
    id: String,
    heard: i64,
    connected: bool,
}

/// The partition's clock.
#[derive(Debug)]
pub struct Clock {
    now: i64,
    quiet: i64,
    bridges: Vec<Bridge>,
    changed: bool,
    restored: bool,
    schema: SchemaRef,
}

impl Default for Clock {
    fn default() -> Self {
        let schema = state_schema([
            Field::new("bridge", DataType::Utf8, false),
            Field::new("at", DataType::Int64, false),
            Field::new("quiet", DataType::Int64, false),
            Field::new("connected", DataType::Boolean, false),
        ]);
        Self { now: 0, quiet: 0, bridges: Vec::new(), changed: false, restored: false, schema }
    }
}

impl Clock {
    /// µs since 1970 of the latest clock record; 0 before the first.
    pub fn now(&self) -> i64 {
        self.now
    }

    /// µs of quiet time, from some start.
    pub fn quiet(&self) -> i64 {
        self.quiet
    }

    /// Whether it was restored since the last call.
    pub fn take_restored(&mut self) -> bool {
        std::mem::take(&mut self.restored)
    }

    /// A clock record that Kafka appended at `appended` (µs).
    pub fn tick(&mut self, bridge: &str, appended: i64, connected: bool, goodbye: bool) {
        self.changed = true;
        let before = self.now;
        // Who was connected over the time that passed is what they said before it passed.
        let all_connected = !self.bridges.is_empty()
            && self.bridges.iter().all(|bridge| bridge.connected && appended - bridge.heard <= STALE);
        self.now = self.now.max(appended);
        if before > 0 && all_connected && connected {
            self.quiet += (self.now - before).min(MAX_STEP);
        }
        #[cfg(test)]
        if before > 0 && crate::planted::is_planted(crate::planted::Planted::SilenceByWallClock) {
            self.quiet = self.now;
        }
        let now = self.now;
        self.bridges.retain(|known| known.id != bridge && now - known.heard <= GONE);
        if !goodbye {
            self.bridges.push(Bridge { id: bridge.to_owned(), heard: appended, connected });
            self.bridges.sort_by(|a, b| a.id.cmp(&b.id));
        }
    }

    fn batch(&self) -> Result<RecordBatch, StateError> {
        let mut op = UInt8Builder::new();
        let mut id = StringBuilder::new();
        let mut at = Int64Builder::new();
        let mut quiet = Int64Builder::new();
        let mut connected = BooleanBuilder::new();
        // The whole clock is one value: the first row replaces everything that was there.
        let own = Bridge { id: String::new(), heard: self.now, connected: true };
        for bridge in std::iter::once(&own).chain(&self.bridges) {
            op.append_value(Op::Put as u8);
            id.append_value(&bridge.id);
            at.append_value(bridge.heard);
            quiet.append_value(self.quiet);
            connected.append_value(bridge.connected);
        }
        RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![
                Arc::new(op.finish()),
                Arc::new(id.finish()),
                Arc::new(at.finish()),
                Arc::new(quiet.finish()),
                Arc::new(connected.finish()),
            ],
        )
        .map_err(arrow_error(NAME))
    }
}

impl Operator for Clock {
    fn name(&self) -> &'static str {
        NAME
    }

    fn definition_hash(&self) -> u64 {
        definition_hash(&[NAME, "whole 1", &schema_text(&self.schema)])
    }

    fn state_schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn restore(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        let ids = column::<StringArray>(NAME, rows, 1)?;
        let at = column::<Int64Array>(NAME, rows, 2)?;
        let quiet = column::<Int64Array>(NAME, rows, 3)?;
        let connected = column::<BooleanArray>(NAME, rows, 4)?;
        self.restored = true;
        for row in 0..rows.num_rows() {
            if ids.value(row).is_empty() {
                self.bridges.clear();
                self.now = at.value(row);
                self.quiet = quiet.value(row);
            } else {
                self.bridges.push(Bridge {
                    id: ids.value(row).to_owned(),
                    heard: at.value(row),
                    connected: connected.value(row),
                });
            }
        }
        Ok(())
    }

    fn changes(&mut self) -> Pieces<'_> {
        if std::mem::take(&mut self.changed) { one(self.batch()) } else { Box::new(std::iter::empty()) }
    }

    fn all(&mut self) -> Pieces<'_> {
        self.changed = false;
        one(self.batch())
    }

    fn live_rows(&self) -> usize {
        self.bridges.len() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quiet_clock_moves_in_small_steps_and_only_while_all_are_connected() {
        let mut clock = Clock::default();
        clock.tick("a", 100 * SECOND, true, false);
        clock.tick("a", 105 * SECOND, true, false);
        assert_eq!(clock.quiet(), 5 * SECOND);
        // Late record of another bridge: time does not go back.
        clock.tick("b", 103 * SECOND, true, false);
        assert_eq!((clock.now(), clock.quiet()), (105 * SECOND, 5 * SECOND));
        clock.tick("b", 108 * SECOND, false, false);
        clock.tick("a", 110 * SECOND, true, false);
        assert_eq!(clock.quiet(), 5 * SECOND);
        // b says goodbye: only a counts.
        clock.tick("b", 111 * SECOND, true, true);
        clock.tick("a", 115 * SECOND, true, false);
        assert_eq!(clock.quiet(), 9 * SECOND);
        // Nobody spoke for an hour: the clock jumps, quiet time does not.
        clock.tick("a", 4_000 * SECOND, true, false);
        assert_eq!((clock.now(), clock.quiet()), (4_000 * SECOND, 9 * SECOND));
    }

    #[test]
    fn a_bridge_that_vanished_stops_counting() {
        let mut clock = Clock::default();
        clock.tick("a", SECOND, true, false);
        for second in 1..400 {
            clock.tick("b", second * SECOND, true, false);
        }
        let quiet = clock.quiet();
        assert!(quiet < 130 * SECOND, "{quiet}");
        assert!(quiet > 90 * SECOND, "{quiet}");
        let mut restored = Clock::default();
        restored.restore(&clock.drain_changes().unwrap().unwrap()).unwrap();
        assert_eq!(
            (restored.now(), restored.quiet(), &restored.bridges),
            (clock.now(), quiet, &clock.bridges)
        );
    }
}

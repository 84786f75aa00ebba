//! A load at a rate, straight into `varta.raw`, each event at the moment that it is dated: made beforehand, so that
//! making it takes nothing from those who are measured.

use std::ops::Range;
use std::time::Duration;

use schemas::record::RecordKind;

use super::fill::{Fill, Raw};

/// When the load is late by so much, what is measured is the load.
const TOO_LATE: i64 = 20_000;

/// What the load itself did.
#[derive(Clone, Copy, Debug)]
pub struct Fed {
    /// Events handed to Kafka's client.
    pub events: u64,
    /// Those among them that were handed over more than 20 ms after their time.
    pub late: u64,
}

/// Records that are ready, in the order of their times.
pub struct Ready {
    bytes: Vec<u8>,
    /// Key and value, places in `bytes`, and the time, µs; a clock record has no key.
    records: Vec<(Option<Range<usize>>, Range<usize>, i64)>,
}

impl Ready {
    /// Makes all records of the load.
    pub fn make(fill: &Fill, ids: &dyn Fn(RecordKind) -> anyhow::Result<u32>) -> anyhow::Result<Self> {
        let mut ready = Self { bytes: Vec::new(), records: Vec::new() };
        fill.records(ids, &mut |key, value, at| {
            let key = key.map(|key| ready.put(key.as_bytes()));
            let value = ready.put(value);
            ready.records.push((key, value, at));
            Ok(())
        })?;
        Ok(ready)
    }

    fn put(&mut self, bytes: &[u8]) -> Range<usize> {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        from..self.bytes.len()
    }

    /// Hands each record over when it is time.
    pub fn feed(&self, raw: &Raw) -> anyhow::Result<Fed> {
        let mut fed = Fed { events: 0, late: 0 };
        let mut now = runtime::clock::now_us();
        for (key, value, at) in &self.records {
            while now < *at {
                std::thread::sleep(Duration::from_micros((at - now).clamp(500, 2_000).unsigned_abs()));
                now = runtime::clock::now_us();
            }
            let key = key.clone().map(|key| std::str::from_utf8(&self.bytes[key])).transpose()?;
            raw.send(key, &self.bytes[value.clone()])?;
            if key.is_some() {
                fed.events += 1;
                if fed.events.is_multiple_of(100) {
                    now = runtime::clock::now_us();
                }
                fed.late += u64::from(now > at + TOO_LATE);
            }
        }
        Ok(fed)
    }
}

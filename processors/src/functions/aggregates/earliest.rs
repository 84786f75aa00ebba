//! `earliest(key, event_time, text)`: the texts of the first row of each key, of the [`MOST`] keys that came first, as a
//! JSON array in the order of (event time, key); the texts must be JSON themselves.
//!
//! Which rows these are does not depend on the order of merging: whoever is among the first of all is among the first of
//! the part that has its first row. Of rows of one key and time the lesser text is taken. Rows without time or text are
//! left out.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::Result;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Signature, TypeSignature, Volatility};

use super::{Summary, take, typed};

/// Keys kept.
const MOST: usize = 10;
/// A longer key or text (bytes) is left out: a row of state has to fit into a record of the changelog.
const LONGEST: usize = 4096;

/// The first row of each kept key, in the order of (time, key).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Earliest {
    rows: Vec<(i64, String, String)>,
}

impl Earliest {
    fn put(&mut self, time: i64, key: &str, text: &str) {
        if key.len() > LONGEST || text.len() > LONGEST {
            return;
        }
        if let Some(at) = self.rows.iter().position(|row| row.1 == key) {
            let known = &self.rows[at];
            if (time, text) >= (known.0, known.2.as_str()) {
                return;
            }
            self.rows.remove(at);
        }
        let at = self.rows.partition_point(|row| (row.0, row.1.as_str()) < (time, key));
        if at < MOST {
            self.rows.insert(at, (time, key.to_owned(), text.to_owned()));
            self.rows.truncate(MOST);
        }
    }

    fn json(&self) -> Option<String> {
        let texts: Vec<_> = self.rows.iter().map(|row| row.2.as_str()).collect();
        (!texts.is_empty()).then(|| format!("[{}]", texts.join(",")))
    }
}

impl Summary for Earliest {
    const NAME: &'static str = "earliest";
    type Columns<'a> = (&'a StringArray, &'a TimestampMicrosecondArray, &'a StringArray);
    type Literals = ();

    fn signature() -> Signature {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
        let exact = TypeSignature::Exact(vec![DataType::Utf8, time, DataType::Utf8]);
        Signature::new(exact, Volatility::Immutable)
    }

    fn result_type() -> DataType {
        DataType::Utf8
    }

    fn literals(_: &AccumulatorArgs<'_>) -> Result<()> {
        Ok(())
    }

    fn columns(values: &[ArrayRef]) -> Result<Self::Columns<'_>> {
        Ok((typed(values, 0)?, typed(values, 1)?, typed(values, 2)?))
    }

    fn add(&mut self, (keys, times, texts): &Self::Columns<'_>, row: usize) {
        if times.is_valid(row) && texts.is_valid(row) {
            self.put(times.value(row), keys.value(row), texts.value(row));
        }
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn write(&self, out: &mut Vec<u8>) {
        for (time, key, text) in &self.rows {
            out.extend_from_slice(&time.to_le_bytes());
            for part in [key, text] {
                out.extend_from_slice(&(part.len() as u32).to_le_bytes());
                out.extend_from_slice(part.as_bytes());
            }
        }
    }

    fn merge(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let time = i64::from_le_bytes(take(&mut bytes)?);
            let (key, text) = (part(&mut bytes)?, part(&mut bytes)?);
            self.put(time, key, text);
        }
        Some(())
    }

    fn results(summaries: &[Self], (): &()) -> Result<ArrayRef> {
        Ok(Arc::new(summaries.iter().map(Self::json).collect::<StringArray>()))
    }
}

/// Takes a text with its length before it.
fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = u32::from_le_bytes(take(bytes)?) as usize;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

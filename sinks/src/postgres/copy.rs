//! Rows in PostgreSQL's binary COPY format.
//!
//! Source: PostgreSQL documentation, *COPY*, "Binary Format". Binary, because nothing has to be escaped and a time
//! is a number. PostgreSQL's text cannot hold the character NUL; it is replaced by U+FFFD.

use arrow::array::RecordBatch;

use crate::{SinkError, column};

/// Before the first tuple: signature, no flags, no extension.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// After the last tuple.
pub(super) const TRAILER: &[u8] = &(-1i16).to_be_bytes();

/// 2000-01-01 in µs since 1970: where PostgreSQL's times begin.
const EPOCH: i64 = 946_684_800_000_000;
/// 4713-01-01 BC (Julian), PostgreSQL's first time, in µs since 2000.
const FIRST: i64 = -211_813_488_000_000_000;
/// 294277-01-01, the first time after PostgreSQL's last, in µs since 2000.
const AFTER_LAST: i64 = 9_223_371_331_200_000_000;

/// Type of a staged column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `text`
    Text,
    /// `jsonb`
    Json,
    /// `integer`
    Int,
    /// `bigint`
    Long,
    /// `double precision`
    Double,
    /// `boolean`
    Boolean,
    /// `timestamptz`
    Time,
}

/// One tuple under construction.
#[derive(Debug, Default)]
pub(super) struct Tuple {
    bytes: Vec<u8>,
}

impl Tuple {
    pub(super) fn new(columns: usize) -> Self {
        let mut bytes = Vec::with_capacity(16 * columns);
        bytes.extend_from_slice(&(columns as i16).to_be_bytes());
        Self { bytes }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn null(&mut self) {
        self.bytes.extend_from_slice(&(-1i32).to_be_bytes());
    }

    fn value(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(&(value.len() as i32).to_be_bytes());
        self.bytes.extend_from_slice(value);
    }

    pub(super) fn uuid(&mut self, id: [u8; 16]) {
        self.value(&id);
    }

    pub(super) fn text(&mut self, text: &str) {
        if text.contains('\0') {
            self.value(text.replace('\0', "\u{fffd}").as_bytes());
        } else {
            self.value(text.as_bytes());
        }
    }

    pub(super) fn text_or_null(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.null(),
        }
    }

    /// What is no JSON is stored as a JSON string: content is never a reason to lose a row.
    fn json(&mut self, text: &str) {
        let valid = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        let text = if valid { text.to_owned() } else { serde_json::Value::from(text).to_string() };
        let mut value = vec![1u8];
        value.extend_from_slice(text.replace("\\u0000", "\\ufffd").as_bytes());
        self.value(&value);
    }

    /// Fails for a time that PostgreSQL cannot store.
    pub(super) fn time(&mut self, name: &str, micros: i64) -> Result<(), String> {
        let since_2000 = micros.checked_sub(EPOCH).filter(|micros| (FIRST..AFTER_LAST).contains(micros));
        let Some(since_2000) = since_2000 else {
            return Err(format!("{name} {micros} µs is outside what PostgreSQL can store"));
        };
        self.value(&since_2000.to_be_bytes());
        Ok(())
    }
}

/// A staged column and the column of the record that it comes from.
pub(super) type Column = (&'static str, Kind);

/// The cell readers of some columns of a batch.
pub(super) struct Cells<'a> {
    cells: Vec<(&'static str, Cell<'a>)>,
}

enum Cell<'a> {
    Text(&'a arrow::array::StringArray),
    Json(&'a arrow::array::StringArray),
    Int(&'a arrow::array::Int32Array),
    Long(arrow::array::Int64Array),
    Time(arrow::array::Int64Array),
    Double(&'a arrow::array::Float64Array),
    Boolean(&'a arrow::array::BooleanArray),
}

impl<'a> Cells<'a> {
    pub(super) fn new(batch: &'a RecordBatch, columns: &[Column]) -> Result<Self, SinkError> {
        let mut cells = Vec::with_capacity(columns.len());
        for (name, kind) in columns {
            let cell = match kind {
                Kind::Text => Cell::Text(column::text(batch, name)?),
                Kind::Json => Cell::Json(column::text(batch, name)?),
                Kind::Int => Cell::Int(column::int(batch, name)?),
                Kind::Long => Cell::Long(column::long(batch, name)?),
                Kind::Time => Cell::Time(column::long(batch, name)?),
                Kind::Double => Cell::Double(column::double(batch, name)?),
                Kind::Boolean => Cell::Boolean(column::boolean(batch, name)?),
            };
            cells.push((*name, cell));
        }
        Ok(Self { cells })
    }

    /// The tuple of one row, or why PostgreSQL cannot store it.
    pub(super) fn tuple(&self, row: usize) -> Result<Vec<u8>, String> {
        use arrow::array::Array as _;
        let mut tuple = Tuple::new(self.cells.len());
        for (name, cell) in &self.cells {
            match cell {
                Cell::Text(array) if array.is_valid(row) => tuple.text(array.value(row)),
                Cell::Json(array) if array.is_valid(row) => tuple.json(array.value(row)),
                Cell::Int(array) if array.is_valid(row) => tuple.value(&array.value(row).to_be_bytes()),
                Cell::Long(array) if array.is_valid(row) => tuple.value(&array.value(row).to_be_bytes()),
                Cell::Time(array) if array.is_valid(row) => tuple.time(name, array.value(row))?,
                Cell::Double(array) if array.is_valid(row) => tuple.value(&array.value(row).to_be_bytes()),
                Cell::Boolean(array) if array.is_valid(row) => tuple.value(&[u8::from(array.value(row))]),
                _ => tuple.null(),
            }
        }
        Ok(tuple.finish())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text_of(write: impl Fn(&mut Tuple)) -> Vec<u8> {
        let mut tuple = Tuple::new(1);
        write(&mut tuple);
        tuple.finish()[6..].to_vec()
    }

    #[test]
    fn a_nul_is_replaced_in_text_and_json() {
        assert_eq!(text_of(|tuple| tuple.text("a\0b")), "a\u{fffd}b".as_bytes());
        assert_eq!(text_of(|tuple| tuple.json("[\"a\\u0000\"]")), b"\x01[\"a\\ufffd\"]");
        assert_eq!(text_of(|tuple| tuple.json("{oops")), b"\x01\"{oops\"");
    }

    #[test]
    fn times_begin_in_2000_and_have_bounds() {
        let mut tuple = Tuple::new(1);
        tuple.time("t", EPOCH + 5).unwrap();
        assert_eq!(tuple.finish()[6..], 5i64.to_be_bytes());
        assert!(Tuple::new(1).time("t", i64::MIN).is_err());
    }

    proptest! {
        #[test]
        fn no_text_keeps_a_nul_and_lengths_fit(text: String) {
            let mut tuple = Tuple::new(1);
            tuple.text(&text);
            let bytes = tuple.finish();
            let length = i32::from_be_bytes(bytes[2..6].try_into().unwrap());
            prop_assert_eq!(length as usize, bytes.len() - 6);
            prop_assert!(!bytes[6..].contains(&0));
        }
    }
}

//! Columns of a row as one JSON text: the lake's raw table, and dead letters of rows that a store refused.
//!
//! Names and units are those of the Avro record; times are µs since 1970; what is null is left out.
//! A number that JSON cannot write (NaN, infinity) becomes a text.

use std::fmt::Write as _;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, StringBuilder},
    datatypes::{DataType, Float64Type, Int32Type},
};

use crate::{SinkError, column};

/// One text for each row, from the columns `from..` of the batch.
pub(crate) fn bodies(batch: &RecordBatch, from: usize) -> Result<StringArray, SinkError> {
    let schema = batch.schema();
    let mut cells = Vec::with_capacity(batch.num_columns() - from);
    for (field, column) in schema.fields().iter().zip(batch.columns()).skip(from) {
        if column.null_count() < column.len() {
            let name = serde_json::Value::from(field.name().as_str()).to_string();
            cells.push((format!("{name}:"), Cells::of(field.name(), column)?));
        }
    }
    let mut texts = StringBuilder::with_capacity(batch.num_rows(), batch.num_rows() * 64);
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        text.clear();
        text.push('{');
        for (name, cells) in &cells {
            if cells.is_null(row) {
                continue;
            }
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(name);
            cells.write(row, &mut text);
        }
        text.push('}');
        texts.append_value(&text);
    }
    Ok(texts.finish())
}

/// One row as JSON bytes, for a dead letter.
pub(crate) fn row(batch: &RecordBatch, row: usize) -> bytes::Bytes {
    let text = bodies(&batch.slice(row, 1), 0).map(|texts| texts.value(0).to_owned());
    bytes::Bytes::from(text.unwrap_or_default())
}

enum Cells<'a> {
    Text(&'a StringArray),
    Long(arrow::array::Int64Array),
    Int(&'a arrow::array::Int32Array),
    Double(&'a arrow::array::Float64Array),
    Boolean(&'a arrow::array::BooleanArray),
}

impl<'a> Cells<'a> {
    fn of(name: &str, array: &'a ArrayRef) -> Result<Self, SinkError> {
        if let Some(numbers) = column::as_long(array) {
            return Ok(Self::Long(numbers));
        }
        match array.data_type() {
            DataType::Utf8 => Ok(Self::Text(array.as_string())),
            DataType::Int32 => Ok(Self::Int(array.as_primitive::<Int32Type>())),
            DataType::Float64 => Ok(Self::Double(array.as_primitive::<Float64Type>())),
            DataType::Boolean => Ok(Self::Boolean(array.as_boolean())),
            other => Err(SinkError::Fatal(format!("column `{name}` has the unexpected type {other}"))),
        }
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Text(array) => array.is_null(row),
            Self::Long(array) => array.is_null(row),
            Self::Int(array) => array.is_null(row),
            Self::Double(array) => array.is_null(row),
            Self::Boolean(array) => array.is_null(row),
        }
    }

    fn write(&self, row: usize, text: &mut String) {
        // Writing into a String does not fail.
        let _ = match self {
            Self::Text(array) => {
                quote(array.value(row), text);
                Ok(())
            }
            Self::Long(array) => write!(text, "{}", array.value(row)),
            Self::Int(array) => write!(text, "{}", array.value(row)),
            Self::Boolean(array) => write!(text, "{}", array.value(row)),
            Self::Double(array) => match array.value(row) {
                value if value.is_finite() => write!(text, "{value:?}"),
                value => write!(text, "\"{value}\""),
            },
        };
    }
}

/// A JSON string; the common case, nothing to escape, is copied at once.
fn quote(value: &str, text: &mut String) {
    text.push('"');
    if value.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        text.push_str(value);
    } else {
        for character in value.chars() {
            match character {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                other if (other as u32) < 0x20 => {
                    let _ = write!(text, "\\u{:04x}", other as u32);
                }
                other => text.push(other),
            }
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{BooleanArray, Float64Array, Int32Array, Int64Array},
        datatypes::{Field, Schema},
    };
    use proptest::prelude::*;

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        let field = |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
        let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
        RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, array)| array).collect()).unwrap()
    }

    #[test]
    fn nulls_are_left_out_and_types_kept() {
        let batch = batch(vec![
            ("agent_id", Arc::new(StringArray::from(vec!["a", "a"]))),
            ("pid", Arc::new(Int64Array::from(vec![Some(7), None]))),
            ("port", Arc::new(Int32Array::from(vec![None, Some(443)]))),
            ("load", Arc::new(Float64Array::from(vec![Some(1.0), Some(f64::NAN)]))),
            ("up", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            ("never", Arc::new(StringArray::from(vec![None::<&str>, None]))),
        ]);
        let texts = bodies(&batch, 1).unwrap();
        assert_eq!(texts.value(0), r#"{"pid":7,"load":1.0,"up":true}"#);
        assert_eq!(texts.value(1), r#"{"port":443,"load":"NaN"}"#);
    }

    proptest! {
        #[test]
        fn any_text_and_number_comes_back(text: String, number: i64, double in proptest::num::f64::NORMAL) {
            let batch = batch(vec![
                ("t", Arc::new(StringArray::from(vec![text.clone()]))),
                ("n", Arc::new(Int64Array::from(vec![number]))),
                ("d", Arc::new(Float64Array::from(vec![double]))),
            ]);
            let texts = bodies(&batch, 0).unwrap();
            let parsed: serde_json::Value = serde_json::from_str(texts.value(0)).unwrap();
            prop_assert_eq!(parsed["t"].as_str(), Some(text.as_str()));
            let text = texts.value(0);
            prop_assert_eq!(parsed["n"].as_i64(), Some(number));
            // serde_json reads a number to within its last bit; the text is exact.
            let digits = text.split("\"d\":").last().and_then(|rest| rest.strip_suffix('}')).unwrap();
            prop_assert_eq!(digits.parse::<f64>().unwrap().to_bits(), double.to_bits());
        }
    }
}

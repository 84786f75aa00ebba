//! Reading single values of a batch by column name.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Number, Value};

use super::AlertError;

fn column<'a>(
    batch: &'a RecordBatch,
    name: &str,
    expected: &'static str,
    fits: impl Fn(&DataType) -> bool,
) -> Result<&'a dyn Array, AlertError> {
    let found = batch.column_by_name(name).filter(|column| fits(column.data_type()));
    found.map(AsRef::as_ref).ok_or_else(|| AlertError::Column { column: name.to_owned(), expected })
}

/// The column of texts of this name.
pub(crate) fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, AlertError> {
    Ok(column(batch, name, "text", |kind| *kind == DataType::Utf8)?.as_string())
}

/// The column of times of this name, in µs.
pub(crate) fn times<'a>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a TimestampMicrosecondArray, AlertError> {
    let is_time = |kind: &DataType| matches!(kind, DataType::Timestamp(TimeUnit::Microsecond, _));
    Ok(column(batch, name, "timestamp in µs", is_time)?.as_primitive::<TimestampMicrosecondType>())
}

/// The column of whole numbers of this name.
pub(crate) fn longs<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a Int64Array, AlertError> {
    Ok(column(batch, name, "long", |kind| *kind == DataType::Int64)?.as_primitive::<Int64Type>())
}

/// The column of booleans of this name.
pub(crate) fn booleans<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a BooleanArray, AlertError> {
    Ok(column(batch, name, "boolean", |kind| *kind == DataType::Boolean)?.as_boolean())
}

/// One text; `None` if it is null or there is no such column.
pub(crate) fn text(batch: &RecordBatch, name: &str, row: usize) -> Option<String> {
    maybe(batch, name, row).map(str::to_owned)
}

/// One text without a copy; `None` if it is null or there is no such column.
pub(crate) fn maybe<'a>(batch: &'a RecordBatch, name: &str, row: usize) -> Option<&'a str> {
    let column = texts(batch, name).ok()?;
    column.is_valid(row).then(|| column.value(row))
}

/// One value for people; `None` if it is null or there is no such column. Fractions have one digit.
pub(crate) fn display(batch: &RecordBatch, name: &str, row: usize) -> Option<String> {
    let column = batch.column_by_name(name)?;
    if column.is_null(row) {
        return None;
    }
    if *column.data_type() == DataType::Float64 {
        return Some(format!("{:.1}", column.as_primitive::<Float64Type>().value(row)));
    }
    let options = FormatOptions::default();
    ArrayFormatter::try_new(column.as_ref(), &options).ok()?.value(row).try_to_string().ok()
}

/// One value of a row in JSON for people, as [`display`] has it; `None` if it is null.
pub(crate) fn display_value(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if number.is_f64() => number.as_f64().map(|number| format!("{number:.1}")),
        other => Some(other.to_string()),
    }
}

/// Longest text in evidence, in bytes, and what all of one row may come to.
const TEXT: usize = 4096;
const EVIDENCE: usize = 16 * 1024;

/// One row as a JSON object without its nulls; times as RFC 3339. Whoever sends a megabyte in a field does not get it
/// into every alert: long texts are cut, and of a row that is too long for all that, the longest texts are left out.
pub(crate) fn evidence(batch: &RecordBatch, row: usize) -> Result<Map<String, Value>, AlertError> {
    evidence_within(batch, row, EVIDENCE)
}

/// The same in at most so many bytes.
pub(crate) fn evidence_within(
    batch: &RecordBatch,
    row: usize,
    most: usize,
) -> Result<Map<String, Value>, AlertError> {
    let mut evidence = Map::new();
    let mut size = 0;
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if column.is_valid(row)
            && let Some(value) = json(column, row)?
        {
            size += value.as_str().map_or(16, str::len);
            evidence.insert(field.name().clone(), value);
        }
    }
    if size > TEXT.min(most / 2) {
        bound(&mut evidence, most);
    }
    Ok(evidence)
}

/// What [`evidence`] says of a row, as the text of its JSON object and without making the object; `None` if the row has
/// to be bounded.
pub(crate) fn evidence_text(batch: &RecordBatch, row: usize) -> Result<Option<String>, AlertError> {
    let mut text: Vec<u8> = Vec::with_capacity(1024);
    let mut size = 0;
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if column.is_null(row) {
            continue;
        }
        let before = text.len();
        text.push(if before == 0 { b'{' } else { b',' });
        text.push(b'"');
        text.extend_from_slice(field.name().as_bytes());
        text.extend_from_slice(b"\":");
        size += 16;
        match column.data_type() {
            DataType::Utf8 => {
                let value = column.as_string::<i32>().value(row);
                size += value.len();
                if size > TEXT {
                    return Ok(None);
                }
                serde_json::to_writer(&mut text, value)?;
            }
            DataType::Boolean => serde_json::to_writer(&mut text, &column.as_boolean().value(row))?,
            DataType::Int64 => {
                serde_json::to_writer(&mut text, &column.as_primitive::<Int64Type>().value(row))?;
            }
            DataType::Float64 => match column.as_primitive::<Float64Type>().value(row) {
                value if value.is_finite() => serde_json::to_writer(&mut text, &value)?,
                _ => text.truncate(before),
            },
            _ => match json(column, row)? {
                Some(value) => serde_json::to_writer(&mut text, &value)?,
                None => text.truncate(before),
            },
        }
    }
    if size > TEXT {
        return Ok(None);
    }
    text.extend_from_slice(if text.is_empty() { b"{}" } else { b"}" });
    // What Arrow and JSON write is text.
    Ok(String::from_utf8(text).ok())
}

/// A value that is not null; `None` for a number that JSON does not know.
fn json(column: &ArrayRef, row: usize) -> Result<Option<Value>, AlertError> {
    Ok(match column.data_type() {
        DataType::Utf8 => Some(Value::from(column.as_string::<i32>().value(row))),
        DataType::Boolean => Some(Value::from(column.as_boolean().value(row))),
        DataType::Int32 => Some(Value::from(column.as_primitive::<Int32Type>().value(row))),
        DataType::Int64 => Some(Value::from(column.as_primitive::<Int64Type>().value(row))),
        DataType::Float64 => {
            Number::from_f64(column.as_primitive::<Float64Type>().value(row)).map(Value::Number)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            let time = DateTime::from_timestamp_micros(micros);
            Some(time.map_or(Value::from(micros), |time| {
                Value::from(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
            }))
        }
        _ => {
            let options = FormatOptions::default();
            let text = ArrayFormatter::try_new(column.as_ref(), &options)?.value(row).try_to_string()?;
            Some(Value::from(text))
        }
    })
}

fn bound(row: &mut Map<String, Value>, most: usize) {
    let size = |value: &Value| value.to_string().len();
    for value in row.values_mut() {
        if let Value::String(text) = value {
            *text = shortened(std::mem::take(text), TEXT);
        }
    }
    let mut total: usize = row.iter().map(|(name, value)| name.len() + size(value)).sum();
    while total > most {
        let Some(longest) = row.iter().max_by_key(|(_, value)| size(value)).map(|(name, _)| name.clone())
        else {
            return;
        };
        total -= row.remove(&longest).map_or(total, |value| longest.len() + size(&value));
    }
}

/// The text, cut to so many bytes if it is longer; then it says so.
pub(crate) fn shortened(mut text: String, most: usize) -> String {
    if text.len() > most {
        let whole = text.len();
        let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
        text.push_str(" (");
        text.push_str(&whole.to_string());
        text.push_str(" bytes)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shortened("short".to_owned(), 5), "short");
        assert_eq!(shortened("яяя".to_owned(), 3), "я… (6 bytes)");
    }

    #[test]
    fn a_row_is_bounded_whatever_is_in_it() {
        let mut row = Map::new();
        for name in ["a", "b", "c", "d", "e", "f"] {
            row.insert(name.to_owned(), Value::String("\u{1}".repeat(100_000)));
        }
        row.insert("pid".to_owned(), Value::from(7));
        bound(&mut row, EVIDENCE);
        assert!(Value::Object(row.clone()).to_string().len() < EVIDENCE + 1024);
        assert_eq!(row["pid"], 7, "the short ones stay");
    }
}

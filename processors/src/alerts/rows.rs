//! Reading single values of a batch by column name.

use arrow::array::{Array, AsArray, BooleanArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::json::ArrayWriter;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Value};

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
    let column = texts(batch, name).ok()?;
    column.is_valid(row).then(|| column.value(row).to_owned())
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

/// One row as a JSON object without its nulls; times as RFC 3339.
pub(crate) fn json(batch: &RecordBatch, row: usize) -> Result<Map<String, Value>, AlertError> {
    let mut text = Vec::new();
    let mut writer = ArrayWriter::new(&mut text);
    writer.write(&batch.slice(row, 1))?;
    writer.finish()?;
    let rows: Vec<Map<String, Value>> = serde_json::from_slice(&text)?;
    Ok(rows.into_iter().next().unwrap_or_default())
}

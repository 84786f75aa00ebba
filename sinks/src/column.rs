//! Columns of a batch by name and type.

use arrow::{
    array::{
        Array, AsArray, BooleanArray, Float64Array, Int32Array, PrimitiveArray, RecordBatch, StringArray,
    },
    datatypes::{DataType, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType},
};

use crate::SinkError;

fn of<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array, SinkError> {
    let column = batch.column_by_name(name);
    column.map(AsRef::as_ref).ok_or_else(|| SinkError::Fatal(format!("a batch has no column `{name}`")))
}

fn other(name: &str, found: &DataType) -> SinkError {
    SinkError::Fatal(format!("column `{name}` has the unexpected type {found}"))
}

/// A column of text.
pub(crate) fn text<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, SinkError> {
    let column = of(batch, name)?;
    column.as_string_opt::<i32>().ok_or_else(|| other(name, column.data_type()))
}

/// A column of `int`.
pub(crate) fn int<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a Int32Array, SinkError> {
    let column = of(batch, name)?;
    column.as_primitive_opt::<Int32Type>().ok_or_else(|| other(name, column.data_type()))
}

/// A column of `double`.
pub(crate) fn double<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a Float64Array, SinkError> {
    let column = of(batch, name)?;
    column.as_primitive_opt::<Float64Type>().ok_or_else(|| other(name, column.data_type()))
}

/// A column of booleans.
pub(crate) fn boolean<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a BooleanArray, SinkError> {
    let column = of(batch, name)?;
    column.as_boolean_opt().ok_or_else(|| other(name, column.data_type()))
}

/// A column of `long`, or of times in µs.
pub(crate) fn long(batch: &RecordBatch, name: &str) -> Result<PrimitiveArray<Int64Type>, SinkError> {
    let column = of(batch, name)?;
    as_long(column).ok_or_else(|| other(name, column.data_type()))
}

/// The numbers of a column of `long` or of times in µs.
pub(crate) fn as_long(column: &dyn Array) -> Option<PrimitiveArray<Int64Type>> {
    match column.data_type() {
        DataType::Int64 => column.as_primitive_opt::<Int64Type>().cloned(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            column.as_primitive_opt::<TimestampMicrosecondType>().map(PrimitiveArray::reinterpret_cast)
        }
        _ => None,
    }
}

/// A cell of a nullable column of text.
pub(crate) fn cell(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

/// A cell of a nullable column of numbers.
pub(crate) fn number<T: arrow::datatypes::ArrowPrimitiveType>(
    column: &PrimitiveArray<T>,
    row: usize,
) -> Option<T::Native> {
    column.is_valid(row).then(|| column.value(row))
}

/// The numbers of a column of whole numbers or of times in µs.
pub(crate) fn as_whole(column: &dyn Array) -> Option<PrimitiveArray<Int64Type>> {
    as_long(column).or_else(|| column.as_primitive_opt::<Int32Type>().map(|ints| ints.unary(i64::from)))
}

//! Functions of text alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringArray, StringBuilder};
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use crate::paths;

/// The texts of an array of any string type.
pub(super) fn texts(array: &dyn Array) -> Result<Box<dyn Iterator<Item = Option<&str>> + '_>> {
    match array.data_type() {
        DataType::Utf8 => Ok(Box::new(array.as_string::<i32>().iter())),
        DataType::LargeUtf8 => Ok(Box::new(array.as_string::<i64>().iter())),
        DataType::Utf8View => Ok(Box::new(array.as_string_view().iter())),
        DataType::Null => Ok(Box::new(std::iter::repeat_n(None, array.len()))),
        other => exec_err!("expected text, found {other}"),
    }
}

/// Applies `each` to the array of a column, or to a literal as an array of one row.
pub(super) fn on_array(
    value: &ColumnarValue,
    each: impl FnOnce(&dyn Array) -> Result<ArrayRef>,
) -> Result<ColumnarValue> {
    match value {
        ColumnarValue::Array(array) => Ok(ColumnarValue::Array(each(array.as_ref())?)),
        ColumnarValue::Scalar(scalar) => {
            let result = each(scalar.to_array()?.as_ref())?;
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?))
        }
    }
}

fn text_to_text(args: &ScalarFunctionArgs, each: impl Fn(&str) -> Option<&str>) -> Result<ColumnarValue> {
    on_array(&args.args[0], |array| {
        let result: StringArray = texts(array)?.map(|text| each(text?)).collect();
        Ok(Arc::new(result))
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct PathClassOf(Signature);

impl PathClassOf {
    pub(super) fn new() -> Self {
        Self(Signature::string(1, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for PathClassOf {
    fn name(&self) -> &'static str {
        "path_class"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        text_to_text(&args, |path| Some(paths::classify(path).name()))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Basename(Signature);

impl Basename {
    pub(super) fn new() -> Self {
        Self(Signature::string(1, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Basename {
    fn name(&self) -> &'static str {
        "basename"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        text_to_text(&args, paths::basename)
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ProgramName(Signature);

impl ProgramName {
    pub(super) fn new() -> Self {
        Self(Signature::string(2, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for ProgramName {
    fn name(&self) -> &'static str {
        "program_name"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let mut result = StringBuilder::with_capacity(args.number_rows, args.number_rows * 12);
        for (name, path) in texts(arrays[0].as_ref())?.zip(texts(arrays[1].as_ref())?) {
            let given = name.map(str::trim).filter(|name| !name.is_empty());
            match given.or_else(|| path.and_then(paths::basename)) {
                None => result.append_null(),
                Some(name) if path.is_some_and(paths::is_windows) || paths::is_windows(name) => {
                    if name.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
                        result.append_value(name);
                    } else {
                        result.append_value(name.to_lowercase());
                    }
                }
                Some(name) => result.append_value(name),
            }
        }
        Ok(ColumnarValue::Array(Arc::new(result.finish())))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Entropy(Signature);

impl Entropy {
    pub(super) fn new() -> Self {
        Self(Signature::string(1, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Entropy {
    fn name(&self) -> &'static str {
        "entropy"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        on_array(&args.args[0], |array| {
            let result: Float64Array = texts(array)?.map(|text| text.map(entropy)).collect();
            Ok(Arc::new(result))
        })
    }
}

/// Shannon entropy in bits per character: −Σ p·log₂ p over the characters; 0 for the empty text.
///
/// The counts are kept sorted, so that the sum of floats does not depend on a hash.
fn entropy(text: &str) -> f64 {
    let mut counts = BTreeMap::<char, u32>::new();
    for character in text.chars() {
        *counts.entry(character).or_default() += 1;
    }
    let total = f64::from(counts.values().sum::<u32>());
    // subtracted from zero, because the negated sum of nothing would be −0
    counts.values().fold(0.0, |sum, &count| {
        let share = f64::from(count) / total;
        sum - share * share.log2()
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Clean(Signature);

impl Clean {
    pub(super) fn new() -> Self {
        Self(Signature::uniform(1, vec![DataType::Utf8], Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Clean {
    fn name(&self) -> &'static str {
        "clean"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let ColumnarValue::Array(array) = &args.args[0]
            && array.as_string::<i32>().iter().flatten().all(is_clean)
        {
            return Ok(args.args[0].clone());
        }
        text_to_text(&args, |text| Some(text.trim()).filter(|text| !text.is_empty()))
    }
}

fn is_clean(text: &str) -> bool {
    let blank = |byte: u8| byte <= b' ' || byte >= 0x80;
    match text.as_bytes() {
        [] => false,
        [first, .., last] if !blank(*first) && !blank(*last) => true,
        _ => text.trim().len() == text.len(),
    }
}

//! `in_list`: text against a named list.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use super::lists::Lists;
use super::text::{on_array, texts};

#[derive(Debug)]
pub(super) struct InList {
    signature: Signature,
    lists: Arc<Lists>,
}

impl PartialEq for InList {
    fn eq(&self, other: &Self) -> bool {
        self.lists == other.lists
    }
}

impl Eq for InList {}

impl Hash for InList {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl InList {
    pub(super) fn new(lists: Arc<Lists>) -> Self {
        // the list stays the literal that it is: a coerced one would be a cast, which is no literal at planning
        let texts = [DataType::Utf8, DataType::Utf8View, DataType::LargeUtf8];
        let signatures = texts.map(|text| TypeSignature::Exact(vec![text, DataType::Utf8]));
        let signature = Signature::one_of(signatures.to_vec(), Volatility::Immutable);
        Self { signature, lists }
    }
}

impl ScalarUDFImpl for InList {
    fn name(&self) -> &'static str {
        "in_list"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let literal = args.scalar_arguments.get(1).copied().flatten();
        let Some(name) = literal.and_then(|scalar| ScalarValue::try_as_str(scalar).flatten()) else {
            return plan_err!("in_list needs the name of its list as a literal");
        };
        if self.lists.get(name).is_none() {
            return plan_err!("in_list: there is no list '{name}'");
        }
        Ok(Arc::new(Field::new(self.name(), DataType::Boolean, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let list = match &args.args[1] {
            ColumnarValue::Scalar(scalar) => {
                scalar.try_as_str().flatten().and_then(|name| self.lists.get(name))
            }
            ColumnarValue::Array(_) => None,
        };
        let Some(list) = list else {
            return exec_err!("in_list needs the name of a known list as a literal");
        };
        on_array(&args.args[0], |array| {
            let result: BooleanArray = texts(array)?.map(|text| text.map(|text| list.has(text))).collect();
            Ok(Arc::new(result))
        })
    }
}

//! `regexp_like`: text against a regular expression that is a literal.
//!
//! DataFusion's own function of this name compiles the expression again for every batch, and says only when it runs
//! that the expression is none.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ahash::AHashMap;
use arrow::array::BooleanArray;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use parking_lot::RwLock;
use regex::{Regex, RegexBuilder};

use super::text::{on_array, texts};

/// Pattern and flags.
type Spelling = (String, String);

#[derive(Debug)]
pub(super) struct RegexpLike {
    signature: Signature,
    /// Whatever a plan was made with, compiled.
    compiled: RwLock<AHashMap<Spelling, Arc<Regex>>>,
}

impl PartialEq for RegexpLike {
    fn eq(&self, other: &Self) -> bool {
        self.signature == other.signature
    }
}

impl Eq for RegexpLike {}

impl Hash for RegexpLike {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.signature.hash(state);
    }
}

impl RegexpLike {
    pub(super) fn new() -> Self {
        // as in `InList`: literals stay literals
        let texts = [DataType::Utf8, DataType::Utf8View, DataType::LargeUtf8];
        let signatures = texts.into_iter().flat_map(|text| {
            let short = vec![text, DataType::Utf8];
            let with_flags = [short.clone(), vec![DataType::Utf8]].concat();
            [TypeSignature::Exact(short), TypeSignature::Exact(with_flags)]
        });
        let signature = Signature::one_of(signatures.collect(), Volatility::Immutable);
        Self { signature, compiled: RwLock::default() }
    }

    fn regex(&self, spelling: Spelling) -> Result<Arc<Regex>> {
        if let Some(known) = self.compiled.read().get(&spelling) {
            return Ok(Arc::clone(known));
        }
        let (pattern, flags) = &spelling;
        let mut builder = RegexBuilder::new(pattern);
        for flag in flags.chars() {
            match flag {
                'i' => builder.case_insensitive(true),
                'm' => builder.multi_line(true),
                's' => builder.dot_matches_new_line(true),
                'x' => builder.ignore_whitespace(true),
                'U' => builder.swap_greed(true),
                other => return plan_err!("regexp_like has no flag '{other}'; there are i, m, s, x, U"),
            };
        }
        match builder.build() {
            Ok(regex) => {
                let regex = Arc::new(regex);
                self.compiled.write().insert(spelling, Arc::clone(&regex));
                Ok(regex)
            }
            Err(error) => plan_err!("regexp_like cannot use the pattern '{pattern}': {error}"),
        }
    }
}

/// Pattern and flags if both are literals.
fn spelling<'a>(literals: impl Iterator<Item = Option<&'a ScalarValue>>) -> Option<Spelling> {
    let mut texts = literals.map(|literal| ScalarValue::try_as_str(literal?).flatten().map(str::to_owned));
    let pattern = texts.next()??;
    let flags = texts.next().unwrap_or_else(|| Some(String::new()))?;
    Some((pattern, flags))
}

impl ScalarUDFImpl for RegexpLike {
    fn name(&self) -> &'static str {
        "regexp_like"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let Some(spelling) = spelling(args.scalar_arguments.iter().skip(1).copied()) else {
            return plan_err!("regexp_like needs its pattern, and its flags if any, as literals");
        };
        self.regex(spelling)?;
        Ok(Arc::new(Field::new(self.name(), DataType::Boolean, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let literal = |value: &ColumnarValue| match value {
            ColumnarValue::Scalar(scalar) => Some(scalar.clone()),
            ColumnarValue::Array(_) => None,
        };
        let literals: Vec<_> = args.args.iter().skip(1).map(literal).collect();
        let Some(spelling) = spelling(literals.iter().map(Option::as_ref)) else {
            return exec_err!("regexp_like needs its pattern, and its flags if any, as literals");
        };
        let regex = self.regex(spelling)?;
        on_array(&args.args[0], |array| {
            let result: BooleanArray =
                texts(array)?.map(|text| text.map(|text| regex.is_match(text))).collect();
            Ok(Arc::new(result))
        })
    }
}

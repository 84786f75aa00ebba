//! `is_under` and `is_in`: paths against directories.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::lists::Lists;
use super::text::{on_array, texts};
use crate::paths::{Directory, Path};

/// How far below a directory a file may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reach {
    Below,
    Directly,
}

#[derive(Debug)]
pub(super) struct InDirectory {
    reach: Reach,
    signature: Signature,
    lists: Arc<Lists>,
}

impl PartialEq for InDirectory {
    fn eq(&self, other: &Self) -> bool {
        self.reach == other.reach && self.lists == other.lists
    }
}

impl Eq for InDirectory {}

impl Hash for InDirectory {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.reach.hash(state);
    }
}

impl InDirectory {
    pub(super) fn below(lists: Arc<Lists>) -> Self {
        Self::new(Reach::Below, lists)
    }

    pub(super) fn directly(lists: Arc<Lists>) -> Self {
        Self::new(Reach::Directly, lists)
    }

    fn new(reach: Reach, lists: Arc<Lists>) -> Self {
        let text = vec![DataType::Utf8, DataType::Utf8View, DataType::LargeUtf8];
        Self { reach, signature: Signature::variadic(text, Volatility::Immutable), lists }
    }

    /// The directories that a literal stands for.
    fn directories(&self, literal: &str) -> std::result::Result<Arc<[Directory]>, String> {
        let Some(name) = literal.strip_prefix('@') else {
            let directory = Directory::parse(literal);
            return directory
                .map(|one| Arc::from([one]))
                .ok_or_else(|| format!("'{literal}' is not an absolute directory"));
        };
        let list = self.lists.get(name).ok_or_else(|| format!("there is no list '{name}'"))?;
        list.directories()
            .map_err(|entry| format!("'{entry}' in the list '{name}' is not an absolute directory"))
    }
}

impl ScalarUDFImpl for InDirectory {
    fn name(&self) -> &'static str {
        match self.reach {
            Reach::Below => "is_under",
            Reach::Directly => "is_in",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        if args.scalar_arguments.len() < 2 {
            return plan_err!("{} needs a path and at least one directory", self.name());
        }
        for literal in &args.scalar_arguments[1..] {
            let Some(text) = literal.and_then(|scalar| ScalarValue::try_as_str(scalar).flatten()) else {
                return plan_err!("{} needs its directories as literals", self.name());
            };
            if let Err(problem) = self.directories(text) {
                return plan_err!("{}: {problem}", self.name());
            }
        }
        Ok(Arc::new(Field::new(self.name(), DataType::Boolean, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut directories = Vec::new();
        for literal in &args.args[1..] {
            let ColumnarValue::Scalar(scalar) = literal else {
                return exec_err!("{} needs its directories as literals", self.name());
            };
            let Some(text) = scalar.try_as_str().flatten() else {
                return exec_err!("{} needs its directories as literals", self.name());
            };
            match self.directories(text) {
                Ok(some) => directories.push(some),
                Err(problem) => return exec_err!("{}: {problem}", self.name()),
            }
        }
        let matches = |path: &str| {
            let path = Path::parse(path);
            directories.iter().flat_map(|some| some.iter()).any(|directory| match self.reach {
                Reach::Below => directory.contains(&path),
                Reach::Directly => directory.holds(&path),
            })
        };
        on_array(&args.args[0], |array| {
            let result: BooleanArray = texts(array)?.map(|path| path.map(matches)).collect();
            Ok(Arc::new(result))
        })
    }
}

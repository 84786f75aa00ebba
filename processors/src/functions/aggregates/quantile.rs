//! `quantile(value, q)`: the value below which the share `q` of all values lies, within one percent.
//!
//! Values are counted in buckets that grow by a constant ratio, as in DDSketch (Masson, Rim, Lee: *DDSketch: a fast
//! and fully-mergeable quantile sketch with relative-error guarantees*, VLDB 2019). Counts are integers, so the result
//! does not depend on the order of merging, as those of DataFusion's `approx_percentile_cont` do. Magnitudes below 1e-9
//! count as zero, those above 1e18 as 1e18; values that are not finite are left out. For exact percentiles of few rows
//! there is `percentile_cont`, whose state holds every value.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array};
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Signature, TypeSignature, Volatility};
use datafusion::physical_expr::expressions::Literal;

use super::{Summary, take, typed};

/// Largest relative error.
const ERROR: f64 = 0.01;
/// Upper bound of a bucket, in those of the one below.
const RATIO: f64 = (1.0 + ERROR) / (1.0 - ERROR);
const SMALLEST: f64 = 1e-9;
const LARGEST: f64 = 1e18;
const ENTRY: usize = 12;

/// How many values fell into each bucket; buckets of negative values have negative numbers, zero has 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Quantile {
    buckets: BTreeMap<i32, u64>,
}

fn bucket(value: f64) -> i32 {
    let magnitude = value.abs();
    if magnitude < SMALLEST {
        return 0;
    }
    let steps = ((magnitude.min(LARGEST) / SMALLEST).ln() / RATIO.ln()).ceil() as i32 + 1;
    if value < 0.0 { -steps } else { steps }
}

/// The value that is at most [`ERROR`] away from all of its bucket.
fn middle(bucket: i32) -> f64 {
    if bucket == 0 {
        return 0.0;
    }
    let upper = SMALLEST * RATIO.powi(bucket.abs() - 1);
    f64::from(bucket.signum()) * 2.0 * upper / (RATIO + 1.0)
}

impl Quantile {
    fn at(&self, share: f64) -> Option<f64> {
        let count: u64 = self.buckets.values().sum();
        let rank = (share * count.checked_sub(1)? as f64).floor() as u64;
        let mut below = 0;
        let found = self.buckets.iter().find(|(_, count)| {
            below += **count;
            below > rank
        });
        found.map(|(bucket, _)| middle(*bucket))
    }
}

impl Summary for Quantile {
    const NAME: &'static str = "quantile";
    type Columns<'a> = &'a Float64Array;
    type Literals = f64;

    fn signature() -> Signature {
        let exact = TypeSignature::Exact(vec![DataType::Float64, DataType::Float64]);
        Signature::new(exact, Volatility::Immutable)
    }

    fn result_type() -> DataType {
        DataType::Float64
    }

    fn literals(args: &AccumulatorArgs<'_>) -> Result<f64> {
        let literal = args.exprs.get(1).and_then(|expression| expression.downcast_ref::<Literal>());
        match literal.map(Literal::value) {
            Some(ScalarValue::Float64(Some(share))) if (0.0..=1.0).contains(share) => Ok(*share),
            _ => plan_err!("quantile needs a number from 0 to 1 as its second argument"),
        }
    }

    fn columns(values: &[ArrayRef]) -> Result<Self::Columns<'_>> {
        typed(values, 0)
    }

    fn add(&mut self, values: &Self::Columns<'_>, row: usize) {
        let value = values.value(row);
        if value.is_finite() {
            *self.buckets.entry(bucket(value)).or_default() += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    fn write(&self, out: &mut Vec<u8>) {
        for (bucket, count) in &self.buckets {
            out.extend_from_slice(&bucket.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
        }
    }

    fn merge(&mut self, mut bytes: &[u8]) -> Option<()> {
        if !bytes.len().is_multiple_of(ENTRY) {
            return None;
        }
        while !bytes.is_empty() {
            let bucket = i32::from_le_bytes(take(&mut bytes)?);
            *self.buckets.entry(bucket).or_default() += u64::from_le_bytes(take(&mut bytes)?);
        }
        Some(())
    }

    fn results(summaries: &[Self], share: &f64) -> Result<ArrayRef> {
        Ok(Arc::new(summaries.iter().map(|quantile| quantile.at(*share)).collect::<Float64Array>()))
    }
}

//! `shares(key, weight)`: how a whole is divided among the values of a text.
//!
//! | field | meaning |
//! |---|---|
//! | `distinct` | how many different keys there are |
//! | `entropy` | Shannon entropy of the shares, −Σ p·log₂ p, in bits; null if all weights are zero |
//! | `top_share` | the largest share, 0 to 1; null if all weights are zero |
//!
//! Of a key only a 64-bit hash is kept, and of all keys the [`MOST`] with the least hashes. With fewer keys the answers
//! are exact. With more, the kept keys are a fair sample with exact weights (what is among the least hashes of all
//! was so from its first row on), `distinct` is estimated from how dense the hashes lie, and entropy and top share are
//! those of the sample. Weights are kept in millionths; a row without weight or with a negative one counts as zero.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::Result;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Signature, TypeSignature, Volatility};
use xxhash_rust::xxh3::xxh3_64;

use super::{Summary, take, typed};

/// Keys kept; 8 KiB of state at most.
const MOST: usize = 512;
const SCALE: f64 = 1e6;
/// A single weight counts as no more than this.
const HEAVIEST: f64 = 1e9;
const ENTRY: usize = 16;

/// Hash and weight of each kept key, by hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shares {
    keys: Vec<(u64, u64)>,
}

impl Shares {
    fn put(&mut self, hash: u64, weight: u64) {
        match self.keys.binary_search_by_key(&hash, |key| key.0) {
            Ok(at) => self.keys[at].1 = self.keys[at].1.saturating_add(weight),
            Err(at) if at < MOST => {
                self.keys.insert(at, (hash, weight));
                self.keys.truncate(MOST);
            }
            Err(_) => {}
        }
    }

    fn distinct(&self) -> i64 {
        match self.keys.last() {
            Some((largest, _)) if self.keys.len() == MOST => {
                // k-th least of n uniform hashes lies at k ÷ (n + 1) of their range.
                let part = (*largest as f64 + 1.0) / 2_f64.powi(64);
                ((MOST - 1) as f64 / part).round() as i64
            }
            _ => self.keys.len() as i64,
        }
    }

    fn total(&self) -> f64 {
        self.keys.iter().map(|key| u128::from(key.1)).sum::<u128>() as f64
    }

    fn entropy(&self) -> Option<f64> {
        let total = self.total();
        let terms = self.keys.iter().filter(|key| key.1 > 0).map(|key| {
            let share = key.1 as f64 / total;
            share * share.log2()
        });
        (total > 0.0).then(|| (-terms.sum::<f64>()).max(0.0))
    }

    fn top_share(&self) -> Option<f64> {
        let top = self.keys.iter().map(|key| key.1).max()?;
        let total = self.total();
        (total > 0.0).then(|| top as f64 / total)
    }
}

fn fields() -> Fields {
    Fields::from(vec![
        Field::new("distinct", DataType::Int64, true),
        Field::new("entropy", DataType::Float64, true),
        Field::new("top_share", DataType::Float64, true),
    ])
}

impl Summary for Shares {
    const NAME: &'static str = "shares";
    type Columns<'a> = (&'a StringArray, &'a Float64Array);
    type Literals = ();

    fn signature() -> Signature {
        let exact = TypeSignature::Exact(vec![DataType::Utf8, DataType::Float64]);
        Signature::new(exact, Volatility::Immutable)
    }

    fn result_type() -> DataType {
        DataType::Struct(fields())
    }

    fn literals(_: &AccumulatorArgs<'_>) -> Result<()> {
        Ok(())
    }

    fn columns(values: &[ArrayRef]) -> Result<Self::Columns<'_>> {
        Ok((typed(values, 0)?, typed(values, 1)?))
    }

    fn add(&mut self, (keys, weights): &Self::Columns<'_>, row: usize) {
        let weight = if weights.is_valid(row) { weights.value(row) } else { 0.0 };
        // A number that is none becomes zero here.
        let weight = (weight.clamp(0.0, HEAVIEST) * SCALE).round() as u64;
        self.put(xxh3_64(keys.value(row).as_bytes()), weight);
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn write(&self, out: &mut Vec<u8>) {
        for (hash, weight) in &self.keys {
            out.extend_from_slice(&hash.to_le_bytes());
            out.extend_from_slice(&weight.to_le_bytes());
        }
    }

    fn merge(&mut self, mut bytes: &[u8]) -> Option<()> {
        if !bytes.len().is_multiple_of(ENTRY) {
            return None;
        }
        while !bytes.is_empty() {
            let hash = u64::from_le_bytes(take(&mut bytes)?);
            self.put(hash, u64::from_le_bytes(take(&mut bytes)?));
        }
        Some(())
    }

    fn results(summaries: &[Self], (): &()) -> Result<ArrayRef> {
        let distinct = summaries.iter().map(|shares| Some(shares.distinct()));
        Ok(Arc::new(StructArray::try_new(
            fields(),
            vec![
                Arc::new(distinct.collect::<Int64Array>()),
                Arc::new(summaries.iter().map(Self::entropy).collect::<Float64Array>()),
                Arc::new(summaries.iter().map(Self::top_share).collect::<Float64Array>()),
            ],
            None,
        )?))
    }
}

//! `gauge(value, is_over, event_time, seq)`: what a measured quantity did.
//!
//! | field | meaning |
//! |---|---|
//! | `samples` | how many values there were |
//! | `sum`, `mean`, `min`, `max` | of the values, in their unit |
//! | `std` | population standard deviation, √(Σ(x − mean)² ÷ n), in their unit |
//! | `last` | the value with the greatest (event time, number); of equals the greater value |
//! | `over_share` | how many of the values for which `is_over` is known it is true of, 0 to 1 |
//!
//! Sums are kept as integers of millionths, so that they do not depend on the order of adding; mean and deviation are
//! exact to that. Values that are not finite are left out.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit, i256};
use datafusion::common::Result;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Signature, TypeSignature, Volatility};

use super::{Summary, take, typed};

/// Fixed-point numbers have this many parts in one.
const SCALE: f64 = 1e6;
/// Values beyond ±1.2e18 count as that in sums, so that no sum can overflow.
const LARGEST: i128 = 1 << 80;
const MANY: usize = 8 * 3 + 16 + 32 + 8 * 2 + 8 * 3;
/// Most partial rows of many agents saw one value only; those are written short.
const ONE: usize = 8 * 3 + 1;

/// Everything that `gauge` answers from.
#[derive(Clone, Debug)]
pub(super) struct Gauge {
    samples: u64,
    judged: u64,
    over: u64,
    /// Sum, and sum of squares, of fixed-point values.
    sum: i128,
    squares: i256,
    min: f64,
    max: f64,
    last: Last,
}

/// The latest value and what makes it the latest.
#[derive(Clone, Copy, Debug)]
struct Last {
    time: i64,
    seq: i64,
    value: f64,
}

impl Last {
    const NONE: Self = Self { time: i64::MIN, seq: i64::MIN, value: f64::NEG_INFINITY };

    fn later(self, other: Self) -> Self {
        let order = (self.time, self.seq).cmp(&(other.time, other.seq));
        match order.then(self.value.total_cmp(&other.value)) {
            Ordering::Less => other,
            _ => self,
        }
    }
}

impl Default for Gauge {
    fn default() -> Self {
        Self {
            samples: 0,
            judged: 0,
            over: 0,
            sum: 0,
            squares: i256::ZERO,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            last: Last::NONE,
        }
    }
}

impl Gauge {
    fn note(&mut self, value: Last, over: Option<bool>) {
        self.samples += 1;
        self.judged += u64::from(over.is_some());
        self.over += u64::from(over == Some(true));
        let fixed = ((value.value * SCALE).round() as i128).clamp(-LARGEST, LARGEST);
        self.sum += fixed;
        let wide = i256::from_i128(fixed);
        self.squares = self.squares.wrapping_add(wide.wrapping_mul(wide));
        self.min = self.min.min(value.value);
        self.max = self.max.max(value.value);
        self.last = self.last.later(value);
    }

    fn mean(&self) -> f64 {
        self.sum as f64 / (self.samples as f64 * SCALE)
    }

    fn deviation(&self) -> f64 {
        let samples = i256::from_i128(i128::from(self.samples));
        let sum = i256::from_i128(self.sum);
        let spread = samples.wrapping_mul(self.squares).wrapping_sub(sum.wrapping_mul(sum));
        to_f64(spread).sqrt() / (self.samples as f64 * SCALE)
    }
}

/// Of a number that is not negative.
fn to_f64(number: i256) -> f64 {
    let (low, high) = number.to_parts();
    high as f64 * 2_f64.powi(128) + low as f64
}

/// Arguments of `gauge`.
pub(super) struct Columns<'a> {
    value: &'a Float64Array,
    over: &'a BooleanArray,
    time: &'a TimestampMicrosecondArray,
    seq: &'a Int64Array,
}

fn fields() -> Fields {
    let double = |name| Field::new(name, DataType::Float64, true);
    Fields::from(vec![
        Field::new("samples", DataType::Int64, true),
        double("sum"),
        double("mean"),
        double("min"),
        double("max"),
        double("std"),
        double("last"),
        double("over_share"),
    ])
}

impl Summary for Gauge {
    const NAME: &'static str = "gauge";
    type Columns<'a> = Columns<'a>;
    type Literals = ();

    fn signature() -> Signature {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
        let exact = TypeSignature::Exact(vec![DataType::Float64, DataType::Boolean, time, DataType::Int64]);
        Signature::new(exact, Volatility::Immutable)
    }

    fn result_type() -> DataType {
        DataType::Struct(fields())
    }

    fn literals(_: &AccumulatorArgs<'_>) -> Result<()> {
        Ok(())
    }

    fn columns(values: &[ArrayRef]) -> Result<Columns<'_>> {
        Ok(Columns {
            value: typed(values, 0)?,
            over: typed(values, 1)?,
            time: typed(values, 2)?,
            seq: typed(values, 3)?,
        })
    }

    fn add(&mut self, columns: &Columns<'_>, row: usize) {
        let value = columns.value.value(row);
        if value.is_finite() {
            // Zero has two signs; one is enough.
            let last =
                Last { time: columns.time.value(row), seq: columns.seq.value(row), value: value + 0.0 };
            self.note(last, columns.over.is_valid(row).then(|| columns.over.value(row)));
        }
    }

    fn is_empty(&self) -> bool {
        self.samples == 0
    }

    fn write(&self, out: &mut Vec<u8>) {
        if self.samples == 1 {
            out.extend_from_slice(&self.last.time.to_le_bytes());
            out.extend_from_slice(&self.last.seq.to_le_bytes());
            out.extend_from_slice(&self.last.value.to_le_bytes());
            out.push(self.judged as u8 | (self.over as u8) << 1);
            return;
        }
        for count in [self.samples, self.judged, self.over] {
            out.extend_from_slice(&count.to_le_bytes());
        }
        out.extend_from_slice(&self.sum.to_le_bytes());
        out.extend_from_slice(&self.squares.to_le_bytes());
        for value in [self.min, self.max] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&self.last.time.to_le_bytes());
        out.extend_from_slice(&self.last.seq.to_le_bytes());
        out.extend_from_slice(&self.last.value.to_le_bytes());
    }

    fn merge(&mut self, bytes: &[u8]) -> Option<()> {
        let mut rest = bytes;
        if bytes.len() == ONE {
            let time = i64::from_le_bytes(take(&mut rest)?);
            let seq = i64::from_le_bytes(take(&mut rest)?);
            let value = f64::from_le_bytes(take(&mut rest)?);
            let [flags] = take(&mut rest)?;
            self.note(Last { time, seq, value }, (flags & 1 != 0).then_some(flags & 2 != 0));
            return Some(());
        }
        if bytes.len() != MANY {
            return None;
        }
        self.samples += u64::from_le_bytes(take(&mut rest)?);
        self.judged += u64::from_le_bytes(take(&mut rest)?);
        self.over += u64::from_le_bytes(take(&mut rest)?);
        self.sum += i128::from_le_bytes(take(&mut rest)?);
        self.squares = self.squares.wrapping_add(i256::from_le_bytes(take(&mut rest)?));
        self.min = self.min.min(f64::from_le_bytes(take(&mut rest)?));
        self.max = self.max.max(f64::from_le_bytes(take(&mut rest)?));
        let time = i64::from_le_bytes(take(&mut rest)?);
        let seq = i64::from_le_bytes(take(&mut rest)?);
        let value = f64::from_le_bytes(take(&mut rest)?);
        self.last = self.last.later(Last { time, seq, value });
        Some(())
    }

    fn results(summaries: &[Self], (): &()) -> Result<ArrayRef> {
        let doubles = |of: fn(&Self) -> Option<f64>| -> ArrayRef {
            let values = summaries.iter().map(|gauge| if gauge.samples > 0 { of(gauge) } else { None });
            Arc::new(values.collect::<Float64Array>())
        };
        let samples = summaries.iter().map(|gauge| Some(gauge.samples as i64));
        Ok(Arc::new(StructArray::try_new(
            fields(),
            vec![
                Arc::new(samples.collect::<Int64Array>()),
                doubles(|gauge| Some(gauge.sum as f64 / SCALE)),
                doubles(|gauge| Some(gauge.mean())),
                doubles(|gauge| Some(gauge.min)),
                doubles(|gauge| Some(gauge.max)),
                doubles(|gauge| Some(gauge.deviation())),
                doubles(|gauge| Some(gauge.last.value)),
                doubles(|gauge| (gauge.judged > 0).then(|| gauge.over as f64 / gauge.judged as f64)),
            ],
            None,
        )?))
    }
}

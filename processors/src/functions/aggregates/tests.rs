use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::take as pick;
use arrow::datatypes::{Float64Type, Int64Type, UInt32Type};
use proptest::prelude::*;

use super::*;

/// Values as rows of `gauge`; every third has no limit, and those of 50 and more are over it.
fn gauge_rows(values: &[f64]) -> Vec<ArrayRef> {
    let over = values.iter().enumerate().map(|(at, value)| (at % 3 != 0).then_some(*value >= 50.0));
    let times = TimestampMicrosecondArray::from_iter_values((0..values.len()).map(|at| (at / 2) as i64));
    vec![
        Arc::new(Float64Array::from(values.to_vec())),
        Arc::new(over.collect::<BooleanArray>()),
        Arc::new(times.with_timezone("+00:00")),
        Arc::new(Int64Array::from_iter_values((0..values.len()).map(|at| at as i64 % 7))),
    ]
}

fn share_rows(rows: &[(u16, f64)]) -> Vec<ArrayRef> {
    vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0.to_string()))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.1))),
    ]
}

/// Three rows a key, in times that many rows share.
fn earliest_rows(values: &[f64]) -> Vec<ArrayRef> {
    let keys = values.iter().map(|value| (*value as i64 % 17).to_string());
    let times = TimestampMicrosecondArray::from_iter_values(values.iter().map(|value| *value as i64 % 5));
    vec![
        Arc::new(StringArray::from_iter_values(keys)),
        Arc::new(times.with_timezone("+00:00")),
        Arc::new(StringArray::from_iter_values(values.iter().map(|value| format!("{value:?}")))),
    ]
}

fn groups<S: Summary>(literals: S::Literals) -> Groups<S> {
    Groups { groups: Vec::new(), literals }
}

/// The state of all rows as one group.
fn state<S: Summary>(rows: &[ArrayRef], literals: &S::Literals) -> ArrayRef {
    let mut all = groups::<S>(literals.clone());
    all.update_batch(rows, &vec![0; rows[0].len()], None, 1).unwrap();
    all.state(EmitTo::All).unwrap().remove(0)
}

/// The same rows in another order, cut into parts that are summarised alone and merged backwards.
fn state_in_parts<S: Summary>(
    rows: &[ArrayRef],
    order: &[u32],
    part: usize,
    literals: &S::Literals,
) -> ArrayRef {
    let mut merged = groups::<S>(literals.clone());
    for chunk in order.chunks(part).rev() {
        let order = arrow::array::PrimitiveArray::<UInt32Type>::from(chunk.to_vec());
        let some: Vec<ArrayRef> = rows.iter().map(|column| pick(column, &order, None).unwrap()).collect();
        merged.merge_batch(&[state::<S>(&some, literals)], &[0], 1).unwrap();
    }
    merged.state(EmitTo::All).unwrap().remove(0)
}

fn result<S: Summary>(rows: &[ArrayRef], literals: &S::Literals) -> ArrayRef {
    let mut all = groups::<S>(literals.clone());
    all.update_batch(rows, &vec![0; rows[0].len()], None, 1).unwrap();
    all.evaluate(EmitTo::All).unwrap()
}

fn double(result: &ArrayRef, field: &str) -> Option<f64> {
    let column = result.as_struct().column_by_name(field).unwrap().as_primitive::<Float64Type>();
    column.is_valid(0).then(|| column.value(0))
}

fn long(result: &ArrayRef, field: &str) -> i64 {
    result.as_struct().column_by_name(field).unwrap().as_primitive::<Int64Type>().value(0)
}

fn shuffled(rows: usize, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..rows as u32).collect();
    let mut chance = crate::engine::simulation::Chance::new(seed);
    for at in (1..rows).rev() {
        order.swap(at, chance.below(at as u64 + 1) as usize);
    }
    order
}

fn close(found: f64, expected: f64, within: f64) -> bool {
    (found - expected).abs() <= within * expected.abs().max(1.0)
}

proptest! {
    #[test]
    fn order_and_grouping_change_no_byte(
        values in prop::collection::vec(prop_oneof![-1e3..1e3, Just(0.1), Just(-0.0), 1e15..1e17, Just(1e300)], 1..40),
        seed: u64,
        part in 1_usize..9,
    ) {
        let order = shuffled(values.len(), seed);
        let rows = gauge_rows(&values);
        prop_assert_eq!(&state::<gauge::Gauge>(&rows, &()), &state_in_parts::<gauge::Gauge>(&rows, &order, part, &()));
        let rows = share_rows(&values.iter().map(|value| (*value as u16 % 9, *value)).collect::<Vec<_>>());
        prop_assert_eq!(&state::<shares::Shares>(&rows, &()), &state_in_parts::<shares::Shares>(&rows, &order, part, &()));
        let rows = earliest_rows(&values);
        prop_assert_eq!(
            &state::<earliest::Earliest>(&rows, &()),
            &state_in_parts::<earliest::Earliest>(&rows, &order, part, &())
        );
        let rows: Vec<ArrayRef> = vec![Arc::new(Float64Array::from(values))];
        prop_assert_eq!(
            &state::<quantile::Quantile>(&rows, &0.5),
            &state_in_parts::<quantile::Quantile>(&rows, &order, part, &0.5)
        );
    }

    #[test]
    fn a_gauge_answers_as_the_textbook_does(values in prop::collection::vec(-1e6..1e6, 1..60)) {
        let found = result::<gauge::Gauge>(&gauge_rows(&values), &());
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        prop_assert_eq!(long(&found, "samples"), values.len() as i64);
        prop_assert!(close(double(&found, "mean").unwrap(), mean, 1e-6));
        prop_assert!(close(double(&found, "sum").unwrap(), mean * count, 1e-6));
        prop_assert!(close(double(&found, "std").unwrap(), variance.sqrt(), 1e-5));
        prop_assert_eq!(double(&found, "min"), values.iter().copied().reduce(f64::min));
        prop_assert_eq!(double(&found, "max"), values.iter().copied().reduce(f64::max));
        let last = (0..values.len()).max_by_key(|at| (at / 2, at % 7)).unwrap();
        prop_assert_eq!(double(&found, "last"), Some(values[last]));
        let judged: Vec<_> = (0..values.len()).filter(|at| at % 3 != 0).collect();
        let over = judged.iter().filter(|at| values[**at] >= 50.0).count();
        let share = (!judged.is_empty()).then(|| over as f64 / judged.len() as f64);
        prop_assert_eq!(double(&found, "over_share"), share);
    }

    #[test]
    fn a_quantile_is_within_one_percent(
        values in prop::collection::vec(-1e9..1e9, 1..80),
        share in 0.0..=1.0,
    ) {
        let rows: Vec<ArrayRef> = vec![Arc::new(Float64Array::from(values.clone()))];
        let found = result::<quantile::Quantile>(&rows, &share);
        let mut sorted = values;
        sorted.sort_by(f64::total_cmp);
        let exact = sorted[(share * (sorted.len() - 1) as f64).floor() as usize];
        let found = found.as_primitive::<Float64Type>().value(0);
        prop_assert!((found - exact).abs() <= 0.0101 * exact.abs() + 1e-9, "{} for {}", found, exact);
    }

    #[test]
    fn bytes_of_others_are_refused_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for merged in [
            groups::<gauge::Gauge>(()).merge_batch(&[Arc::new(BinaryArray::from_vec(vec![&bytes]))], &[0], 1),
            groups::<shares::Shares>(()).merge_batch(&[Arc::new(BinaryArray::from_vec(vec![&bytes]))], &[0], 1),
            groups::<earliest::Earliest>(()).merge_batch(&[Arc::new(BinaryArray::from_vec(vec![&bytes]))], &[0], 1),
            groups::<quantile::Quantile>(0.5).merge_batch(&[Arc::new(BinaryArray::from_vec(vec![&bytes]))], &[0], 1),
        ] {
            drop(merged);
        }
    }
}

#[test]
fn a_value_that_never_changes_does_not_deviate() {
    let found = result::<gauge::Gauge>(&gauge_rows(&[8_123_456_789.0; 50]), &());
    assert_eq!(double(&found, "mean"), Some(8_123_456_789.0));
    assert_eq!(double(&found, "std"), Some(0.0));
    let one = result::<gauge::Gauge>(&gauge_rows(&[41.7]), &());
    assert_eq!(double(&one, "mean"), Some(41.7));
}

#[test]
fn nothing_measured_is_null_and_not_zero() {
    let nothing = result::<gauge::Gauge>(&gauge_rows(&[f64::NAN, f64::INFINITY]), &());
    assert_eq!(long(&nothing, "samples"), 0);
    for field in ["sum", "mean", "min", "max", "std", "last", "over_share"] {
        assert_eq!(double(&nothing, field), None, "{field}");
    }
    let weightless = result::<shares::Shares>(&share_rows(&[(1, 0.0), (2, f64::NAN), (3, -1.0)]), &());
    assert_eq!(long(&weightless, "distinct"), 3);
    assert_eq!((double(&weightless, "entropy"), double(&weightless, "top_share")), (None, None));
}

#[test]
fn shares_of_known_wholes() {
    let even = result::<shares::Shares>(&share_rows(&[(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)]), &());
    assert_eq!(
        (long(&even, "distinct"), double(&even, "entropy"), double(&even, "top_share")),
        (4, Some(2.0), Some(0.25))
    );
    let one = result::<shares::Shares>(&share_rows(&[(1, 2.5), (1, 0.5)]), &());
    assert_eq!(
        (long(&one, "distinct"), double(&one, "entropy"), double(&one, "top_share")),
        (1, Some(0.0), Some(1.0))
    );
}

#[test]
fn state_stays_small_whatever_comes_and_many_keys_are_estimated() {
    let rows: Vec<(u16, f64)> = (0..60_000).map(|at| (at, 1.0)).collect();
    let rows = share_rows(&rows);
    let bytes = state::<shares::Shares>(&rows, &());
    assert_eq!(bytes.as_binary::<i32>().value(0).len(), 512 * 16);
    let found = result::<shares::Shares>(&rows, &());
    assert!(close(long(&found, "distinct") as f64, 60_000.0, 0.15), "{}", long(&found, "distinct"));
    assert_eq!(double(&found, "entropy"), Some(9.0), "of a sample of 512 equal shares");

    let values: Vec<f64> = (-300..300).map(|power| 10_f64.powi(power)).collect();
    let rows: Vec<ArrayRef> = vec![Arc::new(Float64Array::from(values))];
    assert!(state::<quantile::Quantile>(&rows, &0.5).as_binary::<i32>().value(0).len() < 4 * 1024);
}

#[test]
fn the_first_row_of_each_of_the_first_keys() {
    let rows: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values((0..40).map(|at| format!("k{:02}", at % 20)))),
        Arc::new(TimestampMicrosecondArray::from_iter_values((0..40).rev()).with_timezone("+00:00")),
        Arc::new(StringArray::from_iter_values((0..40).map(|at| at.to_string()))),
    ];
    let found = result::<earliest::Earliest>(&rows, &());
    assert_eq!(found.as_string::<i32>().value(0), "[39,38,37,36,35,34,33,32,31,30]");
}

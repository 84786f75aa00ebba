//! Varints: state rows of many agents must stay small.

/// Appends `value`; small magnitudes take one byte, and so do `i64::MIN` and `i64::MAX`, which stand for "never".
pub(super) fn put(out: &mut Vec<u8>, value: i64) {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    // The two ends of the range come first.
    put_unsigned(out, zigzag.wrapping_add(2));
}

/// Reads what [`put`] wrote, from the front of `bytes`.
pub(super) fn take(bytes: &mut &[u8]) -> Option<i64> {
    let zigzag = take_unsigned(bytes)?.wrapping_sub(2);
    Some(((zigzag >> 1) as i64) ^ -((zigzag & 1) as i64))
}

/// Appends `value`; below 128 it takes one byte.
pub(super) fn put_unsigned(out: &mut Vec<u8>, value: u64) {
    let mut rest = value;
    while rest >= 0x80 {
        out.push((rest as u8) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Reads what [`put_unsigned`] wrote, from the front of `bytes`.
pub(super) fn take_unsigned(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_number_comes_back(values in proptest::collection::vec(any::<i64>(), 0..20)) {
            let mut out = Vec::new();
            for value in &values {
                put(&mut out, *value);
                put_unsigned(&mut out, *value as u64);
            }
            let mut rest = out.as_slice();
            for value in values {
                prop_assert_eq!(take(&mut rest), Some(value));
                prop_assert_eq!(take_unsigned(&mut rest), Some(value as u64));
            }
            prop_assert_eq!(take(&mut rest), None);
        }
    }

    #[test]
    fn the_ends_of_the_range_are_short() {
        for value in [i64::MIN, i64::MAX, 0, -1, 60] {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!((out.len(), take(&mut out.as_slice())), (1, Some(value)));
        }
    }
}

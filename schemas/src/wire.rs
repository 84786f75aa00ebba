//! Confluent wire format: one zero byte, the schema id as four bytes big endian, then the Avro datum.

use thiserror::Error;

/// Bytes before the datum.
pub const PREFIX: usize = 5;
const MAGIC: u8 = 0;

/// A Kafka value that is not in the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// Fewer bytes than the prefix has.
    #[error("{0} bytes are too few for the wire format, which begins with {PREFIX}")]
    TooShort(usize),
    /// The first byte is not zero.
    #[error("the first byte is {0:#04x}, not 0x00: not in the wire format")]
    NoMagic(u8),
}

/// Appends the prefix and the datum to `out`.
pub fn frame(schema_id: u32, datum: &[u8], out: &mut Vec<u8>) {
    out.reserve(PREFIX + datum.len());
    out.push(MAGIC);
    out.extend_from_slice(&schema_id.to_be_bytes());
    out.extend_from_slice(datum);
}

/// Splits a value into schema id and datum. The datum itself is not looked at.
pub fn unframe(value: &[u8]) -> Result<(u32, &[u8]), WireError> {
    match value {
        [MAGIC, a, b, c, d, datum @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), datum)),
        [first, ..] if *first != MAGIC => Err(WireError::NoMagic(*first)),
        _ => Err(WireError::TooShort(value.len())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_prefix_is_the_one_that_others_write() {
        let mut out = Vec::new();
        frame(0x0102_0304, b"x", &mut out);
        assert_eq!(out, [0, 1, 2, 3, 4, b'x']);
    }

    #[test]
    fn short_and_foreign_values_are_told_apart() {
        assert_eq!(unframe(&[]), Err(WireError::TooShort(0)));
        assert_eq!(unframe(&[0, 0, 0, 1]), Err(WireError::TooShort(4)));
        assert_eq!(unframe(b"{}"), Err(WireError::NoMagic(b'{')));
    }

    proptest! {
        #[test]
        fn what_is_framed_comes_back(id: u32, datum: Vec<u8>, before: Vec<u8>) {
            let mut out = before.clone();
            frame(id, &datum, &mut out);
            prop_assert_eq!(unframe(&out[before.len()..]), Ok((id, datum.as_slice())));
            prop_assert_eq!(&out[..before.len()], before.as_slice());
        }

        #[test]
        fn any_bytes_are_judged_without_panic(value: Vec<u8>) {
            if let Ok((id, datum)) = unframe(&value) {
                let mut again = Vec::new();
                frame(id, datum, &mut again);
                prop_assert_eq!(again, value);
            }
        }
    }
}

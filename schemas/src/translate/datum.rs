//! The few primitives of Avro's binary encoding that flat records need.

/// A long, int or timestamp: zigzag, then seven bits a byte.
pub(super) fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push((rest as u8) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Text: its length in bytes, then the bytes.
pub(super) fn text(value: &str, out: &mut Vec<u8>) {
    long(value.len() as i64, out);
    out.extend_from_slice(value.as_bytes());
}

pub(super) fn double(value: f64, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn boolean(value: bool, out: &mut Vec<u8>) {
    out.push(u8::from(value));
}

/// The null branch of `["null", T]`.
pub(super) fn null(out: &mut Vec<u8>) {
    out.push(0);
}

/// The other branch of `["null", T]`; the value follows.
pub(super) fn present(out: &mut Vec<u8>) {
    out.push(2);
}

/// Text or null.
pub(super) fn optional_text(value: Option<&str>, out: &mut Vec<u8>) {
    match value {
        Some(value) => {
            present(out);
            text(value, out);
        }
        None => null(out),
    }
}

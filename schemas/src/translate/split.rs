//! Cuts a message into the bytes of its events, without judging what is inside them.

use std::ops::Range;

use bytes::Bytes;

use super::refused::{Refusal, Refused, RefusedReason};
use super::{MAX_EVENTS, MAX_MESSAGE_BYTES, Row};

/// Calls `judge` with the bytes of each event, in order.
#[expect(clippy::result_large_err, reason = "a refusal travels by value, as rows do; it is rare")]
pub(super) fn elements(
    payload: &Bytes,
    mut judge: impl FnMut(&[u8]) -> Result<Row, Refusal>,
) -> Vec<Result<Row, Refused>> {
    let whole = |reason: RefusedReason| vec![Err(Refusal::from(reason).with(payload.clone()))];
    if payload.len() > MAX_MESSAGE_BYTES {
        let (found, limit) = (payload.len(), MAX_MESSAGE_BYTES);
        return whole(RefusedReason::TooLarge { what: "the message", found, limit });
    }
    let mut one = |range: Range<usize>| {
        judge(&payload[range.clone()]).map_err(|refusal| refusal.with(payload.slice(range)))
    };
    match payload.iter().position(|byte| !is_space(*byte)) {
        Some(start) if payload[start] == b'{' => vec![one(0..payload.len())],
        Some(start) if payload[start] == b'[' => match array(payload, start) {
            Ok(ranges) => ranges.into_iter().map(one).collect(),
            Err(reason) => whole(reason),
        },
        Some(_) => whole(RefusedReason::NotEvents { found: "something else" }),
        None => whole(RefusedReason::NotEvents { found: "nothing" }),
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Ranges of the elements of the array that begins at `start`. Only strings and brackets are looked at.
fn array(bytes: &[u8], start: usize) -> Result<Vec<Range<usize>>, RefusedReason> {
    const UNBALANCED: RefusedReason =
        RefusedReason::NotEvents { found: "an array whose brackets or quotes do not match" };
    const FOLLOWED: RefusedReason = RefusedReason::NotEvents { found: "an array and something after it" };
    let mut ranges = Vec::new();
    let mut open = Vec::new();
    let mut from = start + 1;
    let mut at = from;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(bytes, at).ok_or(UNBALANCED)?,
            b'{' => open.push(b'}'),
            b'[' => open.push(b']'),
            b',' if open.is_empty() => {
                ranges.push(trimmed(bytes, from..at));
                from = at + 1;
                if ranges.len() > MAX_EVENTS {
                    return Err(RefusedReason::TooMany { what: "events in one message", limit: MAX_EVENTS });
                }
            }
            b'}' | b']' => match open.pop() {
                Some(closing) if closing == byte => {}
                None if byte == b']' => {
                    let last = trimmed(bytes, from..at);
                    if !last.is_empty() || !ranges.is_empty() {
                        ranges.push(last);
                    }
                    let is_clean = bytes[at + 1..].iter().all(|byte| is_space(*byte));
                    return if is_clean { Ok(ranges) } else { Err(FOLLOWED) };
                }
                _ => return Err(UNBALANCED),
            },
            _ => {}
        }
        at += 1;
    }
    Err(UNBALANCED)
}

/// Position of the closing quote of the string that opens at `open`.
fn end_of_string(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn trimmed(bytes: &[u8], range: Range<usize>) -> Range<usize> {
    let inside = &bytes[range.clone()];
    let Some(first) = inside.iter().position(|byte| !is_space(*byte)) else {
        return range.start..range.start;
    };
    let last = inside.iter().rposition(|byte| !is_space(*byte)).unwrap_or(first);
    range.start + first..range.start + last + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Option<Vec<&str>> {
        let ranges = array(text.as_bytes(), 0).ok()?;
        Some(ranges.into_iter().map(|range| &text[range]).collect())
    }

    #[test]
    fn elements_are_cut_at_commas_of_the_array_only() {
        assert_eq!(cut("[]"), Some(vec![]));
        assert_eq!(cut("[ \n ] "), Some(vec![]));
        assert_eq!(cut(r#"[{"a":[1,2]}, 3 ,"x,]\"y"]"#), Some(vec![r#"{"a":[1,2]}"#, "3", r#""x,]\"y""#]));
        assert_eq!(cut("[1,]"), Some(vec!["1", ""]));
        assert_eq!(cut("[,1]"), Some(vec!["", "1"]));
    }

    #[test]
    fn an_array_that_does_not_hold_together_is_not_cut() {
        for text in ["[", "[1", "[{]}", "[}", r#"["]"#, r#"["\"]"#, "[1] 2", "[1]]", r#"["\"#] {
            assert_eq!(cut(text), None, "{text}");
        }
    }
}

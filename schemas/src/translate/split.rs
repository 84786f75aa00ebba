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
    let one = |range: Range<usize>| {
        judge(&payload[range.clone()]).map_err(|refusal| refusal.with(payload.slice(range)))
    };
    match ranges(payload, Form::Json) {
        Ok(ranges) => ranges.into_iter().map(one).collect(),
        Err(reason) => vec![Err(Refusal::from(reason).with(payload.clone()))],
    }
}

/// How events are put together in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One event, or an array of events.
    Json,
    /// One event a line; empty lines count for nothing.
    Lines,
}

/// The bytes of each event of a message, in order.
///
/// # Errors
/// The message as a whole is not taken: it is too large, has too many events, or does not hold together.
pub fn cut(payload: &Bytes, form: Form) -> Result<Vec<Bytes>, RefusedReason> {
    let ranges = ranges(payload, form)?;
    Ok(ranges.into_iter().map(|range| payload.slice(range)).collect())
}

fn ranges(payload: &[u8], form: Form) -> Result<Vec<Range<usize>>, RefusedReason> {
    if payload.len() > MAX_MESSAGE_BYTES {
        let (found, limit) = (payload.len(), MAX_MESSAGE_BYTES);
        return Err(RefusedReason::TooLarge { what: "the message", found, limit });
    }
    let Some(start) = payload.iter().position(|byte| !is_space(*byte)) else {
        return Err(RefusedReason::NotEvents { found: "nothing" });
    };
    match (form, payload[start]) {
        (Form::Lines, _) => lines(payload),
        (Form::Json, b'{') => Ok(std::iter::once(0..payload.len()).collect()),
        (Form::Json, b'[') => array(payload, start),
        (Form::Json, _) => Err(RefusedReason::NotEvents { found: "something else" }),
    }
}

/// Ranges of the lines that hold something. JSON has no line breaks inside of strings, so a break ends an event.
fn lines(bytes: &[u8]) -> Result<Vec<Range<usize>>, RefusedReason> {
    let mut ranges = Vec::new();
    let mut from = 0;
    while from < bytes.len() {
        let length = bytes[from..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - from);
        let line = trimmed(bytes, from..from + length);
        from += length + 1;
        if line.is_empty() {
            continue;
        }
        if ranges.len() == MAX_EVENTS {
            return Err(RefusedReason::TooMany { what: "events in one message", limit: MAX_EVENTS });
        }
        ranges.push(line);
    }
    Ok(ranges)
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
    fn lines_are_events_and_empty_ones_nothing() {
        let cut = |text: &'static str| super::cut(&Bytes::from_static(text.as_bytes()), Form::Lines);
        let text = "{\"a\": 1}\r\n\n  {\"b\": \"x\\ny\"} \n\t\nthree";
        assert_eq!(cut(text).unwrap(), ["{\"a\": 1}", "{\"b\": \"x\\ny\"}", "three"]);
        assert_eq!(cut("{}\n").unwrap(), ["{}"]);
        assert_eq!(cut(" \n\n").unwrap_err(), RefusedReason::NotEvents { found: "nothing" });
        let most = Bytes::from("1\n".repeat(MAX_EVENTS));
        assert_eq!(super::cut(&most, Form::Lines).unwrap().len(), MAX_EVENTS);
        let more = Bytes::from("1\n".repeat(MAX_EVENTS + 1));
        assert!(matches!(super::cut(&more, Form::Lines), Err(RefusedReason::TooMany { .. })));
    }

    #[test]
    fn an_array_that_does_not_hold_together_is_not_cut() {
        for text in ["[", "[1", "[{]}", "[}", r#"["]"#, r#"["\"]"#, "[1] 2", "[1]]", r#"["\"#] {
            assert_eq!(cut(text), None, "{text}");
        }
    }
}

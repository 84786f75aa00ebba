//! Scalars from the text of a JSON value, which the parser has already found to be valid JSON.

use std::borrow::Cow;

use chrono::DateTime;

use super::refused::RefusedReason;

/// 0001-01-01 and the last µs of 9999, which every reader of timestamps can represent.
const FIRST_INSTANT: i64 = -62_135_596_800_000_000;
const LAST_INSTANT: i64 = 253_402_300_799_999_999;
/// 2000-01-01: no event of ours is older.
const FIRST_EVENT_TIME: i64 = 946_684_800_000_000;
/// Whole numbers beyond this are no longer exact as floating point.
const EXACT: f64 = 9_007_199_254_740_992.0;

const INTEGER: &str = "an integer of 64 bits";
const SHORT_INTEGER: &str = "an integer of 32 bits";
const DOUBLE: &str = "a finite number";
const TIME: &str = "a time as integer µs or RFC 3339 text, years 0001 to 9999";
const EVENT_TIME: &str = "a time as integer µs or RFC 3339 text, years 2000 to 9999";

/// One value with the name of its field, for the sake of errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    /// `payload.` or nothing.
    pub(super) within: &'static str,
    pub(super) name: &'a str,
    /// Text of the value, without space around it.
    pub(super) raw: &'a str,
}

impl<'a> Field<'a> {
    pub(super) fn path(&self) -> String {
        format!("{}{}", self.within, self.name)
    }

    pub(super) fn wrong_type(&self, expected: &'static str) -> RefusedReason {
        let found = match self.raw.as_bytes().first() {
            Some(b'"') => "a string".to_owned(),
            Some(b'{') => "an object".to_owned(),
            Some(b'[') => "an array".to_owned(),
            _ => excerpt(self.raw),
        };
        RefusedReason::WrongType { field: self.path(), expected, found }
    }

    fn out_of_range(&self, expected: &'static str) -> RefusedReason {
        let found = if self.is_string() { "a time".to_owned() } else { excerpt(self.raw) };
        RefusedReason::OutOfRange { field: self.path(), expected, found }
    }

    fn is_number(&self) -> bool {
        matches!(self.raw.as_bytes().first(), Some(b'-' | b'0'..=b'9'))
    }

    fn is_string(&self) -> bool {
        self.raw.starts_with('"')
    }

    pub(super) fn text(&self) -> Result<Cow<'a, str>, RefusedReason> {
        let Some(inside) = self.raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            return Err(self.wrong_type("a string"));
        };
        if !inside.as_bytes().contains(&b'\\') {
            return Ok(Cow::Borrowed(inside));
        }
        match serde_json::from_str::<String>(self.raw) {
            Ok(text) => Ok(Cow::Owned(text)),
            Err(error) => Err(RefusedReason::Unreadable { field: self.path(), detail: error.to_string() }),
        }
    }

    pub(super) fn long(&self) -> Result<i64, RefusedReason> {
        if let Ok(value) = self.raw.parse::<i64>() {
            return Ok(value);
        }
        if !self.is_number() {
            return Err(self.wrong_type(INTEGER));
        }
        match self.raw.parse::<f64>() {
            Ok(value) if value.abs() > EXACT => Err(self.out_of_range(INTEGER)),
            Ok(value) if value.fract() == 0.0 => Ok(value as i64),
            _ => Err(self.wrong_type(INTEGER)),
        }
    }

    pub(super) fn int(&self) -> Result<i32, RefusedReason> {
        i32::try_from(self.long()?).map_err(|_| self.out_of_range(SHORT_INTEGER))
    }

    pub(super) fn double(&self) -> Result<f64, RefusedReason> {
        if !self.is_number() {
            return Err(self.wrong_type(DOUBLE));
        }
        match self.raw.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(self.out_of_range(DOUBLE)),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, RefusedReason> {
        match self.raw {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.wrong_type("true or false")),
        }
    }

    /// A time in µs that any reader can represent.
    pub(super) fn timestamp(&self) -> Result<i64, RefusedReason> {
        self.time(FIRST_INSTANT, TIME)
    }

    /// A time in µs that an event can have.
    pub(super) fn event_time(&self) -> Result<i64, RefusedReason> {
        self.time(FIRST_EVENT_TIME, EVENT_TIME)
    }

    fn time(&self, first: i64, expected: &'static str) -> Result<i64, RefusedReason> {
        let micros = if self.is_string() {
            match DateTime::parse_from_rfc3339(&self.text()?) {
                Ok(time) => time.timestamp_micros(),
                Err(_) => return Err(self.wrong_type(expected)),
            }
        } else if self.is_number() {
            self.long()?
        } else {
            return Err(self.wrong_type(expected));
        };
        if (first..=LAST_INSTANT).contains(&micros) { Ok(micros) } else { Err(self.out_of_range(expected)) }
    }
}

/// Numbers and words, cut to a length that fits into a reason.
fn excerpt(raw: &str) -> String {
    const LONGEST: usize = 40;
    if raw.len() <= LONGEST {
        return raw.to_owned();
    }
    raw.chars().take(LONGEST).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(raw: &str) -> Field<'_> {
        Field { within: "payload.", name: "x", raw }
    }

    #[test]
    fn whole_numbers_are_integers_however_they_are_written() {
        for (raw, value) in [("0", 0), ("-0", 0), ("37.0", 37), ("1e3", 1000), ("-2.50E1", -25)] {
            assert_eq!(field(raw).long(), Ok(value), "{raw}");
        }
        assert_eq!(field("9223372036854775807").long(), Ok(i64::MAX));
        for raw in ["37.5", "1e-3", "\"37\"", "true", "null", "[]", "{}"] {
            assert!(matches!(field(raw).long(), Err(RefusedReason::WrongType { .. })), "{raw}");
        }
        for raw in ["9223372036854775808", "1e19", "9007199254740994.0", "-1e400"] {
            assert!(matches!(field(raw).long(), Err(RefusedReason::OutOfRange { .. })), "{raw}");
        }
    }

    #[test]
    fn a_short_integer_has_32_bits() {
        assert_eq!(field("2147483647").int(), Ok(i32::MAX));
        let error = field("2147483648").int().unwrap_err().to_string();
        assert_eq!(error, "payload.x: 2147483648 is out of range, expected an integer of 32 bits");
    }

    #[test]
    fn doubles_take_integers_and_refuse_infinity() {
        assert_eq!(field("3").double(), Ok(3.0));
        assert_eq!(field("-1.25e2").double(), Ok(-125.0));
        assert!(matches!(field("1e999").double(), Err(RefusedReason::OutOfRange { .. })));
        assert!(matches!(field("\"3\"").double(), Err(RefusedReason::WrongType { .. })));
    }

    #[test]
    fn times_are_integers_or_text_with_a_zone() {
        let expected = 1_732_147_201_000_000;
        assert_eq!(field("1732147201000000").event_time(), Ok(expected));
        assert_eq!(field("\"2024-11-21T00:00:01Z\"").event_time(), Ok(expected));
        assert_eq!(field("\"2024-11-21T02:00:01.000+02:00\"").event_time(), Ok(expected));
        assert!(matches!(field("\"2024-11-21\"").event_time(), Err(RefusedReason::WrongType { .. })));
        assert!(matches!(
            field("\"1999-12-31T23:59:59Z\"").event_time(),
            Err(RefusedReason::OutOfRange { .. })
        ));
        assert!(matches!(field("946684799999999").event_time(), Err(RefusedReason::OutOfRange { .. })));
        assert_eq!(field("946684800000000").event_time(), Ok(FIRST_EVENT_TIME));
        assert!(matches!(field("253402300800000000").event_time(), Err(RefusedReason::OutOfRange { .. })));
        assert_eq!(field("946684799999999").timestamp(), Ok(946_684_799_999_999));
        assert_eq!(field("\"0001-01-01T00:00:00Z\"").timestamp(), Ok(FIRST_INSTANT));
        assert_eq!(field("\"9999-12-31T23:59:59.999999Z\"").timestamp(), Ok(LAST_INSTANT));
    }

    #[test]
    fn text_is_borrowed_unless_it_has_escapes() {
        assert!(matches!(field("\"plain é\"").text(), Ok(Cow::Borrowed("plain é"))));
        assert_eq!(field(r#""C:\\Temp\n\u00e9""#).text().unwrap(), "C:\\Temp\né");
        assert!(matches!(field(r#""\ud800""#).text(), Err(RefusedReason::Unreadable { .. })));
        assert!(matches!(field("12").text(), Err(RefusedReason::WrongType { .. })));
    }

    #[test]
    fn reasons_never_repeat_text() {
        let error = field("\"hunter2\"").long().unwrap_err().to_string();
        assert_eq!(error, "payload.x: expected an integer of 64 bits, found a string");
    }
}

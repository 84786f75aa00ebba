//! `in_hours`: times against a list of hours.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{AsArray, BooleanArray};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, Timelike, Weekday};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::lists::Lists;
use super::text::on_array;

/// Hours of the week in a time zone, from entries such as `Mon-Fri 20:00-07:00`, `Sat,Sun 00:00-24:00` and
/// `zone Europe/Kyiv` (or `zone +02:00`; UTC without one). Hours that pass midnight belong to the day they begin on.
#[derive(Debug)]
pub(super) struct Hours {
    zone: Tz,
    spans: Vec<Span>,
}

/// Minutes of the day, the end exclusive; up to 24 hours past midnight of the next day.
#[derive(Debug)]
struct Span {
    /// Bit 0 is Monday.
    days: u8,
    from: u32,
    to: u32,
}

const DAY: u32 = 24 * 60;

impl Hours {
    /// Reads the entries of a list; the error is the first that cannot be read.
    pub(super) fn parse<'a>(
        entries: impl Iterator<Item = &'a str>,
    ) -> std::result::Result<Arc<Self>, String> {
        let mut hours = Self { zone: "+00:00".parse().map_err(|_| "UTC".to_owned())?, spans: Vec::new() };
        for entry in entries {
            let wrong = || entry.to_owned();
            let (first, rest) = entry.split_once(' ').ok_or_else(wrong)?;
            if first.eq_ignore_ascii_case("zone") {
                hours.zone = rest.trim().parse().map_err(|_| wrong())?;
            } else {
                let days = days(first).ok_or_else(wrong)?;
                let (from, to) = span(rest.trim()).ok_or_else(wrong)?;
                hours.spans.push(Span { days, from, to });
            }
        }
        Ok(Arc::new(hours))
    }

    /// Whether the time, in µs since 1970, falls into one of the spans.
    fn has(&self, micros: i64) -> bool {
        let Some(time) = DateTime::from_timestamp_micros(micros) else {
            return false;
        };
        let local = time.with_timezone(&self.zone);
        let minute = local.hour() * 60 + local.minute();
        let today = local.weekday();
        self.spans.iter().any(|span| {
            let falls = |day: Weekday, minute: u32| {
                span.days & (1 << day.num_days_from_monday()) != 0 && (span.from..span.to).contains(&minute)
            };
            falls(today, minute) || falls(today.pred(), minute + DAY)
        })
    }
}

fn days(text: &str) -> Option<u8> {
    let mut days = 0;
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (Weekday, Weekday) = (from.parse().ok()?, to.parse().ok()?);
        let mut day = from;
        loop {
            days |= 1 << day.num_days_from_monday();
            if day == to {
                break;
            }
            day = day.succ();
        }
    }
    Some(days)
}

fn span(text: &str) -> Option<(u32, u32)> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (minute(from)?, minute(to)?);
    if from >= DAY || from == to {
        return None;
    }
    Some((from, if to > from { to } else { to + DAY }))
}

fn minute(text: &str) -> Option<u32> {
    let (hour, minute) = text.trim().split_once(':')?;
    let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
    let total = hour * 60 + minute;
    (minute < 60 && total <= DAY).then_some(total)
}

#[derive(Debug)]
pub(super) struct InHours {
    signature: Signature,
    lists: Arc<Lists>,
}

impl PartialEq for InHours {
    fn eq(&self, other: &Self) -> bool {
        self.lists == other.lists
    }
}

impl Eq for InHours {}

impl Hash for InHours {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl InHours {
    pub(super) fn new(lists: Arc<Lists>) -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable), lists }
    }

    fn hours(&self, name: &str) -> std::result::Result<Arc<Hours>, String> {
        let list = self.lists.get(name).ok_or_else(|| format!("there is no list '{name}'"))?;
        list.hours().map_err(|entry| {
            format!(
                "'{entry}' in the list '{name}' is neither hours such as 'Mon-Fri 20:00-07:00' nor a zone"
            )
        })
    }
}

impl ScalarUDFImpl for InHours {
    fn name(&self) -> &'static str {
        "in_hours"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let literal = args.scalar_arguments.get(1).copied().flatten();
        let Some(name) = literal.and_then(|scalar| ScalarValue::try_as_str(scalar).flatten()) else {
            return plan_err!("in_hours needs the name of its list as a literal");
        };
        if let Err(problem) = self.hours(name) {
            return plan_err!("in_hours: {problem}");
        }
        match args.arg_fields[0].data_type() {
            DataType::Timestamp(TimeUnit::Microsecond, _) => {}
            other => return plan_err!("in_hours needs a time, not {other}"),
        }
        Ok(Arc::new(Field::new(self.name(), DataType::Boolean, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let name = match &args.args[1] {
            ColumnarValue::Scalar(scalar) => scalar.try_as_str().flatten(),
            ColumnarValue::Array(_) => None,
        };
        let hours = match name.map(|name| self.hours(name)) {
            Some(Ok(hours)) => hours,
            Some(Err(problem)) => return exec_err!("in_hours: {problem}"),
            None => return exec_err!("in_hours needs the name of its list as a literal"),
        };
        on_array(&args.args[0], |array| {
            let times = array.as_primitive::<TimestampMicrosecondType>();
            let result: BooleanArray = times.iter().map(|time| time.map(|time| hours.has(time))).collect();
            Ok(Arc::new(result))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
    }

    #[test]
    fn hours_of_the_week_in_their_zone() {
        let entries = ["Mon-Fri 20:00-07:00", "Sat,Sun 00:00-24:00", "zone Europe/Kyiv"];
        let hours = Hours::parse(entries.into_iter()).unwrap();
        // 2024-11-21 is a Thursday; Kyiv is two hours ahead in winter
        for (time, expected) in [
            ("2024-11-21T17:59:00Z", false),
            ("2024-11-21T18:00:00Z", true),
            ("2024-11-22T04:59:59Z", true),
            ("2024-11-22T05:00:00Z", false),
            ("2024-11-22T23:00:00Z", true),
            ("2024-11-24T21:59:00Z", true),
            ("2024-11-24T22:00:00Z", false),
            ("2024-11-25T04:59:00Z", false),
            // summer: three hours ahead
            ("2024-07-18T17:00:00Z", true),
            ("2024-07-18T16:59:00Z", false),
        ] {
            assert_eq!(hours.has(micros(time)), expected, "{time}");
        }
    }

    #[test]
    fn what_is_no_hours_is_named() {
        for wrong in [
            "Mon",
            "Mon 7-8",
            "Mon 07:00-25:00",
            "Xyz 07:00-08:00",
            "Mon 07:00-07:00",
            "zone Nowhere/At",
            "Mon 24:00-01:00",
        ] {
            assert_eq!(Hours::parse([wrong].into_iter()).unwrap_err(), wrong);
        }
        for right in ["Mon 00:00-24:00", "Fri-Mon 23:30-00:30", "zone -05:00"] {
            assert!(Hours::parse([right].into_iter()).is_ok(), "{right}");
        }
    }
}

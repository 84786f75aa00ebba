//! Hours in which only what is urgent is told. Pure.

use arrow::array::timezone::Tz;
use chrono::{DateTime, Datelike as _, Timelike as _, Weekday};

use super::item::Severity;

const DAY: u32 = 24 * 60;

/// Quiet hours of a channel. Hours that pass midnight belong to the day they begin on.
#[derive(Debug, Clone)]
pub(super) struct Quiet {
    zone: Tz,
    /// Bit 0 is Monday.
    days: u8,
    /// Minutes of the day; `to` is exclusive and may lie on the next day.
    from: u32,
    to: u32,
    passes: Severity,
}

impl Quiet {
    /// From `from` to `to`, written `22:00`, on these days, written `Mon`; all days when none is given. What is at least
    /// as bad as `passes` is told all the same. The error names what cannot be read.
    pub(super) fn parse(
        zone: &str,
        days: &[String],
        from: &str,
        to: &str,
        passes: Severity,
    ) -> Result<Self, String> {
        let zone: Tz = zone.parse().map_err(|_| format!("{zone:?} is no time zone"))?;
        let mut bits = 0;
        for day in days {
            let day: Weekday = day.parse().map_err(|_| format!("{day:?} is no day of the week"))?;
            bits |= 1 << day.num_days_from_monday();
        }
        let minutes = |text: &str| minute_of_day(text).ok_or_else(|| format!("{text:?} is no time of day"));
        let (from, to) = (minutes(from)?, minutes(to)?);
        let to = if to <= from { to + DAY } else { to };
        Ok(Self { zone, days: if bits == 0 { 0x7f } else { bits }, from, to, passes })
    }

    /// What must be at least as bad to be told at this time, in µs since 1970-01-01 UTC; `None`: everything is told.
    pub(super) fn bound(&self, now: i64) -> Option<Severity> {
        let time = DateTime::from_timestamp_micros(now)?.with_timezone(&self.zone);
        let (day, minute) = (time.weekday(), time.hour() * 60 + time.minute());
        let holds = |day: Weekday, minute: u32| {
            self.days & (1 << day.num_days_from_monday()) != 0 && (self.from..self.to).contains(&minute)
        };
        (holds(day, minute) || holds(day.pred(), minute + DAY)).then_some(self.passes)
    }
}

fn minute_of_day(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
    (minute < 60 && hour * 60 + minute <= DAY).then_some(hour * 60 + minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
    }

    #[test]
    fn nights_that_pass_midnight_belong_to_the_day_they_begin_on() {
        let days = ["Fri".to_owned(), "Sat".to_owned()];
        let quiet = Quiet::parse("+02:00", &days, "22:00", "07:00", Severity::High).unwrap();
        // 2026-11-20 is a Friday.
        let quiet_at = |text: &str| quiet.bound(at(text)) == Some(Severity::High);
        assert!(quiet_at("2026-11-20T22:00:00+02:00"));
        assert!(quiet_at("2026-11-21T06:59:59+02:00"));
        assert!(!quiet_at("2026-11-21T07:00:00+02:00"));
        assert!(quiet_at("2026-11-22T03:00:00+02:00"));
        assert!(!quiet_at("2026-11-22T22:30:00+02:00"), "Sunday is no such day");
        assert!(!quiet_at("2026-11-20T06:00:00+02:00"), "Thursday night is not either");
        assert!(quiet_at("2026-11-20T20:00:00Z") && !quiet_at("2026-11-20T19:59:00Z"), "in the zone's time");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let parse = |zone: &str, day: &str, from: &str| {
            Quiet::parse(zone, &[day.to_owned()], from, "7:00", Severity::Low)
        };
        assert!(parse("Nowhere", "Mon", "22:00").unwrap_err().contains("Nowhere"));
        assert!(parse("+00:00", "Someday", "22:00").unwrap_err().contains("Someday"));
        assert!(parse("+00:00", "Mon", "25:00").unwrap_err().contains("25:00"));
        assert!(parse("+00:00", "Mon", "22:61").unwrap_err().contains("22:61"));
        // The whole day.
        let quiet = Quiet::parse("+00:00", &[], "00:00", "24:00", Severity::Low).unwrap();
        assert!(quiet.bound(at("2026-11-20T23:59:59Z")).is_some());
    }
}

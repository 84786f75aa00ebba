//! Which day's partition a row belongs to.

use std::time::Duration;

use chrono::{Days, NaiveDate};

const DAY: i64 = 86_400_000_000;
/// 9999-12-31, the last day that every reader can write down.
const LAST: i64 = 2_932_896;

/// How far an event time may be from its arrival, in µs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Believable {
    oldest: i64,
    ahead: i64,
}

impl Believable {
    pub(super) fn new(oldest: Duration, ahead: Duration) -> Self {
        let micros = |limit: Duration| i64::try_from(limit.as_micros()).unwrap_or(i64::MAX);
        Self { oldest: micros(oldest), ahead: micros(ahead) }
    }

    /// Days since 1970-01-01 (UTC) of a row's partition, and whether its arrival decided because the
    /// event time cannot be believed. Times in µs.
    pub(super) fn day(self, event_time: i64, arrival: i64) -> (i32, bool) {
        let believed = event_time >= arrival.saturating_sub(self.oldest)
            && event_time <= arrival.saturating_add(self.ahead);
        let time = if believed { event_time } else { arrival };
        (time.div_euclid(DAY).clamp(0, LAST) as i32, !believed)
    }
}

/// How long after the end of its day a row may be logged and still count as of that day.
const GRACE: i64 = 3_600_000_000;

/// Whether a row was logged after the files of its day had better been left alone. It depends on nothing but the
/// record, so that whoever reads it again says the same. Times in µs.
pub(super) fn is_late(event_time: i64, logged: i64) -> bool {
    let end = event_time.div_euclid(DAY).saturating_add(1).saturating_mul(DAY);
    end.saturating_add(GRACE) <= logged
}

/// `2025-11-21` for 20,413.
pub(super) fn text(day: i32) -> String {
    let date = NaiveDate::default().checked_add_days(Days::new(u64::from(day.unsigned_abs())));
    date.unwrap_or_default().format("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_763_683_200_000_000; // 2025-11-21T00:00:00Z

    fn limits() -> Believable {
        Believable::new(400 * Duration::from_hours(24), Duration::from_hours(48))
    }

    #[test]
    fn the_event_time_decides_within_bounds() {
        assert_eq!(limits().day(NOW, NOW), (20_413, false));
        assert_eq!(limits().day(NOW - 1, NOW), (20_412, false));
        assert_eq!(text(20_413), "2025-11-21");
        assert_eq!(text(0), "1970-01-01");
    }

    #[test]
    fn an_absurd_event_time_goes_by_its_arrival_and_is_marked() {
        assert_eq!(limits().day(0, NOW), (20_413, true));
        assert_eq!(limits().day(NOW + 3 * DAY, NOW), (20_413, true));
        assert_eq!(limits().day(i64::MIN, NOW), (20_413, true));
        assert_eq!(limits().day(i64::MAX, NOW), (20_413, true));
    }

    #[test]
    fn yesterday_is_late_an_hour_after_midnight() {
        assert!(!is_late(NOW, NOW));
        assert!(!is_late(NOW - 1, NOW + GRACE - 1));
        assert!(is_late(NOW - 1, NOW + GRACE));
        assert!(!is_late(NOW + 400 * DAY, NOW));
        assert!(is_late(i64::MIN, NOW) && !is_late(i64::MAX, NOW));
    }

    proptest! {
        #[test]
        fn every_time_has_a_day_that_can_be_written(event_time: i64, arrival: i64) {
            let (day, _) = limits().day(event_time, arrival);
            prop_assert_eq!(text(day).len(), 10);
        }

        #[test]
        fn a_believed_row_lies_within_its_day(offset in -300 * DAY..DAY) {
            let (day, by_arrival) = limits().day(NOW + offset, NOW);
            prop_assert!(!by_arrival);
            let start = i64::from(day) * DAY;
            prop_assert!((start..start + DAY).contains(&(NOW + offset)));
        }
    }
}

//! Numbers as people read them. What is not known is a dash.

use super::body::Change;

const NOTHING: &str = "–";

/// A number, or the dash.
pub(super) fn known<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NOTHING.to_owned(), show)
}

/// Seconds as hours and minutes.
pub(super) fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as i64;
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

/// A number of percent.
pub(super) fn percent(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:.1} %") } else { format!("{value:.0} %") }
}

/// A share between 0 and 1.
pub(super) fn share(value: f64) -> String {
    percent(100.0 * value)
}

/// Bytes in binary units.
pub(super) fn bytes(value: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value;
    let mut unit = 0;
    while scaled.abs() >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{scaled:.0} B") } else { format!("{scaled:.1} {}", UNITS[unit]) }
}

/// A whole number with thin spaces between thousands.
pub(super) fn count(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push('\u{202f}');
        }
        shown.push(digit);
    }
    if value < 0 { format!("−{shown}") } else { shown }
}

/// Change against the week before, with a sign.
pub(super) fn change(change: Change) -> String {
    match change {
        Change { change_percent: Some(percent), .. } if percent.abs() < 0.5 => {
            "as the week before".to_owned()
        }
        Change { change_percent: Some(percent), .. } => {
            let sign = if percent < 0.0 { "−" } else { "+" };
            format!("{sign}{:.0} % against the week before", percent.abs())
        }
        Change { now: Some(now), before: Some(_), .. } if now.abs() < f64::EPSILON => {
            "as the week before".to_owned()
        }
        Change { now: Some(_), before: Some(_), .. } => "none the week before".to_owned(),
        Change { now: Some(_), before: None, .. } => "nothing known of the week before".to_owned(),
        Change { before: Some(_), now: None, .. } => "known the week before".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_read_them() {
        assert_eq!([0.0, 59.0, 3600.0, 5430.0].map(duration), ["0 min", "1 min", "1 h", "1 h 31 min"]);
        assert_eq!([0.0, 1023.0, 1536.0, 3e12].map(bytes), ["0 B", "1023 B", "1.5 KiB", "2.7 TiB"]);
        assert_eq!([7, 1234, -1_234_567].map(count), ["7", "1\u{202f}234", "−1\u{202f}234\u{202f}567"]);
        assert_eq!([share(0.375), share(0.05), known(None, percent)], ["38 %", "5.0 %", "–"]);
    }

    #[test]
    fn a_change_is_told_only_if_it_is_known() {
        let told = |now, before, change_percent| change(Change { now, before, change_percent });
        assert_eq!(told(Some(3.0), Some(4.0), Some(-25.0)), "−25 % against the week before");
        assert_eq!(told(Some(3.0), Some(3.0), Some(0.0)), "as the week before");
        assert_eq!(told(Some(3.0), None, None), "nothing known of the week before");
        assert_eq!(told(Some(3.0), Some(0.0), None), "none the week before");
        assert_eq!(told(Some(0.0), Some(0.0), None), "as the week before");
        assert_eq!(told(None, None, None), "");
    }
}

//! What may be set for reports.

use std::time::Duration;

use arrow::array::timezone::Tz;
use runtime::config::{Check, Problems, key};
use serde::Deserialize;

use super::Kind;

/// Which periods have reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cadence {
    /// Each day.
    Day,
    /// Each week.
    Week,
    /// Each week, and those days on which there was enough to tell: see [`ReportsConfig::busy_hours`].
    Auto,
}

impl Cadence {
    /// The kinds of reports that it asks for.
    pub const fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Day => &[Kind::Day],
            Self::Week => &[Kind::Week],
            Self::Auto => &[Kind::Day, Kind::Week],
        }
    }
}

/// Reports. Where they are stored is said by the section of the PostgreSQL sink.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReportsConfig {
    /// Whether this process computes reports that are due.
    pub enabled: bool,
    /// Which periods have reports: day, week, auto.
    pub period: Cadence,
    /// With `auto`, a day has a report of its own for whom it saw so many hours, or an alert.
    pub busy_hours: u32,
    /// The zone in which days begin, by its IANA name, e.g. `Europe/Kyiv`.
    pub zone: String,
    /// How long after its end a period is first reported; what comes later makes it due again.
    #[serde(with = "humantime_serde")]
    pub after: Duration,
    /// How often to look for what is due.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// How far back to look: as long as an agent may be offline and still bring what it saw.
    #[serde(with = "humantime_serde")]
    pub look_back: Duration,
}

impl Default for ReportsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            period: Cadence::Auto,
            busy_hours: 4,
            zone: "UTC".to_owned(),
            after: Duration::from_mins(15),
            every: Duration::from_mins(5),
            look_back: Duration::from_hours(38 * 24),
        }
    }
}

impl Check for ReportsConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        // Offsets are none: PostgreSQL counts them the other way round.
        let is_name = self.zone.starts_with(|character: char| character.is_ascii_alphabetic());
        if !is_name || self.zone.parse::<Tz>().is_err() {
            problems.add(
                key(at, "zone"),
                format!("{:?} is not the name of a zone", self.zone),
                Some("for example UTC or Europe/Kyiv".to_owned()),
            );
        }
        if self.every < Duration::from_secs(1) {
            problems.add(key(at, "every"), "must be at least a second", None);
        }
        if self.look_back < Duration::from_hours(8 * 24) {
            problems.add(key(at, "look_back"), "must be more than a week", Some("at least 8days".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::config::load;

    use super::*;

    #[test]
    fn the_defaults_are_right_and_all_problems_are_named_at_once() {
        assert!(load::<ReportsConfig>("", "test", &|_| None).is_ok());
        assert!(
            load::<ReportsConfig>("zone = \"Europe/Kyiv\"\nperiod = \"week\"", "test", &|_| None).is_ok()
        );
        let wrong = "zone = \"x'; drop\"\nevery = \"0s\"\nlook_back = \"1day\"";
        let problems = load::<ReportsConfig>(wrong, "test", &|_| None).unwrap_err();
        let mut named: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        named.sort_unstable();
        assert_eq!(named, ["every", "look_back", "zone"]);
        for zone in ["Europe/Kiew", "Mars/Olympus", "+02:00", "", "-3"] {
            let text = format!("zone = \"{zone}\"");
            assert!(load::<ReportsConfig>(&text, "test", &|_| None).is_err(), "{zone}");
        }
    }
}

//! What a report is about.

use std::fmt;

use chrono::{Datelike as _, Days, NaiveDate};
use serde::{Deserialize, Serialize};

/// Length of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A calendar day.
    Day,
    /// Seven days from a Monday on.
    Week,
}

impl Kind {
    /// As it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
        }
    }

    /// The step in which its course is told.
    pub(super) const fn step(self) -> &'static str {
        match self {
            Self::Day => "hour",
            Self::Week => "day",
        }
    }
}

/// A day or a week of the calendar; in which zone it begins is configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    kind: Kind,
    start: NaiveDate,
}

impl Period {
    /// The period that holds a day.
    pub fn holding(kind: Kind, day: NaiveDate) -> Self {
        let start = match kind {
            Kind::Day => day,
            Kind::Week => day - Days::new(u64::from(day.weekday().num_days_from_monday())),
        };
        Self { kind, start }
    }

    /// Its length.
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// Its first day.
    pub const fn start(self) -> NaiveDate {
        self.start
    }
}

/// Whom a report is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// All machines.
    Fleet,
    /// One machine, by the id of its agent.
    Agent(String),
    /// One user on all machines, as the events name him.
    User(String),
}

impl Subject {
    /// As it is stored.
    pub const fn scope(&self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Agent(_) => "agent",
            Self::User(_) => "user",
        }
    }

    /// The agent's id or the user's name; nothing for the fleet.
    pub fn key(&self) -> &str {
        match self {
            Self::Fleet => "",
            Self::Agent(key) | Self::User(key) => key,
        }
    }

    /// What was stored; `None` for an unknown scope.
    pub(super) fn stored(scope: &str, key: String) -> Option<Self> {
        match scope {
            "fleet" => Some(Self::Fleet),
            "agent" => Some(Self::Agent(key)),
            "user" => Some(Self::User(key)),
            _ => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("all machines"),
            Self::Agent(id) => write!(f, "agent {id}"),
            Self::User(name) => write!(f, "user {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_begins_on_the_monday_before() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        for of in ["2026-01-05", "2026-01-07", "2026-01-11"] {
            assert_eq!(Period::holding(Kind::Week, day(of)).start(), day("2026-01-05"));
        }
        assert_eq!(Period::holding(Kind::Day, day("2026-01-07")).start(), day("2026-01-07"));
    }
}

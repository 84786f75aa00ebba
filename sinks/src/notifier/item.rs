//! What people are told of: one row of the outbox.

use serde::{Deserialize, Serialize};

/// Severity by OCSF's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i32)]
pub enum Severity {
    /// 1; what the program starts of the specification are told with.
    Informational = 1,
    /// 2
    Low = 2,
    /// 3
    Medium = 3,
    /// 4
    High = 4,
    /// 5
    Critical = 5,
    /// 6
    Fatal = 6,
}

impl Severity {
    /// OCSF's number.
    pub(super) const fn id(self) -> i32 {
        self as i32
    }

    /// The severity of a number; what OCSF does not know (0 unknown, 99 other) counts as the nearest.
    pub(super) const fn of(id: i32) -> Self {
        match id {
            ..=1 => Self::Informational,
            2 => Self::Low,
            3 => Self::Medium,
            4 => Self::High,
            5 => Self::Critical,
            6.. => Self::Fatal,
        }
    }

    /// As people write it in a message.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
            Self::Fatal => "fatal",
        }
    }
}

/// What an item tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A finding of a rule.
    Alert,
    /// Somebody started a program that is tracked.
    ProgramStart,
}

/// Where in its life a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    /// Not known before.
    New,
    /// Known, and it goes on.
    Updated,
    /// Over.
    Closed,
}

/// One row of the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Item {
    /// Number of the row.
    pub(super) id: i64,
    /// What it tells.
    pub(super) kind: Kind,
    /// Whether it is new.
    pub(super) change: Change,
    /// How bad it is.
    pub(super) severity: Severity,
    /// Rule of an alert; `program-start` otherwise.
    pub(super) rule_id: String,
    /// The rule's title.
    pub(super) title: String,
    /// The machine's agent.
    pub(super) agent_id: String,
    /// The machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<String>,
    /// The account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    /// The program that was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) program: Option<String>,
    /// One sentence.
    pub(super) message: String,
    /// Rows that an alert stands for.
    pub(super) count: i64,
    /// When it happened, in µs since 1970-01-01 UTC.
    pub(super) event_time: i64,
}

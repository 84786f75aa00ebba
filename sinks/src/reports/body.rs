//! The sections of a report. What nobody measured is `None`; a period in which nothing happened has all sections.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use serde::Deserialize;

use super::Kind;

/// A whole report.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Body {
    /// Length of the period.
    pub kind: Kind,
    /// First day of the period, in `zone`.
    pub period_start: NaiveDate,
    /// IANA name of the zone.
    pub zone: String,
    /// `fleet`, `agent` or `user`.
    pub scope: String,
    /// The agent's id or the user's name.
    pub key: String,
    /// Name of the machine, if it is about one.
    pub host: Option<String>,
    /// What people did.
    pub activity: Activity,
    /// What the machines had to do.
    pub load: Load,
    /// What was started.
    pub programs: Programs,
    /// What was found.
    pub alerts: Alerts,
    /// How much of it was seen.
    pub coverage: Coverage,
    /// The course of the period: hours of a day, days of a week.
    pub series: Vec<Step>,
    /// Main numbers beside those of a week before, by name. What comes later of either makes the report due again.
    pub trend: BTreeMap<String, Change>,
    /// Eight weeks by weekday and hour, as known when the report was computed: what comes later of the weeks before the
    /// last does not make it due again. Hours of which nothing is known are absent.
    pub pattern: Vec<Cell>,
}

/// Activity and work load.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Activity {
    /// Seconds with input.
    pub active_s: Option<f64>,
    /// Hours with any input, of each machine or of the user on each machine.
    pub active_hours: i64,
    /// Hours of which there is a row.
    pub hours: i64,
    /// Seconds with input divided by the length of the hours in which there was any, 0 to 1.
    pub work_load: Option<f64>,
    /// Days with input.
    pub days: i64,
    /// Begin of the first hour with input, `YYYY-MM-DD HH:MM` in the zone.
    pub first_hour: Option<String>,
    /// Begin of the last hour with input.
    pub last_hour: Option<String>,
    /// How often input paused.
    pub idle_runs: Option<i64>,
    /// Events of the mouse.
    pub mouse_events: Option<i64>,
    /// Events of the keyboard.
    pub keyboard_events: Option<i64>,
    /// The ten most active users.
    pub users: Vec<UserActivity>,
}

/// One user's activity.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct UserActivity {
    /// As the events name him.
    pub username: String,
    /// Seconds with input.
    pub active_s: Option<f64>,
    /// Hours with any input.
    pub active_hours: i64,
    /// As in [`Activity`].
    pub work_load: Option<f64>,
    /// On how many machines he was seen.
    pub agents: i64,
}

/// Load of the machines; means are over hours.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Load {
    /// Percent.
    pub cpu_mean: Option<f64>,
    /// Percent.
    pub cpu_max: Option<f64>,
    /// Share of readings at 90 percent or more, 0 to 1.
    pub cpu_over_share: Option<f64>,
    /// Bytes.
    pub mem_used_mean_bytes: Option<f64>,
    /// Bytes.
    pub mem_used_max_bytes: Option<f64>,
    /// Share of readings at 90 percent of memory or more, 0 to 1.
    pub mem_over_share: Option<f64>,
    /// Percent, of all disks of a machine together.
    pub disk_used_max_percent: Option<f64>,
    /// Bytes received in a second: the mean over hours and network interfaces, not their sum.
    pub net_rx_mean_bytes_per_s: Option<f64>,
    /// Bytes sent in a second, likewise.
    pub net_tx_mean_bytes_per_s: Option<f64>,
    /// The ten busiest.
    pub machines: Vec<Machine>,
}

/// One machine's load.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Machine {
    /// Id of its agent.
    pub agent_id: String,
    /// Its name.
    pub host: Option<String>,
    /// Hours of which there is a row.
    pub hours: i64,
    /// Percent.
    pub cpu_mean: Option<f64>,
    /// Percent.
    pub cpu_max: Option<f64>,
    /// Bytes.
    pub mem_used_max_bytes: Option<f64>,
    /// Percent.
    pub disk_used_max_percent: Option<f64>,
}

/// Starts of programs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Programs {
    /// How many.
    pub starts: i64,
    /// Of how many names.
    pub distinct: i64,
    /// Starts of programs that their machine had not seen before.
    pub first_seen_starts: Option<i64>,
    /// Starts from places where programs do not belong.
    pub suspicious_paths: Option<i64>,
    /// The fifteen started most.
    pub top: Vec<Program>,
    /// Of the fleet: the first fifteen that nobody had started before.
    pub new: Vec<NewProgram>,
}

/// How often a program was started.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// How often.
    pub starts: i64,
    /// On how many machines.
    pub agents: i64,
    /// By how many users.
    pub users: i64,
}

/// A program that was new.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct NewProgram {
    /// Its name.
    pub name: String,
    /// Where it lies.
    pub path: Option<String>,
    /// What kind of place that is.
    pub path_class: Option<String>,
    /// Event time of its first start.
    pub first_seen: DateTime<Utc>,
}

/// Findings that were complete in the period, as they stand when the report is computed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Alerts {
    /// How many.
    pub findings: i64,
    /// Rows that they stand for.
    pub rows: i64,
    /// Not resolved.
    pub open: i64,
    /// Worst first.
    pub by_severity: Vec<Severity>,
    /// The fifteen worst rules.
    pub by_rule: Vec<Rule>,
    /// What people said; of each finding the newest verdict.
    pub verdicts: Verdicts,
    /// The ten worst, newest first.
    pub worst: Vec<Finding>,
}

/// Findings of a severity.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Severity {
    /// OCSF, 1 to 6.
    pub severity_id: i32,
    /// Its name.
    pub severity: String,
    /// How many.
    pub findings: i64,
}

/// Findings of a rule.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Rule {
    /// Id of the rule.
    pub rule_id: String,
    /// Its title.
    pub title: String,
    /// Highest severity of its findings.
    pub severity: String,
    /// How many.
    pub findings: i64,
}

/// Counts of verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Verdicts {
    /// True positive.
    pub tp: i64,
    /// False positive.
    pub fp: i64,
    /// It happened and was allowed.
    pub benign: i64,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Finding {
    /// Its id.
    pub finding_uid: String,
    /// When it was complete.
    pub event_time: DateTime<Utc>,
    /// Name of the severity.
    pub severity: String,
    /// Id of the rule.
    pub rule_id: String,
    /// On which machine.
    pub host: Option<String>,
    /// Of whom.
    pub username: Option<String>,
    /// One sentence.
    pub message: String,
}

/// How much was seen.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Coverage {
    /// Machines heard in the period or the four weeks before; not of a user.
    pub agents_known: Option<i64>,
    /// Machines heard in the period.
    pub agents_seen: i64,
    /// The first twenty that were known and not heard.
    pub silent: Vec<Silent>,
    /// Hours of the period for each known machine; not of a user.
    pub hours_expected: Option<i64>,
    /// Hours of which there is a row.
    pub hours_seen: i64,
    /// Of these, told before they were complete.
    pub partial_hours: i64,
    /// Mean share of an hour that was observed, over the hours seen, 0 to 1.
    pub coverage_mean: Option<f64>,
    /// Share of all expected hours that was observed, 0 to 1; not of a user.
    pub share: Option<f64>,
    /// Events that were counted.
    pub events: Option<i64>,
    /// Events that came after their windows had closed.
    pub late: Option<i64>,
    /// Events that were given up as lost.
    pub lost: Option<i64>,
}

/// A machine that was not heard.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Silent {
    /// Id of its agent.
    pub agent_id: String,
    /// Its name.
    pub host: Option<String>,
}

/// An hour of a day, or a day of a week.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Step {
    /// Its begin, `YYYY-MM-DD HH:MM` in the zone.
    pub at: String,
    /// Seconds with input.
    pub active_s: Option<f64>,
    /// Percent.
    pub cpu_mean: Option<f64>,
    /// Percent.
    pub cpu_max: Option<f64>,
    /// Bytes.
    pub mem_used_mean_bytes: Option<f64>,
    /// 0 to 1.
    pub coverage: Option<f64>,
    /// Machine hours of which there is a row.
    pub hours: i64,
    /// Programs started.
    pub starts: i64,
    /// Findings.
    pub alerts: i64,
}

/// A number and what it was a week before.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Change {
    /// Of the period.
    pub now: Option<f64>,
    /// Of the same days a week before.
    pub before: Option<f64>,
    /// Percent of `before`; `None` if either is unknown or `before` is 0.
    pub change_percent: Option<f64>,
}

impl Change {
    /// True if it went up, false if down; `None` where it stayed or is not known.
    pub(super) fn rose(&self) -> Option<bool> {
        self.change_percent.filter(|percent| percent.abs() >= 0.5).map(|percent| percent > 0.0)
    }
}

/// An hour of the week.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Cell {
    /// 1 (Monday) to 7.
    pub weekday: u32,
    /// 0 to 23, in the zone.
    pub hour: u32,
    /// Hours that the means are over.
    pub hours: i64,
    /// Seconds with input divided by the length of the hours in which somebody looked, 0 to 1.
    pub active_share: Option<f64>,
    /// Percent.
    pub cpu_mean: Option<f64>,
}

impl Body {
    /// True if nothing at all is known of the period.
    pub fn is_empty(&self) -> bool {
        self.coverage.hours_seen == 0
            && self.activity.hours == 0
            && self.programs.starts == 0
            && self.alerts.findings == 0
    }

    /// Whom it is about, for a title.
    pub(super) fn about(&self) -> String {
        match (self.scope.as_str(), &self.host) {
            ("agent", Some(host)) => format!("{host} ({})", self.key),
            ("agent", None) => format!("agent {}", self.key),
            ("user", _) => format!("user {}", self.key),
            _ => "all machines".to_owned(),
        }
    }

    /// Which days it is about, for a title.
    pub(super) fn days(&self) -> String {
        match self.kind {
            Kind::Day => self.period_start.format("%A, %-d %B %Y").to_string(),
            Kind::Week => {
                let last = self.period_start + chrono::Days::new(6);
                format!("{} to {}", self.period_start.format("%-d %B"), last.format("%-d %B %Y"))
            }
        }
    }
}

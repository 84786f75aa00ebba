use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemas::family::Family;
use schemas::record::RecordKind;
use serde::Serialize;

use super::template::Template;

/// How bad it is, with the numbers of OCSF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// No action needed.
    Informational,
    /// Worth a look together with something else.
    Low,
    /// Worth a look.
    Medium,
    /// Act now.
    High,
    /// Act now, and more than one machine may be at stake.
    Critical,
    /// Too late to prevent.
    Fatal,
}

impl Severity {
    /// All, the least first.
    pub const ALL: [Self; 6] =
        [Self::Informational, Self::Low, Self::Medium, Self::High, Self::Critical, Self::Fatal];

    /// `severity_id` of OCSF: 1 to 6.
    pub const fn id(self) -> i32 {
        self as i32 + 1
    }

    /// The name in rule files: `low`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
            Self::Fatal => "fatal",
        }
    }

    /// The name in OCSF: `Low`.
    pub const fn caption(self) -> &'static str {
        match self {
            Self::Informational => "Informational",
            Self::Low => "Low",
            Self::Medium => "Medium",
            Self::High => "High",
            Self::Critical => "Critical",
            Self::Fatal => "Fatal",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Techniques of MITRE ATT&CK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attack {
    /// Version of ATT&CK whose ids these are.
    pub version: String,
    /// Ids of techniques and sub-techniques: `T1036`, `T1036.005`.
    pub techniques: Vec<String>,
}

/// What a rule looks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Condition {
    /// One event that a predicate holds for.
    Match {
        /// What it reads.
        #[serde(serialize_with = "family_name")]
        family: Family,
        /// SQL predicate over the columns of the family.
        predicate: String,
    },
    /// Windows in a row that a predicate holds for.
    Threshold {
        /// Length of the windows.
        window: Duration,
        /// What the windows are kept by.
        group_by: Vec<String>,
        /// SQL predicate over the columns of a feature row.
        having: String,
        /// How many windows in a row; at least one.
        consecutive: u32,
    },
}

impl Condition {
    /// Name of the kind: `match`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Match { .. } => "match",
            Self::Threshold { .. } => "threshold",
        }
    }

    /// The rows that the rule reads.
    pub const fn reads(&self) -> RecordKind {
        match self {
            Self::Match { family, .. } => RecordKind::Family(*family),
            Self::Threshold { .. } => RecordKind::Feature1m,
        }
    }

    /// The predicate, without exceptions.
    pub fn predicate(&self) -> &str {
        match self {
            Self::Match { predicate, .. } => predicate,
            Self::Threshold { having, .. } => having,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn family_name<S: serde::Serializer>(family: &Family, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(family.name())
}

/// How a column is compared with a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Test {
    /// The text is an entry.
    In,
    /// The path lies below an entry.
    Under,
}

/// When the rule does not apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exception {
    /// Column that is looked at.
    pub column: String,
    /// How it is compared.
    pub test: Test,
    /// Name of the list.
    pub list: String,
}

/// Where a rule stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file, as it was given.
    pub file: String,
    /// The first line of the rule, from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One rule. What is serialised is what the hash of the rule set covers: everything but where it stands.
#[derive(Debug, Clone, Serialize)]
pub struct Rule {
    /// Unique in its set, and for ever: findings are identified by it.
    pub id: String,
    /// What happened, for people.
    pub title: String,
    /// How bad it is.
    pub severity: Severity,
    /// Why it matters and what to look at.
    pub description: String,
    /// Addresses to read on.
    pub references: Vec<String>,
    /// Techniques that it may show.
    pub attack: Option<Attack>,
    /// What it looks for.
    pub condition: Condition,
    /// When it does not apply.
    pub unless: Vec<Exception>,
    /// The sentence of its alerts.
    pub message: Template,
    /// Labels for data sets.
    pub labels: BTreeMap<String, String>,
    /// Where it stands.
    #[serde(skip)]
    pub origin: Origin,
}

impl Rule {
    /// The predicate with the exceptions, as SQL.
    ///
    /// Null counts as *does not apply* in an exception and as *does not hold* in the predicate.
    pub(crate) fn sql(&self) -> String {
        // the line breaks end a `--` comment in a rule's text
        let mut sql = format!("({}\n)", self.condition.predicate());
        for Exception { column, test, list } in &self.unless {
            let call = match test {
                Test::In => format!("in_list(\"{column}\", '{list}')"),
                Test::Under => format!("is_under(\"{column}\", '@{list}')"),
            };
            sql.push_str(" AND (");
            sql.push_str(&call);
            sql.push_str(") IS NOT TRUE");
        }
        sql
    }
}

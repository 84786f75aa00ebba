use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::reads::Reads;
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
    /// One row that a predicate holds for.
    Match {
        /// What it reads.
        #[serde(serialize_with = "reads_name")]
        reads: Reads,
        /// SQL predicate over the columns of what it reads.
        predicate: String,
    },
    /// Windows in a row that a predicate holds for.
    Threshold {
        /// What it reads: features of windows of one length.
        #[serde(serialize_with = "reads_name")]
        reads: Reads,
        /// What the windows are kept by.
        group_by: Vec<String>,
        /// SQL predicate over the columns of a feature row.
        having: String,
        /// How many windows in a row; at least one.
        consecutive: u32,
        /// Least event time between two updates of a finding that lasts; none without it.
        update: Option<Duration>,
    },
    /// Rows of many agents in one window that a predicate over the window holds for.
    Fleet {
        /// What it reads.
        #[serde(serialize_with = "reads_name")]
        reads: Reads,
        /// SQL predicate over the columns of what it reads: which rows count.
        predicate: String,
        /// Columns that rows of a window agree on; null agrees with nothing.
        group_by: Vec<String>,
        /// Length of the windows, of which one ends at every minute.
        window: Duration,
        /// SQL predicate over [`fleet_columns`](super::fleet_columns).
        having: String,
    },
    /// Somebody who is silent.
    Absence {
        /// Who.
        of: Subject,
        /// SQL predicate over [`silence_columns`](super::silence_columns).
        predicate: String,
        /// For how long, on the log's clock.
        silence: Duration,
        /// Least time of the log's clock between two updates of a finding that lasts; none without it.
        update: Option<Duration>,
    },
    /// Rows of one agent that follow each other.
    Sequence {
        /// What must happen, in the order of event time; at least two.
        steps: Vec<Step>,
        /// Columns, beside `agent_id`, that all rows must agree on; null agrees with nothing.
        by: Vec<String>,
        /// Longest event time from the first step to the last.
        within: Duration,
    },
}

/// Who a finding may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// An agent of which nothing comes although all bridges are connected.
    Agent,
    /// A bridge that ceased to write clock records without goodbye.
    Bridge,
    /// The MQTT broker, as a bridge sees it that says that it is not connected.
    Broker,
    /// Many agents together; they are not silent together, but a finding can be about them.
    Fleet,
}

impl Subject {
    /// Those that may be silent.
    pub const SILENT: [Self; 3] = [Self::Agent, Self::Bridge, Self::Broker];

    /// The name in rule files: `agent`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Bridge => "bridge",
            Self::Broker => "broker",
            Self::Fleet => "fleet",
        }
    }
}

/// One step of a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What it reads.
    #[serde(serialize_with = "reads_name")]
    pub reads: Reads,
    /// SQL predicate over the columns of what it reads.
    pub predicate: String,
    /// Whether a row that arrives before the rows of earlier steps waits for them, until the agent's watermark has
    /// passed it. A step that holds for most rows should not.
    pub waits: bool,
}

impl Condition {
    /// Name of the kind: `match`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Match { .. } => "match",
            Self::Threshold { .. } | Self::Fleet { .. } => "threshold",
            Self::Absence { .. } => "absence",
            Self::Sequence { .. } => "sequence",
        }
    }

    /// The rows that exceptions, message and `suppress` are about: of a sequence, those of its last step. The message of
    /// a rule over the fleet has other columns.
    pub fn reads(&self) -> Reads {
        match self {
            Self::Match { reads, .. } | Self::Threshold { reads, .. } | Self::Fleet { reads, .. } => *reads,
            Self::Absence { .. } => Reads::Silence,
            Self::Sequence { steps, .. } => steps.last().map_or(Reads::Facts, |step| step.reads),
        }
    }

    /// The predicates with what each reads, in the order of steps, without exceptions.
    pub fn predicates(&self) -> Vec<(Reads, &str)> {
        match self {
            Self::Match { reads, predicate } => vec![(*reads, predicate)],
            Self::Threshold { reads, having, .. } => vec![(*reads, having)],
            Self::Fleet { reads, predicate, having, .. } => vec![(*reads, predicate), (Reads::Fleet, having)],
            Self::Absence { predicate, .. } => vec![(Reads::Silence, predicate)],
            Self::Sequence { steps, .. } => {
                steps.iter().map(|step| (step.reads, step.predicate.as_str())).collect()
            }
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn reads_name<S: serde::Serializer>(reads: &Reads, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reads.name())
}

/// Holding back repetitions of an alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suppress {
    /// Columns that, beside the agent, make two findings the same.
    pub by: Vec<String>,
    /// How long after an alert its repetitions are only counted, in event time.
    #[serde(rename = "for")]
    pub period: Duration,
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
    /// Which repetitions are held back.
    pub suppress: Option<Suppress>,
    /// The sentence of its alerts.
    pub message: Template,
    /// Labels for data sets.
    pub labels: BTreeMap<String, String>,
    /// Where it stands.
    #[serde(skip)]
    pub origin: Origin,
}

impl Rule {
    /// Its predicates as SQL, with what each reads; the exceptions belong to the last that reads what they are about.
    ///
    /// Null counts as *does not apply* in an exception and as *does not hold* in the predicate.
    pub(crate) fn sql(&self) -> Vec<(Reads, String)> {
        // the line breaks end a `--` comment in a rule's text
        let predicates = self.condition.predicates().into_iter();
        let mut sql: Vec<_> = predicates.map(|(reads, text)| (reads, format!("({text}\n)"))).collect();
        let about = self.condition.reads();
        if let Some((_, last)) = sql.iter_mut().rfind(|(reads, _)| *reads == about) {
            for Exception { column, test, list } in &self.unless {
                let call = match test {
                    Test::In => format!("in_list(\"{column}\", '{list}')"),
                    Test::Under => format!("is_under(\"{column}\", '@{list}')"),
                };
                last.push_str(" AND (");
                last.push_str(&call);
                last.push_str(") IS NOT TRUE");
            }
        }
        sql
    }
}

/// Two rules are the same if they mean the same, wherever they stand.
impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        let meaning = |rule: &Self| serde_json::to_vec(rule).unwrap_or_default();
        self.id == other.id && meaning(self) == meaning(other)
    }
}

/// Finds a rule and the hash of its set by id.
pub(super) type RuleOf<'a> = dyn Fn(&str) -> Option<(Arc<Rule>, Arc<str>)> + 'a;

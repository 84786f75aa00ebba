//! What a rule reads: rows of the log, or rows that the engine makes of what it noticed.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use schemas::columns::arrow_schema;
use schemas::family::Family;
use schemas::record::RecordKind;

/// The rows that a predicate is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reads {
    /// Normalised events of one family.
    Family(Family),
    /// Features of closed windows.
    Features(RecordKind),
    /// What the engine noticed about an agent: see [`fact_columns`].
    Facts,
    /// Agents, bridges and brokers that are silent.
    Silence,
    /// Windows over many agents: see [`fleet_columns`].
    Fleet,
}

/// Name of [`Reads::Facts`] in rule files.
const FACTS: &str = "agent_fact";

impl Reads {
    /// What a match rule names as its `family`.
    pub fn of_match(name: &str) -> Option<Self> {
        if name == FACTS { Some(Self::Facts) } else { Family::from_name(name).map(Self::Family) }
    }

    /// Everything that a match rule can name.
    pub fn match_names() -> impl Iterator<Item = &'static str> {
        Family::ALL.into_iter().map(Family::name).chain([FACTS])
    }

    /// The features of windows of this length, if there are any.
    pub fn of_window(window: Duration) -> Option<Self> {
        WINDOWS.into_iter().find(|(length, _)| *length == window).map(|(_, kind)| Self::Features(kind))
    }

    /// Lengths of the windows that there are features of.
    pub fn windows() -> impl Iterator<Item = Duration> {
        WINDOWS.into_iter().map(|(length, _)| length)
    }

    /// Name for people and in rule files: `process_event`, `feature_1m`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Family(family) => family.name(),
            Self::Features(kind) => kind.name(),
            Self::Facts => FACTS,
            Self::Silence => "silence",
            Self::Fleet => "fleet_window",
        }
    }

    /// The columns that a predicate may name.
    pub fn schema(self) -> SchemaRef {
        match self {
            Self::Family(family) => arrow_schema(RecordKind::Family(family)),
            Self::Features(kind) => arrow_schema(kind),
            Self::Facts => fact_columns(),
            Self::Silence => silence_columns(),
            Self::Fleet => fleet_columns(),
        }
    }
}

const WINDOWS: [(Duration, RecordKind); 1] = [(Duration::from_mins(1), RecordKind::Feature1m)];

/// Lengths of windows over the fleet.
pub(crate) const FLEET_WINDOWS: [Duration; 4] =
    [Duration::from_mins(5), Duration::from_mins(10), Duration::from_mins(30), Duration::from_hours(1)];

/// Columns of a window over many agents, beside those that its rows agree on: `agents` and `users` are how many
/// different ones it has (exact up to 511, then estimated), `rows` how many events, `first_seen` and `last_seen` when
/// the first and the last of them happened.
pub fn fleet_columns() -> SchemaRef {
    static COLUMNS: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            time("window_start"),
            time("window_end"),
            long("agents", false),
            long("users", false),
            long("rows", false),
            time("first_seen"),
            time("last_seen"),
        ]))
    });
    Arc::clone(&COLUMNS)
}

/// Columns of what the engine noticed about an agent.
///
/// `fact` is `clone` (two machines use one id; `session` and `other_session` are the two), `gap` (`missing` numbers of a
/// lane never came and nobody explained them) or `unclean_stop` (a session ended without `agent_stopped`;
/// `other_session` is the one that came after it). `event_id` makes it one of its kind; the rest is as in an event.
pub fn fact_columns() -> SchemaRef {
    static COLUMNS: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            text("fact", false),
            text("agent_id", false),
            long("session", false),
            text("lane", false),
            long("seq", false),
            text("event_id", true),
            text("host", true),
            text("user", true),
            time("event_time"),
            long("other_session", true),
            long("missing", true),
        ]))
    });
    Arc::clone(&COLUMNS)
}

/// Columns of what is silent: `subject` is `agent`, `bridge` or `broker`, `agent_id` the id of the agent or bridge,
/// `since` when it was last heard by the log's clock, `stopped` whether the agent said goodbye.
///
/// None of them changes while the silence lasts, so it does not matter how often a predicate is asked.
pub fn silence_columns() -> SchemaRef {
    static COLUMNS: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            text("subject", false),
            text("agent_id", false),
            text("host", true),
            Field::new("stopped", DataType::Boolean, false),
            time("since"),
        ]))
    });
    Arc::clone(&COLUMNS)
}

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

fn long(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Int64, nullable)
}

fn time(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), false)
}

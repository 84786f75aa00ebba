//! Tests of rules: events and the alerts that they must and must not cause, on virtual time, without any server.
//!
//! A test file holds a list of tests:
//!
//! ```yaml
//! - name: a program in a temporary directory
//!   family: process_event              # or feature_1m
//!   events:
//!     - { at: 0s, event_type: process_started, path: /tmp/x, alerts: [suspicious-path] }
//!     - { at: 1s, event_type: process_started, path: /usr/bin/ls }     # no alerts
//! ```
//!
//! The rest of an event are columns of the family as they arrive, before normalisation. All rules of the set judge
//! all events, and the alerts of each event must be exactly those named.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::record_batch::RecordBatch;
use schemas::columns::arrow_schema;
use schemas::family::Family;
use schemas::record::RecordKind;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{ConsecutiveState, MatchRules, RuleSet, ThresholdRules};
use crate::alerts::Alert;
use crate::normalise::Normaliser;

/// When tests begin: 2024-11-21 00:00:00 UTC, in µs.
const BEGIN: i64 = 1_732_147_200_000_000;

/// One test that did not go as it should.
#[derive(Debug)]
pub struct TestFailure {
    /// The file.
    pub file: String,
    /// Name of the test; empty if the file itself cannot be used.
    pub test: String,
    /// What was expected and what came.
    pub what: String,
}

impl fmt::Display for TestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.file, self.test, self.what)
    }
}

/// What a run of tests came to.
#[derive(Debug, Default)]
pub struct TestReport {
    /// How many tests ran.
    pub tests: usize,
    /// What failed.
    pub failures: Vec<TestFailure>,
    /// For each rule, how many events were expected to cause its alert.
    pub fired: BTreeMap<String, usize>,
    /// How many events were expected to cause none.
    pub quiet: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestCase {
    name: String,
    family: String,
    events: Vec<TestEvent>,
}

#[derive(Debug, Deserialize)]
struct TestEvent {
    #[serde(default, with = "humantime_serde")]
    at: std::time::Duration,
    #[serde(default)]
    alerts: BTreeSet<String>,
    #[serde(flatten)]
    columns: Map<String, Value>,
}

/// Runs the tests of one file against a set of rules and adds the outcome to the report.
pub fn run(set: &RuleSet, file: &str, text: &str, report: &mut TestReport) {
    let failure =
        |test: &str, what: String| TestFailure { file: file.to_owned(), test: test.to_owned(), what };
    let tests: Vec<TestCase> = match serde_yaml_ng::from_str(text) {
        Ok(tests) => tests,
        Err(error) => {
            report.failures.push(failure("", error.to_string()));
            return;
        }
    };
    for test in tests {
        report.tests += 1;
        for event in &test.events {
            for rule in &event.alerts {
                *report.fired.entry(rule.clone()).or_default() += 1;
            }
            report.quiet += usize::from(event.alerts.is_empty());
        }
        match outcome(set, &test) {
            Ok(differences) => {
                report.failures.extend(differences.into_iter().map(|what| failure(&test.name, what)));
            }
            Err(what) => report.failures.push(failure(&test.name, what)),
        }
    }
}

/// What differs between the alerts expected and those that came.
fn outcome(set: &RuleSet, test: &TestCase) -> Result<Vec<String>, String> {
    let mut came = vec![BTreeSet::new(); test.events.len()];
    let alerts = if test.family == RecordKind::Feature1m.name() {
        of_features(set, test)?
    } else {
        let family = Family::from_name(&test.family).ok_or_else(|| format!("no family `{}`", test.family))?;
        of_events(set, family, test)?
    };
    for (event, alert) in alerts {
        came[event].insert(alert.rule.id.clone());
    }
    let differs = |(number, (event, came)): (usize, (&TestEvent, BTreeSet<String>))| {
        (event.alerts != came).then(|| {
            let row = Value::Object(event.columns.clone());
            format!("event {}: expected {:?}, came {came:?}: {row}", number + 1, event.alerts)
        })
    };
    Ok(test.events.iter().zip(came).enumerate().filter_map(differs).collect())
}

fn of_events(set: &RuleSet, family: Family, test: &TestCase) -> Result<Vec<(usize, Alert)>, String> {
    let rows = test.events.iter().enumerate().map(|(number, event)| {
        let mut row = event.columns.clone();
        let time = BEGIN + event.at.as_micros() as i64;
        row.entry("event_time").or_insert(time.into());
        row.entry("received_at").or_insert(time.into());
        row.insert("seq".to_owned(), number.into());
        Value::Object(row)
    });
    let batch = rows_of(RecordKind::Family(family), &rows.collect::<Vec<_>>()).map_err(text_of)?;
    let mut normaliser = Normaliser::new(&set.functions()).map_err(text_of)?;
    let normalised = normaliser.apply(family, batch).map_err(text_of)?;
    let alerts = MatchRules::new(set).and_then(|mut rules| rules.evaluate(family, &normalised.batch));
    Ok(alerts.map_err(text_of)?.into_iter().map(|alert| (alert.seq as usize, alert)).collect())
}

fn of_features(set: &RuleSet, test: &TestCase) -> Result<Vec<(usize, Alert)>, String> {
    let mut rules = ThresholdRules::new(set).map_err(text_of)?;
    let mut state = ConsecutiveState::new();
    let mut alerts = Vec::new();
    for (number, event) in test.events.iter().enumerate() {
        let mut row = event.columns.clone();
        let start = BEGIN + event.at.as_micros() as i64;
        row.insert("window_start".to_owned(), start.into());
        row.insert("window_end".to_owned(), (start + 60_000_000).into());
        let batch = rows_of(RecordKind::Feature1m, &[Value::Object(row)]).map_err(text_of)?;
        let found = rules.evaluate_features(&batch, &mut state).map_err(text_of)?;
        alerts.extend(found.into_iter().map(|alert| (number, alert)));
    }
    Ok(alerts)
}

/// Rows of a record from JSON objects of their columns. Columns that every row must have are filled in where they are
/// missing; an unknown column is an error.
pub fn rows_of(kind: RecordKind, rows: &[Value]) -> Result<RecordBatch, ArrowError> {
    let schema = arrow_schema(kind);
    let defaults = serde_json::json!({
        "agent_id": "agent-1", "session": 1, "lane": "normal", "seq": 0, "event_type": "", "source": "test",
        "host": "host-1", "replayed": false, "event_time": BEGIN, "received_at": BEGIN,
        "window_start": BEGIN, "window_end": BEGIN + 60_000_000, "revision": 0, "is_partial": false,
        "samples": 60, "cpu_samples": 60,
    });
    let mut complete = Vec::with_capacity(rows.len());
    for row in rows {
        let mut row = row.clone();
        if let (Value::Object(row), Value::Object(defaults)) = (&mut row, &defaults) {
            for (name, value) in defaults.iter().filter(|(name, _)| schema.index_of(name).is_ok()) {
                row.entry(name.as_str()).or_insert_with(|| value.clone());
            }
        }
        complete.push(row);
    }
    let mut decoder = ReaderBuilder::new(Arc::clone(&schema)).with_strict_mode(true).build_decoder()?;
    decoder.serialize(&complete)?;
    Ok(decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(schema)))
}

fn text_of(error: impl fmt::Display) -> String {
    error.to_string()
}

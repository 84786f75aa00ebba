//! Tests of rules: events and the alerts that they must and must not cause, on virtual time, without any server.
//!
//! A test file holds a list of tests:
//!
//! ```yaml
//! - name: a program in a temporary directory
//!   family: process_event              # of events that do not name their own; or feature_1m
//!   events:
//!     - { at: 0s, event_type: process_started, path: /tmp/x, alerts: [suspicious-path] }
//!     - { at: 1s, event_type: process_started, path: /usr/bin/ls }     # no alerts
//! - name: silence
//!   clock: 5s                          # a bridge writes clock records so often
//!   events:
//!     - { at: 0s, family: agent_status, event_type: agent_started, host: db-1 }
//!     - { at: 5m, alerts: [node-lost] }                # time passes, nothing comes
//!     - { at: 6m, family: agent_status, event_type: agent_health, alerts: [node-lost close] }
//! ```
//!
//! Beside `at`, `family` and `alerts` an event has the columns of its family as they arrive, before normalisation; seq
//! numbers count by agent, session and lane unless they are given. Each is one record of the log, in the order of the
//! file. All rules of the set judge all events, and the alerts since the entry before must be exactly those named: the
//! id of the rule, with ` update` or ` close` if it is not the first message of a finding, or
//! `{ rule: x, activity: close, count: 3, message: "…" }` to say more.
//!
//! `family: clock` is a clock record of the bridge `bridge` (`bridge-1` if not given), with `connected` and `goodbye`.
//! With `clock:` every bridge that ever wrote goes on so by itself, until it says goodbye or `vanishes: true`. Windows over
//! the fleet end at its minutes; their agents are told apart by `agent_id`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::record_batch::RecordBatch;
use schemas::columns::arrow_schema;
use schemas::family::Family;
use schemas::record::RecordKind;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::set::read_all;
use super::{Reads, RuleProblem, RuleSet, shipped};
use crate::alerts::{Activity, Alert};
use crate::jobs::Trial;

/// When tests begin: 2024-11-21 00:00:00 UTC, a Thursday, in µs.
const BEGIN: i64 = 1_732_147_200_000_000;
const BRIDGE: &str = "bridge-1";

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
    /// For each rule, the sentence of the first alert that came.
    pub examples: BTreeMap<String, String>,
}

/// Test files by name.
pub type TestFiles = Vec<(String, String)>;

/// Reads `tests/*.yaml` of a directory of rules; none if it has no tests.
pub fn load(directory: &Path) -> Result<TestFiles, Vec<RuleProblem>> {
    let tests = directory.join("tests");
    let mut problems = Vec::new();
    let files = if tests.is_dir() { read_all(&tests, "yaml", &mut problems) } else { Vec::new() };
    if problems.is_empty() { Ok(files) } else { Err(problems) }
}

/// The tests of the rules that ship with the program.
pub fn shipped() -> TestFiles {
    shipped::TESTS.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestCase {
    name: String,
    family: Option<String>,
    #[serde(default, with = "humantime_serde")]
    clock: Option<Duration>,
    events: Vec<TestEvent>,
}

#[derive(Debug, Deserialize)]
struct TestEvent {
    #[serde(default, with = "humantime_serde")]
    at: Duration,
    family: Option<String>,
    #[serde(default)]
    alerts: Vec<Expected>,
    #[serde(flatten)]
    columns: Map<String, Value>,
}

/// An alert that must come.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Expected {
    Brief(String),
    Full(Detailed),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Detailed {
    rule: String,
    #[serde(default)]
    activity: Option<String>,
    #[serde(default)]
    count: Option<i64>,
    #[serde(default)]
    message: Option<String>,
}

impl Expected {
    fn detailed(&self) -> Detailed {
        match self {
            Self::Full(detailed) => detailed.clone(),
            Self::Brief(text) => {
                let (rule, activity) = text.split_once(' ').unwrap_or((text, "create"));
                let activity = Some(activity.trim().to_owned());
                Detailed { rule: rule.to_owned(), activity, count: None, message: None }
            }
        }
    }

    fn is_met_by(&self, alert: &Alert) -> bool {
        let Detailed { rule, activity, count, message } = self.detailed();
        rule == alert.rule.id
            && activity.as_deref().unwrap_or("create") == name_of(alert.activity)
            && count.is_none_or(|count| count == alert.count)
            && message.is_none_or(|message| message == alert.message)
    }
}

fn name_of(activity: Activity) -> &'static str {
    match activity {
        Activity::Create => "create",
        Activity::Update => "update",
        Activity::Close => "close",
    }
}

/// Runs all tests of some files against a set of rules.
pub fn run_all(set: &RuleSet, files: &TestFiles) -> TestReport {
    let mut report = TestReport::default();
    let mut trial = match Trial::new(set) {
        Ok(trial) => trial,
        Err(error) => {
            let what = error.to_string();
            report.failures.push(TestFailure { file: "rules".to_owned(), test: String::new(), what });
            return report;
        }
    };
    for (file, text) in files {
        run(&mut trial, file, text, &mut report);
    }
    report
}

fn run(trial: &mut Trial, file: &str, text: &str, report: &mut TestReport) {
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
            for expected in &event.alerts {
                *report.fired.entry(expected.detailed().rule).or_default() += 1;
            }
            report.quiet += usize::from(event.alerts.is_empty());
        }
        trial.begin();
        match outcome(trial, &test, &mut report.examples) {
            Ok(differences) => {
                report.failures.extend(differences.into_iter().map(|what| failure(&test.name, what)));
            }
            Err(what) => report.failures.push(failure(&test.name, what)),
        }
    }
}

/// The rows that a test calls by this name.
fn kind_of(name: &str) -> Option<RecordKind> {
    let of_windows = Reads::windows().filter_map(Reads::of_window).find(|reads| reads.name() == name);
    match of_windows {
        Some(Reads::Features(kind)) => Some(kind),
        _ => Family::from_name(name).map(RecordKind::Family),
    }
}

/// What differs between the alerts expected and those that came.
fn outcome(
    trial: &mut Trial,
    test: &TestCase,
    examples: &mut BTreeMap<String, String>,
) -> Result<Vec<String>, String> {
    if let Some(family) = test.family.as_deref().filter(|name| kind_of(name).is_none()) {
        return Err(format!("no family `{family}`"));
    }
    let mut play = Play::new(test);
    let mut differences = Vec::new();
    for (number, event) in test.events.iter().enumerate() {
        let at = |error: String| format!("event {}: {error}", number + 1);
        let came = play.event(trial, event).map_err(at)?;
        for alert in &came {
            examples.entry(alert.rule.id.clone()).or_insert_with(|| alert.message.clone());
        }
        if !agree(&event.alerts, &came) {
            let came: Vec<_> = came.iter().map(text_of_alert).collect();
            let expected: Vec<_> = event.alerts.iter().map(Expected::detailed).collect();
            let row = Value::Object(event.columns.clone());
            differences.push(at(format!("expected {expected:?}, came {came:?}: {row}")));
        }
    }
    Ok(differences)
}

fn text_of_alert(alert: &Alert) -> String {
    let Alert { rule, activity, count, message, .. } = alert;
    format!("{} {} ×{count} {message:?}", rule.id, name_of(*activity))
}

/// Whether each alert is expected and each expectation met, once.
fn agree(expected: &[Expected], came: &[Alert]) -> bool {
    let mut left: Vec<&Alert> = came.iter().collect();
    let all_met = expected.iter().all(|expected| {
        let found = left.iter().position(|alert| expected.is_met_by(alert));
        found.map(|at| left.remove(at)).is_some()
    });
    all_met && left.is_empty()
}

/// A test under way.
struct Play<'a> {
    family: Option<&'a str>,
    clock: Option<i64>,
    /// Time of the last clock record that came by itself, µs.
    ticked: Option<i64>,
    /// Bridges that go on by themselves, and whether they are connected.
    bridges: BTreeMap<String, bool>,
    seqs: BTreeMap<String, i64>,
}

impl<'a> Play<'a> {
    fn new(test: &'a TestCase) -> Self {
        let clock = test.clock.map(|every| every.as_micros() as i64).filter(|every| *every > 0);
        let bridges = clock.iter().map(|_| (BRIDGE.to_owned(), true)).collect();
        Self { family: test.family.as_deref(), clock, ticked: None, bridges, seqs: BTreeMap::new() }
    }

    fn event(&mut self, trial: &mut Trial, event: &TestEvent) -> Result<Vec<Alert>, String> {
        let at = BEGIN + event.at.as_micros() as i64;
        let mut alerts = self.pass(trial, at)?;
        let family = event.family.as_deref().or(self.family.filter(|_| !event.columns.is_empty()));
        let Some(family) = family else {
            let is_silence = event.columns.is_empty();
            return if is_silence { Ok(alerts) } else { Err("no family is named".to_owned()) };
        };
        let mut row = event.columns.clone();
        if family == "clock" {
            alerts.extend(self.bridge(trial, &row, at)?);
            return Ok(alerts);
        }
        let kind = kind_of(family).ok_or_else(|| format!("no family `{family}`"))?;
        if let RecordKind::Family(_) = kind {
            return self.row(trial, kind, row, at).map(|found| alerts.into_iter().chain(found).collect());
        }
        let length = Reads::windows().find(|length| Reads::of_window(*length) == Some(Reads::Features(kind)));
        row.entry("window_start").or_insert(at.into());
        row.entry("window_end").or_insert((at + length.unwrap_or_default().as_micros() as i64).into());
        let batch = rows_of(kind, &[Value::Object(row)]).map_err(text_of)?;
        alerts.extend(trial.features(kind, &batch).map_err(text_of)?);
        Ok(alerts)
    }

    fn row(
        &mut self,
        trial: &mut Trial,
        kind: RecordKind,
        mut row: Map<String, Value>,
        at: i64,
    ) -> Result<Vec<Alert>, String> {
        row.entry("event_time").or_insert(at.into());
        row.entry("received_at").or_insert(at.into());
        let counter = ["agent_id", "session", "lane"].map(|name| row.get(name).map(Value::to_string));
        let seq = self.seqs.entry(format!("{counter:?}")).or_insert(-1);
        *seq = row.get("seq").and_then(Value::as_i64).unwrap_or(*seq + 1);
        row.insert("seq".to_owned(), (*seq).into());
        let batch = rows_of(kind, &[Value::Object(row)]).map_err(text_of)?;
        trial.record(kind, batch, at).map_err(text_of)
    }

    /// Lets time pass up to `at`: the clock records that come by themselves.
    fn pass(&mut self, trial: &mut Trial, at: i64) -> Result<Vec<Alert>, String> {
        let mut alerts = Vec::new();
        let Some(every) = self.clock else {
            return Ok(alerts);
        };
        loop {
            let next = self.ticked.map_or(BEGIN, |ticked| ticked + every);
            if next > at {
                return Ok(alerts);
            }
            self.ticked = Some(next);
            for (bridge, connected) in &self.bridges {
                alerts.extend(tick(trial, bridge, *connected, false, next)?);
            }
        }
    }

    fn bridge(&mut self, trial: &mut Trial, row: &Map<String, Value>, at: i64) -> Result<Vec<Alert>, String> {
        let flag = |name: &str, default: bool| row.get(name).and_then(Value::as_bool).unwrap_or(default);
        let known = ["bridge", "connected", "goodbye", "vanishes"];
        if let Some(unknown) = row.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(format!("a clock record has no `{unknown}`"));
        }
        let bridge = row.get("bridge").and_then(Value::as_str).unwrap_or(BRIDGE);
        let (connected, goodbye) = (flag("connected", true), flag("goodbye", false));
        self.bridges.remove(bridge);
        if flag("vanishes", false) {
            return Ok(Vec::new());
        }
        if !goodbye {
            self.bridges.insert(bridge.to_owned(), connected);
        }
        tick(trial, bridge, connected, goodbye, at)
    }
}

fn tick(
    trial: &mut Trial,
    bridge: &str,
    connected: bool,
    goodbye: bool,
    at: i64,
) -> Result<Vec<Alert>, String> {
    let row = json!({
        "bridge_id": bridge, "bridge_time": at, "sequence": 0, "mqtt_connected": connected, "goodbye": goodbye,
    });
    let batch = rows_of(RecordKind::Clock, &[row]).map_err(text_of)?;
    trial.record(RecordKind::Clock, batch, at).map_err(text_of)
}

/// Rows of a record from JSON objects of their columns. Columns that every row must have are filled in where they are
/// missing; an unknown column is an error.
pub fn rows_of(kind: RecordKind, rows: &[Value]) -> Result<RecordBatch, ArrowError> {
    let schema = arrow_schema(kind);
    let defaults = json!({
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

//! The part of a rule that says what it looks for, by kind.

use std::time::Duration;

use serde_yaml_ng::Value;

use super::document::Document;
use super::format::{duration, inner, inner_text, known_column};
use super::reads::{FLEET_WINDOWS, Reads};
use super::rule::{Condition, Step, Subject, Suppress};

/// What windows are kept by.
const GROUP_BY: &str = "agent_id";
/// An agent counts as silent after three of its reporting intervals, and never before this.
const LEAST_SILENCE: Duration = Duration::from_mins(1);
/// The scope of windows over all agents together.
const FLEET: &str = "fleet";
const LEAST_UPDATE: Duration = Duration::from_mins(1);
const MOST_STEPS: usize = 8;
/// What waits for its next step is state; a week of it is the most that a rule may ask for.
const LONGEST: Duration = Duration::from_hours(7 * 24);

pub(super) fn condition(document: &mut Document<'_>) -> Option<Condition> {
    match document.required("kind")?.as_str() {
        "match" => {
            let reads = reads(document);
            let predicate = document.required("where");
            Some(Condition::Match { reads: reads?, predicate: trimmed(&predicate?) })
        }
        "threshold" if is_of_fleet(document) => fleet(document),
        "threshold" => {
            let reads = window(document);
            let group_by = group_by(document);
            let having = document.required("having");
            let consecutive = consecutive(document);
            let update = update(document);
            let having = trimmed(&having?);
            Some(Condition::Threshold { reads: reads?, group_by, having, consecutive: consecutive?, update })
        }
        "absence" => {
            let of = subject(document);
            let predicate = document.value("where").and_then(|value| document.as_text("where", &value));
            let silence = silence(document);
            let update = update(document);
            let predicate = predicate.map_or_else(|| "true".to_owned(), |predicate| trimmed(&predicate));
            Some(Condition::Absence { of: of?, predicate, silence: silence?, update })
        }
        "sequence" => {
            let steps = steps(document);
            let by = others(document.texts("by"));
            let within = length(document, "within", Duration::from_millis(1), LONGEST);
            for column in &by {
                for step in &steps {
                    known_column(document, "by", column, Some(step.reads));
                }
            }
            let enough = (2..=MOST_STEPS).contains(&steps.len());
            Some(Condition::Sequence { steps, by, within: within? }).filter(|_| enough)
        }
        other => {
            let what = format!("`{other}` is no kind of rule; there are match, threshold, absence, sequence");
            document.problem("kind", what);
            None
        }
    }
}

/// What a rule over the fleet holds back: windows that share rows with one that was told, and more if it says so.
pub(super) fn suppress_fleet(document: &mut Document<'_>, window: Duration) -> Option<Suppress> {
    let Some(mapping) = document.mapping("suppress", &["for"]) else {
        return Some(Suppress { by: Vec::new(), period: window });
    };
    let text = inner_text(document, "suppress", &mapping, "for")?;
    let period = duration(document, "suppress", &text)?;
    if period < window || period > LONGEST {
        document.problem("suppress", "`for` of `suppress` must be between the window and 7days");
        return None;
    }
    Some(Suppress { by: Vec::new(), period })
}

pub(super) fn suppress(document: &mut Document<'_>, reads: Option<Reads>) -> Option<Suppress> {
    let mapping = document.mapping("suppress", &["by", "for"])?;
    let by = mapping.get("by").map_or_else(Vec::new, |value| document.as_texts("suppress", value));
    for column in &by {
        known_column(document, "suppress", column, reads);
    }
    let text = inner_text(document, "suppress", &mapping, "for")?;
    let period = duration(document, "suppress", &text)?;
    if period.is_zero() || period > LONGEST {
        document.problem("suppress", "`for` of `suppress` must be between 1ms and 7days");
        return None;
    }
    Some(Suppress { by: others(by), period })
}

/// Every key begins with the agent, whether it is written or not: agents lie in different partitions.
fn others(mut columns: Vec<String>) -> Vec<String> {
    columns.retain(|column| column != GROUP_BY);
    columns
}

fn trimmed(text: &str) -> String {
    text.trim().to_owned()
}

fn reads(document: &mut Document<'_>) -> Option<Reads> {
    let name = document.required("family")?;
    let reads = Reads::of_match(&name);
    if reads.is_none() {
        let names = Reads::match_names().collect::<Vec<_>>().join(", ");
        document.problem("family", format!("`{name}` is no family of events; there are {names}"));
    }
    reads
}

fn window(document: &mut Document<'_>) -> Option<Reads> {
    let text = document.required("window")?;
    let reads = Reads::of_window(duration(document, "window", &text)?);
    if reads.is_none() {
        let lengths = Reads::windows().map(|length| humantime::format_duration(length).to_string());
        let lengths = lengths.collect::<Vec<_>>().join(", ");
        document.problem("window", format!("there are no windows of `{text}`; there are {lengths}"));
    }
    reads
}

/// Whether windows are kept over all agents together.
fn is_of_fleet(document: &mut Document<'_>) -> bool {
    let Some(scope) = document.value("scope").and_then(|value| document.as_text("scope", &value)) else {
        return false;
    };
    if !["agent", FLEET].contains(&scope.as_str()) {
        document.problem("scope", format!("`{scope}` is no scope; there are agent, {FLEET}"));
    }
    scope == FLEET
}

fn fleet(document: &mut Document<'_>) -> Option<Condition> {
    let reads = reads(document);
    let reads = match reads {
        Some(Reads::Family(_)) | None => reads,
        Some(_) => {
            document.problem("family", "windows over the fleet are made of events");
            None
        }
    };
    let predicate = document.required("where");
    let group_by = document.texts("group_by");
    for column in &group_by {
        known_column(document, "group_by", column, reads);
        if column == GROUP_BY {
            document.problem("group_by", format!("windows over the fleet are not kept by {GROUP_BY}"));
        }
    }
    let window = document.required("window").and_then(|text| {
        let window = duration(document, "window", &text)?;
        if !FLEET_WINDOWS.contains(&window) {
            let lengths = FLEET_WINDOWS.map(|length| humantime::format_duration(length).to_string());
            let what = format!("the fleet has no windows of `{text}`; it has {}", lengths.join(", "));
            document.problem("window", what);
            return None;
        }
        Some(window)
    });
    let having = document.required("having");
    let (predicate, having) = (trimmed(&predicate?), trimmed(&having?));
    Some(Condition::Fleet { reads: reads?, predicate, group_by, window: window?, having })
}

fn group_by(document: &mut Document<'_>) -> Vec<String> {
    let columns = document.texts("group_by");
    if !columns.is_empty() && columns != [GROUP_BY] {
        document.problem("group_by", format!("windows are kept by {GROUP_BY} only"));
    }
    vec![GROUP_BY.to_owned()]
}

fn consecutive(document: &mut Document<'_>) -> Option<u32> {
    let Some(value) = document.value("for") else {
        return Some(1);
    };
    let count = value.as_u64().and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0);
    if count.is_none() {
        document.problem("for", "`for` must be a number of windows, at least 1");
    }
    count
}

fn subject(document: &mut Document<'_>) -> Option<Subject> {
    let name = document.required("of")?;
    let subject = Subject::SILENT.into_iter().find(|subject| subject.name() == name);
    if subject.is_none() {
        let names = Subject::SILENT.map(Subject::name).join(", ");
        document.problem("of", format!("`{name}` cannot be silent; there are {names}"));
    }
    subject
}

fn silence(document: &mut Document<'_>) -> Option<Duration> {
    length(document, "for", LEAST_SILENCE, LONGEST)
}

fn update(document: &mut Document<'_>) -> Option<Duration> {
    document.value("update")?;
    length(document, "update", LEAST_UPDATE, LONGEST)
}

/// A length of time that must be there, within bounds.
fn length(
    document: &mut Document<'_>,
    key: &'static str,
    least: Duration,
    most: Duration,
) -> Option<Duration> {
    let text = document.required(key)?;
    let length = duration(document, key, &text)?;
    if length < least || length > most {
        let [least, most] = [least, most].map(humantime::format_duration);
        document.problem(key, format!("`{key}` must be between {least} and {most}"));
        return None;
    }
    Some(length)
}

fn steps(document: &mut Document<'_>) -> Vec<Step> {
    let Some(Value::Sequence(entries)) = document.value("steps") else {
        document.problem("steps", "`steps` must be a list of what happens one after the other");
        return Vec::new();
    };
    if !(2..=MOST_STEPS).contains(&entries.len()) {
        document.problem("steps", format!("a sequence has 2 to {MOST_STEPS} steps"));
    }
    entries.iter().enumerate().filter_map(|(index, entry)| step(document, index, entry)).collect()
}

fn step(document: &mut Document<'_>, index: usize, entry: &Value) -> Option<Step> {
    let mapping = document.as_mapping("steps", entry, &["family", "where", "waits"])?;
    let name = inner_text(document, "steps", &mapping, "family");
    let predicate = inner_text(document, "steps", &mapping, "where");
    let waits = match mapping.get("waits") {
        None => Some(true),
        Some(Value::Bool(waits)) if *waits || index > 0 => Some(*waits),
        Some(_) => {
            document.problem("steps", "`waits` is true or false, and the first step always waits");
            None
        }
    };
    let name = name?;
    let Some(reads) = Reads::of_match(&name).filter(|reads| matches!(reads, Reads::Family(_))) else {
        document.problem("steps", format!("step {}: `{name}` is no family of events", index + 1));
        return None;
    };
    let step = Step { reads, predicate: trimmed(&predicate?), waits: waits? };
    if inner(document, "steps", &mapping, "where").is_some() && step.predicate.is_empty() {
        document.problem("steps", format!("step {}: `where` is empty", index + 1));
        return None;
    }
    Some(step)
}

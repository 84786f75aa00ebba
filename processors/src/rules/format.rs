//! From a YAML document to a rule.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_yaml_ng::{Mapping, Value};

use super::compile;
use super::conditions::{condition, suppress, suppress_fleet};
use super::document::Document;
use super::reads::Reads;
use super::rule::{Attack, Condition, Exception, Origin, Rule, Severity, Test};
use super::set::RuleProblem;
use super::template::Template;
use crate::functions::{Functions, Lists};

/// What rules may refer to.
pub(super) struct Surroundings<'a> {
    pub(super) lists: &'a Lists,
    pub(super) functions: &'a Functions,
}

/// Reads all rules of a file.
pub(super) fn rules_of(file: &str, text: &str, around: &Surroundings<'_>) -> (Vec<Rule>, Vec<RuleProblem>) {
    let (mut rules, mut problems) = (Vec::new(), Vec::new());
    for (first_line, document) in Document::split(text) {
        match Document::parse(file, first_line, document) {
            Err(problem) => problems.push(problem),
            Ok(mut document) => {
                let rule = read(&mut document, file, around);
                let found = document.finish();
                // a rule with any problem is not used, even if it could be
                if found.is_empty() {
                    rules.extend(rule);
                }
                problems.extend(found);
            }
        }
    }
    (rules, problems)
}

fn read(document: &mut Document<'_>, file: &str, around: &Surroundings<'_>) -> Option<Rule> {
    let id = document.required("id");
    if let Some(id) = &id
        && !is_id(id)
    {
        document.problem("id", "`id` must be made of small letters, digits and hyphens");
    }
    let title = document.required("title");
    let severity = severity(document);
    let description = document.required("description");
    let references = document.texts("references");
    let attack = attack(document);
    let condition = condition(document);
    let reads = condition.as_ref().map(Condition::reads);
    let unless = exceptions(document, reads, around.lists);
    let suppress = match &condition {
        Some(Condition::Fleet { window, .. }) => suppress_fleet(document, *window),
        _ => suppress(document, reads),
    };
    let message = message(document, condition.as_ref());
    let labels = labels(document);
    let origin = Origin { file: file.to_owned(), line: document.begins() };
    let rule = Rule {
        id: id?,
        title: title?,
        severity: severity?,
        description: description?.trim().to_owned(),
        references,
        attack,
        condition: condition?,
        unless,
        suppress,
        message: message?,
        labels,
        origin,
    };
    check_predicate(document, &rule, around.functions);
    Some(rule)
}

fn is_id(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') && !text.starts_with('-')
}

fn severity(document: &mut Document<'_>) -> Option<Severity> {
    let name = document.required("severity")?;
    let severity = Severity::ALL.into_iter().find(|severity| severity.name() == name);
    if severity.is_none() {
        let names = Severity::ALL.map(Severity::name).join(", ");
        document.problem("severity", format!("`{name}` is no severity; there are {names}"));
    }
    severity
}

fn attack(document: &mut Document<'_>) -> Option<Attack> {
    let mapping = document.mapping("attack", &["version", "techniques"])?;
    let version = inner_text(document, "attack", &mapping, "version");
    let techniques = inner(document, "attack", &mapping, "techniques");
    let techniques = techniques.map(|value| document.as_texts("attack", &value)).unwrap_or_default();
    for technique in techniques.iter().filter(|technique| !is_technique(technique)) {
        document.problem("attack", format!("`{technique}` is no technique id such as T1036 or T1036.005"));
    }
    Some(Attack { version: version?, techniques })
}

fn is_technique(text: &str) -> bool {
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let Some(rest) = text.strip_prefix('T') else {
        return false;
    };
    match rest.split_once('.') {
        None => digits(rest, 4),
        Some((technique, sub)) => digits(technique, 4) && digits(sub, 3),
    }
}

fn exceptions(document: &mut Document<'_>, reads: Option<Reads>, lists: &Lists) -> Vec<Exception> {
    let Some(value) = document.value("unless") else {
        return Vec::new();
    };
    let Value::Sequence(entries) = value else {
        document.problem("unless", "`unless` must be a list");
        return Vec::new();
    };
    entries.iter().filter_map(|entry| exception(document, entry, reads, lists)).collect()
}

fn exception(
    document: &mut Document<'_>,
    entry: &Value,
    reads: Option<Reads>,
    lists: &Lists,
) -> Option<Exception> {
    let mapping = document.as_mapping("unless", entry, &["column", "in", "under"])?;
    let column = inner_text(document, "unless", &mapping, "column")?;
    known_column(document, "unless", &column, reads);
    let (test, key) = match (mapping.contains_key("in"), mapping.contains_key("under")) {
        (true, false) => (Test::In, "in"),
        (false, true) => (Test::Under, "under"),
        _ => {
            document.problem("unless", "an exception has either `in` or `under` with the name of a list");
            return None;
        }
    };
    let list = inner_text(document, "unless", &mapping, key)?;
    if lists.get(&list).is_none() {
        document.problem("unless", format!("there is no list `{list}`"));
        return None;
    }
    Some(Exception { column, test, list })
}

fn message(document: &mut Document<'_>, condition: Option<&Condition>) -> Option<Template> {
    let text = document.required("message")?;
    match Template::parse(&text) {
        Err(what) => {
            document.problem("message", format!("`message` has {what}"));
            None
        }
        Ok(template) => {
            for (step, column) in template.columns() {
                if let (None, Some(Condition::Fleet { group_by, .. })) = (step, condition) {
                    // the window, or what its rows agree on
                    if !group_by.iter().any(|known| known == column) {
                        known_column(document, "message", column, Some(Reads::Fleet));
                    }
                    continue;
                }
                let reads = condition.and_then(|condition| match step {
                    None => Some(condition.reads()),
                    Some(step) => step_of(document, condition, step),
                });
                known_column(document, "message", column, reads);
            }
            Some(template)
        }
    }
}

/// What the step of this number, from 1, reads.
fn step_of(document: &mut Document<'_>, condition: &Condition, step: usize) -> Option<Reads> {
    let steps = match condition {
        Condition::Sequence { steps, .. } => steps.as_slice(),
        _ => &[],
    };
    let found = step.checked_sub(1).and_then(|index| steps.get(index));
    if found.is_none() {
        document.problem("message", format!("there is no step {step}"));
    }
    found.map(|step| step.reads)
}

fn labels(document: &mut Document<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    match document.value("labels") {
        None => {}
        Some(Value::Mapping(mapping)) => {
            for (name, value) in &mapping {
                let name = document.as_text("labels", name);
                let value = document.as_text("labels", value);
                labels.extend(name.zip(value));
            }
        }
        Some(_) => document.problem("labels", "`labels` must be a mapping of names to texts"),
    }
    labels
}

pub(super) fn known_column(document: &mut Document<'_>, key: &str, column: &str, reads: Option<Reads>) {
    let Some(reads) = reads else { return };
    if reads.schema().index_of(column).is_err() {
        document.problem(key, format!("`{key}` names the column `{column}`, which {} has not", reads.name()));
    }
}

pub(super) fn duration(document: &mut Document<'_>, key: &str, text: &str) -> Option<Duration> {
    match humantime::parse_duration(text) {
        Ok(duration) => Some(duration),
        Err(error) => {
            document.problem(key, format!("`{text}` is no length of time such as 90s or 10m: {error}"));
            None
        }
    }
}

pub(super) fn inner(document: &mut Document<'_>, key: &str, mapping: &Mapping, name: &str) -> Option<Value> {
    let value = mapping.get(name).cloned();
    if value.is_none() {
        document.problem(key, format!("`{key}` needs `{name}`"));
    }
    value
}

pub(super) fn inner_text(
    document: &mut Document<'_>,
    key: &str,
    mapping: &Mapping,
    name: &str,
) -> Option<String> {
    let value = inner(document, key, mapping, name)?;
    document.as_text(key, &value)
}

fn check_predicate(document: &mut Document<'_>, rule: &Rule, functions: &Functions) {
    let predicates = rule.condition.predicates();
    for (step, ((reads, predicate), (_, sql))) in predicates.into_iter().zip(rule.sql()).enumerate() {
        let Err(what) = compile::check(predicate, &sql, reads, functions) else {
            continue;
        };
        match rule.condition {
            Condition::Match { .. } | Condition::Absence { .. } => {
                document.problem("where", format!("`where`: {what}"));
            }
            Condition::Threshold { .. } => document.problem("having", format!("`having`: {what}")),
            Condition::Fleet { .. } => {
                let key = if step == 0 { "where" } else { "having" };
                document.problem(key, format!("`{key}`: {what}"));
            }
            Condition::Sequence { .. } => document.problem("steps", format!("step {}: {what}", step + 1)),
        }
    }
}

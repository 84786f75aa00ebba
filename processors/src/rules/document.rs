//! One YAML document of a rule file, read key by key so that every problem is told, each with its line.

use std::collections::BTreeSet;

use serde_yaml_ng::{Mapping, Value};

use super::set::RuleProblem;

/// A document and what is wrong with it so far.
pub(super) struct Document<'a> {
    file: &'a str,
    /// Line of the file on which the document begins, from 1.
    first_line: usize,
    text: &'a str,
    keys: Mapping,
    read: BTreeSet<&'static str>,
    problems: Vec<RuleProblem>,
}

impl<'a> Document<'a> {
    /// Splits a file into its documents with the line that each begins on; documents without content are left out.
    pub(super) fn split(text: &'a str) -> Vec<(usize, &'a str)> {
        let mut documents = Vec::new();
        let (mut start, mut first_line, mut at) = (0, 1, 0);
        for (number, line) in text.split_inclusive('\n').enumerate() {
            if line.trim_end() == "---" {
                documents.push((first_line, &text[start..at]));
                start = at + line.len();
                first_line = number + 2;
            }
            at += line.len();
        }
        documents.push((first_line, &text[start..]));
        documents.retain(|(_, document)| {
            document.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
        });
        documents
    }

    /// Parses a document into its keys.
    pub(super) fn parse(file: &'a str, first_line: usize, text: &'a str) -> Result<Self, RuleProblem> {
        let problem = |line: usize, what: String| RuleProblem { file: file.to_owned(), line, what };
        match serde_yaml_ng::from_str::<Value>(text) {
            Ok(Value::Mapping(keys)) => {
                let (read, problems) = (BTreeSet::new(), Vec::new());
                Ok(Self { file, first_line, text, keys, read, problems })
            }
            Ok(_) => Err(problem(first_line, "a rule is a mapping of keys to values".to_owned())),
            Err(error) => {
                let line = error.location().map_or(first_line, |location| first_line + location.line() - 1);
                Err(problem(line, error.to_string()))
            }
        }
    }

    /// The line of the first key, which is where the rule begins for a person.
    pub(super) fn begins(&self) -> usize {
        let before = self.text.lines().take_while(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#')
        });
        self.first_line + before.count()
    }

    /// The line that a top-level key stands on; of a key that is missing, the line where the rule begins.
    pub(super) fn line_of(&self, key: &str) -> usize {
        let found = self.text.lines().position(|line| {
            let line = line.trim_start_matches(['"', '\'']);
            line.strip_prefix(key).is_some_and(|rest| rest.trim_start_matches(['"', '\'']).starts_with(':'))
        });
        found.map_or_else(|| self.begins(), |index| self.first_line + index)
    }

    /// Notes a problem with a key.
    pub(super) fn problem(&mut self, key: &str, what: impl Into<String>) {
        let problem = RuleProblem { file: self.file.to_owned(), line: self.line_of(key), what: what.into() };
        self.problems.push(problem);
    }

    /// The value of a key, if there is one.
    pub(super) fn value(&mut self, key: &'static str) -> Option<Value> {
        self.read.insert(key);
        self.keys.get(key).filter(|value| !value.is_null()).cloned()
    }

    /// A text that must be there.
    pub(super) fn required(&mut self, key: &'static str) -> Option<String> {
        let text = match self.value(key) {
            None => {
                self.problem(key, format!("`{key}` is missing"));
                return None;
            }
            Some(value) => self.as_text(key, &value)?,
        };
        if text.trim().is_empty() {
            self.problem(key, format!("`{key}` is empty"));
            return None;
        }
        Some(text)
    }

    /// A list of texts; none if the key is missing.
    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        match self.value(key) {
            None => Vec::new(),
            Some(value) => self.as_texts(key, &value),
        }
    }

    /// A mapping whose keys are among `known`.
    pub(super) fn mapping(&mut self, key: &'static str, known: &[&str]) -> Option<Mapping> {
        let value = self.value(key)?;
        self.as_mapping(key, &value, known)
    }

    pub(super) fn as_mapping(&mut self, key: &str, value: &Value, known: &[&str]) -> Option<Mapping> {
        let Value::Mapping(mapping) = value else {
            self.problem(key, format!("`{key}` must be a mapping with the keys {}", known.join(", ")));
            return None;
        };
        for unknown in mapping.keys().filter(|name| !name.as_str().is_some_and(|name| known.contains(&name)))
        {
            let name = unknown.as_str().unwrap_or("?");
            self.problem(key, format!("`{key}` has no key `{name}`; it has {}", known.join(", ")));
        }
        Some(mapping.clone())
    }

    pub(super) fn as_text(&mut self, key: &str, value: &Value) -> Option<String> {
        match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => {
                self.problem(key, format!("`{key}` must be text"));
                None
            }
        }
    }

    pub(super) fn as_texts(&mut self, key: &str, value: &Value) -> Vec<String> {
        let Value::Sequence(values) = value else {
            self.problem(key, format!("`{key}` must be a list"));
            return Vec::new();
        };
        values.iter().filter_map(|value| self.as_text(key, value)).collect()
    }

    /// Ends the reading: keys that nobody asked for are problems, too.
    pub(super) fn finish(mut self) -> Vec<RuleProblem> {
        let unknown: Vec<String> = self
            .keys
            .keys()
            .filter(|key| !key.as_str().is_some_and(|key| self.read.contains(key)))
            .map(|key| key.as_str().unwrap_or("?").to_owned())
            .collect();
        for key in unknown {
            let known = self.read.iter().copied().collect::<Vec<_>>().join(", ");
            self.problem(&key, format!("there is no key `{key}` in such a rule; there are {known}"));
        }
        self.problems
    }
}

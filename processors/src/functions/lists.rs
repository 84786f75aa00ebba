use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use ahash::AHashSet;

use super::hours::Hours;
use crate::paths::Directory;

/// One named list of a rule set: program names, directories, agents. What a rule asks of it is compiled once.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// As written, sorted without regard to case: directories of POSIX keep their case.
    entries: Vec<String>,
    lower: AHashSet<String>,
    directories: OnceLock<Result<Arc<[Directory]>, String>>,
    hours: OnceLock<Result<Arc<Hours>, String>>,
}

impl PartialEq for List {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for List {}

impl Hash for List {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.entries.hash(state);
    }
}

impl List {
    /// Reads the text of a list file: one entry a line; blanks around it, empty lines and what follows a `#` at the
    /// start of a line or after a blank do not count. Entries are compared without regard to case.
    pub fn parse(text: &str) -> Self {
        let entries = text.lines().map(without_comment).filter(|entry| !entry.is_empty());
        let by_lower: BTreeMap<String, String> =
            entries.map(|entry| (entry.to_lowercase(), entry.to_owned())).collect();
        let lower = by_lower.keys().cloned().collect();
        Self { entries: by_lower.into_values().collect(), lower, ..Self::default() }
    }

    /// Whether the list has this entry.
    pub fn has(&self, text: &str) -> bool {
        let text = text.trim();
        if text.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
            return self.lower.contains(text);
        }
        self.lower.contains(&text.to_lowercase())
    }

    /// The entries as they are written, sorted without regard to case.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(String::as_str)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries as directories; the error is the first entry that is none.
    pub(super) fn directories(&self) -> Result<Arc<[Directory]>, String> {
        let parse = || {
            let directory = |entry: &String| Directory::parse(entry).ok_or_else(|| entry.clone());
            self.entries.iter().map(directory).collect()
        };
        self.directories.get_or_init(parse).clone()
    }

    /// The entries as hours of the week; the error is the first entry that is none.
    pub(super) fn hours(&self) -> Result<Arc<Hours>, String> {
        self.hours.get_or_init(|| Hours::parse(self.entries())).clone()
    }
}

fn without_comment(line: &str) -> &str {
    let end = line
        .match_indices('#')
        .find(|(at, _)| line[..*at].chars().next_back().is_none_or(char::is_whitespace))
        .map_or(line.len(), |(at, _)| at);
    line[..end].trim()
}

/// The lists of a rule set by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Lists {
    by_name: BTreeMap<String, List>,
}

impl Lists {
    /// Adds a list, in place of an earlier one of that name.
    pub fn insert(&mut self, name: impl Into<String>, list: List) {
        self.by_name.insert(name.into(), list);
    }

    /// The list of this name.
    pub fn get(&self, name: &str) -> Option<&List> {
        self.by_name.get(name)
    }

    /// All lists, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &List)> {
        self.by_name.iter().map(|(name, list)| (name.as_str(), list))
    }
}

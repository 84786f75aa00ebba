use std::collections::BTreeMap;

/// One named list of a rule set: program names, directories, agents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct List {
    /// The entry in lower case, and as it is written: directories of POSIX keep their case.
    entries: BTreeMap<String, String>,
}

impl List {
    /// Reads the text of a list file: one entry a line; blanks around it, empty lines and what follows a `#` at the
    /// start of a line or after a blank do not count. Entries are compared without regard to case.
    pub fn parse(text: &str) -> Self {
        let entries = text.lines().map(without_comment).filter(|entry| !entry.is_empty());
        Self { entries: entries.map(|entry| (entry.to_lowercase(), entry.to_owned())).collect() }
    }

    /// Whether the list has this entry.
    pub fn has(&self, text: &str) -> bool {
        let text = text.trim();
        if text.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
            return self.entries.contains_key(text);
        }
        self.entries.contains_key(&text.to_lowercase())
    }

    /// The entries as they are written, sorted without regard to case.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.entries.values().map(String::as_str)
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

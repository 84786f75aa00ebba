use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::format::{Surroundings, rules_of};
use super::keyed::hex;
use super::rule::{Condition, Rule};
use super::shipped;
use crate::functions::{Functions, List, Lists};

/// One thing wrong with a rule file or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleProblem {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and where it helps, what would be right.
    pub what: String,
}

impl fmt::Display for RuleProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// Problems in one line.
pub(crate) fn listed(problems: &[RuleProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The texts that a set was made of, each with its name: enough to make it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sources {
    files: Vec<(String, String)>,
    lists: Vec<(String, String)>,
}

impl Sources {
    /// The set that they make.
    pub(crate) fn parse(&self) -> Result<RuleSet, Vec<RuleProblem>> {
        let files = self.files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        RuleSet::parse(files, self.lists.iter().map(|(name, text)| (name.as_str(), text.as_str())))
    }
}

/// All rules that are in force together, with their lists. Every rule in it has been planned once.
#[derive(Debug, Clone)]
pub struct RuleSet {
    rules: Vec<Arc<Rule>>,
    lists: Arc<Lists>,
    hash: Arc<str>,
    sources: Arc<Sources>,
}

impl RuleSet {
    /// Reads `*.yaml` and `lists/*.txt` of a directory. On any problem nothing is used, and all problems are told.
    pub fn load(directory: &Path) -> Result<Self, Vec<RuleProblem>> {
        let mut problems = Vec::new();
        let files = read_all(directory, "yaml", &mut problems);
        let lists_directory = directory.join("lists");
        let lists = if lists_directory.is_dir() {
            read_all(&lists_directory, "txt", &mut problems)
        } else {
            Vec::new()
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let lists = lists.iter().map(|(path, text)| (stem(path), text.as_str()));
        Self::parse(files.iter().map(|(path, text)| (path.as_str(), text.as_str())), lists)
    }

    /// The rules that ship with the program.
    pub fn shipped() -> Result<Self, Vec<RuleProblem>> {
        Self::parse(shipped::RULES.iter().copied(), shipped::LISTS.iter().copied())
    }

    /// Makes a set from texts: rule files by their name in messages, lists by the name that rules use.
    pub fn parse<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
        lists: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Vec<RuleProblem>> {
        let owned = |(name, text): (&str, &str)| (name.to_owned(), text.to_owned());
        let sources = Sources {
            files: files.into_iter().map(owned).collect(),
            lists: lists.into_iter().map(owned).collect(),
        };
        let mut named = Lists::default();
        for (name, text) in &sources.lists {
            named.insert(name, List::parse(text));
        }
        let lists = Arc::new(named);
        let functions = Functions::with_lists(&lists);
        let (mut rules, mut problems) = (Vec::new(), Vec::new());
        for (file, text) in &sources.files {
            let (some, wrong) = rules_of(file, text, &Surroundings { lists: &lists, functions: &functions });
            rules.extend(some);
            problems.extend(wrong);
        }
        rules.sort_by(|a, b| a.id.cmp(&b.id));
        for pair in rules.windows(2).filter(|pair| pair[0].id == pair[1].id) {
            let [first, second] = pair else { continue };
            let what = format!("the id `{}` is taken by {}", second.id, first.origin);
            problems.push(RuleProblem { file: second.origin.file.clone(), line: second.origin.line, what });
        }
        if !problems.is_empty() {
            problems.sort_by(|a, b| (&a.file, a.line, &a.what).cmp(&(&b.file, b.line, &b.what)));
            return Err(problems);
        }
        let hash = hash(&rules, &lists).into();
        let rules = rules.into_iter().map(Arc::new).collect();
        Ok(Self { rules, lists, hash, sources: Arc::new(sources) })
    }

    /// The rules, sorted by id.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Whether any of them is over the whole fleet.
    pub(crate) fn watches_fleet(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.condition, Condition::Fleet { .. }))
    }

    /// The rule of this id.
    pub fn get(&self, id: &str) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| rule.id == id)
    }

    /// SHA-256 over what the rules and lists mean, in hexadecimal: it does not change with comments, the order of
    /// keys, or the files that rules stand in.
    pub fn hash(&self) -> &Arc<str> {
        &self.hash
    }

    /// What it was made of.
    pub(crate) fn sources(&self) -> &Arc<Sources> {
        &self.sources
    }

    /// The lists that rules of this set may ask.
    pub fn lists(&self) -> &Lists {
        &self.lists
    }

    /// The SQL functions with the lists of this set.
    pub fn functions(&self) -> Functions {
        Functions::with_lists(&self.lists)
    }
}

fn hash(rules: &[Rule], lists: &Lists) -> String {
    #[derive(Serialize)]
    struct Canonical<'a> {
        rules: &'a [Rule],
        lists: BTreeMap<&'a str, Vec<&'a str>>,
    }
    let lists = lists.iter().map(|(name, list)| (name, list.entries().collect())).collect();
    // structs serialise in the order of their fields, maps here are sorted; none of it can fail
    let canonical = serde_json::to_vec(&Canonical { rules, lists }).unwrap_or_default();
    hex(&Sha256::digest(canonical))
}

pub(super) fn read_all(
    directory: &Path,
    extension: &str,
    problems: &mut Vec<RuleProblem>,
) -> Vec<(String, String)> {
    let mut problem = |path: &Path, error: std::io::Error| {
        problems.push(RuleProblem { file: path.display().to_string(), line: 1, what: error.to_string() });
    };
    let entries = match fs_err::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            problem(directory, error);
            return Vec::new();
        }
    };
    let mut files = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) if entry.path().extension().is_some_and(|found| found == extension) => {
                match fs_err::read_to_string(entry.path()) {
                    Ok(text) => files.push((entry.path().display().to_string(), text)),
                    Err(error) => problem(&entry.path(), error),
                }
            }
            Ok(_) => {}
            Err(error) => problem(directory, error),
        }
    }
    files.sort();
    files
}

fn stem(path: &str) -> &str {
    Path::new(path).file_stem().and_then(|stem| stem.to_str()).unwrap_or(path)
}

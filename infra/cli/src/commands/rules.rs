//! `varta rules`: whether rules are in order, whether they do what their tests say, what becomes of one of them.
//! No server is asked.

use std::path::PathBuf;

use processors::rules::testing::{self, TestFiles};
use processors::rules::{RuleProblem, RuleSet, explain};

use crate::config::Config;
use crate::exit::Exit;

/// What `varta rules` can be told.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, clap::Subcommand)]
enum What {
    /// Read the rules: every problem with file and line. Exit code 2 if there is one.
    Check {
        /// Folder of rules; without it `process.rules` of the configuration, else the rules that ship.
        dir: Option<PathBuf>,
    },
    /// Run the tests in the folder `tests` beside the rules, on virtual time. Exit code 1 if one fails.
    Test {
        /// Folder of rules; without it `process.rules` of the configuration, else the rules that ship.
        dir: Option<PathBuf>,
    },
    /// Say what a rule reads, which lists it asks, what it is compiled to, and what its alert looks like.
    Explain {
        /// Id of the rule.
        id: String,
        /// Folder of rules; without it `process.rules` of the configuration, else the rules that ship.
        dir: Option<PathBuf>,
    },
}

/// Does what was asked; see the subcommands for exit codes.
pub(crate) async fn rules(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let (what, configured) = (args.what.clone(), config.process.rules.clone());
    // planning runs a small runtime of its own, which must not happen on a thread of this one
    tokio::task::spawn_blocking(move || run(&what, configured)).await?
}

fn run(what: &What, configured: Option<PathBuf>) -> anyhow::Result<Exit> {
    let (What::Check { dir } | What::Test { dir } | What::Explain { dir, .. }) = what;
    let (set, tests) = match read(dir.clone().or(configured)) {
        Ok(read) => read,
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            return Ok(Exit::WrongConfiguration);
        }
    };
    match what {
        What::Check { .. } => {
            let lists = set.lists().iter().count();
            println!("{} rules and {lists} lists: in order; rule set {}", set.rules().len(), set.hash());
            Ok(Exit::Done)
        }
        What::Test { .. } => Ok(test(&set, &tests)),
        What::Explain { id, .. } => {
            let mut examples = testing::run_all(&set, &tests).examples;
            if let Some(explanation) = explain(&set, id, examples.remove(id))? {
                print!("{explanation}");
                return Ok(Exit::Done);
            }
            let ids: Vec<_> = set.rules().iter().map(|rule| rule.id.as_str()).collect();
            eprintln!("there is no rule {id}; there are {}", ids.join(", "));
            Ok(Exit::WrongConfiguration)
        }
    }
}

/// What is wrong with the rules of a configured folder. Those that ship are tested.
pub(super) async fn problems(folder: Option<PathBuf>) -> anyhow::Result<Option<Vec<RuleProblem>>> {
    let Some(folder) = folder else { return Ok(None) };
    // planning runs a small runtime of its own, which must not happen on a thread of this one
    Ok(tokio::task::spawn_blocking(move || RuleSet::load(&folder).err()).await?)
}

fn read(folder: Option<PathBuf>) -> Result<(RuleSet, TestFiles), Vec<RuleProblem>> {
    match folder {
        Some(folder) => Ok((RuleSet::load(&folder)?, testing::load(&folder)?)),
        None => Ok((RuleSet::shipped()?, testing::shipped())),
    }
}

fn test(set: &RuleSet, tests: &TestFiles) -> Exit {
    let report = testing::run_all(set, tests);
    for failure in &report.failures {
        eprintln!("{failure}");
    }
    let untested: Vec<_> = set
        .rules()
        .iter()
        .map(|rule| rule.id.as_str())
        .filter(|id| !report.fired.contains_key(*id))
        .collect();
    if !untested.is_empty() {
        eprintln!("no test expects an alert of {}", untested.join(", "));
    }
    println!(
        "{} tests in {} files, {} failures; {} of {} rules fire in a test, {} events must stay quiet",
        report.tests,
        tests.len(),
        report.failures.len(),
        set.rules().len() - untested.len(),
        set.rules().len(),
        report.quiet
    );
    if report.failures.is_empty() { Exit::Done } else { Exit::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "id: one\ntitle: One\nseverity: low\ndescription: D\nkind: match\nfamily: process_event\n\
                        where: name = 'x'\nmessage: '{name}'\n";

    /// A folder with one rule and one test.
    fn folder(rule: &str, test: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tests")).unwrap();
        std::fs::write(folder.path().join("r.yaml"), rule).unwrap();
        std::fs::write(folder.path().join("tests/t.yaml"), test).unwrap();
        folder
    }

    fn test_of(expected: &str) -> String {
        format!("- name: t\n  family: process_event\n  events: [{{ name: x, alerts: [{expected}] }}]\n")
    }

    fn outcomes(folder: &tempfile::TempDir) -> [Exit; 3] {
        let dir = Some(folder.path().to_owned());
        let all = [
            What::Check { dir: dir.clone() },
            What::Test { dir: dir.clone() },
            What::Explain { id: "one".into(), dir },
        ];
        all.map(|what| run(&what, None).unwrap())
    }

    #[test]
    fn exit_codes_tell_what_is_wrong() {
        let good = folder(RULE, &test_of("one"));
        assert_eq!(outcomes(&good), [Exit::Done, Exit::Done, Exit::Done]);
        let failing = folder(RULE, &test_of(""));
        assert_eq!(outcomes(&failing), [Exit::Done, Exit::Failed, Exit::Done]);
        let wrong = folder(&RULE.replace("name = 'x'", "nosuch = 'x'"), &test_of("one"));
        assert_eq!(outcomes(&wrong), [Exit::WrongConfiguration; 3]);
        let unknown = What::Explain { id: "two".into(), dir: Some(good.path().to_owned()) };
        assert_eq!(run(&unknown, None).unwrap(), Exit::WrongConfiguration);
    }

    #[test]
    fn the_configured_folder_is_read_unless_another_is_named() {
        let (good, wrong) = (folder(RULE, &test_of("one")), folder("id: [", ""));
        let check = |dir: Option<&tempfile::TempDir>, configured: Option<&tempfile::TempDir>| {
            let path = |folder: &tempfile::TempDir| folder.path().to_owned();
            run(&What::Check { dir: dir.map(path) }, configured.map(path)).unwrap()
        };
        assert_eq!(check(None, Some(&wrong)), Exit::WrongConfiguration);
        assert_eq!(check(Some(&good), Some(&wrong)), Exit::Done);
        assert_eq!(check(None, None), Exit::Done, "the pack that ships");
    }
}

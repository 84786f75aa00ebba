//! Watches a folder of rules while the job runs, and offers what has changed. This is outside of what the same log must
//! give the same output for: which rules a partition takes over, and where, is noted in its state.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use runtime::shutdown::Shutdown;

use super::book::Offer;
use super::set::{RuleProblem, RuleSet};

/// Rule files and lists of a folder: when each was changed, and its size. A folder that cannot be read has none.
type Traces = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

/// A folder of rules.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// What was there when the rules were last read.
    read: Traces,
    /// What was there at the last look, if it was something else.
    changing: Option<Traces>,
}

/// What a look at the folder brought.
#[derive(Debug)]
pub(crate) enum Look {
    /// Nothing has changed, or somebody is still writing.
    Same,
    /// The rules have changed.
    Changed(RuleSet),
    /// What is there now cannot be used.
    Refused(Vec<RuleProblem>),
}

impl Folder {
    /// A folder whose rules are read right after.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), read: traces(path), changing: None }
    }

    /// Reads the rules if they have changed and two looks saw the same: who saves several files is not done with the
    /// first.
    pub(crate) fn look(&mut self) -> Look {
        let now = traces(&self.path);
        if now == self.read {
            self.changing = None;
            return Look::Same;
        }
        if self.changing.as_ref() != Some(&now) {
            self.changing = Some(now);
            return Look::Same;
        }
        self.changing = None;
        self.read = now;
        match RuleSet::load(&self.path) {
            Ok(set) => Look::Changed(set),
            Err(problems) => Look::Refused(problems),
        }
    }
}

fn traces(folder: &Path) -> Traces {
    let mut traces = Traces::new();
    for (folder, extension) in [(folder.to_owned(), "yaml"), (folder.join("lists"), "txt")] {
        let Ok(entries) = fs_err::read_dir(folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|found| found == extension)
                && let Ok(found) = fs_err::metadata(&path)
            {
                traces.insert(path, (found.modified().ok(), found.len()));
            }
        }
    }
    traces
}

/// Looks at the folder every so often until shutdown, and offers changed rules. Bad ones are refused with file and line
/// in the log, and those before stay on offer. `now` is the wall clock in µs.
pub(crate) async fn watch(
    mut folder: Folder,
    every: Duration,
    offer: Offer,
    now: fn() -> i64,
    shutdown: Shutdown,
) {
    let refused = metrics::gauge!("varta_processors_rules_refused");
    refused.set(0.0);
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = shutdown.wait() => return,
        }
        // planning runs a small runtime of its own, which must not happen on a thread of this one
        let looked = tokio::task::spawn_blocking(move || (folder.look(), folder)).await;
        let Ok((look, same)) = looked else {
            tracing::error!("the thread that reads rules died, they are not watched any more");
            return;
        };
        folder = same;
        match look {
            Look::Same => {}
            Look::Changed(set) => {
                refused.set(0.0);
                if set.hash() != &offer.rule_set() {
                    tracing::info!(rule_set = %set.hash(), rules = set.rules().len(), "changed rules are offered");
                    offer.put(set, now());
                }
            }
            Look::Refused(problems) => {
                refused.set(1.0);
                metrics::counter!("varta_processors_rule_sets_refused_total").increment(1);
                for RuleProblem { file, line, what } in problems {
                    tracing::error!(file, line, what, "rules are refused, the old ones stay");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "id: one\ntitle: One\nseverity: low\ndescription: D\nkind: match\nfamily: process_event\n\
                        where: in_list(name, 'names')\nmessage: '{name}'\n";

    /// Looks until something other than "same" is seen; at most a few times.
    fn settled(folder: &mut Folder) -> Option<Look> {
        (0..3).map(|_| folder.look()).find(|look| !matches!(look, Look::Same))
    }

    #[test]
    fn changes_are_read_when_they_have_settled_and_bad_ones_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let (rules, lists) = (dir.path().join("r.yaml"), dir.path().join("lists"));
        std::fs::create_dir(&lists).unwrap();
        std::fs::write(lists.join("names.txt"), "a\n").unwrap();
        std::fs::write(&rules, RULE).unwrap();
        let mut folder = Folder::new(dir.path());
        let first = RuleSet::load(dir.path()).unwrap();
        assert!(settled(&mut folder).is_none(), "nothing has changed");

        std::fs::write(lists.join("names.txt"), "a\nb\n").unwrap();
        assert!(matches!(folder.look(), Look::Same), "it may still be written");
        let Look::Changed(second) = folder.look() else { panic!("a list has changed") };
        assert_ne!(first.hash(), second.hash());

        std::fs::write(&rules, RULE.replace("names", "nosuch")).unwrap();
        let Some(Look::Refused(problems)) = settled(&mut folder) else { panic!("a list is missing") };
        assert!(problems[0].file.ends_with("r.yaml") && problems[0].line == 7, "{problems:?}");
        assert!(settled(&mut folder).is_none(), "told once");

        std::fs::write(dir.path().join("s.yaml"), RULE.replace("one", "two")).unwrap();
        std::fs::write(&rules, RULE).unwrap();
        let Some(Look::Changed(third)) = settled(&mut folder) else { panic!("it is mended") };
        assert_eq!(third.rules().len(), 2);
        std::fs::write(dir.path().join("notes.md"), "nothing to do with rules").unwrap();
        assert!(settled(&mut folder).is_none());
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(
            matches!(settled(&mut folder), Some(Look::Refused(_))),
            "a folder that vanished ends no rules"
        );
    }

    #[tokio::test]
    async fn the_offer_follows_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lists")).unwrap();
        std::fs::write(dir.path().join("lists/names.txt"), "a\n").unwrap();
        std::fs::write(dir.path().join("r.yaml"), RULE).unwrap();
        let folder = Folder::new(dir.path());
        let set = load(dir.path()).await;
        let (offer, shutdown) = (Offer::new(set.clone(), 1), Shutdown::new());
        let every = Duration::from_millis(5);
        let watching = tokio::spawn(watch(folder, every, offer.clone(), || 2, shutdown.clone()));
        std::fs::write(dir.path().join("r.yaml"), "id: [").unwrap();
        std::fs::write(dir.path().join("r.yaml"), RULE.replace("low", "high")).unwrap();
        let changed = load(dir.path()).await;
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while offer.rule_set() != *changed.hash() {
            assert!(std::time::Instant::now() < deadline, "the offer did not change");
            tokio::time::sleep(every).await;
        }
        shutdown.request();
        watching.await.unwrap();
    }

    async fn load(folder: &Path) -> RuleSet {
        let folder = folder.to_owned();
        tokio::task::spawn_blocking(move || RuleSet::load(&folder)).await.unwrap().unwrap()
    }
}

//! What a table's log tells from its first entry on: which offsets were committed, and which files are left.

use std::collections::{BTreeMap, BTreeSet};

use deltalake_core::logstore::LogStoreRef;
use serde::Deserialize;

use super::{
    shape::PARTITION,
    table::{LogAction, actions, away},
    writer::{HASH_TAG, INFO},
};
use crate::SinkError;

/// Half-open offset ranges by topic and partition.
pub type Covered = BTreeMap<(String, i32), (i64, i64)>;

/// A file that readers see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LiveFile {
    pub(super) bytes: u64,
    pub(super) hash: Option<String>,
    /// As its statistics say.
    pub(super) rows: Option<u64>,
    /// Value of the partition column.
    pub(super) day: String,
}

/// A log, read to its end.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) version: u64,
    pub(super) live: BTreeMap<String, LiveFile>,
    /// Rows that commits of the sink have added.
    pub(super) rows: u64,
    /// Rows that somebody has deleted since.
    pub(super) deleted: u64,
    pub(super) covered: Covered,
    /// The same for late rows, which have offsets of their own. Tables made before that have none.
    pub(super) covered_late: Covered,
    pub(super) columns: usize,
    pub(super) problems: Vec<String>,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    ranges: Vec<Range>,
}

#[derive(Deserialize)]
struct Range {
    topic: String,
    partition: i32,
    from: i64,
    to: i64,
    rows: u64,
    #[serde(default)]
    late: bool,
}

impl History {
    /// Reads all entries, from version 0.
    pub(super) async fn read(store: &LogStoreRef, name: &str) -> Result<Self, SinkError> {
        let mut history = Self::default();
        let mut version = 0;
        while let Some(entry) = store.read_commit_entry(version).await.map_err(|error| away(name, error))? {
            history.follow(version, &entry);
            history.version = version;
            version += 1;
        }
        Ok(history)
    }

    fn follow(&mut self, version: u64, entry: &[u8]) {
        // Rows that a rewriting commit takes out and puts in again must be as many.
        let (mut taken, mut put) = (0, 0);
        let mut said = 0;
        let mut added = Some(0);
        let mut by_sink = false;
        for action in actions(entry) {
            match action {
                LogAction::CommitInfo(info) => {
                    by_sink = info.get(INFO).is_some_and(|info| info.get("ranges").is_some());
                    said += self.follow_ranges(version, info.get(INFO));
                }
                LogAction::Add(file) => {
                    let rows = file.rows();
                    if file.data_change {
                        added = added.zip(rows).map(|(sum, rows)| sum + rows);
                    } else {
                        put += rows.unwrap_or_default();
                    }
                    self.add(version, file, rows);
                }
                LogAction::Remove(file) => match self.live.remove(&file.path) {
                    Some(removed) if !file.data_change => taken += removed.rows.unwrap_or_default(),
                    Some(removed) => self.deleted += removed.rows.unwrap_or_default(),
                    None => self
                        .problems
                        .push(format!("version {version} removes {}, which is not there", file.path)),
                },
                LogAction::MetaData(metadata) => {
                    let schema = metadata["schemaString"].as_str().unwrap_or_default();
                    let schema: serde_json::Value = serde_json::from_str(schema).unwrap_or_default();
                    self.columns = schema["fields"].as_array().map_or(0, Vec::len);
                }
                LogAction::Txn(_) | LogAction::Protocol(_) => {}
            }
        }
        if taken != put {
            self.problems.push(format!("version {version} rewrites {taken} rows as {put}"));
        }
        if by_sink && added.is_some_and(|added| added != said) {
            self.problems
                .push(format!("version {version} says that it adds {said} rows, its files have {added:?}"));
        }
    }

    fn add(&mut self, version: u64, file: super::table::AddedFile, rows: Option<u64>) {
        let day = file.partition_values.get(PARTITION).cloned().flatten().unwrap_or_default();
        let hash = file.tags.and_then(|mut tags| tags.remove(HASH_TAG)).flatten();
        let live = LiveFile { bytes: file.size, hash, rows, day };
        if self.live.insert(file.path.clone(), live).is_some() {
            self.problems.push(format!("version {version} adds {} a second time", file.path));
        }
    }

    /// Follows the ranges of one commit; the rows that it says it adds.
    fn follow_ranges(&mut self, version: u64, info: Option<&serde_json::Value>) -> u64 {
        let Some(info) = info else { return 0 };
        let info: Info = match serde_json::from_value(info.clone()) {
            Ok(info) => info,
            Err(error) => {
                self.problems.push(format!("version {version}: unreadable commit information: {error}"));
                return 0;
            }
        };
        let mut seen = BTreeSet::new();
        let mut rows = 0;
        for range in info.ranges {
            let kind = if range.late { " (late rows)" } else { "" };
            let at = format!("{}-{}{kind}", range.topic, range.partition);
            let of = (range.topic, range.partition);
            if range.to <= range.from {
                self.problems.push(format!("version {version}: {at} covers nothing"));
            }
            if !seen.insert((of.clone(), range.late)) {
                self.problems.push(format!("version {version}: {at} is named twice"));
            }
            rows += range.rows;
            let covered = if range.late { &mut self.covered_late } else { &mut self.covered };
            let covered = covered.entry(of).or_insert((range.from, range.from));
            let end = covered.1;
            if range.from > end {
                self.problems.push(format!("version {version}: {at} misses offsets {end}..{}", range.from));
            }
            if range.from < end {
                self.problems
                    .push(format!("version {version}: {at} has offsets {}..{end} twice", range.from));
            }
            covered.1 = end.max(range.to);
        }
        self.rows += rows;
        rows
    }
}

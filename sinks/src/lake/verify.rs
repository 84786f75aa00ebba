//! Proves from a table's log that every offset is in it once, and that its files are whole.
//!
//! Limitation: ranges are proved as far back as the log's entries reach; the tables are made so that entries are
//! never cleaned up.

use std::collections::{BTreeMap, BTreeSet};

use object_store::{ObjectStoreExt as _, path::Path};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    LakeConfig, files,
    table::{LogAction, Root, actions},
    tables,
    writer::{HASH_TAG, INFO},
};
use crate::SinkError;

/// What was found in one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// The table.
    pub table: String,
    /// Newest version of its log.
    pub version: u64,
    /// Files that readers see.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Rows that its commits have added.
    pub rows: u64,
    /// Covered offsets of each topic and partition, half-open.
    pub covered: BTreeMap<(String, i32), (i64, i64)>,
    /// Everything that is wrong, in words; empty = proved.
    pub problems: Vec<String>,
}

#[derive(Deserialize)]
struct Info {
    ranges: Vec<Range>,
}

#[derive(Deserialize)]
struct Range {
    topic: String,
    partition: i32,
    from: i64,
    to: i64,
    rows: u64,
}

/// Verifies every table of the lake that exists. `hashes`: also read each file and compare its hash.
pub async fn verify(
    config: &LakeConfig,
    topics: &schemas::topics::Topics,
    hashes: bool,
) -> Result<Vec<Verified>, SinkError> {
    let root = Root { location: config.root.clone(), options: config.options.clone() };
    let mut verified = Vec::new();
    for (name, _, _) in tables(topics) {
        verified.extend(verify_table(&root, &name, hashes).await?);
    }
    Ok(verified)
}

async fn verify_table(root: &Root, name: &str, hashes: bool) -> Result<Option<Verified>, SinkError> {
    let away = |error: &dyn std::fmt::Display| SinkError::unavailable(format!("lake table {name}"), error);
    if !root.location.contains("://") && !std::path::Path::new(&root.location).join(name).exists() {
        return Ok(None);
    }
    let store = root.log_store(name)?;
    if !store.is_delta_table_location().await.map_err(|error| away(&error))? {
        return Ok(None);
    }
    let mut found = Verified { table: name.to_owned(), ..Verified::default() };
    let mut live: BTreeMap<String, (u64, Option<String>)> = BTreeMap::new();
    let mut version = 0;
    while let Some(entry) = store.read_commit_entry(version).await.map_err(|error| away(&error))? {
        for action in actions(&entry) {
            match action {
                LogAction::CommitInfo(info) => found.follow(version, info.get(INFO)),
                LogAction::Add(file) => {
                    let hash = file.tags.and_then(|mut tags| tags.remove(HASH_TAG)).flatten();
                    if live.insert(file.path.clone(), (file.size, hash)).is_some() {
                        found.problems.push(format!("version {version} adds {} a second time", file.path));
                    }
                }
                LogAction::Remove(file) => {
                    live.remove(&file.path);
                }
                LogAction::Txn(_) | LogAction::Protocol(_) => {}
            }
        }
        found.version = version;
        version += 1;
    }
    let objects = store.object_store(None);
    for (path, (size, hash)) in &live {
        found.files += 1;
        found.bytes += size;
        let location = Path::parse(path).map_err(|error| away(&error))?;
        match objects.head(&location).await {
            Err(object_store::Error::NotFound { .. }) => {
                found.problems.push(format!("{path} is named in the log but missing"));
            }
            Err(error) => return Err(away(&error)),
            Ok(meta) if meta.size != *size => {
                found.problems.push(format!("{path} has {} bytes, the log says {size}", meta.size));
            }
            Ok(_) => {
                let Some(hash) = hash.as_ref().filter(|_| hashes) else {
                    continue;
                };
                let content = objects.get(&location).await.map_err(|error| away(&error))?;
                let content = content.bytes().await.map_err(|error| away(&error))?;
                if files::hex(&Sha256::digest(&content)) != *hash {
                    found.problems.push(format!("{path} is not what was written: its hash differs"));
                }
            }
        }
    }
    Ok(Some(found))
}

impl Verified {
    /// Follows the ranges of one commit.
    fn follow(&mut self, version: u64, info: Option<&serde_json::Value>) {
        let Some(info) = info else { return };
        let info: Info = match serde_json::from_value(info.clone()) {
            Ok(info) => info,
            Err(error) => {
                self.problems.push(format!("version {version}: unreadable commit information: {error}"));
                return;
            }
        };
        let mut seen = BTreeSet::new();
        for range in info.ranges {
            let at = format!("{}-{}", range.topic, range.partition);
            if range.to <= range.from {
                self.problems.push(format!("version {version}: {at} covers nothing"));
            }
            if !seen.insert((range.topic.clone(), range.partition)) {
                self.problems.push(format!("version {version}: {at} is named twice"));
            }
            self.rows += range.rows;
            let covered =
                self.covered.entry((range.topic, range.partition)).or_insert((range.from, range.from));
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
    }
}

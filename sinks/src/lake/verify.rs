//! Proves from a table's log that every offset is in it once, and that its files are whole.
//!
//! Limitation: ranges are proved as far back as the log's entries reach; the tables are made so that entries are
//! never cleaned up.

use object_store::{ObjectStoreExt as _, path::Path};
use sha2::{Digest, Sha256};

use super::{
    LakeConfig, files,
    history::{Covered, History},
    table::{Root, away},
    tables,
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
    pub covered: Covered,
    /// The same for late rows; what is between the two ends is held by a sink that runs, or read again at its start.
    pub covered_late: Covered,
    /// Everything that is wrong, in words; empty = proved.
    pub problems: Vec<String>,
}

/// Verifies every table of the lake that exists. `hashes`: also read each file and compare its hash.
pub async fn verify(
    config: &LakeConfig,
    topics: &schemas::topics::Topics,
    hashes: bool,
) -> Result<Vec<Verified>, SinkError> {
    let root = config.root();
    let mut verified = Vec::new();
    for (name, _, _) in tables(topics) {
        verified.extend(verify_table(&root, &name, hashes).await?);
    }
    Ok(verified)
}

async fn verify_table(root: &Root, name: &str, hashes: bool) -> Result<Option<Verified>, SinkError> {
    let Some(store) = root.existing(name).await? else { return Ok(None) };
    let history = History::read(&store, name).await?;
    let mut found = Verified {
        table: name.to_owned(),
        version: history.version,
        files: history.live.len(),
        bytes: history.live.values().map(|file| file.bytes).sum(),
        rows: history.rows,
        covered: history.covered,
        covered_late: history.covered_late,
        problems: history.problems,
    };
    let live: u64 = history.live.values().filter_map(|file| file.rows).sum();
    if live + history.deleted != found.rows {
        found.problems.push(format!(
            "{} rows were committed and {} deleted, the files have {live}",
            found.rows, history.deleted
        ));
    }
    for (of, (_, late)) in &found.covered_late {
        if found.covered.get(of).is_none_or(|(_, end)| end < late) {
            found.problems.push(format!("{}-{}: late rows are ahead of the others", of.0, of.1));
        }
    }
    let objects = store.object_store(None);
    for (path, file) in &history.live {
        let location = Path::parse(path).map_err(|error| away(name, error))?;
        match objects.head(&location).await {
            Err(object_store::Error::NotFound { .. }) => {
                found.problems.push(format!("{path} is named in the log but missing"));
            }
            Err(error) => return Err(away(name, error)),
            Ok(meta) if meta.size != file.bytes => {
                found.problems.push(format!("{path} has {} bytes, the log says {}", meta.size, file.bytes));
            }
            Ok(_) => {
                let Some(hash) = file.hash.as_ref().filter(|_| hashes) else { continue };
                let content = objects.get(&location).await.map_err(|error| away(name, error))?;
                let content = content.bytes().await.map_err(|error| away(name, error))?;
                if files::hex(&Sha256::digest(&content)) != *hash {
                    found.problems.push(format!("{path} is not what was written: its hash differs"));
                }
            }
        }
    }
    Ok(Some(found))
}

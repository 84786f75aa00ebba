//! What there is: tables, rows, files, days, offsets.

use std::collections::BTreeMap;

use super::{
    LakeConfig,
    history::{Covered, History},
    tables,
};
use crate::SinkError;

/// Files below this size are small: a reader pays more for opening them than for reading.
pub const SMALL: u64 = 8 << 20;

/// One day of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Day {
    /// Files that readers see.
    pub files: usize,
    /// Those below [`SMALL`].
    pub small: usize,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Their rows.
    pub rows: u64,
}

/// One table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableInfo {
    /// Its name.
    pub table: String,
    /// Newest version of its log.
    pub version: u64,
    /// Columns, the partition column among them.
    pub columns: usize,
    /// By day, `YYYY-MM-DD`.
    pub days: BTreeMap<String, Day>,
    /// Covered offsets of each topic and partition, half-open.
    pub covered: Covered,
    /// The same for late rows.
    pub covered_late: Covered,
}

impl TableInfo {
    /// All days together.
    pub fn total(&self) -> Day {
        self.days.values().fold(Day::default(), |sum, day| Day {
            files: sum.files + day.files,
            small: sum.small + day.small,
            bytes: sum.bytes + day.bytes,
            rows: sum.rows + day.rows,
        })
    }
}

/// Every table of the lake that exists.
pub async fn info(
    config: &LakeConfig,
    topics: &schemas::topics::Topics,
) -> Result<Vec<TableInfo>, SinkError> {
    let root = config.root();
    let mut found = Vec::new();
    for (name, _, _) in tables(topics) {
        let Some(store) = root.existing(&name).await? else { continue };
        let history = History::read(&store, &name).await?;
        let mut days: BTreeMap<String, Day> = BTreeMap::new();
        for file in history.live.values() {
            let day = days.entry(file.day.clone()).or_default();
            day.files += 1;
            day.small += usize::from(file.bytes < SMALL);
            day.bytes += file.bytes;
            day.rows += file.rows.unwrap_or_default();
        }
        found.push(TableInfo {
            table: name,
            version: history.version,
            columns: history.columns,
            days,
            covered: history.covered,
            covered_late: history.covered_late,
        });
    }
    Ok(found)
}

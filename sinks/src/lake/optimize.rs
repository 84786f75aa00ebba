//! Compaction and vacuum, beside writers that run.
//!
//! A merge takes files out and puts one with the same rows in, in one commit that changes no data and no offsets. A
//! writer's commit that comes between is no conflict, for it only adds; a commit that takes out one of the same files
//! is, and then the merge is given up. So it is harmless at any moment to kill this, or to run it twice.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use deltalake_core::{
    kernel::{Action, EagerSnapshot, Remove, transaction::CommitData},
    logstore::LogStoreRef,
    protocol::DeltaOperation,
};
use futures::TryStreamExt as _;
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use runtime::failpoint;
use schemas::topics::Topics;
use serde_json::json;
use tokio::sync::oneshot;

use super::{
    LakeConfig,
    encoding::Writing,
    files::DataFile,
    merge,
    shape::PARTITION,
    table::{self, Attempt, LogAction, actions, away},
    tables,
    writer::{INFO, add, upload},
};
use crate::SinkError;

/// Readers may hold a snapshot, and writers a file that is stored and not yet committed, for at least so long; a
/// writer stores its files anew after half of it.
pub const LEAST_RETENTION: Duration = Duration::from_hours(24);
/// Files merged at once. More are merged in several rounds.
const TOGETHER: usize = 64;

/// Threads that read and write files.
const READING: usize = 4;

/// How tables are optimised.
#[derive(Debug, Clone)]
pub struct Optimizing {
    /// Only these tables; all when empty.
    pub tables: Vec<String>,
    /// Bytes that a file should have. Files of more than half of it are left alone.
    pub target: u64,
    /// Files that no version of the table within this time names are removed; not shorter than
    /// [`LEAST_RETENTION`].
    pub retention: Duration,
}

impl Default for Optimizing {
    fn default() -> Self {
        Self { tables: Vec::new(), target: 128 << 20, retention: Duration::from_hours(7 * 24) }
    }
}

/// What was done to one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Optimized {
    /// The table.
    pub table: String,
    /// Files and bytes that readers see, before.
    pub before: (usize, u64),
    /// And after.
    pub after: (usize, u64),
    /// Commits that were made.
    pub merges: usize,
    /// Merges that were given up because another process took the same files.
    pub given_up: usize,
    /// Files and bytes that were removed from the store.
    pub vacuumed: (usize, u64),
    /// Why it was not finished; what was done before holds, and the other tables do not wait for it.
    pub failed: Option<String>,
}

/// Merges small files of each table and day, writes a checkpoint and removes what nobody needs any more.
pub async fn optimize(
    config: &LakeConfig,
    topics: &Topics,
    how: &Optimizing,
) -> Result<Vec<Optimized>, SinkError> {
    if how.retention < LEAST_RETENTION {
        let least = LEAST_RETENTION.as_secs() / 3600;
        return Err(SinkError::Fatal(format!(
            "a retention below {least} h would take files from who uses them"
        )));
    }
    optimize_anyhow(config, topics, how).await
}

/// The same with any retention, on a thread of its own with few threads that read for it: each keeps the memory of the
/// largest files that it ever read, and a merge takes the processor for a while.
pub(super) async fn optimize_anyhow(
    config: &LakeConfig,
    topics: &Topics,
    how: &Optimizing,
) -> Result<Vec<Optimized>, SinkError> {
    let broken = |why: &dyn std::fmt::Display| SinkError::Fatal(format!("merging the lake's files: {why}"));
    // Two more threads for connections: what writes a checkpoint waits for them without giving way.
    let mut own = tokio::runtime::Builder::new_multi_thread();
    let own = own.worker_threads(2).max_blocking_threads(READING).enable_all().build();
    let own = own.map_err(|error| broken(&error))?;
    let (config, topics, how) = (config.clone(), topics.clone(), how.clone());
    let (done, outcome) = oneshot::channel();
    let work = move || drop(done.send(own.block_on(optimize_here(&config, &topics, &how))));
    std::thread::Builder::new().name("lake-optimize".into()).spawn(work).map_err(|error| broken(&error))?;
    outcome.await.map_err(|_| broken(&"its thread panicked"))?
}

async fn optimize_here(
    config: &LakeConfig,
    topics: &Topics,
    how: &Optimizing,
) -> Result<Vec<Optimized>, SinkError> {
    let names: Vec<String> = tables(topics).into_iter().map(|(name, ..)| name).collect();
    if let Some(unknown) = how.tables.iter().find(|table| !names.contains(table)) {
        return Err(SinkError::Fatal(format!(
            "no table is called `{unknown}`; there are: {}",
            names.join(", ")
        )));
    }
    let root = config.root();
    let mut done = Vec::new();
    for name in names.into_iter().filter(|name| how.tables.is_empty() || how.tables.contains(name)) {
        let Some(store) = root.existing(&name).await? else { continue };
        let compacted = match Compaction::open(store, name.clone(), config.writing(), how.target).await {
            Ok(compaction) => compaction.run(how.retention).await,
            Err(error) => Err(error),
        };
        done.push(compacted.unwrap_or_else(|error| {
            tracing::error!(table = %name, %error, "not optimised");
            Optimized { table: name, failed: Some(error.to_string()), ..Optimized::default() }
        }));
    }
    Ok(done)
}

/// A file: its path and size.
#[derive(Debug, Clone)]
struct Piece {
    path: String,
    bytes: u64,
}

/// A file that may be merged.
#[derive(Debug, Clone)]
struct Small {
    piece: Piece,
    rows: u64,
}

struct Compaction {
    store: LogStoreRef,
    objects: Arc<dyn ObjectStore>,
    name: String,
    writing: Writing,
    target: u64,
    version: u64,
    columns: Vec<String>,
    small: BTreeMap<String, Vec<Small>>,
    found: Optimized,
}

impl Compaction {
    async fn open(
        store: LogStoreRef,
        name: String,
        writing: Writing,
        target: u64,
    ) -> Result<Self, SinkError> {
        let snapshot = EagerSnapshot::try_new(&store, None).await.map_err(|error| away(&name, error))?;
        let mut found = Optimized { table: name.clone(), ..Optimized::default() };
        let mut small: BTreeMap<String, Vec<Small>> = BTreeMap::new();
        for file in snapshot.log_data().iter() {
            let bytes = file.size().unsigned_abs();
            found.before = (found.before.0 + 1, found.before.1 + bytes);
            let day = file.partition_values_map().remove(PARTITION).flatten();
            if let (Some(day), Some(rows)) = (day, file.num_records())
                && bytes < target / 2
            {
                let piece = Piece { path: file.path().into_owned(), bytes };
                small.entry(day).or_default().push(Small { piece, rows: rows as u64 });
            }
        }
        found.after = found.before;
        let columns =
            snapshot.schema().fields().map(|field| field.name().clone()).filter(|n| n != PARTITION).collect();
        let objects = store.object_store(None);
        let version = snapshot.version();
        Ok(Self { store, objects, name, writing, target, version, columns, small, found })
    }

    async fn run(mut self, retention: Duration) -> Result<Optimized, SinkError> {
        for (day, mut small) in std::mem::take(&mut self.small) {
            while let Some(group) = choose(&mut small, self.target) {
                if let Some(merged) = self.merge(&day, &group).await?
                    && merged.piece.bytes < self.target / 2
                {
                    small.push(merged);
                }
            }
        }
        if self.found.merges > 0 {
            table::checkpoint(&self.store, &self.name, self.version).await;
        }
        self.found.vacuumed = vacuum(&self.store, &self.objects, &self.name, retention).await?;
        Ok(self.found)
    }

    /// Merges a group; `None` when another process was faster.
    async fn merge(&mut self, day: &str, group: &[Small]) -> Result<Option<Small>, SinkError> {
        let pieces: Vec<Piece> = group.iter().map(|small| small.piece.clone()).collect();
        let rows: u64 = group.iter().map(|small| small.rows).sum();
        let file = self.merged(day, &pieces).await?;
        if file.rows as u64 != rows {
            return Err(SinkError::Fatal(format!(
                "lake table {}: {} files of {day} have {} rows, the log says {rows}",
                self.name,
                pieces.len(),
                file.rows
            )));
        }
        upload(&*self.objects, &self.name, &file).await?;
        failpoint::hit("lake.optimize.before_commit");
        let merged = Small {
            piece: Piece { path: file.path.clone(), bytes: file.content.content_length() as u64 },
            rows,
        };
        if !self.commit(day, group, file).await? {
            self.found.given_up += 1;
            // The next vacuum takes it otherwise.
            if let Ok(path) = Path::parse(&merged.piece.path) {
                let _ = self.objects.delete(&path).await;
            }
            return Ok(None);
        }
        let gone: u64 = pieces.iter().map(|piece| piece.bytes).sum();
        self.found.merges += 1;
        self.found.after.0 -= pieces.len() - 1;
        self.found.after.1 = self.found.after.1 - gone + merged.piece.bytes;
        tracing::info!(table = %self.name, day, files = pieces.len(), rows, "merged");
        Ok(Some(merged))
    }

    /// Reads the files and makes one of them. Nobody else has work on this thread.
    async fn merged(&self, day: &str, pieces: &[Piece]) -> Result<DataFile, SinkError> {
        let mut files = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let path = Path::parse(&piece.path).map_err(|error| away(&self.name, error))?;
            let content = self.objects.get(&path).await.map_err(|error| away(&self.name, error))?;
            let content = content.bytes().await.map_err(|error| away(&self.name, error))?;
            files.push((piece.path.clone(), content));
        }
        merge::merge(files, &self.columns, day, &self.writing)
    }

    /// Commits on the newest version; false when the group is not whole any more.
    async fn commit(&mut self, day: &str, group: &[Small], file: DataFile) -> Result<bool, SinkError> {
        let paths: BTreeSet<&str> = group.iter().map(|small| small.piece.path.as_str()).collect();
        let merged = file.path.clone();
        let mut commit = vec![Action::Add(add(file, false))];
        commit.extend(group.iter().map(|small| Action::Remove(remove(day, &small.piece))));
        let operation = DeltaOperation::Optimize { predicate: None, target_size: self.target as i64 };
        let info = HashMap::from([(INFO.to_owned(), json!({ "merged": paths.len() }))]);
        let commit = CommitData::new(commit, operation, info, vec![]);
        loop {
            match self.follow(&paths, &merged).await? {
                Followed::Whole => {}
                Followed::Taken => return Ok(false),
                Followed::Ours => return Ok(true),
            }
            if table::put(&self.store, &self.name, self.version + 1, &commit).await? == Attempt::Committed {
                self.version += 1;
                return Ok(true);
            }
        }
    }

    /// Reads what has been committed since.
    async fn follow(&mut self, paths: &BTreeSet<&str>, merged: &str) -> Result<Followed, SinkError> {
        let read = |version| self.store.read_commit_entry(version);
        while let Some(entry) = read(self.version + 1).await.map_err(|error| away(&self.name, error))? {
            self.version += 1;
            for action in actions(&entry) {
                match action {
                    // The answer to an attempt was lost, and the store's client tried again.
                    LogAction::Add(file) if file.path == merged => return Ok(Followed::Ours),
                    LogAction::Remove(file) if paths.contains(file.path.as_str()) => {
                        return Ok(Followed::Taken);
                    }
                    LogAction::Protocol(protocol) if protocol.min_writer_version > 2 => {
                        return Err(SinkError::Fatal(format!(
                            "lake table {} was upgraded to Delta writer {}",
                            self.name, protocol.min_writer_version
                        )));
                    }
                    _ => {}
                }
            }
        }
        Ok(Followed::Whole)
    }
}

/// What became of the files to be merged.
enum Followed {
    /// They are all there.
    Whole,
    /// Another process has taken one out.
    Taken,
    /// Our own commit is there.
    Ours,
}

/// Takes the next files to be merged out of a day's small ones, the smallest first; `None` when nothing is left to gain.
fn choose(small: &mut Vec<Small>, target: u64) -> Option<Vec<Small>> {
    small.sort_by_key(|file| file.piece.bytes);
    let mut bytes = 0;
    let fits = |file: &&Small| {
        bytes += file.piece.bytes;
        bytes <= target
    };
    let many = small.iter().take(TOGETHER).take_while(fits).count();
    (many > 1).then(|| small.drain(..many).collect())
}

fn remove(day: &str, piece: &Piece) -> Remove {
    Remove {
        path: piece.path.clone(),
        data_change: false,
        deletion_timestamp: Some(chrono::Utc::now().timestamp_millis()),
        extended_file_metadata: Some(true),
        partition_values: Some(HashMap::from([(PARTITION.to_owned(), Some(day.to_owned()))])),
        size: Some(piece.bytes as i64),
        ..Remove::default()
    }
}

/// Removes from the store what neither the newest version names nor any within `retention` did. Only files of the
/// form that the sink writes are ever touched.
async fn vacuum(
    store: &LogStoreRef,
    objects: &Arc<dyn ObjectStore>,
    name: &str,
    retention: Duration,
) -> Result<(usize, u64), SinkError> {
    let cutoff = chrono::Utc::now() - retention;
    // Listed first: what is committed after the listing is in the snapshot, or too young.
    let listed: Vec<object_store::ObjectMeta> =
        objects.list(None).try_collect().await.map_err(|error| away(name, error))?;
    let snapshot = EagerSnapshot::try_new(store, None).await.map_err(|error| away(name, error))?;
    let mut needed: BTreeSet<String> =
        snapshot.log_data().iter().map(|file| file.path().into_owned()).collect();
    let mut version = snapshot.version();
    loop {
        let entry = store.read_commit_entry(version).await.map_err(|error| away(name, error))?;
        let Some(entry) = entry else { break };
        let (mut is_recent, mut taken_out) = (false, Vec::new());
        for action in actions(&entry) {
            match action {
                LogAction::CommitInfo(info) => {
                    is_recent |= info["timestamp"].as_i64().is_none_or(|at| at >= cutoff.timestamp_millis());
                }
                LogAction::Remove(file) => taken_out.push(file.path),
                _ => {}
            }
        }
        if !is_recent {
            break;
        }
        needed.extend(taken_out);
        if version == 0 {
            break;
        }
        version -= 1;
    }
    let mut removed = (0, 0);
    for file in listed {
        let path = file.location.as_ref();
        if file.last_modified >= cutoff || !is_ours(path) || needed.contains(path) {
            continue;
        }
        match objects.delete(&file.location).await {
            Ok(()) => removed = (removed.0 + 1, removed.1 + file.size),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(away(name, error)),
        }
    }
    Ok(removed)
}

/// `dt=2025-11-21/part-…parquet`, or the same while it was being stored.
fn is_ours(path: &str) -> bool {
    let Some((day, file)) = path.split_once('/') else { return false };
    day.starts_with("dt=") && file.starts_with("part-") && file.contains(".parquet") && !file.contains('/')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn small(bytes: u64) -> Small {
        Small { piece: Piece { path: format!("f{bytes}"), bytes }, rows: 1 }
    }

    #[test]
    fn the_smallest_are_merged_first_and_a_single_file_is_left_alone() {
        let mut files: Vec<Small> = [50, 3, 70, 2, 1].into_iter().map(small).collect();
        let group: Vec<u64> = choose(&mut files, 60).unwrap().iter().map(|file| file.piece.bytes).collect();
        assert_eq!(group, [1, 2, 3, 50]);
        assert!(choose(&mut files, 60).is_none());
        assert!(choose(&mut vec![small(1)], 60).is_none());
        let mut many: Vec<Small> = (0..200).map(|_| small(1)).collect();
        assert_eq!(choose(&mut many, 60).unwrap().len(), 60);
        assert_eq!(choose(&mut many, 1000).unwrap().len(), TOGETHER);
    }

    proptest! {
        /// Merged again and again, at most one file of a day is less than half as large as it should be.
        #[test]
        fn one_small_file_is_left(sizes in prop::collection::vec(1..40u64, 0..300), target in 40..200u64) {
            let is_small = |file: &Small| file.piece.bytes < target / 2;
            let (mut files, mut large): (Vec<Small>, Vec<Small>) = sizes.iter().map(|s| small(*s)).partition(is_small);
            while let Some(group) = choose(&mut files, target) {
                prop_assert!(group.len() > 1);
                let merged = small(group.iter().map(|file| file.piece.bytes).sum());
                prop_assert!(merged.piece.bytes <= target);
                if is_small(&merged) { files.push(merged) } else { large.push(merged) }
            }
            prop_assert!(files.len() <= 1);
            let bytes = files.iter().chain(&large).map(|file| file.piece.bytes).sum::<u64>();
            prop_assert_eq!(bytes, sizes.iter().sum::<u64>());
        }
    }

    #[test]
    fn only_files_of_the_sink_are_ever_removed() {
        assert!(is_ours("dt=2025-11-21/part-00000-x-c000.zstd.parquet"));
        assert!(is_ours("dt=2025-11-21/part-00000-x-c000.zstd.parquet#1"));
        assert!(!is_ours("_delta_log/00000000000000000001.json"));
        assert!(!is_ours("dt=2025-11-21/notes.txt"));
        assert!(!is_ours("part-00000.parquet"));
    }
}

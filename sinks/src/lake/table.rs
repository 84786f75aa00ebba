//! One Delta table's log, as far as an appending writer needs it.
//!
//! The library's own commit loop resolves a conflict by committing the same actions again on a newer
//! version. For an append with offsets that is wrong: the newer version may hold the very rows. So this
//! module commits only *version + 1 of exactly the version whose offsets were checked*, by a put that fails
//! when the file exists, and leaves the decision after a conflict to the caller.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use deltalake_core::{
    DeltaTable, checkpoints, ensure_table_uri,
    kernel::{
        Action, EagerSnapshot, Metadata, MetadataExt, StructField, StructType, Transaction, new_metadata,
        transaction::{CommitData, TransactionError},
    },
    logstore::{CommitOrBytes, LogStore, LogStoreRef, StorageConfig, default_logstore},
    protocol::{DeltaOperation, SaveMode},
};
use object_store::{ObjectStore, prefix::PrefixStore};
use runtime::config::Secret;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::shape::PARTITION;
use crate::SinkError;

/// Where all tables live.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) location: String,
    pub(super) options: BTreeMap<String, Secret>,
}

impl Root {
    /// The log store of one table that is there already.
    pub(super) async fn existing(&self, table: &str) -> Result<Option<LogStoreRef>, SinkError> {
        if !self.location.contains("://") && !std::path::Path::new(&self.location).join(table).exists() {
            return Ok(None);
        }
        let store = self.log_store(table)?;
        let is_there = store.is_delta_table_location().await.map_err(|error| away(table, error))?;
        Ok(is_there.then_some(store))
    }

    /// The log store of one table. Makes the folder of a local one.
    pub(super) fn log_store(&self, table: &str) -> Result<LogStoreRef, SinkError> {
        let wrong = |error: &dyn std::fmt::Display| {
            SinkError::Fatal(format!("lake root `{}` cannot be used: {error}", self.location))
        };
        let location = format!("{}/{table}", self.location.trim_end_matches('/'));
        if !location.contains("://") {
            fs_err::create_dir_all(&location)
                .map_err(|error| SinkError::unavailable(&self.location, error))?;
        }
        // The library takes local paths apart, and knows no store whose support it was not built with: ours are
        // object_store's.
        let url = if location.contains("://") {
            Url::parse(&format!("{location}/")).map_err(|error| wrong(&error))?
        } else {
            ensure_table_uri(&location).map_err(|error| wrong(&error))?
        };
        let options = self.options.iter().map(|(name, value)| (name, value.expose()));
        let (store, path) = object_store::parse_url_opts(&url, options).map_err(|error| wrong(&error))?;
        let store: Arc<dyn ObjectStore> = Arc::from(store);
        let prefixed = Arc::new(PrefixStore::new(Arc::clone(&store), path));
        Ok(default_logstore(prefixed, store, &url, &StorageConfig::default()))
    }
}

/// Outcome of one attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Committed,
    /// Somebody else made this version.
    Conflict,
}

/// A table's log up to a known version.
pub(super) struct Table {
    pub(super) name: String,
    store: LogStoreRef,
    version: u64,
    /// Newest offset of each application id, at `version`.
    offsets: HashMap<String, i64>,
    /// Ids whose offsets were asked for.
    ids: BTreeSet<String>,
    /// Columns that the table has at `version`, as far as they were asked for.
    known: BTreeSet<String>,
    checkpoint_every: u64,
}

pub(super) fn away(name: &str, error: impl std::fmt::Display) -> SinkError {
    SinkError::unavailable(format!("lake table {name}"), error)
}

impl Table {
    /// Opens the table, creates it if missing, and adds columns that it does not have.
    pub(super) async fn open(
        root: &Root,
        name: &str,
        columns: Vec<StructField>,
        checkpoint_every: u64,
    ) -> Result<Self, SinkError> {
        let store = root.log_store(name)?;
        if !store.is_delta_table_location().await.map_err(|error| away(name, error))? {
            create(&store, name, &columns).await?;
        }
        let mut table = Self {
            name: name.to_owned(),
            store,
            version: 0,
            offsets: HashMap::new(),
            ids: BTreeSet::new(),
            known: BTreeSet::new(),
            checkpoint_every,
        };
        while !table.grow(&columns).await? {}
        Ok(table)
    }

    /// Where the table's files go.
    pub(super) fn objects(&self) -> Arc<dyn ObjectStore> {
        self.store.object_store(None)
    }

    async fn snapshot(&self, version: Option<u64>) -> Result<EagerSnapshot, SinkError> {
        let snapshot =
            EagerSnapshot::try_new(&self.store, version).await.map_err(|error| away(&self.name, error))?;
        let (reader, writer) =
            (snapshot.protocol().min_reader_version(), snapshot.protocol().min_writer_version());
        if reader > 1 || writer > 2 {
            return Err(SinkError::Fatal(format!(
                "lake table {} asks for Delta reader {reader} and writer {writer}; this sink writes for 1 and 2",
                self.name
            )));
        }
        Ok(snapshot)
    }

    /// The table's description with the columns that it does not have yet; `None` when it has all of them.
    fn growth(
        &self,
        snapshot: &EagerSnapshot,
        columns: &[StructField],
    ) -> Result<Option<(Metadata, Vec<StructField>)>, SinkError> {
        let schema = snapshot.schema();
        let mut fields: Vec<StructField> = schema.fields().cloned().collect();
        let mut added = Vec::new();
        for column in columns {
            match fields.iter().find(|field| field.name() == column.name()) {
                Some(field) if field.data_type() == column.data_type() => {}
                Some(field) => {
                    return Err(SinkError::Fatal(format!(
                        "lake table {}: column `{}` is {} there and {} here",
                        self.name,
                        column.name(),
                        field.data_type(),
                        column.data_type()
                    )));
                }
                None => added.push(column.clone()),
            }
        }
        if added.is_empty() {
            return Ok(None);
        }
        fields.extend(added.iter().cloned());
        let schema = StructType::try_new(fields).map_err(|error| away(&self.name, error))?;
        let metadata =
            snapshot.metadata().clone().with_schema(&schema).map_err(|error| away(&self.name, error))?;
        tracing::info!(table = %self.name, columns = ?added.iter().map(StructField::name).collect::<Vec<_>>(), "adds columns");
        Ok(Some((metadata, added)))
    }

    /// Adds missing columns; false when another process was faster and it must be tried again.
    async fn grow(&mut self, columns: &[StructField]) -> Result<bool, SinkError> {
        let snapshot = self.snapshot(None).await?;
        self.version = snapshot.version();
        if let Some((metadata, fields)) = self.growth(&snapshot, columns)? {
            let operation = DeltaOperation::AddColumn { fields };
            let commit = CommitData::new(vec![Action::Metadata(metadata)], operation, HashMap::new(), vec![]);
            if self.put(&commit).await? == Attempt::Conflict {
                return Ok(false);
            }
            self.version += 1;
        }
        self.known = columns.iter().map(|column| column.name().clone()).collect();
        Ok(true)
    }

    /// The action that gives the table the columns it lacks, on exactly the version last read.
    async fn growth_now(&mut self, columns: &[StructField]) -> Result<Option<Action>, SinkError> {
        if columns.iter().all(|column| self.known.contains(column.name())) {
            return Ok(None);
        }
        let snapshot = self.snapshot(Some(self.version)).await?;
        let growth = self.growth(&snapshot, columns)?;
        if growth.is_none() {
            self.known = columns.iter().map(|column| column.name().clone()).collect();
        }
        Ok(growth.map(|(metadata, _)| Action::Metadata(metadata)))
    }

    /// Reads the newest version and, on it, the offset of each of these ids (and of those asked for before).
    pub(super) async fn load_offsets(&mut self, ids: &[String]) -> Result<Vec<Option<i64>>, SinkError> {
        let snapshot = self.snapshot(None).await?;
        self.version = snapshot.version();
        self.ids.extend(ids.iter().cloned());
        self.offsets.clear();
        for id in &self.ids {
            let offset = snapshot
                .transaction_version(&self.store, id)
                .await
                .map_err(|error| away(&self.name, error))?;
            if let Some(offset) = offset {
                self.offsets.insert(id.clone(), offset);
            }
        }
        Ok(ids.iter().map(|id| self.offset(id)).collect())
    }

    /// The last offset that the table holds under this id, at the version last read. Ids must have been
    /// loaded once by [`Table::load_offsets`].
    pub(super) fn offset(&self, id: &str) -> Option<i64> {
        self.offsets.get(id).copied()
    }

    /// Reads the versions that others have made since.
    pub(super) async fn refresh(&mut self) -> Result<(), SinkError> {
        loop {
            let next = self.version + 1;
            let entry = self.store.read_commit_entry(next).await.map_err(|error| away(&self.name, error))?;
            let Some(entry) = entry else { return Ok(()) };
            self.follow(&entry)?;
            self.version = next;
        }
    }

    fn follow(&mut self, entry: &[u8]) -> Result<(), SinkError> {
        for action in actions(entry) {
            match action {
                LogAction::Txn(txn) => {
                    self.offsets.insert(txn.app_id, txn.version);
                }
                // Whoever changed the columns may have changed them to others than ours.
                LogAction::MetaData(_) => self.known.clear(),
                LogAction::Protocol(protocol) if protocol.min_writer_version > 2 => {
                    return Err(SinkError::Fatal(format!(
                        "lake table {} was upgraded to Delta writer {}; this sink writes for 2",
                        self.name, protocol.min_writer_version
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// One attempt to append on exactly the version last read; columns that the table lacks come with it.
    pub(super) async fn append(
        &mut self,
        mut actions: Vec<Action>,
        columns: &[StructField],
        offsets: &[(String, i64)],
        info: HashMap<String, Value>,
    ) -> Result<Attempt, SinkError> {
        actions.extend(self.growth_now(columns).await?);
        let now = chrono::Utc::now().timestamp_millis();
        let txns = offsets
            .iter()
            .map(|(id, offset)| Transaction::new_with_last_update(id, *offset, Some(now)))
            .collect();
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(vec![PARTITION.to_owned()]),
            predicate: None,
        };
        let attempt = self.put(&CommitData::new(actions, operation, info, txns)).await?;
        if attempt == Attempt::Committed {
            self.version += 1;
            self.offsets.extend(offsets.iter().cloned());
            self.known = columns.iter().map(|column| column.name().clone()).collect();
        }
        Ok(attempt)
    }

    async fn put(&self, commit: &CommitData) -> Result<Attempt, SinkError> {
        put(&self.store, &self.name, self.version + 1, commit).await
    }

    /// Writes a checkpoint if it is time. Readers are faster for it, nobody depends on it.
    pub(super) async fn checkpoint(&self) {
        if self.version.is_multiple_of(self.checkpoint_every) {
            checkpoint(&self.store, &self.name, self.version).await;
        }
    }
}

/// Writes a checkpoint of this version; a failure is only logged.
pub(super) async fn checkpoint(store: &LogStoreRef, name: &str, version: u64) {
    let mut table = DeltaTable::new(Arc::clone(store));
    let written = match table.load_version(version).await {
        Ok(()) => checkpoints::create_checkpoint(&table, None).await,
        Err(error) => Err(error),
    };
    match written {
        Ok(()) => tracing::debug!(table = name, version, "checkpoint written"),
        Err(error) => tracing::warn!(table = name, %error, "no checkpoint written"),
    }
}

/// One attempt to make exactly this version.
pub(super) async fn put(
    store: &LogStoreRef,
    name: &str,
    version: u64,
    commit: &CommitData,
) -> Result<Attempt, SinkError> {
    let bytes = commit.get_bytes().map_err(|error| away(name, error))?;
    match store.write_commit_entry(version, CommitOrBytes::LogBytes(bytes), uuid::Uuid::new_v4()).await {
        Ok(()) => Ok(Attempt::Committed),
        Err(TransactionError::VersionAlreadyExists(_)) => Ok(Attempt::Conflict),
        // Perhaps it is there and only the answer was lost: the next attempt reads the log first.
        Err(error) => Err(away(name, error)),
    }
}

async fn create(store: &LogStoreRef, name: &str, columns: &[StructField]) -> Result<(), SinkError> {
    fn broken(name: &str, error: &dyn std::fmt::Display) -> SinkError {
        SinkError::Fatal(format!("lake table {name}: {error}"))
    }
    let schema = StructType::try_new(columns.to_vec()).map_err(|error| away(name, error))?;
    // The log is the proof of what was written, so it is kept; checkpoints keep reading fast.
    let settings = [("delta.enableExpiredLogCleanup", "false")];
    let metadata: Metadata = new_metadata(&schema, [PARTITION], settings)
        .and_then(|metadata| metadata.with_name(name.to_owned()))
        .map_err(|error| broken(name, &error))?;
    let protocol: deltalake_core::kernel::Protocol =
        serde_json::from_value(serde_json::json!({ "minReaderVersion": 1, "minWriterVersion": 2 }))
            .map_err(|error| broken(name, &error))?;
    let operation = DeltaOperation::Create {
        mode: SaveMode::ErrorIfExists,
        location: store.root_url().clone(),
        protocol: protocol.clone(),
        metadata: metadata.clone(),
    };
    let actions = vec![Action::Protocol(protocol), Action::Metadata(metadata)];
    let bytes = CommitData::new(actions, operation, HashMap::new(), vec![])
        .get_bytes()
        .map_err(|error| away(name, error))?;
    match store.write_commit_entry(0, CommitOrBytes::LogBytes(bytes), uuid::Uuid::new_v4()).await {
        Ok(()) => tracing::info!(table = name, "created"),
        Err(TransactionError::VersionAlreadyExists(_)) => {}
        Err(error) => return Err(away(name, error)),
    }
    Ok(())
}

/// The actions of a log entry that a reader of this module needs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum LogAction {
    Txn(Txn),
    Protocol(ProtocolVersions),
    MetaData(Value),
    Add(AddedFile),
    Remove(RemovedFile),
    CommitInfo(Value),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Txn {
    pub(super) app_id: String,
    pub(super) version: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProtocolVersions {
    pub(super) min_writer_version: i32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AddedFile {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) partition_values: HashMap<String, Option<String>>,
    pub(super) data_change: bool,
    pub(super) stats: Option<String>,
    pub(super) tags: Option<HashMap<String, Option<String>>>,
}

impl AddedFile {
    /// Rows, as the statistics say.
    pub(super) fn rows(&self) -> Option<u64> {
        let statistics: Value = serde_json::from_str(self.stats.as_deref()?).ok()?;
        statistics["numRecords"].as_u64()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RemovedFile {
    pub(super) path: String,
    pub(super) data_change: bool,
}

/// The known actions of a log entry, in order.
pub(super) fn actions(entry: &[u8]) -> impl Iterator<Item = LogAction> + '_ {
    entry.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

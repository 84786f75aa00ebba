//! Everything about one table: what it holds, and the steps of a commit.

use std::{collections::HashMap, sync::Arc};

use deltalake_core::kernel::{Action, Add};
use eventlog::dead_letter::DeadLetter;
use object_store::{ObjectStoreExt as _, path::Path};
use runtime::failpoint;
use schemas::record::RecordKind;
use serde_json::{Value, json};

use super::{
    UPLOAD,
    files::{self, DataFile, Writing},
    held::{Arrival, CutError, Held},
    shape::{Content, PARTITION, Shape},
    table::{Attempt, Root, Table},
};
use crate::{DeadLetters, SinkError, batch::Batch};

/// Key of our part of a commit's information.
pub(super) const INFO: &str = "varta";
/// Tag of a file that holds its hash.
pub(super) const HASH_TAG: &str = "varta.sha256";

/// Files that are stored but not yet named in the log.
pub(super) struct Prepared {
    /// Edition of [`Held`] that they were made of.
    edition: u64,
    adds: Vec<Action>,
    files: Vec<Value>,
}

/// One table and what is held for it.
pub(super) struct TableWriter {
    name: String,
    topic: Arc<str>,
    app: String,
    shape: Shape,
    writing: Writing,
    table: Option<Table>,
    held: Held,
    prepared: Option<Prepared>,
}

impl TableWriter {
    pub(super) fn new(
        name: String,
        topic: Arc<str>,
        app: &str,
        content: Content,
        writing: Writing,
    ) -> Result<Self, SinkError> {
        let shape = Shape::new(content)?;
        let app = app.to_owned();
        Ok(Self { name, topic, app, shape, writing, table: None, held: Held::default(), prepared: None })
    }

    pub(super) async fn open(&mut self, root: &Root, checkpoint_every: u64) -> Result<(), SinkError> {
        if self.table.is_none() {
            let columns = self.shape.delta_columns()?;
            self.table = Some(Table::open(root, &self.name, columns, checkpoint_every).await?);
        }
        Ok(())
    }

    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    fn id(&self, partition: i32) -> String {
        format!("{}:{}:{partition}", self.app, self.topic)
    }

    fn not_open(&self) -> SinkError {
        SinkError::Fatal(format!("lake table {} is used before it is open", self.name))
    }

    /// The offset after the last one that the table holds, freshly read.
    pub(super) async fn next_offsets(&mut self, partitions: &[i32]) -> Result<Vec<Option<i64>>, SinkError> {
        let ids: Vec<String> = partitions.iter().map(|partition| self.id(*partition)).collect();
        let not_open = self.not_open();
        let table = self.table.as_mut().ok_or(not_open)?;
        let offsets = table.load_offsets(&ids).await?;
        Ok(offsets.into_iter().map(|last| last.map(|last| last + 1)).collect())
    }

    /// Turns a batch into rows of the table and holds them.
    pub(super) async fn accept(
        &mut self,
        batch: Batch,
        letters: Vec<(i32, i64, DeadLetter)>,
    ) -> Result<(), SinkError> {
        let shape = self.shape.clone();
        let shaped = tokio::task::spawn_blocking(move || arrival(&shape, batch, letters));
        let arrival = shaped.await.map_err(|error| SinkError::Fatal(error.to_string()))??;
        self.held.push(arrival).map_err(|error| SinkError::Fatal(error.to_string()))
    }

    pub(super) fn discard(&mut self, partitions: &[i32]) {
        if let Err(error) = self.held.discard(partitions) {
            // Cutting rows in memory cannot fail; if it did, reading all again is right.
            tracing::error!(table = %self.name, %error, "everything held is dropped and read again");
            self.held.clear();
        }
    }

    /// Commits everything held. After an error it may be called again.
    pub(super) async fn commit(&mut self, letters: &DeadLetters) -> Result<(), SinkError> {
        loop {
            self.cut().await?;
            if self.held.is_empty() {
                return Ok(());
            }
            letters.deliver(self.held.letters()).await?;
            self.held.letters_delivered();
            self.prepare().await?;
            failpoint::hit("lake.after_files");
            failpoint::hit("lake.before_commit");
            if self.append().await? == Attempt::Committed {
                break;
            }
            tracing::debug!(table = %self.name, "another commit came first, checks again");
        }
        failpoint::hit("lake.after_commit");
        if let Some(table) = &self.table {
            table.checkpoint().await;
        }
        Ok(())
    }

    /// Reads the log to its end and drops what the table has.
    pub(super) async fn cut(&mut self) -> Result<(), SinkError> {
        let not_open = self.not_open();
        let table = self.table.as_mut().ok_or(not_open)?;
        table.refresh().await?;
        let id = |partition: i32| format!("{}:{}:{partition}", self.app, self.topic);
        let before = self.held.count();
        let cut = self.held.cut(|partition| table.offset(&id(partition)).map(|last| last + 1));
        if self.held.count() < before {
            let rows = before - self.held.count();
            tracing::info!(table = %self.name, rows, "skips rows that another process has committed");
        }
        cut.map_err(|error| match error {
            CutError::Arrow(error) => SinkError::Fatal(error.to_string()),
            gap => SinkError::Stale(format!("lake table {}: {gap}", self.name)),
        })
    }

    /// Writes and uploads the files of what is held, unless that was done already.
    pub(super) async fn prepare(&mut self) -> Result<(), SinkError> {
        if self.prepared.as_ref().is_some_and(|prepared| prepared.edition == self.held.edition()) {
            return Ok(());
        }
        let (shape, rows, writing) = (self.shape.clone(), self.held.rows().to_vec(), self.writing.clone());
        let written = tokio::task::spawn_blocking(move || files::write(&shape, &rows, &writing));
        let files = written.await.map_err(|error| SinkError::Fatal(error.to_string()))??;
        let mut prepared = Prepared { edition: self.held.edition(), adds: Vec::new(), files: Vec::new() };
        for file in files {
            self.upload(&file).await?;
            prepared.files.push(json!({
                "path": file.path, "rows": file.rows, "bytes": file.content.len(), "sha256": file.sha256,
            }));
            prepared.adds.push(Action::Add(add(file)));
        }
        self.prepared = Some(prepared);
        Ok(())
    }

    async fn upload(&self, file: &DataFile) -> Result<(), SinkError> {
        let table = self.table.as_ref().ok_or_else(|| self.not_open())?;
        let away = |error: &dyn std::fmt::Display| {
            SinkError::unavailable(format!("lake table {}", self.name), error)
        };
        let path = Path::parse(&file.path).map_err(|error| SinkError::Fatal(error.to_string()))?;
        let objects = table.objects();
        let upload = objects.put(&path, file.content.clone().into());
        tokio::time::timeout(UPLOAD, upload)
            .await
            .map_err(|_| away(&"the upload took too long"))?
            .map_err(|error| away(&error))?;
        metrics::counter!("varta_sinks_lake_files_total").increment(1);
        metrics::counter!("varta_sinks_lake_bytes_total").increment(file.content.len() as u64);
        Ok(())
    }

    /// One attempt to name the prepared files in the log, on exactly the version that [`Self::cut`] read.
    pub(super) async fn append(&mut self) -> Result<Attempt, SinkError> {
        let prepared = self.prepared.as_ref().filter(|prepared| prepared.edition == self.held.edition());
        let prepared = prepared.ok_or_else(|| SinkError::Fatal("nothing is prepared".to_owned()))?;
        let spans: Vec<_> = self.held.spans().collect();
        let offsets: Vec<(String, i64)> =
            spans.iter().map(|span| (self.id(span.partition), span.to - 1)).collect();
        let ranges: Vec<Value> = spans
            .iter()
            .map(|span| {
                json!({
                    "topic": &*self.topic, "partition": span.partition, "from": span.from, "to": span.to,
                    "rows": self.held.rows_of(span.partition),
                })
            })
            .collect();
        let info = json!({ "ranges": ranges, "files": prepared.files, "apart": self.held.apart() });
        let info = HashMap::from([(INFO.to_owned(), info)]);
        let adds = prepared.adds.clone();
        let rows = self.held.count();
        let not_open = self.not_open();
        let table = self.table.as_mut().ok_or(not_open)?;
        let attempt = table.append(adds, &offsets, info).await?;
        if attempt == Attempt::Committed {
            self.held.clear();
            self.prepared = None;
            metrics::counter!("varta_sinks_lake_commits_total", "table" => self.name.clone()).increment(1);
            tracing::debug!(table = %self.name, rows, partitions = spans.len(), "committed");
        }
        Ok(attempt)
    }
}

fn arrival(shape: &Shape, batch: Batch, letters: Vec<(i32, i64, DeadLetter)>) -> Result<Arrival, SinkError> {
    let mut arrival = Arrival { spans: batch.spans, letters, ..Arrival::default() };
    for rows in batch.rows {
        let (kind, places) = (rows.kind, Arc::clone(&rows.places));
        if let Some(rows) = shape.shape(rows)? {
            arrival.rows.push(rows);
        } else {
            let what = match kind {
                Some(RecordKind::Clock) => "clock",
                Some(RecordKind::Rejected) => "rejected",
                _ => "other",
            };
            arrival.apart.extend(places.iter().map(|place| (place.partition, place.offset, what)));
        }
    }
    if shape.content == Content::Records && !batch.plain.is_empty() {
        arrival.rows.push(shape.shape_records(&batch.plain)?);
    }
    Ok(arrival)
}

fn add(file: DataFile) -> Add {
    Add {
        path: file.path,
        partition_values: HashMap::from([(PARTITION.to_owned(), Some(file.day))]),
        size: file.content.len() as i64,
        modification_time: chrono::Utc::now().timestamp_millis(),
        data_change: true,
        stats: Some(file.statistics),
        tags: Some(HashMap::from([(HASH_TAG.to_owned(), Some(file.sha256))])),
        ..Add::default()
    }
}

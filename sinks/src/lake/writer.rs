//! Everything about one table: what it holds, and the steps of a commit.
//!
//! Rows that were logged long after their day are *late*. They are held apart and longer, so that a machine which
//! brings a month of its past does not add thirty small files each minute. Each kind has offsets of its own in the
//! table: what is not late goes ahead, and late rows are read again from their own offset after a crash. Which kind
//! a row is depends on the record alone, so every reader of the log says the same.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use deltalake_core::kernel::{Action, Add};
use eventlog::dead_letter::DeadLetter;
use object_store::{ObjectStoreExt as _, path::Path};
use runtime::failpoint;
use schemas::record::RecordKind;
use serde_json::{Value, json};

use super::{
    UPLOAD, dates,
    encoding::Writing,
    files::{self, DataFile},
    held::{Arrival, CutError, Held},
    mill::Mill,
    order::{self, Ordered},
    shape::{Content, PARTITION, Shape},
    table::{Attempt, Root, Table},
};
use crate::{
    DeadLetters, SinkError,
    batch::{Batch, Rows, Span},
    column,
};

/// Key of our part of a commit's information.
pub(super) const INFO: &str = "varta";
/// Tag of a file that holds its hash.
pub(super) const HASH_TAG: &str = "varta.sha256";
/// Files that were stored so long ago and are still in no commit are written again: a vacuum may take them.
const STALE: Duration = Duration::from_hours(12);

/// When a table is committed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: usize,
    pub(super) bytes: u64,
    pub(super) age: Duration,
    pub(super) late_age: Duration,
}

/// How much of what is held a commit takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// What is not late.
    Fresh,
    /// Late rows, too.
    Everything,
}

/// Files on their way into a commit.
struct Prepared {
    /// Editions of what is held that they are made of.
    of: (Scope, u64, u64),
    began: Instant,
    /// Rows of days that have no file yet.
    left: Option<(Arc<Ordered>, VecDeque<Range<usize>>)>,
    adds: Vec<Add>,
    /// A commit was tried with them: perhaps it is there and only the answer was lost.
    was_offered: bool,
}

/// One table and what is held for it.
pub(super) struct TableWriter {
    name: String,
    topic: Arc<str>,
    app: String,
    shape: Shape,
    writing: Writing,
    limits: Limits,
    mill: Arc<Mill>,
    table: Option<Table>,
    fresh: Held,
    late: Held,
    prepared: Option<Prepared>,
}

impl TableWriter {
    pub(super) fn new(
        name: String,
        topic: Arc<str>,
        app: &str,
        content: Content,
        writing: Writing,
        limits: Limits,
        mill: Arc<Mill>,
    ) -> Result<Self, SinkError> {
        let (shape, app) = (Shape::new(content)?, app.to_owned());
        let (fresh, late) = (Held::default(), Held::default());
        Ok(Self { name, topic, app, shape, writing, limits, mill, table: None, fresh, late, prepared: None })
    }

    pub(super) async fn open(&mut self, root: &Root, checkpoint_every: u64) -> Result<(), SinkError> {
        if self.table.is_none() {
            let columns = self.shape.delta_columns()?;
            self.table = Some(Table::open(root, &self.name, columns, checkpoint_every).await?);
        }
        Ok(())
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.fresh.bytes() + self.late.bytes()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.late.is_empty()
    }

    /// From when on a commit is due, and of what.
    pub(super) fn due(&self, now: Instant) -> Option<(Instant, Scope)> {
        let full = |held: &Held| {
            held.is_broken() || held.count() >= self.limits.rows || held.bytes() as u64 >= self.limits.bytes
        };
        let at =
            |held: &Held, age| if full(held) { Some(now) } else { held.since().map(|since| since + age) };
        let fresh = at(&self.fresh, self.limits.age).map(|at| (at, Scope::Fresh));
        let late = at(&self.late, self.limits.late_age).filter(|_| self.late.count() > 0 || full(&self.late));
        match (fresh, late) {
            (_, Some(late)) if late <= now => Some((late, Scope::Everything)),
            (Some(fresh), Some(late)) if late < fresh.0 => Some((late, Scope::Everything)),
            (Some(fresh), _) => Some(fresh),
            (None, late) => late.map(|at| (at, Scope::Everything)),
        }
    }

    fn id(&self, partition: i32) -> String {
        format!("{}:{}:{partition}", self.app, self.topic)
    }

    /// Under this id is the offset to go on from with late rows.
    fn late_id(&self, partition: i32) -> String {
        format!("{}:{}:{partition}:late", self.app, self.topic)
    }

    fn not_open(&self) -> SinkError {
        SinkError::Fatal(format!("lake table {} is used before it is open", self.name))
    }

    fn stored(&self, partition: i32) -> Option<i64> {
        self.table.as_ref()?.offset(&self.id(partition)).map(|last| last + 1)
    }

    /// A table that has no offset for late rows is of a time when all rows went together.
    fn stored_late(&self, partition: i32) -> Option<i64> {
        self.table.as_ref()?.offset(&self.late_id(partition)).or_else(|| self.stored(partition))
    }

    /// Where to go on reading each partition, freshly asked of the table: at the first offset of which it may lack
    /// a row.
    pub(super) async fn next_offsets(&mut self, partitions: &[i32]) -> Result<Vec<Option<i64>>, SinkError> {
        let ids: Vec<String> =
            partitions.iter().flat_map(|partition| [self.id(*partition), self.late_id(*partition)]).collect();
        let not_open = self.not_open();
        self.table.as_mut().ok_or(not_open)?.load_offsets(&ids).await?;
        let next = |partition: &i32| match (self.stored(*partition), self.stored_late(*partition)) {
            (Some(fresh), Some(late)) => Some(fresh.min(late)),
            // Nothing but late rows was ever committed, or nothing at all.
            _ => None,
        };
        Ok(partitions.iter().map(next).collect())
    }

    /// Turns a batch into rows of the table and holds them. `known`: places of poison that needs no letter.
    pub(super) async fn accept(
        &mut self,
        batch: Batch,
        letters: Vec<(i32, i64, DeadLetter)>,
        known: &[(i32, i64)],
    ) -> Result<(), SinkError> {
        for rows in &batch.rows {
            let unknown = self.shape.unknown(rows);
            if !unknown.is_empty() {
                self.shape.grow(unknown);
            }
        }
        let shape = self.shape.clone();
        let (mut fresh, late) = self.mill.run(move || arrivals(&shape, batch, letters)).await??;
        fresh.apart.extend(known.iter().map(|(partition, offset)| (*partition, *offset, "dead_letter")));
        let fatal = |error: arrow::error::ArrowError| SinkError::Fatal(error.to_string());
        let (table, topic, app) = (self.table.as_ref(), &self.topic, &self.app);
        let stored =
            |partition: i32| table?.offset(&format!("{app}:{topic}:{partition}")).map(|last| last + 1);
        let stored_late = |partition: i32| {
            table?.offset(&format!("{app}:{topic}:{partition}:late")).or_else(|| stored(partition))
        };
        self.fresh.push(fresh, stored).map_err(fatal)?;
        self.late.push(late, stored_late).map_err(fatal)
    }

    pub(super) fn discard(&mut self, partitions: &[i32]) {
        let outcome = self.fresh.discard(partitions).and_then(|()| self.late.discard(partitions));
        if let Err(error) = outcome {
            // Cutting rows in memory cannot fail; if it did, reading all again is right.
            tracing::error!(table = %self.name, %error, "everything held is dropped and read again");
            self.fresh.clear();
            self.late.clear();
        }
    }

    /// Commits what is held. After an error it may be called again.
    pub(super) async fn commit(&mut self, scope: Scope, letters: &DeadLetters) -> Result<(), SinkError> {
        loop {
            self.cut().await?;
            if self.fresh.is_empty() && (scope == Scope::Fresh || self.late.is_empty()) {
                return Ok(());
            }
            letters.deliver(self.fresh.letters()).await?;
            self.fresh.letters_delivered();
            self.prepare(scope).await?;
            failpoint::hit("lake.after_files");
            failpoint::hit("lake.before_commit");
            if self.append(scope).await? == Attempt::Committed {
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
        self.table.as_mut().ok_or(not_open)?.refresh().await?;
        let before = self.fresh.count() + self.late.count();
        let (mut fresh, mut late) = (std::mem::take(&mut self.fresh), std::mem::take(&mut self.late));
        let cut = fresh.cut(|partition| self.stored(partition));
        let cut = cut.and_then(|()| late.cut(|partition| self.stored_late(partition)));
        (self.fresh, self.late) = (fresh, late);
        let after = self.fresh.count() + self.late.count();
        if after < before {
            let rows = before - after;
            tracing::info!(table = %self.name, rows, "skips rows that another process has committed");
        }
        cut.map_err(|error| match error {
            CutError::Arrow(error) => SinkError::Fatal(error.to_string()),
            gap => SinkError::Stale(format!("lake table {}: {gap}", self.name)),
        })
    }

    /// Writes and uploads the files of what is held, one after the other: only one is in memory. What was uploaded
    /// when this failed counts when it is called again.
    pub(super) async fn prepare(&mut self, scope: Scope) -> Result<(), SinkError> {
        let of = (scope, self.fresh.edition(), self.late.edition());
        let usable = |prepared: &mut Prepared| prepared.of == of && prepared.began.elapsed() < STALE;
        let mut prepared = if let Some(prepared) = self.prepared.take_if(usable) {
            prepared
        } else {
            self.abandon().await;
            self.ordered(of).await?
        };
        let uploaded = self.upload_all(&mut prepared).await;
        self.prepared = Some(prepared);
        uploaded
    }

    /// Removes files that no commit names.
    async fn abandon(&mut self) {
        let (Some(prepared), Some(table)) = (self.prepared.take(), &self.table) else { return };
        if prepared.was_offered {
            return;
        }
        for add in prepared.adds {
            if let Ok(path) = Path::parse(&add.path)
                && let Err(error) = table.objects().delete(&path).await
            {
                tracing::warn!(table = %self.name, %error, "a file that is not needed stays until the next vacuum");
            }
        }
    }

    async fn ordered(&self, of: (Scope, u64, u64)) -> Result<Prepared, SinkError> {
        let (shape, believable) = (self.shape.clone(), self.writing.believable);
        let mut rows = self.fresh.rows().to_vec();
        if of.0 == Scope::Everything {
            rows.extend_from_slice(self.late.rows());
        }
        let ordered = Arc::new(self.mill.run(move || Ordered::new(&shape, &rows, believable)).await??);
        let days = ordered.days().into();
        Ok(Prepared {
            of,
            began: Instant::now(),
            left: Some((ordered, days)),
            adds: Vec::new(),
            was_offered: false,
        })
    }

    async fn upload_all(&self, prepared: &mut Prepared) -> Result<(), SinkError> {
        while let Some((ordered, days)) = &mut prepared.left {
            let Some(day) = days.front().cloned() else {
                prepared.left = None;
                break;
            };
            let (shape, rows, writing) = (self.shape.clone(), Arc::clone(ordered), self.writing.clone());
            let file = self.mill.run(move || files::write_day(&shape, &rows, day, &writing)).await??;
            self.upload(&file).await?;
            days.pop_front();
            prepared.adds.push(add(file, true));
        }
        Ok(())
    }

    async fn upload(&self, file: &DataFile) -> Result<(), SinkError> {
        let table = self.table.as_ref().ok_or_else(|| self.not_open())?;
        upload(&*table.objects(), &self.name, file).await
    }

    /// One attempt to name the prepared files in the log, on exactly the version that [`Self::cut`] read.
    pub(super) async fn append(&mut self, scope: Scope) -> Result<Attempt, SinkError> {
        let of = (scope, self.fresh.edition(), self.late.edition());
        let prepared = self.prepared.as_mut().filter(|prepared| prepared.of == of && prepared.left.is_none());
        let prepared = prepared.ok_or_else(|| SinkError::Fatal("nothing is prepared".to_owned()))?;
        prepared.was_offered = true;
        let adds = prepared.adds.iter().cloned().map(Action::Add).collect();
        let fresh: Vec<Span> = self.fresh.spans().collect();
        let late: Vec<Span> = match scope {
            Scope::Everything => self.late.spans().collect(),
            Scope::Fresh => self.late.empty_fronts(),
        };
        let mut offsets: Vec<(String, i64)> =
            fresh.iter().map(|span| (self.id(span.partition), span.to - 1)).collect();
        offsets.extend(late.iter().map(|span| (self.late_id(span.partition), span.to)));
        let range = |span: &Span, rows: usize, late: bool| {
            json!({
                "topic": &*self.topic, "partition": span.partition, "from": span.from, "to": span.to,
                "rows": rows, "late": late,
            })
        };
        let late_rows = |span: &Span| match scope {
            Scope::Everything => self.late.rows_of(span.partition),
            Scope::Fresh => 0,
        };
        let mut ranges: Vec<Value> =
            fresh.iter().map(|span| range(span, self.fresh.rows_of(span.partition), false)).collect();
        let covered = late.iter().filter(|span| span.to > span.from);
        ranges.extend(covered.map(|span| range(span, late_rows(span), true)));
        let info = json!({ "ranges": ranges, "apart": self.fresh.apart() });
        let info = HashMap::from([(INFO.to_owned(), info)]);
        let columns = self.shape.delta_columns()?;
        let not_open = self.not_open();
        let table = self.table.as_mut().ok_or(not_open)?;
        let attempt = table.append(adds, &columns, &offsets, info).await?;
        if attempt == Attempt::Committed {
            let rows = self.fresh.count();
            self.fresh.clear();
            match scope {
                Scope::Everything => self.late.clear(),
                Scope::Fresh => self.late.advance(&late),
            }
            self.prepared = None;
            metrics::counter!("varta_sinks_lake_commits_total", "table" => self.name.clone()).increment(1);
            tracing::debug!(table = %self.name, rows, late_held = self.late.count(), "committed");
        }
        Ok(attempt)
    }
}

/// Stores a file whole, within a deadline.
pub(super) async fn upload(
    objects: &dyn object_store::ObjectStore,
    table: &str,
    file: &DataFile,
) -> Result<(), SinkError> {
    let away = |error: &dyn std::fmt::Display| SinkError::unavailable(format!("lake table {table}"), error);
    let path = Path::parse(&file.path).map_err(|error| SinkError::Fatal(error.to_string()))?;
    tokio::time::timeout(UPLOAD, objects.put(&path, file.content.clone()))
        .await
        .map_err(|_| away(&"the upload took too long"))?
        .map_err(|error| away(&error))?;
    metrics::counter!("varta_sinks_lake_files_total").increment(1);
    metrics::counter!("varta_sinks_lake_bytes_total").increment(file.content.content_length() as u64);
    Ok(())
}

/// What a batch brings: what is not late, and what is. Both cover the same offsets.
fn arrivals(
    shape: &Shape,
    batch: Batch,
    letters: Vec<(i32, i64, DeadLetter)>,
) -> Result<(Arrival, Arrival), SinkError> {
    let mut late = Arrival { spans: batch.spans.clone(), ..Arrival::default() };
    let mut fresh = Arrival { spans: batch.spans, letters, ..Arrival::default() };
    let mut shaped = Vec::with_capacity(batch.rows.len());
    for rows in batch.rows {
        let (kind, places) = (rows.kind, Arc::clone(&rows.places));
        if let Some(rows) = shape.shape(rows)? {
            shaped.push(rows);
        } else {
            let what = match kind {
                Some(RecordKind::Clock) => "clock",
                Some(RecordKind::Rejected) => "rejected",
                _ => "other",
            };
            fresh.apart.extend(places.iter().map(|place| (place.partition, place.offset, what)));
        }
    }
    if shape.content.is_plain() && !batch.plain.is_empty() {
        shaped.push(shape.shape_records(&batch.plain)?);
    }
    for rows in shaped {
        let in_time = in_time(shape, &rows)?;
        let (in_time, too_late) =
            rows.parted(in_time).map_err(|error| SinkError::Fatal(error.to_string()))?;
        fresh.rows.extend(in_time);
        late.rows.extend(too_late);
    }
    Ok((fresh, late))
}

fn in_time(shape: &Shape, rows: &Rows) -> Result<Vec<bool>, SinkError> {
    let times = order::numbers(rows, shape.time)?;
    let in_time = rows.places.iter().enumerate().map(|(row, place)| {
        column::number(&times, row)
            .is_none_or(|time| !dates::is_late(time, place.timestamp.saturating_mul(1000)))
    });
    Ok(in_time.collect())
}

/// The action that makes a stored file part of the table.
pub(super) fn add(file: DataFile, data_change: bool) -> Add {
    Add {
        path: file.path,
        partition_values: HashMap::from([(PARTITION.to_owned(), Some(file.day))]),
        size: file.content.content_length() as i64,
        modification_time: chrono::Utc::now().timestamp_millis(),
        data_change,
        stats: Some(file.statistics),
        tags: Some(HashMap::from([(HASH_TAG.to_owned(), Some(file.sha256))])),
        ..Add::default()
    }
}

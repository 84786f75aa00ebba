//! A Delta table as any reader sees it: the files that its log names.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Counts, Id};

/// All rows of a table.
pub struct LakeRows {
    /// Batches as the files hold them.
    pub batches: Vec<RecordBatch>,
}

/// Reads the live files of the table in this folder.
pub async fn read_lake(table: &Path) -> anyhow::Result<LakeRows> {
    let mut batches = Vec::new();
    for file in live_files(table).await? {
        for batch in
            ParquetRecordBatchReaderBuilder::try_new(fs_err::File::open(file)?.into_file())?.build()?
        {
            batches.push(batch?);
        }
    }
    Ok(LakeRows { batches })
}

/// Rows of the table as the footers of its live files tell; 0 for a table that does not exist yet.
pub async fn count_lake(table: &Path) -> anyhow::Result<usize> {
    if !table.join("_delta_log").exists() {
        return Ok(0);
    }
    let mut rows = 0;
    for file in live_files(table).await? {
        let footer = ParquetRecordBatchReaderBuilder::try_new(fs_err::File::open(file)?.into_file())?;
        rows += usize::try_from(footer.metadata().file_metadata().num_rows())?;
    }
    Ok(rows)
}

async fn live_files(table: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = fs_err::canonicalize(table)?;
    let url = deltalake_core::ensure_table_uri(folder.to_string_lossy())?;
    let opened =
        deltalake_core::open_table(url).await.with_context(|| format!("opening {}", table.display()))?;
    let path = |uri: String| folder.join(uri.strip_prefix("file://").unwrap_or(&uri)); // an absolute one stays
    Ok(opened.get_file_uris()?.map(path).collect())
}

impl LakeRows {
    /// Rows in all.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// How often each identity occurs.
    pub fn counts(&self) -> anyhow::Result<Counts> {
        let mut counts = Counts::new();
        for batch in &self.batches {
            let column = |name: &str| batch.column_by_name(name).with_context(|| format!("no column {name}"));
            let agent = arrow::compute::cast(column("agent_id")?, &arrow::datatypes::DataType::Utf8)?;
            let lane = arrow::compute::cast(column("lane")?, &arrow::datatypes::DataType::Utf8)?;
            let event = arrow::compute::cast(column("event_id")?, &arrow::datatypes::DataType::Utf8)?;
            let (agent, lane, event) =
                (agent.as_string::<i32>(), lane.as_string::<i32>(), event.as_string::<i32>());
            let session = column("session")?.as_primitive::<Int64Type>();
            let seq = column("seq")?.as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let agent_id = agent.value(row).to_owned();
                let id = if seq.value(row) < 0 && event.is_valid(row) {
                    Id::Foreign { agent_id, event_id: event.value(row).to_owned() }
                } else {
                    Id::Own {
                        agent_id,
                        session: session.value(row),
                        lane: lane.value(row).to_owned(),
                        seq: seq.value(row),
                    }
                };
                *counts.entry(id).or_default() += 1;
            }
        }
        Ok(counts)
    }
}

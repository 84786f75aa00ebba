//! How columns are written: encodings, statistics and bloom filters, chosen by what a column is.
//!
//! The choices are measured by `sinks/examples/lake_sizes.rs`; ARCHITECTURE.md has the numbers.

use arrow::datatypes::{DataType, Field};
use parquet::{
    basic::{Compression, Encoding, ZstdLevel},
    file::{
        metadata::SortingColumn,
        properties::{EnabledStatistics, WriterProperties, WriterVersion},
    },
    schema::types::ColumnPath,
};

use super::{
    dates::Believable,
    files::broken,
    shape::{BY_ARRIVAL, Layout},
};
use crate::SinkError;

/// Encoded bytes at which a row group ends although it has fewer rows: wide rows must not fill the memory.
const ROW_GROUP_BYTES: usize = 32 << 20;
/// Columns that people look single rows up by, where order and bounds do not help.
const LOOKED_UP: [&str; 7] = ["agent_id", "event_id", "finding_uid", "user", "path", "sha256", "origin"];
/// Share of files that a bloom filter lets through in vain.
const BLOOM_FALSE: f64 = 0.01;
/// Text whose bounds say nothing, being different in each row: only its bytes would be paid for.
const WITHOUT_BOUNDS: [&str; 6] = ["body", "extra", "evidence", "value", "headers", "command_line"];

/// Whole numbers that hardly repeat but grow or wander: differences are smaller than a dictionary. Other whole numbers and
/// all fractions, which monitors round, are smallest with one.
const GROWING: [&str; 4] = ["seq", "offset", "mem_used_bytes", "disk_used_bytes"];

/// A column of tables in which many rows have the same instant.
const SNAPSHOT: &str = "snapshot_id";

/// How files are written.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    pub(super) row_group_rows: usize,
    pub(super) zstd_level: i32,
    pub(super) believable: Believable,
}

/// The columns that the rows of a file are sorted by.
pub(super) fn order(layout: &Layout) -> Vec<SortingColumn> {
    let ascending =
        |column: usize| SortingColumn { column_idx: column as i32, descending: false, nulls_first: true };
    let columns = [layout.agent].into_iter().chain(layout.series.iter().copied());
    columns.chain([layout.time, layout.tie]).map(ascending).collect()
}

/// The properties of a file with these columns. `is_sorted`: its rows are in [`order`].
pub(super) fn properties(
    layout: &Layout,
    how: &Writing,
    is_sorted: bool,
) -> Result<WriterProperties, SinkError> {
    let level = ZstdLevel::try_new(how.zstd_level).map_err(broken)?;
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(how.row_group_rows))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_dictionary_enabled(true)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_sorting_columns(is_sorted.then(|| order(layout)))
        .set_created_by("varta".to_owned());
    for (index, field) in layout.schema.fields().iter().enumerate() {
        let path = ColumnPath::from(field.name().as_str());
        if let Some(encoding) = encoding(layout, field) {
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path.clone(), encoding);
        }
        // Pages are skipped by the columns that rows are sorted by; for others the bounds of each page cost more
        // than they save.
        if index == layout.agent || index == layout.time {
            properties = properties.set_column_statistics_enabled(path.clone(), EnabledStatistics::Page);
        }
        if WITHOUT_BOUNDS.contains(&field.name().as_str()) || field.name() == BY_ARRIVAL {
            properties = properties.set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
        }
        if LOOKED_UP.contains(&field.name().as_str()) && *field.data_type() == DataType::Utf8 {
            properties = properties
                .set_column_bloom_filter_enabled(path.clone(), true)
                .set_column_bloom_filter_fpp(path.clone(), BLOOM_FALSE)
                // it is folded down to the values that there are
                .set_column_bloom_filter_max_ndv(path, how.row_group_rows as u64);
        }
    }
    Ok(properties.build())
}

/// `None`: a dictionary, and plain values once it has grown too large.
fn encoding(layout: &Layout, field: &Field) -> Option<Encoding> {
    match field.data_type() {
        // Rows of one snapshot have the same times: a run of one entry is smaller than steps that are mostly none.
        DataType::Timestamp(..) if layout.schema.index_of(SNAPSHOT).is_ok() => None,
        // Those of one monitor grow by its interval.
        DataType::Timestamp(..) => Some(Encoding::DELTA_BINARY_PACKED),
        DataType::Int64 if GROWING.contains(&field.name().as_str()) => Some(Encoding::DELTA_BINARY_PACKED),
        _ => None,
    }
}

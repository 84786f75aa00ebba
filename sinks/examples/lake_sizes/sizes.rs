//! What was measured.

use std::collections::BTreeMap;
use std::path::Path;

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use schemas::topics::Topics;
use sinks::lake::{LakeConfig, info};

/// Begins a new measurement of the peak.
pub(crate) fn forget_peak() {
    fs_err::write("/proc/self/clear_refs", "5").unwrap();
}

/// Prints the tables that have rows; how many rows there are in all.
pub(crate) async fn show(config: &LakeConfig, topics: &Topics) -> u64 {
    let mut rows = 0;
    for table in info::info(config, topics).await.unwrap() {
        let all = table.total();
        rows += all.rows;
        if all.rows > 0 {
            println!(
                "  {:<16} {:>9} rows, {:>5} files, {:>8.1} MiB, {:>6.2} bytes an event; a day has up to {} files, {} below 8 MiB",
                table.table,
                all.rows,
                all.files,
                all.bytes as f64 / 1_048_576.0,
                all.bytes as f64 / all.rows as f64,
                table.days.values().map(|day| day.files).max().unwrap_or_default(),
                table.days.values().map(|day| day.small).max().unwrap_or_default(),
            );
        }
    }
    rows
}

/// Compressed bytes a row of each column over the files of a table, the dearest first, and what is not in columns.
pub(crate) async fn by_column(folder: &Path, table: &str) -> String {
    let (mut columns, mut rows): (BTreeMap<String, i64>, i64) = (BTreeMap::new(), 0);
    let folder = fs_err::canonicalize(folder).unwrap().join(table);
    let url = deltalake_core::ensure_table_uri(folder.to_string_lossy()).unwrap();
    let opened = deltalake_core::open_table(url).await.unwrap();
    let mut rest = 0;
    for uri in opened.get_file_uris().unwrap() {
        let file = fs_err::File::open(folder.join(uri.strip_prefix("file://").unwrap_or(&uri))).unwrap();
        rest += file.metadata().unwrap().len() as i64;
        let reader = SerializedFileReader::new(file.into_parts().0).unwrap();
        for group in reader.metadata().row_groups() {
            rows += group.num_rows();
            for column in group.columns() {
                let bytes = column.compressed_size();
                rest -= bytes;
                *columns.entry(column.column_path().string()).or_default() += bytes;
            }
        }
    }
    let each = |bytes: i64| bytes as f64 / rows.max(1) as f64;
    let mut all: Vec<(String, i64)> = columns.into_iter().collect();
    all.sort_by_key(|(_, bytes)| -bytes);
    let dearest: Vec<String> =
        all.into_iter().take(18).map(|(name, bytes)| format!("{name} {:.2}", each(bytes))).collect();
    format!("{}, beside columns {:.2}", dearest.join(", "), each(rest))
}

//! A merge is bounded in bytes, however wide the rows are.

use arrow::array::ArrayRef;
use parquet::arrow::ArrowWriter;

use super::*;

/// A file of a table with the columns that rows are sorted by, and text of `width` bytes in each row: each its own, which a
/// dictionary holds as often.
fn file(rows: usize, width: usize) -> Bytes {
    file_of((0..rows).map(|row| format!("{row}{}", "x".repeat(width))).collect())
}

fn file_of(bodies: Vec<String>) -> Bytes {
    let rows = bodies.len();
    let texts = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; rows])) };
    let numbers = || -> ArrayRef { Arc::new(Int64Array::from_iter_values(0..rows as i64)) };
    let batch = RecordBatch::try_from_iter([
        ("agent_id", texts("a")),
        ("event_time", numbers()),
        ("seq", numbers()),
        ("body", Arc::new(StringArray::from(bodies)) as ArrayRef),
    ])
    .unwrap();
    let mut content = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut content, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    content.into()
}

fn opened(content: Bytes) -> ParquetRecordBatchReaderBuilder<Bytes> {
    open(content).unwrap()
}

#[test]
fn wide_rows_are_decoded_a_few_at_a_time() {
    let narrow = file(2000, 10);
    assert_eq!(rows_at_once(&opened(narrow)), ROWS);
    let wide = file(20, 200_000);
    let at_once = rows_at_once(&opened(wide));
    assert!((1..=6).contains(&at_once), "{at_once}");
    // Small in the file, for a dictionary holds it once, and as wide when it is decoded.
    let repeated = file_of(vec!["x".repeat(200_000); 300]);
    assert!(repeated.len() < 1_000_000, "{} bytes", repeated.len());
    let at_once = rows_at_once(&opened(repeated));
    assert!((1..=6).contains(&at_once), "{at_once}");
    // A page of wide rows before two of narrow ones.
    let mixed = (0..60_000).map(|row| "x".repeat(if row < 20_000 { 5000 } else { 1 })).collect();
    let at_once = rows_at_once(&opened(file_of(mixed)));
    assert!((150..=210).contains(&at_once), "{at_once}");
}

#[test]
fn a_chunk_of_wide_rows_is_full_by_its_bytes() {
    let wide = file(40, 200_000);
    let rows = opened(wide).with_batch_size(5).build().unwrap();
    let mut chunk = Chunk::default();
    let mut taken = 0;
    for batch in rows {
        let batch = batch.unwrap();
        let slot = chunk.hold(&batch);
        for row in 0..batch.num_rows() {
            if chunk.is_full() {
                break;
            }
            chunk.pick(slot, row);
            taken += 1;
        }
    }
    assert!((8..=12).contains(&taken), "{taken}");
}

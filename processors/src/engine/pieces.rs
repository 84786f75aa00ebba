//! An operator's rows in pieces, so that writing a state down takes the memory of one piece, however large the state.
//!
//! ```text
//!  keys ─▶ piece ─▶ chunk ─▶ producer     rows of the next piece are made once the one before is on its way
//! ```

use std::iter::Peekable;

use arrow::array::RecordBatch;

use super::operator::StateError;

/// A piece has no more rows than this.
pub const PIECE_ROWS: usize = 16_384;
/// A piece takes no further row once its rows have so many bytes: with what Arrow adds it fits into one chunk of the
/// changelog unless its last row is large.
pub const PIECE_BYTES: usize = 256 * 1024;
/// What a row costs beside its texts: offsets, operation, a few numbers.
const ROW: usize = 16;

/// Pieces of a state, made one after the other. Whoever asks for them takes all, or throws the state away.
pub type Pieces<'a> = Box<dyn Iterator<Item = Result<RecordBatch, StateError>> + 'a>;

/// The rows of one piece: ends when there are enough of them.
pub struct Piece<'a, I: Iterator> {
    rows: &'a mut Peekable<I>,
    left: usize,
    bytes: usize,
}

impl<I: Iterator> Piece<'_, I> {
    /// Tells the bytes of the row that was taken last.
    pub fn took(&mut self, bytes: usize) {
        self.bytes += bytes;
    }
}

impl<I: Iterator> Iterator for Piece<'_, I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        if self.left == 0 || self.bytes >= PIECE_BYTES {
            return None;
        }
        self.left -= 1;
        self.bytes += ROW;
        self.rows.next()
    }
}

/// Pieces of `rows`. `batch` makes one of each: it tells the bytes of every row that it takes
/// ([`Piece::took`]), and takes until there are no more.
pub fn pieces<'a, I: Iterator + 'a>(
    rows: I,
    mut batch: impl FnMut(&mut Piece<'_, I>) -> Result<RecordBatch, StateError> + 'a,
) -> Pieces<'a> {
    let mut rows = rows.peekable();
    Box::new(std::iter::from_fn(move || {
        rows.peek()?;
        Some(batch(&mut Piece { rows: &mut rows, left: PIECE_ROWS, bytes: 0 }))
    }))
}

/// One piece, for what is small however long it is kept.
pub fn one<'a>(rows: Result<RecordBatch, StateError>) -> Pieces<'a> {
    Box::new(std::iter::once(rows))
}

/// Batches in groups that are a piece each: large ones are cut, small ones come together. Copies nothing.
pub fn groups(batches: impl IntoIterator<Item = RecordBatch>) -> Vec<Vec<RecordBatch>> {
    let mut groups: Vec<Vec<RecordBatch>> = Vec::new();
    let (mut rows, mut bytes) = (PIECE_ROWS, PIECE_BYTES);
    for batch in batches {
        let step = rows_of_a_piece(&batch);
        for from in (0..batch.num_rows()).step_by(step) {
            let part = batch.slice(from, step.min(batch.num_rows() - from));
            let size = batch_bytes(&part);
            match groups.last_mut() {
                Some(group) if rows + part.num_rows() <= PIECE_ROWS && bytes + size <= PIECE_BYTES => {
                    (rows, bytes) = (rows + part.num_rows(), bytes + size);
                    group.push(part);
                }
                _ => {
                    (rows, bytes) = (part.num_rows(), size);
                    groups.push(vec![part]);
                }
            }
        }
    }
    groups
}

/// How many rows like these make a piece; at least one.
pub fn rows_of_a_piece(like: &RecordBatch) -> usize {
    let row = batch_bytes(like) / like.num_rows().max(1);
    (PIECE_BYTES / row.max(1)).clamp(1, PIECE_ROWS)
}

/// Bytes of the rows of a batch, without what its slices leave out.
pub fn batch_bytes(rows: &RecordBatch) -> usize {
    rows.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0)).sum()
}

/// All pieces, none of them larger than a piece may be: `last` is what its last row may add.
#[cfg(test)]
pub(crate) fn small(pieces: Pieces<'_>, last: usize) -> Vec<RecordBatch> {
    let pieces: Vec<RecordBatch> = pieces.collect::<Result<_, _>>().unwrap();
    for piece in &pieces {
        let (rows, bytes) = (piece.num_rows(), batch_bytes(piece));
        assert!(
            rows <= PIECE_ROWS && bytes <= PIECE_BYTES + PIECE_BYTES / 4 + last,
            "{rows} rows, {bytes} bytes"
        );
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};
    use arrow::compute::concat_batches;

    use super::*;

    fn texts(lengths: &[usize]) -> RecordBatch {
        let texts: StringArray = lengths.iter().map(|length| Some("x".repeat(*length))).collect();
        RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap()
    }

    #[test]
    fn a_piece_ends_at_rows_or_bytes_and_nothing_is_left_out() {
        let lengths: Vec<usize> = (0..40_000)
            .map(|row| if row < 30_000 { 1 } else { row % 5_000 })
            .chain([2 * PIECE_BYTES])
            .collect();
        let all: Vec<RecordBatch> = pieces(lengths.iter().copied(), |piece| {
            let mut taken = Vec::new();
            while let Some(length) = piece.next() {
                piece.took(length);
                taken.push(length);
            }
            Ok(texts(&taken))
        })
        .collect::<Result<_, _>>()
        .unwrap();
        assert!(all.len() > 50, "{}", all.len());
        let largest = all[..all.len() - 1].iter().map(batch_bytes).max().unwrap();
        assert!(largest <= PIECE_BYTES + 5_000, "{largest}");
        assert!(all.iter().all(|piece| piece.num_rows() <= PIECE_ROWS));
        assert_eq!(concat_batches(&all[0].schema(), &all).unwrap(), texts(&lengths));
    }

    #[test]
    fn groups_cut_what_is_large_and_join_what_is_small() {
        let batches =
            [texts(&[10; 50]), texts(&[20; 50]), texts(&[1_000; 2_000]), texts(&vec![5; 40_000]), texts(&[])];
        let groups = groups(batches.clone());
        assert_eq!(groups[0].len(), 2, "the small ones");
        for group in &groups {
            assert!(group.iter().map(batch_bytes).sum::<usize>() <= PIECE_BYTES + 8 * group.len());
            assert!(group.iter().map(RecordBatch::num_rows).sum::<usize>() <= PIECE_ROWS);
        }
        let parts: Vec<RecordBatch> = groups.into_iter().flatten().collect();
        let schema = batches[0].schema();
        assert_eq!(concat_batches(&schema, &parts).unwrap(), concat_batches(&schema, &batches).unwrap());
    }
}

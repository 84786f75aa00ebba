//! One record of a state topic: a versioned header, then rows as an Arrow IPC stream.
//!
//! ```text
//! "VS" | format u8 | flags u8 | definition hash u64 | next input offset i64 | name length u16 | name |
//!      generation u32 | number u32 | Arrow IPC stream (may be empty)          all integers big endian
//! ```

use std::io::Cursor;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use thiserror::Error;

const MAGIC: [u8; 2] = *b"VS";
const FORMAT: u8 = 1;
const LAST_OF_COMMIT: u8 = 1;
const FIXED: usize = 2 + 1 + 1 + 8 + 8 + 2;

/// Chunks are cut so that header and rows stay below this many bytes.
pub const MAX_CHUNK_BYTES: usize = 512 * 1024;

/// Name under which each commit notes the next input offset; not an operator.
pub(crate) const OFFSET: &str = "_offset";

/// A chunk that cannot be read or written.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ChunkError {
    /// Not a chunk at all.
    #[error("not a state chunk: {0}")]
    NotAChunk(&'static str),
    /// Written by a later version of this program.
    #[error("state chunk has format {0}, this program reads format {FORMAT}; run the version that wrote it")]
    Format(u8),
    /// One row alone is larger than a chunk may be.
    #[error("one state row needs {0} bytes, a chunk holds {MAX_CHUNK_BYTES}")]
    RowTooLarge(usize),
    /// Arrow could not read or write the rows.
    #[error("state rows: {0}")]
    Rows(String),
}

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Operator name, or [`OFFSET`].
    pub operator: String,
    /// Definition hash of the operator that wrote the rows.
    pub definition: u64,
    /// Which rewrite of the operator's state this chunk belongs to.
    pub generation: u32,
    /// Position within the generation, from 0.
    pub number: u32,
    /// The input offset at which processing goes on once the commit of this chunk is applied.
    pub next_offset: i64,
    /// No further chunk of this partition belongs to the same commit.
    pub last_of_commit: bool,
}

impl Header {
    /// The record's key.
    pub fn key(&self) -> Bytes {
        key(&self.operator, self.generation, self.number)
    }

    fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED + self.operator.len() + 8);
        out.extend_from_slice(&MAGIC);
        out.push(FORMAT);
        out.push(if self.last_of_commit { LAST_OF_COMMIT } else { 0 });
        out.extend_from_slice(&self.definition.to_be_bytes());
        out.extend_from_slice(&self.next_offset.to_be_bytes());
        out.extend_from_slice(&(self.operator.len() as u16).to_be_bytes());
        out.extend_from_slice(self.operator.as_bytes());
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        out
    }
}

/// Key of a chunk: `operator/generation/number`.
pub(crate) fn key(operator: &str, generation: u32, number: u32) -> Bytes {
    Bytes::from(format!("{operator}/{generation}/{number}"))
}

/// Reads a key back; needed for tombstones, which have nothing but their key.
pub(crate) fn parse_key(key: &[u8]) -> Option<(&str, u32, u32)> {
    let mut parts = std::str::from_utf8(key).ok()?.rsplitn(3, '/');
    let number = parts.next()?.parse().ok()?;
    let generation = parts.next()?.parse().ok()?;
    Some((parts.next()?, generation, number))
}

/// A header without rows.
pub(crate) fn encode_header(header: &Header) -> Bytes {
    Bytes::from(header.write())
}

/// Header and rows.
pub(crate) fn encode(header: &Header, rows: &RecordBatch) -> Result<Bytes, ChunkError> {
    let mut writer = StreamWriter::try_new(header.write(), &rows.schema())
        .map_err(|error| ChunkError::Rows(error.to_string()))?;
    writer.write(rows).map_err(|error| ChunkError::Rows(error.to_string()))?;
    writer.into_inner().map(Bytes::from).map_err(|error| ChunkError::Rows(error.to_string()))
}

/// Splits a chunk into its header and the bytes of its rows.
pub fn decode(value: &Bytes) -> Result<(Header, Bytes), ChunkError> {
    if value.len() < FIXED {
        return Err(ChunkError::NotAChunk("too short"));
    }
    if value[..2] != MAGIC {
        return Err(ChunkError::NotAChunk("wrong magic"));
    }
    if value[2] != FORMAT {
        return Err(ChunkError::Format(value[2]));
    }
    let mut at = Reader { bytes: value, at: 4 };
    let definition = u64::from_be_bytes(at.take()?);
    let next_offset = i64::from_be_bytes(at.take()?);
    let length = usize::from(u16::from_be_bytes(at.take()?));
    let name = value.get(at.at..at.at + length).ok_or(ChunkError::NotAChunk("name cut off"))?;
    let operator =
        std::str::from_utf8(name).map_err(|_| ChunkError::NotAChunk("name is not UTF-8"))?.to_owned();
    at.at += length;
    let generation = u32::from_be_bytes(at.take()?);
    let number = u32::from_be_bytes(at.take()?);
    let last_of_commit = value[3] & LAST_OF_COMMIT != 0;
    let rows = value.slice(at.at..);
    Ok((Header { operator, definition, generation, number, next_offset, last_of_commit }, rows))
}

/// Reads the rows of a chunk.
pub(crate) fn rows(bytes: &Bytes) -> Result<Vec<RecordBatch>, ChunkError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    StreamReader::try_new(Cursor::new(bytes), None)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| ChunkError::Rows(error.to_string()))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ChunkError> {
        let found = self.bytes.get(self.at..self.at + N).and_then(|slice| slice.try_into().ok());
        self.at += N;
        found.ok_or(ChunkError::NotAChunk("header cut off"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn header() -> Header {
        Header {
            operator: "win/dows".into(),
            definition: 7,
            generation: 3,
            number: 12,
            next_offset: 99,
            last_of_commit: true,
        }
    }

    #[test]
    fn a_chunk_survives_the_round_trip() {
        let batch =
            RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]).unwrap();
        let (read, body) = decode(&encode(&header(), &batch).unwrap()).unwrap();
        assert_eq!(read, header());
        assert_eq!(rows(&body).unwrap(), vec![batch]);
        assert_eq!(parse_key(&header().key()), Some(("win/dows", 3, 12)));
    }

    #[test]
    fn every_cut_of_the_header_is_refused() {
        let whole = encode_header(&header());
        for end in 0..whole.len() {
            assert!(decode(&whole.slice(..end)).is_err(), "cut at {end}");
        }
        assert!(decode(&whole).is_ok());
    }

    #[test]
    fn a_later_format_is_named() {
        let mut bytes = encode_header(&header()).to_vec();
        bytes[2] = 9;
        assert_eq!(decode(&Bytes::from(bytes)), Err(ChunkError::Format(9)));
    }
}

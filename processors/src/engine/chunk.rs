//! One record of a state topic: a versioned header, then rows as an Arrow IPC stream. What begins the stream, its schema,
//! is left out where it is that of the chunk before: of a few wide rows it is the larger part.
//!
//! ```text
//! "VS" | format u8 | flags u8 | definition hash u64 | next input offset i64 | name length u16 | name |
//!      generation u32 | number u32 | Arrow IPC stream (may be empty)          all integers big endian
//! ```

use std::io::Cursor;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::ipc::reader::{StreamDecoder, StreamReader};
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use thiserror::Error;

const MAGIC: [u8; 2] = *b"VS";
const FORMAT: u8 = 2;
/// The first format: every chunk has its schema.
const FIRST_FORMAT: u8 = 1;
const LAST_OF_COMMIT: u8 = 1;
const WITHOUT_SCHEMA: u8 = 2;
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
    /// The rows have the schema of the chunk before, which is left out.
    pub without_schema: bool,
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
        out.push(
            u8::from(self.last_of_commit) * LAST_OF_COMMIT + u8::from(self.without_schema) * WITHOUT_SCHEMA,
        );
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

/// Header and rows. `schema` is how the stream of the chunk before began, nothing for the first; of this one after it.
pub(crate) fn encode(
    mut header: Header,
    rows: &RecordBatch,
    schema: &mut Bytes,
) -> Result<Bytes, ChunkError> {
    let room = super::pieces::batch_bytes(rows) + 64 * rows.num_columns() + 4096;
    let stream = StreamWriter::try_new(Vec::with_capacity(room), &rows.schema()).and_then(|mut writer| {
        writer.write(rows)?;
        writer.into_inner()
    });
    let stream = stream.map_err(|error| ChunkError::Rows(error.to_string()))?;
    header.without_schema = !schema.is_empty() && stream.starts_with(schema);
    let rows = if header.without_schema {
        &stream[schema.len()..]
    } else {
        *schema = Bytes::copy_from_slice(&stream[..schema_end(&stream).unwrap_or(0)]);
        &stream
    };
    let mut value = header.write();
    value.reserve_exact(rows.len());
    value.extend_from_slice(rows);
    Ok(Bytes::from(value))
}

/// Where the schema of a stream ends: a mark, the length of the message, the message.
fn schema_end(stream: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(stream.get(4..8)?.try_into().ok()?);
    (length as usize).checked_add(8).filter(|end| *end <= stream.len())
}

/// Splits a chunk into its header and the bytes of its rows.
pub fn decode(value: &Bytes) -> Result<(Header, Bytes), ChunkError> {
    if value.len() < FIXED {
        return Err(ChunkError::NotAChunk("too short"));
    }
    if value[..2] != MAGIC {
        return Err(ChunkError::NotAChunk("wrong magic"));
    }
    if !(FIRST_FORMAT..=FORMAT).contains(&value[2]) {
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
    let without_schema = value[3] & WITHOUT_SCHEMA != 0;
    let rows = value.slice(at.at..);
    Ok((
        Header { operator, definition, generation, number, next_offset, last_of_commit, without_schema },
        rows,
    ))
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

/// Reads the rows of many chunks of one operator in their order. Their schema takes longer to read than a few rows: it is
/// read once.
#[derive(Default)]
pub(crate) struct RowsReader {
    /// How the last stream began, and a decoder that has read that much. Nothing at first.
    schema: Bytes,
    decoder: StreamDecoder,
}

/// How a stream ends.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

impl RowsReader {
    /// How the stream of the last chunk began.
    pub(crate) fn schema(&self) -> &Bytes {
        &self.schema
    }

    /// The rows of the next chunk.
    pub(crate) fn read(
        &mut self,
        bytes: &Bytes,
        without_schema: bool,
    ) -> Result<Vec<RecordBatch>, ChunkError> {
        if without_schema {
            let rows = self.after_schema(bytes);
            return rows.ok_or_else(|| ChunkError::Rows("they do not follow the chunk before".to_owned()));
        }
        if !self.schema.is_empty()
            && bytes.starts_with(&self.schema)
            && let Some(rows) = self.after_schema(&bytes.slice(self.schema.len()..))
        {
            return Ok(rows);
        }
        let rows = rows(bytes)?;
        self.learn(bytes);
        Ok(rows)
    }

    /// Reads what follows the schema; nothing if none is known, if it ends in another way, or cannot be read. Then the
    /// schema is forgotten, for the decoder may be anywhere.
    fn after_schema(&mut self, bytes: &Bytes) -> Option<Vec<RecordBatch>> {
        let schema = std::mem::take(&mut self.schema);
        let end = bytes.len().checked_sub(END.len()).filter(|_| !schema.is_empty())?;
        if bytes[end..] != END {
            return None;
        }
        let mut left = Buffer::from(bytes.slice(..end));
        let mut rows = Vec::new();
        while !left.is_empty() {
            rows.extend(self.decoder.decode(&mut left).ok()?);
        }
        self.decoder.finish().ok()?;
        self.schema = schema;
        Some(rows)
    }

    fn learn(&mut self, bytes: &Bytes) {
        let Some(end) = schema_end(bytes) else { return };
        let schema = bytes.slice(..end);
        self.decoder = StreamDecoder::new();
        if self.decoder.decode(&mut Buffer::from(schema.clone())).is_ok() {
            self.schema = schema;
        }
    }
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
            without_schema: false,
        }
    }

    #[test]
    fn a_chunk_survives_the_round_trip() {
        let batch =
            RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]).unwrap();
        let (read, body) = decode(&encode(header(), &batch, &mut Bytes::new()).unwrap()).unwrap();
        assert_eq!(read, header());
        assert_eq!(rows(&body).unwrap(), vec![batch]);
        assert_eq!(parse_key(&header().key()), Some(("win/dows", 3, 12)));
    }

    #[test]
    fn many_chunks_are_read_as_each_alone() {
        let texts = |texts: &[&str]| {
            let column = Arc::new(arrow::array::StringArray::from(texts.to_vec())) as ArrayRef;
            RecordBatch::try_from_iter([("text", column)]).unwrap()
        };
        let longs = |longs: &[i64]| {
            RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(longs.to_vec())) as ArrayRef)])
                .unwrap()
        };
        let batches = [
            longs(&[1, 2]),
            longs(&[3]),
            longs(&[4]),
            texts(&["x", ""]),
            texts(&["y"]),
            longs(&[5]),
            longs(&[6]),
        ];
        // With a schema in each, as the first format has it, and without where it can be left out.
        for leave_out in [false, true] {
            let (mut reader, mut written, mut left_out) = (RowsReader::default(), Bytes::new(), 0);
            for batch in &batches {
                written = if leave_out { written } else { Bytes::new() };
                let value = encode(header(), batch, &mut written).unwrap();
                let (head, body) = decode(&value).unwrap();
                left_out += usize::from(head.without_schema);
                assert_eq!(reader.read(&body, head.without_schema).unwrap(), std::slice::from_ref(batch));
                assert_eq!(*reader.schema(), written);
            }
            assert_eq!(left_out, if leave_out { 4 } else { 0 });
        }
    }

    #[test]
    fn a_chunk_that_is_cut_or_follows_no_other_is_refused() {
        let batch =
            RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]).unwrap();
        let mut schema = Bytes::new();
        let [(_, whole), (head, bare)] =
            [(); 2].map(|()| decode(&encode(header(), &batch, &mut schema).unwrap()).unwrap());
        assert!(head.without_schema && bare.len() + schema.len() == whole.len());
        assert!(RowsReader::default().read(&bare, true).is_err());
        for end in 0..bare.len() {
            let mut reader = RowsReader::default();
            reader.read(&whole, false).unwrap();
            assert!(reader.read(&bare.slice(..end), true).is_err(), "cut at {end}");
            assert!(reader.read(&bare, true).is_err(), "nobody knows where the decoder is");
            assert_eq!(reader.read(&whole, false).unwrap(), reader.read(&bare, true).unwrap());
        }
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

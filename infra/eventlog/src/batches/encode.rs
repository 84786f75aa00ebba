//! Batches to values of records.

use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use arrow_avro::schema::{FingerprintStrategy, SCHEMA_METADATA_KEY};
use arrow_avro::writer::format::AvroSoeFormat;
use arrow_avro::writer::{Encoder, WriterBuilder};
use bytes::Bytes;
use schemas::columns::arrow_schema;
use schemas::record::RecordKind;
use thiserror::Error;

/// A batch that does not have the columns of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("batch of {kind}: {reason}")]
pub struct EncodeError {
    kind: &'static str,
    reason: String,
}

/// Encodes batches of one kind, each row as a value in the wire format.
pub struct BatchEncoder {
    kind: RecordKind,
    schema_id: u32,
    /// Made at the first use, and anew after an error: a half-encoded row would stay in it.
    encoder: Option<Encoder>,
}

impl BatchEncoder {
    /// `schema_id` is the registry's for the present schema of `kind`.
    pub fn new(kind: RecordKind, schema_id: u32) -> Self {
        Self { kind, schema_id, encoder: None }
    }

    /// One value for each row, in order; all are slices of one allocation. The columns must have the types of
    /// [`arrow_schema`], in its order; their names and metadata do not matter.
    pub fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<Bytes>, EncodeError> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let kind = self.kind.full_name();
        let wrong = |reason: String| EncodeError { kind, reason };
        let canonical = RecordBatch::try_new(arrow_schema(self.kind), batch.columns().to_vec())
            .map_err(|error| wrong(error.to_string()))?;
        let mut encoder = match self.encoder.take() {
            Some(encoder) => encoder,
            None => self.build().map_err(wrong)?,
        };
        encoder.encode(&canonical).map_err(|error| wrong(error.to_string()))?;
        let rows = encoder.flush();
        self.encoder = Some(encoder);
        Ok(rows.iter().collect())
    }

    fn build(&self) -> Result<Encoder, String> {
        let fields = arrow_schema(self.kind).fields().clone();
        let metadata = [(SCHEMA_METADATA_KEY.to_owned(), self.kind.avsc().to_owned())].into();
        WriterBuilder::new(Schema::new_with_metadata(fields, metadata))
            .with_fingerprint_strategy(FingerprintStrategy::Id(self.schema_id))
            .build_encoder::<AvroSoeFormat>()
            .map_err(|error| error.to_string())
    }
}

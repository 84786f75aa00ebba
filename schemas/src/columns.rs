//! Arrow columns of each record, derived from its Avro schema by the same code that decodes it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{Schema, SchemaRef};
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};

use crate::record::RecordKind;

static SCHEMAS: LazyLock<HashMap<RecordKind, SchemaRef>> =
    LazyLock::new(|| RecordKind::ALL.into_iter().map(|kind| (kind, derive(kind))).collect());

/// The canonical Arrow schema of a record: columns in the order of the Avro fields, timestamps in µs with the time
/// zone `+00:00`, text as Utf8, no metadata. Batches decoded from any version of the schema are re-wrapped in it.
pub fn arrow_schema(kind: RecordKind) -> SchemaRef {
    Arc::clone(&SCHEMAS[&kind])
}

#[expect(clippy::expect_used, reason = "the Avro files are compiled in, and a test derives every one")]
fn derive(kind: RecordKind) -> SchemaRef {
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    store.set(Fingerprint::Id(0), AvroSchema::new(kind.avsc().to_owned())).expect("a store takes any id");
    let decoder = ReaderBuilder::new()
        .with_writer_schema_store(store)
        .with_active_fingerprint(Fingerprint::Id(0))
        .build_decoder()
        .expect("a schema of ours is readable");
    let fields = decoder
        .schema()
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_metadata(HashMap::new()))
        .collect::<Vec<_>>();
    Arc::new(Schema::new(fields))
}

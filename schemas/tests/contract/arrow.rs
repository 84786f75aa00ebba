//! The canonical Arrow columns are what arrow-avro decodes.

use std::sync::Arc;

use ::arrow::array::{Array, AsArray, RecordBatch};
use ::arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMicrosecondType};
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use schemas::columns::arrow_schema;
use schemas::family::Family;
use schemas::record::RecordKind;
use schemas::wire;
use serde_json::{Value, json};

use crate::structs::full_payload;
use crate::support::{RECEIVED_AT, one, sound};

fn decode(kind: RecordKind, datum: &[u8]) -> RecordBatch {
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    store.set(Fingerprint::Id(7), AvroSchema::new(kind.avsc().to_owned())).unwrap();
    let mut decoder = ReaderBuilder::new().with_writer_schema_store(store).build_decoder().unwrap();
    let mut framed = Vec::new();
    wire::frame(7, datum, &mut framed);
    assert_eq!(decoder.decode(&framed).unwrap(), framed.len());
    decoder.flush().unwrap().unwrap()
}

#[test]
fn a_decoded_batch_fits_the_canonical_columns() {
    for family in Family::ALL {
        let mut event = sound();
        event.insert("event_type".into(), json!(family.event_types().first().unwrap_or(&"door_opened")));
        event.insert("payload".into(), full_payload(family));
        let row = one(&Value::Object(event).to_string()).unwrap();
        let decoded = decode(family.into(), &row.datum);
        let canonical = arrow_schema(family.into());
        for (ours, theirs) in canonical.fields().iter().zip(decoded.schema().fields()) {
            assert_eq!(ours.name(), theirs.name());
            assert_eq!(ours.data_type(), theirs.data_type(), "{family}.{}", ours.name());
            assert_eq!(ours.is_nullable(), theirs.is_nullable(), "{family}.{}", ours.name());
        }
        let batch = RecordBatch::try_new(canonical, decoded.columns().to_vec()).unwrap();
        let received = batch["received_at"].as_primitive::<TimestampMicrosecondType>();
        assert_eq!(received.value(0), RECEIVED_AT);
        if family == Family::HostMetrics {
            let cpu = &batch["cpu_percent"].as_primitive::<Float64Type>();
            assert!((cpu.value(0) - -1.5e300).abs() < 1e290);
            assert!(batch["flags"].is_null(0));
        }
    }
}

#[test]
fn columns_are_those_of_the_avro_files() {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("+00:00")));
    for kind in RecordKind::ALL {
        let columns = arrow_schema(kind);
        assert!(columns.metadata().is_empty());
        let avro: Value = serde_json::from_str(kind.avsc()).unwrap();
        let fields = avro["fields"].as_array().unwrap();
        assert_eq!(columns.fields().len(), fields.len());
        for (column, field) in columns.fields().iter().zip(fields) {
            let (written, is_nullable) = match &field["type"] {
                Value::Array(union) => (&union[1], true),
                other => (other, false),
            };
            let expected = match written.as_str() {
                Some("string") => DataType::Utf8,
                Some("int") => DataType::Int32,
                Some("long") => DataType::Int64,
                Some("double") => DataType::Float64,
                Some("boolean") => DataType::Boolean,
                _ => utc.clone(),
            };
            let at = format!("{}.{}", kind.name(), column.name());
            assert_eq!(column.name(), field["name"].as_str().unwrap());
            assert_eq!((column.data_type(), column.is_nullable()), (&expected, is_nullable), "{at}");
            assert!(column.metadata().is_empty(), "{at}");
        }
    }
}

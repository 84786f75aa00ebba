//! What several tests need.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use bytes::Bytes;
use schemas::family::Family;
use schemas::mqtt::Sample;
use schemas::record::RecordKind;
use schemas::translate::{Context, Refused, Row, Translator};
use serde_json::{Map, Value, json};

pub(crate) const RECEIVED_AT: i64 = 1_732_147_202_000_000;

static TRANSLATOR: LazyLock<Translator> = LazyLock::new(Translator::new);
static SCHEMAS: LazyLock<HashMap<RecordKind, Schema>> = LazyLock::new(|| {
    RecordKind::ALL.into_iter().map(|kind| (kind, Schema::parse_str(kind.avsc()).unwrap())).collect()
});

pub(crate) fn translate(payload: &[u8]) -> Vec<Result<Row, Refused>> {
    let mut minted = 0;
    let mut mint = || {
        minted += 1;
        format!("minted-{minted}")
    };
    let ctx = Context {
        topic_agent: "pc001",
        topic_event_type: None,
        received_at: RECEIVED_AT,
        sent_at: Some(RECEIVED_AT - 1),
        mint: &mut mint,
    };
    TRANSLATOR.message(&Bytes::copy_from_slice(payload), ctx)
}

pub(crate) fn translate_sample(sample: Sample, payload: &[u8]) -> Vec<Result<Row, Refused>> {
    let mut minted = 0;
    let mut mint = || {
        minted += 1;
        format!("minted-{minted}")
    };
    let ctx = Context {
        topic_agent: "pc001",
        topic_event_type: None,
        received_at: RECEIVED_AT,
        sent_at: None,
        mint: &mut mint,
    };
    TRANSLATOR.sample(sample, &Bytes::copy_from_slice(payload), ctx)
}

#[expect(clippy::result_large_err, reason = "what the translator returns")]
pub(crate) fn one(payload: &str) -> Result<Row, Refused> {
    let mut results = translate(payload.as_bytes());
    assert_eq!(results.len(), 1);
    results.remove(0)
}

/// The event that the tests change: complete and sound.
pub(crate) fn sound() -> Map<String, Value> {
    let event = json!({
        "agent_id": "pc001", "session": 5, "lane": "normal", "seq": 17, "event_time": 1_732_147_201_000_000_i64,
        "event_type": "cpu_usage", "source": "system/procfs", "payload": { "cpu_percent": 37.5 },
    });
    event.as_object().unwrap().clone()
}

pub(crate) fn sound_with(name: &str, value: Value) -> String {
    let mut event = sound();
    event.insert(name.to_owned(), value);
    Value::Object(event).to_string()
}

pub(crate) fn sound_without(names: &[&str]) -> String {
    let mut event = sound();
    for name in names {
        assert!(event.remove(*name).is_some());
    }
    Value::Object(event).to_string()
}

/// Decodes by apache-avro, and demands that nothing is left over.
pub(crate) fn decode(kind: RecordKind, datum: &[u8]) -> BTreeMap<String, Avro> {
    let reader = GenericDatumReader::builder(&SCHEMAS[&kind]).build().unwrap();
    let mut rest = datum;
    let Avro::Record(fields) = reader.read_value(&mut rest).unwrap() else { panic!("a record") };
    assert!(rest.is_empty(), "{} bytes are left over", rest.len());
    fields.into_iter().map(|(name, value)| (name, flat(value))).collect()
}

pub(crate) fn decode_row(row: &Row) -> BTreeMap<String, Avro> {
    decode(row.family.into(), &row.datum)
}

fn flat(value: Avro) -> Avro {
    match value {
        Avro::Union(_, inner) => flat(*inner),
        Avro::TimestampMicros(micros) => Avro::Long(micros),
        other => other,
    }
}

/// Payload fields of a family by the avsc: name, type as written there.
pub(crate) fn payload_fields(family: Family) -> Vec<(String, String)> {
    let schema: Value = serde_json::from_str(family.avsc()).unwrap();
    let fields = schema["fields"].as_array().unwrap().iter().skip(15);
    fields
        .map(|field| {
            let kind = &field["type"][1];
            let kind = kind.as_str().unwrap_or_else(|| kind["logicalType"].as_str().unwrap());
            (field["name"].as_str().unwrap().to_owned(), kind.to_owned())
        })
        .collect()
}

//! `openapi.json` says what the server does: each answer that a test here gets is held against it.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::stand::Answer;

pub(super) static DESCRIPTION: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../openapi.json")).unwrap());

/// Fails unless the answer is one of those that are described for the path.
pub(super) fn hold_against(path: &str, answer: &Answer) {
    let path = path.split('?').next().unwrap_or_default();
    let described = &DESCRIPTION["paths"][path]["post"]["responses"][answer.status.to_string()];
    if answer.status == 404 {
        assert!(DESCRIPTION["paths"].get(path).is_none(), "{path} is described and not served");
        return;
    }
    assert!(described.is_object(), "{path} answers {} and nobody says so: {answer:?}", answer.status);
    let asked = described["headers"].get("Retry-After").is_some();
    assert_eq!(answer.header("Retry-After").is_some(), asked, "Retry-After of {path} {}", answer.status);
    let mut schema = described["content"]["application/json"]["schema"].clone();
    schema["components"] = json!({ "schemas": DESCRIPTION["components"]["schemas"] });
    let schema = jsonschema::validator_for(&schema).unwrap();
    assert!(schema.is_valid(&answer.body), "{path} {}: {:?}", answer.status, answer.body);
}

#[test]
fn every_reference_leads_somewhere_and_the_limits_are_those_of_the_code() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&DESCRIPTION, &mut found);
    assert!(found.len() > 10);
    for reference in found {
        assert!(DESCRIPTION.pointer(&reference[1..]).is_some(), "{reference}");
    }
    let feedback = &DESCRIPTION["components"]["schemas"]["Feedback"]["properties"];
    let verdicts = schemas::translate::Verdict::ALL.map(schemas::translate::Verdict::as_str);
    assert_eq!(feedback["verdict"]["enum"], json!(verdicts));
    assert_eq!(feedback["note"]["maxLength"], json!(schemas::translate::MAX_NOTE_BYTES));
    assert_eq!(feedback["author"]["maxLength"], json!(schemas::translate::MAX_AUTHOR_BYTES));
}

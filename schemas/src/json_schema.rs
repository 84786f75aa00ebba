//! JSON Schemas of events, for others who send them: one for the envelope, one for each family.
//!
//! They are made of the Avro schemas, so that names, types and explanations have one source. They live in
//! `schemas/json`; `cargo run -p schemas --example json_schemas -- --check` tells whether they are up to date.

use serde_json::{Map, Value, json};

use crate::event::event_type;
use crate::family::Family;
use crate::identity::{FOREIGN_SEQ, FOREIGN_SESSION, Lane};
use crate::translate::MAX_NUMBER;

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
const ENVELOPE: &str = "envelope.schema.json";
/// Fields of the Avro envelope that are not the sender's to fill.
const NOT_SENT: [&str; 4] = ["received_at", "sent_at", "flags", "extra"];
/// Number of fields of the Avro envelope.
const ENVELOPE_FIELDS: usize = 15;
/// 2000-01-01 in µs.
const FIRST_EVENT_TIME: i64 = 946_684_800_000_000;

/// All documents: file name, then text.
pub fn documents() -> Vec<(String, String)> {
    let families = Family::ALL.map(|family| (format!("{family}.schema.json"), text(&of_family(family))));
    let mut documents = vec![(ENVELOPE.to_owned(), text(&envelope()))];
    documents.extend(families);
    documents
}

fn text(document: &Value) -> String {
    format!("{document:#}\n")
}

fn avro_fields(family: Family) -> Vec<Value> {
    let schema: Value = serde_json::from_str(family.avsc()).unwrap_or_default();
    schema["fields"].as_array().cloned().unwrap_or_default()
}

fn envelope() -> Value {
    let fields = avro_fields(Family::CustomEvent);
    let sent = fields
        .iter()
        .take(ENVELOPE_FIELDS)
        .filter(|field| !NOT_SENT.iter().any(|name| field["name"] == *name));
    let mut properties = properties(sent);
    let mut add = |name: &str, key: &str, value: Value| properties[name][key] = value;
    add("lane", "enum", json!(Lane::ALL.map(Lane::as_str)));
    for (name, least) in [("session", FOREIGN_SESSION), ("seq", FOREIGN_SEQ)] {
        add(name, "minimum", json!(least));
        add(name, "maximum", json!(MAX_NUMBER));
    }
    add("event_time", "oneOf", json!([{ "type": "integer", "minimum": FIRST_EVENT_TIME }, date_time()]));
    add("event_type", "minLength", json!(1));
    add("event_type", "maxLength", json!(256));
    add("source", "minLength", json!(1));
    add("source", "maxLength", json!(256));
    properties.insert(
        "payload".to_owned(),
        json!({ "description": "What exactly happened; its fields depend on the family." }),
    );
    json!({
        "$schema": DIALECT,
        "$id": ENVELOPE,
        "title": "Event",
        "description": "One event as it is sent over MQTT or HTTPS. A source with a sequence of its own gives session, lane and seq; any other gives none of them, and may give event_id. agent_id and event_type may be left to the topic. Unknown fields are kept.",
        "type": "object",
        "properties": properties,
        "required": ["event_time", "source", "payload"],
        "dependentRequired": { "session": ["lane", "seq"], "seq": ["lane", "session"] },
    })
}

fn of_family(family: Family) -> Value {
    let fields = avro_fields(family);
    let schema: Value = serde_json::from_str(family.avsc()).unwrap_or_default();
    let (event_type, payload) = if family == Family::CustomEvent {
        (
            json!({ "not": { "enum": event_type::ALL } }),
            json!({ "description": "Any JSON, at most 32 levels deep." }),
        )
    } else {
        let payload = properties(fields.iter().skip(ENVELOPE_FIELDS));
        (json!({ "enum": family.event_types() }), json!({ "type": "object", "properties": payload }))
    };
    json!({
        "$schema": DIALECT,
        "$id": format!("{family}.schema.json"),
        "title": family.record(),
        "description": schema["doc"],
        "allOf": [{ "$ref": ENVELOPE }],
        "properties": { "event_type": event_type, "payload": payload },
    })
}

fn properties<'a>(fields: impl Iterator<Item = &'a Value>) -> Map<String, Value> {
    fields.map(|field| (field["name"].as_str().unwrap_or_default().to_owned(), property(field))).collect()
}

fn property(field: &Value) -> Value {
    let (kind, is_nullable) = match field["type"].as_array() {
        Some(union) => (&union[1], true),
        None => (&field["type"], false),
    };
    let mut property = match kind.as_str() {
        Some("string") => json!({ "type": "string" }),
        Some("int") => json!({ "type": "integer", "minimum": i32::MIN, "maximum": i32::MAX }),
        Some("long") => json!({ "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX }),
        Some("double") => json!({ "type": "number" }),
        Some("boolean") => json!({ "type": "boolean" }),
        _ => json!({ "oneOf": [{ "type": "integer" }, date_time()] }),
    };
    if is_nullable {
        match property["oneOf"].as_array_mut() {
            Some(choices) => choices.push(json!({ "type": "null" })),
            None => property["type"] = json!([property["type"], "null"]),
        }
    }
    property["description"] = field["doc"].clone();
    property
}

fn date_time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

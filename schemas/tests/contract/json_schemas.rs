//! The JSON Schemas in the folder are those that the Avro files give, and describe what is accepted.

use std::fs;
use std::path::Path;

use schemas::json_schema::documents;
use serde_json::Value;

#[test]
fn the_published_files_are_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("json");
    let documents = documents();
    for (name, text) in &documents {
        let published = fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert_eq!(&published, text, "{name} is stale: run the example json_schemas with --write");
    }
    assert_eq!(fs::read_dir(folder).unwrap().count(), documents.len());
}

#[test]
fn each_document_names_its_fields() {
    for (name, text) in documents() {
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["$id"], name.as_str());
        let properties = document["properties"].as_object().unwrap();
        if name == "envelope.schema.json" {
            let names: Vec<_> = properties.keys().map(String::as_str).collect();
            let expected = [
                "agent_id",
                "event_id",
                "event_time",
                "event_type",
                "host",
                "lane",
                "payload",
                "replayed",
                "seq",
                "session",
                "source",
                "user",
            ];
            assert_eq!(names, expected);
        } else {
            assert!(
                properties["payload"]["description"].is_string()
                    || properties["payload"]["properties"].is_object()
            );
        }
    }
}

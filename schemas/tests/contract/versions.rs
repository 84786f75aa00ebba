//! Every version of a schema that was ever published stays readable.

use std::fs;
use std::path::{Path, PathBuf};

use apache_avro::Schema;
use apache_avro::schema_compatibility::SchemaCompatibility;
use schemas::record::RecordKind;
use serde_json::Value;

fn folder(kind: RecordKind) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("avro/versions").join(kind.name())
}

/// Texts of all published versions, oldest first.
fn published(kind: RecordKind) -> Vec<String> {
    let count = fs::read_dir(folder(kind)).unwrap().count();
    (1..=count)
        .map(|version| {
            let path = folder(kind).join(format!("{version}.avsc"));
            fs::read_to_string(&path).unwrap_or_else(|_| panic!("{} is missing", path.display()))
        })
        .collect()
}

/// The schema without its explanations, which may change without a new version.
fn meaning(text: &str) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.remove("doc");
                fields.values_mut().for_each(strip);
            }
            Value::Array(elements) => elements.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut schema = serde_json::from_str(text).unwrap();
    strip(&mut schema);
    schema
}

fn reads_all(current: &str, older: &[String]) -> Result<(), String> {
    let reader = Schema::parse_str(current).map_err(|error| error.to_string())?;
    for (index, text) in older.iter().enumerate() {
        let writer = Schema::parse_str(text).unwrap();
        SchemaCompatibility::can_read(&writer, &reader)
            .map_err(|error| format!("version {}: {error}", index + 1))?;
    }
    Ok(())
}

#[test]
fn the_current_schema_reads_every_published_version() {
    for kind in RecordKind::ALL {
        reads_all(kind.avsc(), &published(kind)).unwrap_or_else(|error| panic!("{}: {error}", kind.name()));
    }
}

#[test]
fn a_changed_schema_is_published_as_a_new_version() {
    for kind in RecordKind::ALL {
        let versions = published(kind);
        let last = versions.last().expect("at least one version");
        let hint = format!("{}: add the schema as versions/{0}/{}.avsc", kind.name(), versions.len() + 1);
        assert_eq!(meaning(kind.avsc()), meaning(last), "{hint}");
    }
}

#[test]
fn every_published_folder_belongs_to_a_record() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("avro/versions");
    assert_eq!(fs::read_dir(root).unwrap().count(), RecordKind::ALL.len());
}

#[test]
fn the_checks_notice_what_they_are_for() {
    let old = RecordKind::Clock.avsc().to_owned();
    let field = r#"{"name": "added", "type": "string", "doc": "New."}"#;
    let first = r#"{"name": "bridge_id""#;
    let mandatory = old.replace(first, &format!("{field}, {first}"));
    assert_ne!(meaning(&mandatory), meaning(&old));
    reads_all(&mandatory, std::slice::from_ref(&old)).unwrap_err();

    let optional = mandatory.replace(r#""string", "doc": "New.""#, r#"["null", "string"], "default": null"#);
    reads_all(&optional, std::slice::from_ref(&old)).unwrap();

    let retyped = old.replace(r#""sequence", "type": "long""#, r#""sequence", "type": "string""#);
    reads_all(&retyped, std::slice::from_ref(&old)).unwrap_err();

    let reworded = old.replace("Which bridge.", "The bridge.");
    assert_eq!(meaning(&reworded), meaning(&old));
}

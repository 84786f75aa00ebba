//! An alert, or a report, as a topic and a JSON object. Pure.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

/// Columns that hold JSON as text.
const NESTED: [&str; 3] = ["attacks", "evidence", "labels"];

/// `alerts/{agent_id}/{severity}`. What cannot stand in a topic is replaced by `_`.
pub(super) fn topic(agent_id: &str, severity: &str) -> String {
    let level = |text: &str| {
        let text: String = text
            .chars()
            .take(128)
            .map(|c| if c.is_control() || matches!(c, '/' | '+' | '#') { '_' } else { c })
            .collect();
        if text.is_empty() { "_".to_owned() } else { text }
    };
    format!("alerts/{}/{}", level(agent_id), level(&severity.to_lowercase()))
}

/// The row's JSON with what is nested in it as JSON too. What is larger than `longest` bytes goes without its evidence, and
/// says so; `None`: it is too large even then.
pub(super) fn payload(row: &str, longest: usize) -> Option<Vec<u8>> {
    let mut alert: Map<String, Value> = serde_json::from_str(row).ok()?;
    for name in NESTED {
        let nested = alert.get(name).and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
        if let Some(nested) = nested {
            alert.insert(name.to_owned(), nested);
        }
    }
    let bytes = serde_json::to_vec(&alert).ok()?;
    if bytes.len() <= longest {
        return Some(bytes);
    }
    alert.remove("evidence");
    alert.insert("evidence_omitted".to_owned(), Value::Bool(true));
    serde_json::to_vec(&alert).ok().filter(|bytes| bytes.len() <= longest)
}

/// Sections of a report that go first when it is too large: the largest.
const LARGEST_FIRST: [&str; 8] =
    ["pattern", "series", "programs", "alerts", "coverage", "load", "activity", "trend"];
/// Longest name of whom a report is about, in bytes of the topic.
const LONGEST_LEVEL: usize = 1024;

/// `reports/fleet/{kind}`, or `reports/{scope}/{key}/{kind}`. Two keys never share a topic: what cannot stand in one is
/// written as `%` and two hexadecimal digits, for each byte.
pub(super) fn report_topic(scope: &str, key: &str, kind: &str) -> String {
    if key.is_empty() {
        return format!("reports/{scope}/{kind}");
    }
    let mut level = String::with_capacity(key.len());
    for character in key.chars() {
        if character.is_control() || matches!(character, '/' | '+' | '#' | '%') {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                // Writing to a string cannot fail.
                let _ = write!(level, "%{byte:02X}");
            }
        } else {
            level.push(character);
        }
    }
    if level.len() > LONGEST_LEVEL {
        level = format!("%{:032x}", xxhash_rust::xxh3::xxh3_128(key.as_bytes()));
    }
    format!("reports/{scope}/{level}/{kind}")
}

/// A report's sections with `computed_at`. Unless reports about people are wanted, nobody is named: neither the most active
/// users nor those whom a finding is about. What is larger than `longest` bytes goes without some sections, the largest
/// first, and names them in `omitted`.
pub(super) fn report(body: Value, computed_at: DateTime<Utc>, with_people: bool, longest: usize) -> Vec<u8> {
    let mut body = match body {
        Value::Object(body) => body,
        _ => Map::new(),
    };
    body.insert("computed_at".to_owned(), json!(computed_at.to_rfc3339_opts(SecondsFormat::Micros, true)));
    if !with_people {
        without_people(&mut body);
    }
    let mut omitted = Vec::new();
    let mut bytes = Value::Object(body.clone()).to_string().into_bytes();
    for section in LARGEST_FIRST {
        if bytes.len() <= longest {
            break;
        }
        if body.remove(section).is_some() {
            omitted.push(section);
            body.insert("omitted".to_owned(), json!(omitted));
            bytes = Value::Object(body.clone()).to_string().into_bytes();
        }
    }
    bytes
}

fn without_people(body: &mut Map<String, Value>) {
    if let Some(activity) = body.get_mut("activity").and_then(Value::as_object_mut) {
        activity.remove("users");
    }
    let worst =
        body.get_mut("alerts").and_then(|alerts| alerts.get_mut("worst")).and_then(Value::as_array_mut);
    for finding in worst.into_iter().flatten().filter_map(Value::as_object_mut) {
        finding.remove("username");
        // It names people, too.
        finding.remove("message");
    }
}

/// The same payload without its evidence; `None`: it has none.
pub(super) fn without_evidence(payload: &[u8]) -> Option<Vec<u8>> {
    let mut alert: Map<String, Value> = serde_json::from_slice(payload).ok()?;
    alert.remove("evidence")?;
    alert.insert("evidence_omitted".to_owned(), Value::Bool(true));
    serde_json::to_vec(&alert).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_a_report_is_about_has_a_topic_that_nobody_else_has() {
        assert_eq!(report_topic("fleet", "", "week"), "reports/fleet/week");
        assert_eq!(report_topic("agent", "pc001", "day"), "reports/agent/pc001/day");
        assert_eq!(report_topic("user", "CORP\\ann", "day"), "reports/user/CORP\\ann/day");
        let keys =
            ["a/b", "a_b", "a%2Fb", "a+", "a#", "a\n", "a", &"x".repeat(2000), &"x".repeat(2001), "юзер"];
        let topics: std::collections::BTreeSet<String> =
            keys.iter().map(|key| report_topic("user", key, "day")).collect();
        assert_eq!(topics.len(), keys.len());
        for topic in &topics {
            assert_eq!(topic.split('/').count(), 4, "{topic}");
            assert!(!topic.contains(['+', '#']) && topic.len() < 2000, "{topic}");
        }
    }

    #[test]
    fn a_report_names_nobody_unless_asked_and_always_fits() {
        let at = DateTime::from_timestamp(1_760_000_000, 0).unwrap();
        let body = json!({
            "kind": "day", "key": "pc001", "load": {"cpu_mean": 3.5},
            "activity": {"active_s": 60, "users": [{"username": "ann"}]},
            "alerts": {"worst": [{"rule_id": "r", "username": "ann", "message": "ann did it"}]},
            "pattern": vec![json!({"weekday": 1, "hour": 2}); 168],
        });
        let read = |bytes: Vec<u8>| -> Value { serde_json::from_slice(&bytes).unwrap() };
        let told = read(report(body.clone(), at, false, 1 << 20));
        assert!(!told.to_string().contains("ann"), "{told}");
        assert_eq!(told["alerts"]["worst"][0]["rule_id"], "r");
        assert_eq!(told["computed_at"], "2025-10-09T08:53:20.000000Z");
        let told = read(report(body.clone(), at, true, 1 << 20));
        assert_eq!(told["activity"]["users"][0]["username"], "ann");
        let small = report(body.clone(), at, true, 1000);
        assert!(small.len() <= 1000);
        assert_eq!(read(small)["omitted"], json!(["pattern"]));
        assert!(read(report(body, at, true, 10))["omitted"].as_array().unwrap().len() > 3);
    }

    #[test]
    fn topics_have_three_levels_whatever_is_in_them() {
        assert_eq!(topic("pc001", "High"), "alerts/pc001/high");
        assert_eq!(topic("a/+#\n", ""), "alerts/a____/_");
        assert_eq!(topic(&"x".repeat(1000), "Low").len(), "alerts//low".len() + 128);
    }

    #[test]
    fn nested_json_is_json_and_what_is_too_large_goes_without_evidence() {
        let row = r#"{"rule_id":"r","evidence":"[{\"pid\":1}]","labels":"{\"a\":\"b\"}"}"#;
        let value: Value = serde_json::from_slice(&payload(row, 1000).unwrap()).unwrap();
        assert_eq!(
            (value["evidence"][0]["pid"].as_u64(), value["labels"]["a"].as_str()),
            (Some(1), Some("b"))
        );
        let large = format!(r#"{{"rule_id":"r","evidence":"[\"{}\"]"}}"#, "x".repeat(2000));
        let value: Value = serde_json::from_slice(&payload(&large, 1000).unwrap()).unwrap();
        assert_eq!((value["evidence_omitted"].as_bool(), value.get("evidence")), (Some(true), None));
        assert!(payload(&format!(r#"{{"message":"{}"}}"#, "x".repeat(2000)), 1000).is_none());
    }
}

//! An alert as a topic and a JSON object. Pure.

use serde_json::{Map, Value};

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

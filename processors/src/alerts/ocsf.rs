//! Alerts as Detection Findings (class 2004) of OCSF 1.5.0.
//!
//! The fields used are in `schemas/ocsf_detection_finding.schema.json`. Times are in ms, as OCSF has them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{Activity, Alert, CLASS_UID};
use crate::paths;
use crate::rules::{Attack, Subject};

const OCSF_VERSION: &str = "1.5.0";
const PRODUCT: &str = "Varta";

/// The finding as OCSF has it. Fields without value are left out.
pub fn to_ocsf(alert: &Alert) -> Value {
    let rule = &alert.rule;
    let mut finding = json!({
        "activity_id": alert.activity.id(),
        "activity_name": alert.activity.caption(),
        "category_uid": 2,
        "category_name": "Findings",
        "class_uid": CLASS_UID,
        "class_name": "Detection Finding",
        "type_uid": alert.type_uid(),
        "type_name": format!("Detection Finding: {}", alert.activity.caption()),
        "severity_id": rule.severity.id(),
        "severity": rule.severity.caption(),
        "status_id": alert.status().id(),
        "status": alert.status().caption(),
        "status_detail": alert.status_detail,
        "is_alert": alert.activity != Activity::Close,
        "time": millis(alert.event_time),
        "start_time": millis(alert.first_seen),
        "end_time": millis(alert.last_seen),
        "count": alert.count,
        "message": alert.message,
        "metadata": metadata(alert),
        "finding_info": finding_info(alert),
        "evidences": alert.evidence.iter().map(evidence).collect::<Vec<_>>(),
        "resources": [resource(alert)],
        "device": device(alert),
    });
    remove_nulls(&mut finding);
    finding
}

fn millis(micros: i64) -> i64 {
    micros.div_euclid(1000)
}

fn metadata(alert: &Alert) -> Value {
    let labels: Vec<_> = alert.rule.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    json!({
        "version": OCSF_VERSION,
        "product": { "name": PRODUCT, "vendor_name": PRODUCT, "version": env!("CARGO_PKG_VERSION") },
        "profiles": ["host"],
        "uid": format!("{}/{}", alert.finding_uid, alert.revision),
        "event_code": alert.rule.id,
        "labels": if labels.is_empty() { Value::Null } else { json!(labels) },
    })
}

fn finding_info(alert: &Alert) -> Value {
    let rule = &alert.rule;
    let data_sources: BTreeSet<_> =
        rule.condition.predicates().iter().map(|(reads, _)| reads.name()).collect();
    json!({
        "uid": alert.finding_uid,
        "title": rule.title,
        "desc": rule.description,
        "types": [rule.condition.kind()],
        "data_sources": data_sources,
        "src_url": rule.references.first(),
        "first_seen_time": millis(alert.first_seen),
        "last_seen_time": millis(alert.last_seen),
        "created_time": millis(alert.created_at),
        "modified_time": (alert.revision > 0).then(|| millis(alert.event_time)),
        "analytic": {
            "uid": rule.id,
            "name": rule.title,
            "type_id": 1,
            "type": "Rule",
            "version": &*alert.rule_set,
        },
        "attacks": rule.attack.as_ref().map(attacks),
    })
}

fn attacks(attack: &Attack) -> Value {
    let techniques = attack.techniques.iter().map(|id| match id.split_once('.') {
        None => json!({ "version": attack.version, "technique": { "uid": id } }),
        Some((technique, _)) => json!({
            "version": attack.version,
            "technique": { "uid": technique },
            "sub_technique": { "uid": id },
        }),
    });
    techniques.collect()
}

fn resource(alert: &Alert) -> Value {
    let kind = match alert.subject {
        Subject::Agent => "Host",
        Subject::Bridge => "Bridge",
        Subject::Broker => "MQTT broker",
        Subject::Fleet => "Fleet",
    };
    json!({ "uid": alert.agent_id, "type": kind, "name": alert.host, "hostname": alert.host })
}

fn device(alert: &Alert) -> Option<Value> {
    let device = json!({ "type_id": 0, "type": "Unknown", "uid": alert.agent_id, "hostname": alert.host });
    (alert.subject == Subject::Agent).then_some(device)
}

/// One row: as it is under `data`, and what OCSF has objects for.
fn evidence(row: &Map<String, Value>) -> Value {
    let text = |name: &str| row.get(name).and_then(Value::as_str);
    let of_process = row.contains_key("pid")
        && ["name", "process_name", "command_line"].iter().any(|key| row.contains_key(*key));
    let file = text("path").and_then(|path| {
        Some(json!({ "name": paths::basename(path)?, "path": path, "type_id": 1, "type": "Regular File" }))
    });
    let process = of_process.then(|| {
        json!({
            "pid": row.get("pid"),
            "name": text("name").or_else(|| text("process_name")),
            "cmd_line": text("command_line"),
            "file": file,
            "parent_process": row.get("parent_pid").map(|pid| json!({ "pid": pid, "name": text("parent_name") })),
        })
    });
    json!({
        "data": row,
        "process": process,
        "file": if of_process { None } else { file },
        "user": text("user").map(|name| json!({ "name": name, "type_id": 0 })),
        "dst_endpoint": text("remote_address").map(|address| endpoint(address, row.get("remote_port"))),
        "src_endpoint": text("local_address").map(|address| endpoint(address, row.get("local_port"))),
    })
}

fn endpoint(address: &str, port: Option<&Value>) -> Value {
    if address.parse::<IpAddr>().is_ok() {
        json!({ "ip": address, "port": port })
    } else {
        json!({ "hostname": address, "port": port })
    }
}

fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

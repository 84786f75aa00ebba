//! Alerts as rows of the record `Alert`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::record_batch::RecordBatch;
use schemas::columns::arrow_schema;
use schemas::record::RecordKind;

use super::{Alert, AlertError, CLASS_UID};

/// The alerts as one batch with the columns of the record `Alert`, in their order.
pub fn to_batch(alerts: &[Alert]) -> Result<RecordBatch, AlertError> {
    let schema = arrow_schema(RecordKind::Alert);
    let columns = schema.fields().iter().map(|field| column(field.name(), alerts));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema, columns)?)
}

fn column(name: &str, alerts: &[Alert]) -> Result<ArrayRef, AlertError> {
    let column = match name {
        "finding_uid" => texts(alerts, |alert| &alert.finding_uid),
        "rule_id" => texts(alerts, |alert| &alert.rule.id),
        "rule_title" => texts(alerts, |alert| &alert.rule.title),
        "rule_set" => texts(alerts, |alert| &alert.rule_set),
        "kind" => texts(alerts, |alert| alert.rule.condition.kind()),
        "severity_id" => ints(alerts, |alert| alert.rule.severity.id()),
        "severity" => texts(alerts, |alert| alert.rule.severity.caption()),
        "status_id" => ints(alerts, |alert| alert.status().id()),
        "status" => texts(alerts, |alert| alert.status().caption()),
        "status_detail" => maybe(alerts, |alert| alert.status_detail.clone()),
        "revision" => ints(alerts, |alert| alert.revision),
        "subject" => texts(alerts, |alert| alert.subject.name()),
        "activity_id" => ints(alerts, |alert| alert.activity.id()),
        "class_uid" => ints(alerts, |_| CLASS_UID),
        "type_uid" => longs(alerts, Alert::type_uid),
        "agent_id" => texts(alerts, |alert| &alert.agent_id),
        "session" => longs(alerts, |alert| alert.session),
        "lane" => texts(alerts, |alert| &alert.lane),
        "seq" => longs(alerts, |alert| alert.seq),
        "event_id" => maybe(alerts, |alert| alert.event_id.clone()),
        "host" => maybe(alerts, |alert| alert.host.clone()),
        "user" => maybe(alerts, |alert| alert.user.clone()),
        "event_time" => times(alerts, |alert| Some(alert.event_time)),
        "created_at" => times(alerts, |alert| Some(alert.created_at)),
        "first_seen" => times(alerts, |alert| Some(alert.first_seen)),
        "last_seen" => times(alerts, |alert| Some(alert.last_seen)),
        "count" => longs(alerts, |alert| alert.count),
        "suppressed" => longs(alerts, |alert| alert.suppressed),
        "window_start" => times(alerts, |alert| alert.window.map(|window| window.0)),
        "window_end" => times(alerts, |alert| alert.window.map(|window| window.1)),
        "message" => texts(alerts, |alert| &alert.message),
        "attacks" => json(alerts, |alert| alert.rule.attack.as_ref().map(serde_json::to_string))?,
        "evidence" => json(alerts, |alert| Some(serde_json::to_string(&alert.evidence)))?,
        "labels" => json(alerts, |alert| {
            Some(&alert.rule.labels).filter(|labels| !labels.is_empty()).map(serde_json::to_string)
        })?,
        other => {
            return Err(AlertError::Column { column: other.to_owned(), expected: "known to alerts" });
        }
    };
    Ok(column)
}

fn texts<'a>(alerts: &'a [Alert], of: impl Fn(&'a Alert) -> &'a str) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(alerts.iter().map(of)))
}

fn maybe(alerts: &[Alert], of: impl Fn(&Alert) -> Option<String>) -> ArrayRef {
    Arc::new(alerts.iter().map(of).collect::<StringArray>())
}

fn json(
    alerts: &[Alert],
    of: impl Fn(&Alert) -> Option<serde_json::Result<String>>,
) -> Result<ArrayRef, AlertError> {
    let column =
        alerts.iter().map(|alert| of(alert).transpose()).collect::<serde_json::Result<StringArray>>()?;
    Ok(Arc::new(column))
}

fn ints(alerts: &[Alert], of: impl Fn(&Alert) -> i32) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(alerts.iter().map(of)))
}

fn longs(alerts: &[Alert], of: impl Fn(&Alert) -> i64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(alerts.iter().map(of)))
}

fn times(alerts: &[Alert], of: impl Fn(&Alert) -> Option<i64>) -> ArrayRef {
    Arc::new(alerts.iter().map(of).collect::<TimestampMicrosecondArray>().with_timezone("+00:00"))
}

//! One report, from one snapshot of the database.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Map, Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};

use super::{Body, Period, Subject};
use crate::{
    SinkError,
    postgres::{answered, failed},
};

macro_rules! section {
    ($name:literal) => {
        ($name, concat!(include_str!("sql/scope.sql"), include_str!(concat!("sql/", $name, ".sql"))))
    };
}

/// Name and query of each section that stands in the report as the query gives it.
const SECTIONS: [(&str, &str); 6] = [
    section!("activity"),
    section!("load"),
    section!("programs"),
    section!("alerts"),
    section!("coverage"),
    section!("series"),
];
const TOTALS: (&str, &str) = section!("totals");
const PATTERN: (&str, &str) = section!("pattern");

/// A computed report.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Which period.
    pub period: Period,
    /// About whom.
    pub subject: Subject,
    /// The zone in which its days begin.
    pub zone: String,
    /// By the clock of the database.
    pub computed_at: DateTime<Utc>,
    /// All sections, as they are stored.
    pub json: Value,
}

impl Report {
    /// The sections by name.
    pub fn body(&self) -> Result<Body, SinkError> {
        serde_json::from_value(self.json.clone()).map_err(|error| {
            SinkError::Fatal(format!("a report is not as this version computes it: {error}"))
        })
    }
}

struct Bounds {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    before_from: DateTime<Utc>,
    before_to: DateTime<Utc>,
    pattern_from: DateTime<Utc>,
    now: DateTime<Utc>,
}

/// Computes a report. The same tables give the same sections, whenever they are asked. Each query is waited for as long
/// as `limit`.
///
/// Fails for good when PostgreSQL does not know the zone. When no answer came the connection must not be used again.
pub async fn compute(
    connection: &mut PgConnection,
    period: Period,
    subject: &Subject,
    zone: &str,
    limit: Duration,
) -> Result<Report, SinkError> {
    let mut snapshot = answered(limit, async { connection.begin().await.map_err(failed) }).await?;
    let isolation = "set transaction isolation level repeatable read, read only";
    answered(limit, async { snapshot.execute(isolation).await.map_err(failed) }).await?;
    let bounds = answered(limit, bounds(&mut snapshot, period, zone)).await?;
    let about = About { subject, zone, step: period.kind().step(), limit };
    let mut json = Map::new();
    for (name, value) in [
        ("kind", json!(period.kind())),
        ("period_start", json!(period.start())),
        ("zone", json!(zone)),
        ("scope", json!(subject.scope())),
        ("key", json!(subject.key())),
        ("host", answered(limit, host(&mut snapshot, subject)).await?),
    ] {
        json.insert(name.to_owned(), value);
    }
    for section in SECTIONS {
        let value = about.ask(&mut snapshot, section, bounds.from, bounds.to).await?;
        json.insert(section.0.to_owned(), value);
    }
    let now = about.ask(&mut snapshot, TOTALS, bounds.from, bounds.to).await?;
    let before = about.ask(&mut snapshot, TOTALS, bounds.before_from, bounds.before_to).await?;
    json.insert("trend".to_owned(), trend(&now, &before));
    let pattern = about.ask(&mut snapshot, PATTERN, bounds.pattern_from, bounds.to).await?;
    json.insert("pattern".to_owned(), pattern);
    answered(limit, async { snapshot.commit().await.map_err(failed) }).await?;
    Ok(Report {
        period,
        subject: subject.clone(),
        zone: zone.to_owned(),
        computed_at: bounds.now,
        json: Value::Object(json),
    })
}

/// Puts a report into the place of an older one.
pub async fn store(connection: &mut PgConnection, report: &Report) -> Result<(), SinkError> {
    sqlx::query(include_str!("sql/store.sql"))
        .bind(report.period.kind().as_str())
        .bind(report.period.start())
        .bind(report.subject.scope())
        .bind(report.subject.key())
        .bind(&report.zone)
        .bind(&report.json)
        .bind(report.computed_at)
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}

async fn bounds(connection: &mut PgConnection, period: Period, zone: &str) -> Result<Bounds, SinkError> {
    let start: NaiveDate = period.start();
    let row = sqlx::query(include_str!("sql/bounds.sql"))
        .bind(period.kind().as_str())
        .bind(start)
        .bind(zone)
        .fetch_one(connection)
        .await
        .map_err(|error| zone_or_failed(error, zone))?;
    let at = |column: usize| row.try_get(column).map_err(failed);
    Ok(Bounds {
        from: at(0)?,
        to: at(1)?,
        before_from: at(2)?,
        before_to: at(3)?,
        pattern_from: at(4)?,
        now: at(5)?,
    })
}

/// Class 22023 is what PostgreSQL answers to a zone that it does not know.
pub(super) fn zone_or_failed(error: sqlx::Error, zone: &str) -> SinkError {
    let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
    if code.as_deref() == Some("22023") {
        return SinkError::Fatal(format!("PostgreSQL does not know the zone {zone:?}"));
    }
    failed(error)
}

async fn host(connection: &mut PgConnection, subject: &Subject) -> Result<Value, SinkError> {
    let Subject::Agent(id) = subject else {
        return Ok(Value::Null);
    };
    let host: Option<Option<String>> = sqlx::query_scalar("select host from agents where agent_id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    Ok(json!(host.flatten()))
}

struct About<'a> {
    subject: &'a Subject,
    zone: &'a str,
    step: &'static str,
    limit: Duration,
}

impl About<'_> {
    async fn ask(
        &self,
        connection: &mut PgConnection,
        (_, query): (&str, &'static str),
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<Value, SinkError> {
        let asking = sqlx::query_scalar(query)
            .bind(from)
            .bind(to)
            .bind(self.subject.scope())
            .bind(self.subject.key())
            .bind(self.zone)
            .bind(self.step)
            .fetch_one(connection);
        answered(self.limit, async { asking.await.map_err(failed) }).await
    }
}

/// Each number beside that of the week before, and the change in percent of it; null where either is unknown, or the
/// earlier one is nothing.
fn trend(now: &Value, before: &Value) -> Value {
    let mut trend = Map::new();
    for (name, value) in now.as_object().into_iter().flatten() {
        let (new, old) = (value.as_f64(), before[name].as_f64());
        let change = match (new, old) {
            (Some(new), Some(old)) if old != 0.0 => json!(100.0 * (new - old) / old),
            _ => Value::Null,
        };
        trend.insert(name.clone(), json!({ "now": value, "before": before[name], "change_percent": change }));
    }
    Value::Object(trend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_needs_something_to_change_from() {
        let trend = trend(
            &json!({ "a": 3, "b": 3.0, "c": null, "d": 1 }),
            &json!({ "a": 4, "b": 0, "c": 2, "d": null }),
        );
        assert_eq!(trend["a"], json!({ "now": 3, "before": 4, "change_percent": -25.0 }));
        for unknown in ["b", "c", "d"] {
            assert_eq!(trend[unknown]["change_percent"], Value::Null, "{unknown}");
        }
    }
}

//! A look into the stores as an outsider: what arrived last, how much since we began to look.

use std::path::PathBuf;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::config::Config;

/// What the stores hold, as lines for a person and as row counts by stage.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// One line a store.
    pub lines: Vec<String>,
    /// Rows that arrived since the first look, by stage.
    pub stages: Vec<(&'static str, u64)>,
}

/// The stores that the configuration names.
pub(crate) struct Stores {
    lake: Option<PathBuf>,
    influx: Option<Influx>,
    postgres: Option<(String, Option<i64>)>,
    http: Option<reqwest::Client>,
    lake_before: Option<u64>,
}

struct Influx {
    url: String,
    org: String,
    bucket: String,
    token: String,
}

impl Stores {
    /// Looks at nothing yet.
    pub(crate) fn new(config: &Config) -> Self {
        let sinks = &config.sinks;
        Self {
            lake: sinks.lake.enabled.then(|| PathBuf::from(&sinks.lake.root)),
            influx: sinks.influx.enabled.then(|| Influx {
                url: sinks.influx.url.trim_end_matches('/').to_owned(),
                org: sinks.influx.org.clone(),
                bucket: sinks.influx.bucket.clone(),
                token: sinks
                    .influx
                    .token
                    .as_ref()
                    .map_or_else(String::new, |token| token.expose().to_owned()),
            }),
            postgres: sinks.postgres.enabled.then(|| (sinks.postgres.url.expose().to_owned(), None)),
            http: reqwest::Client::builder().timeout(Duration::from_secs(3)).build().ok(),
            lake_before: None,
        }
    }

    /// Asks each store; one that does not answer is said to be waited for.
    pub(crate) async fn look(&mut self) -> Report {
        let mut report = Report::default();
        self.look_at_lake(&mut report);
        self.look_at_influx(&mut report).await;
        self.look_at_postgres(&mut report).await;
        report
    }

    fn look_at_lake(&mut self, report: &mut Report) {
        let Some(root) = &self.lake else { return };
        let (files, bytes) = parquet_files(root);
        let before = *self.lake_before.get_or_insert(files);
        report.lines.push(format!(
            "lake     {}  {files} files, {:.1} MiB",
            root.display(),
            bytes as f64 / f64::from(1 << 20)
        ));
        report.stages.push(("lake (files)", files.saturating_sub(before).max(u64::from(files > 0))));
    }

    async fn look_at_influx(&self, report: &mut Report) {
        let (Some(influx), Some(http)) = (&self.influx, &self.http) else {
            return;
        };
        let query = format!(
            "from(bucket: \"{}\") |> range(start: -1h) |> filter(fn: (r) => r._field == \"cpu_percent\") |> last()",
            influx.bucket
        );
        let answer = http
            .post(format!("{}/api/v2/query?org={}", influx.url, influx.org))
            .header("Authorization", format!("Token {}", influx.token))
            .header("Content-Type", "application/vnd.flux")
            .header("Accept", "application/csv")
            .body(query)
            .send()
            .await;
        let text = match answer {
            Ok(answer) if answer.status().is_success() => answer.text().await.unwrap_or_default(),
            Ok(answer) => format!("answers {}", answer.status()),
            Err(_) => "is waited for".into(),
        };
        let rows = text.lines().filter(|line| line.starts_with(",,") || line.starts_with(",_result")).count();
        let last = csv_last(&text).unwrap_or_else(|| text.lines().next().unwrap_or("").trim().to_owned());
        report.lines.push(format!("influx   {last}"));
        report.stages.push(("influx (series)", rows as u64));
    }

    async fn look_at_postgres(&mut self, report: &mut Report) {
        let Some((url, before)) = &mut self.postgres else {
            return;
        };
        if let Ok((rows, last)) = last_start(url).await {
            let first = *before.get_or_insert(rows);
            report.lines.push(format!("postgres {last}"));
            report.stages.push(("postgres (starts)", (rows - first).max(i64::from(rows > 0)) as u64));
        } else {
            report.lines.push("postgres is waited for".into());
            report.stages.push(("postgres (starts)", 0));
        }
    }
}

async fn last_start(url: &str) -> Result<(i64, String), sqlx::Error> {
    let work = async {
        let mut connection = PgConnection::connect(url).await?;
        let rows: i64 =
            sqlx::query("SELECT count(*) FROM program_starts").fetch_one(&mut connection).await?.get(0);
        let last = sqlx::query(
            "SELECT to_char(\"timestamp\", 'HH24:MI:SS'), coalesce(username, '-'), process_name \
             FROM program_starts ORDER BY \"timestamp\" DESC LIMIT 1",
        )
        .fetch_optional(&mut connection)
        .await?;
        let last = last.map_or_else(
            || "no program starts yet".to_owned(),
            |row| {
                format!(
                    "{} {} started {}",
                    row.get::<String, _>(0),
                    row.get::<String, _>(1),
                    row.get::<String, _>(2)
                )
            },
        );
        connection.close().await.ok();
        Ok((rows, format!("{rows} program starts, last: {last}")))
    };
    tokio::time::timeout(Duration::from_secs(3), work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Time, value and agent of the last point in an annotated CSV answer.
fn csv_last(text: &str) -> Option<String> {
    let mut header: Vec<&str> = Vec::new();
    let mut last = None;
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_end().split(',').collect();
        if cells.contains(&"_value") {
            header = cells;
        } else if !header.is_empty() && cells.len() == header.len() {
            let cell = |name: &str| header.iter().position(|column| *column == name).map(|at| cells[at]);
            last = Some(format!(
                "{} cpu_percent {} of agent {}",
                cell("_time")?,
                cell("_value")?,
                cell("agent_id").unwrap_or("?")
            ));
        }
    }
    last
}

fn parquet_files(root: &std::path::Path) -> (u64, u64) {
    let (mut files, mut bytes) = (0, 0);
    let Ok(entries) = fs_err::read_dir(root) else {
        return (0, 0);
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            let (inner_files, inner_bytes) = parquet_files(&path);
            files += inner_files;
            bytes += inner_bytes;
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            files += 1;
            bytes += entry.metadata().map_or(0, |metadata| metadata.len());
        }
    }
    (files, bytes)
}

/// One line for each alert of a batch.
pub(crate) fn alert_lines(batch: &RecordBatch) -> Vec<String> {
    let text = |name: &str, row: usize| {
        batch
            .column_by_name(name)
            .and_then(|column| column.as_string_opt::<i32>())
            .filter(|column| column.is_valid(row))
            .map_or_else(|| "-".to_owned(), |column| column.value(row).to_owned())
    };
    let time = |row: usize| {
        batch
            .column_by_name("event_time")
            .and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>())
            .and_then(|column| chrono::DateTime::from_timestamp_micros(column.value(row)))
            .map_or_else(|| "-".to_owned(), |time| time.format("%H:%M:%S%.3f").to_string())
    };
    (0..batch.num_rows())
        .map(|row| {
            format!(
                "{} [{}] {}: {} (agent {})",
                time(row),
                text("severity", row),
                text("rule_id", row),
                text("message", row),
                text("agent_id", row)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_point_of_an_annotated_answer() {
        let text = ",result,table,_start,_time,_value,_field,agent_id\r\n\
                    ,_result,0,x,2026-01-01T00:00:00Z,12.5,cpu_percent,a1\r\n\r\n";
        assert_eq!(csv_last(text).unwrap(), "2026-01-01T00:00:00Z cpu_percent 12.5 of agent a1");
        assert!(csv_last("no answer").is_none());
    }
}

//! The stores as an outsider asks them: SQL and Flux.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// A database.
pub(crate) struct Postgres {
    pub(crate) url: String,
}

impl Postgres {
    /// One that exists.
    pub(crate) fn at(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    /// Makes one beside the one of the URL.
    pub(crate) async fn create(url: &str, name: &str) -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE \"{name}\""))).execute(&mut connection).await?;
        let (server, _) = url.rsplit_once('/').context("a URL with a database")?;
        Ok(Self { url: format!("{server}/{name}") })
    }

    /// The rows of a query.
    pub(crate) async fn rows(&self, query: &str) -> anyhow::Result<Vec<PgRow>> {
        let mut connection = PgConnection::connect(&self.url).await?;
        Ok(sqlx::query(AssertSqlSafe(query.to_owned())).fetch_all(&mut connection).await?)
    }

    /// The first column of a query, as text.
    pub(crate) async fn texts(&self, query: &str) -> anyhow::Result<Vec<String>> {
        use sqlx::Row as _;
        let rows = self.rows(query).await?;
        rows.iter().map(|row| Ok(row.try_get::<Option<String>, _>(0)?.unwrap_or_default())).collect()
    }

    /// How many rows a table has.
    pub(crate) async fn count(&self, table: &str) -> anyhow::Result<usize> {
        let counted = self.texts(&format!("SELECT count(*)::text FROM {table}")).await?;
        Ok(counted.first().context("count gives a row")?.parse()?)
    }
}

/// A bucket.
pub(crate) struct Influx {
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) bucket: String,
    http: reqwest::Client,
}

impl Influx {
    /// One that exists.
    pub(crate) fn at(url: &str, token: &str, bucket: &str) -> Self {
        Self {
            url: url.trim_end_matches('/').to_owned(),
            token: token.to_owned(),
            bucket: bucket.to_owned(),
            http: reqwest::Client::new(),
        }
    }

    /// Makes one.
    pub(crate) async fn create(url: &str, token: &str, bucket: &str) -> anyhow::Result<Self> {
        let influx = Self::at(url, token, bucket);
        let organisations: Value = influx
            .http
            .get(format!("{}/api/v2/orgs?org=varta", influx.url))
            .header("Authorization", format!("Token {token}"))
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        let organisation = organisations["orgs"][0]["id"].as_str().context("organisation varta exists")?;
        let bucket = json!({ "orgID": organisation, "name": bucket, "retentionRules": [] });
        influx
            .http
            .post(format!("{}/api/v2/buckets", influx.url))
            .header("Authorization", format!("Token {token}"))
            .json(&bucket)
            .send()
            .await?
            .error_for_status()?;
        Ok(influx)
    }

    /// The answer to a Flux query, as CSV.
    pub(crate) async fn query(&self, flux: &str) -> anyhow::Result<String> {
        let answer = self
            .http
            .post(format!("{}/api/v2/query?org=varta", self.url))
            .timeout(Duration::from_mins(1))
            .header("Authorization", format!("Token {}", self.token))
            .header("Content-Type", "application/vnd.flux")
            .header("Accept", "application/csv")
            .body(flux.to_owned())
            .send()
            .await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "InfluxDB answers {status}: {text}");
        Ok(text)
    }

    /// How often each value of a field occurs in a measurement.
    pub(crate) async fn values(
        &self,
        measurement: &str,
        field: &str,
    ) -> anyhow::Result<BTreeMap<String, usize>> {
        let query = format!(
            "from(bucket: \"{}\") |> range(start: 0, stop: 2100-01-01T00:00:00Z) \
             |> filter(fn: (r) => r._measurement == \"{measurement}\" and r._field == \"{field}\") \
             |> keep(columns: [\"_value\"])",
            self.bucket
        );
        let text = self.query(&query).await?;
        let mut values = BTreeMap::new();
        for line in text.lines().map(str::trim_end).filter(|line| line.starts_with(",_result,")) {
            let value = line.rsplit(',').next().context("a line has cells")?;
            *values.entry(value.to_owned()).or_default() += 1;
        }
        Ok(values)
    }

    /// Agent, begin of the window in µs, and revision, of the last point of each window of a minute.
    pub(crate) async fn newest_windows(&self) -> anyhow::Result<Vec<String>> {
        let query = format!(
            "from(bucket: \"{}\") |> range(start: 0, stop: 2100-01-01T00:00:00Z) \
             |> filter(fn: (r) => r._measurement == \"features_1m\" and r._field == \"revision\") \
             |> aggregateWindow(every: 1m, fn: last, createEmpty: false, timeSrc: \"_start\") \
             |> map(fn: (r) => ({{ r with micros: int(v: r._time) / 1000 }})) \
             |> keep(columns: [\"agent_id\", \"micros\", \"_value\"])",
            self.bucket
        );
        let text = self.query(&query).await?;
        let mut header: Vec<&str> = Vec::new();
        let mut windows = Vec::new();
        for line in text.lines().map(str::trim_end) {
            let cells: Vec<&str> = line.split(',').collect();
            if cells.get(1) == Some(&"result") {
                header = cells;
            } else if cells.get(1) == Some(&"_result") {
                let cell = |name: &str| {
                    let at = header.iter().position(|found| *found == name);
                    at.and_then(|at| cells.get(at)).copied().with_context(|| format!("no {name} in {line}"))
                };
                windows.push(format!("{} {} {}", cell("agent_id")?, cell("micros")?, cell("_value")?));
            }
        }
        Ok(windows)
    }
}

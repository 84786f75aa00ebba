//! The queries of the dashboards, with Grafana's variables put in as Grafana does, asked of the stores.

use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::stage::Stage;

/// What a person chose in Grafana.
pub(super) struct Range {
    pub(super) from: DateTime<Utc>,
    pub(super) to: DateTime<Utc>,
    pub(super) agent: String,
}

/// A query that a panel, or a variable, asks.
pub(super) struct Asked {
    /// Dashboard and panel.
    pub(super) name: String,
    language: Language,
    query: String,
    /// Columns that Grafana needs for this way to show it.
    needs: &'static [&'static str],
}

#[derive(Clone, Copy)]
enum Language {
    Flux,
    Sql,
}

/// Every query of every file in the folder of dashboards.
pub(super) fn all(range: &Range) -> anyhow::Result<Vec<Asked>> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../infra/grafana"));
    let sources = fs_err::read_to_string(folder.join("provisioning/datasources/varta.yaml"))?;
    let mut asked = Vec::new();
    let mut ids = Vec::new();
    for entry in fs_err::read_dir(folder.join("dashboards"))? {
        let board: Value = serde_json::from_slice(&fs_err::read(entry?.path())?)?;
        let title = board["title"].as_str().context("a dashboard has a title")?;
        ids.push(board["uid"].as_str().context("a dashboard has an id")?.to_owned());
        for variable in board["templating"]["list"].as_array().into_iter().flatten() {
            let name = format!("{title}, variable {}", variable["name"]);
            asked.push(query(name, variable, &variable["query"], &["__text", "__value"], &sources, range)?);
        }
        for panel in board["panels"].as_array().context("a dashboard has panels")? {
            for target in panel["targets"].as_array().context("a panel asks something")? {
                let name = format!("{title}, {}", panel["title"]);
                let is_series = target["format"] == "time_series";
                let needs: &[&str] = if is_series { &["time", "metric", "value"] } else { &[] };
                let text = if target["rawSql"].is_string() { &target["rawSql"] } else { &target["query"] };
                asked.push(query(name, target, text, needs, &sources, range)?);
            }
        }
    }
    ids.sort();
    ensure!(ids == ["varta-agent", "varta-alerts", "varta-fleet", "varta-health"], "dashboards {ids:?}");
    Ok(asked)
}

fn query(
    name: String,
    asks: &Value,
    text: &Value,
    needs: &'static [&'static str],
    sources: &str,
    range: &Range,
) -> anyhow::Result<Asked> {
    let source =
        asks["datasource"]["uid"].as_str().with_context(|| format!("{name} names no data source"))?;
    ensure!(sources.contains(&format!("uid: {source}\n")), "{name}: there is no data source {source}");
    let language = match asks["datasource"]["type"].as_str() {
        Some("influxdb") => Language::Flux,
        Some("postgres") => Language::Sql,
        other => bail!("{name}: data source of type {other:?}"),
    };
    let text = text.as_str().with_context(|| format!("{name} asks nothing"))?;
    Ok(Asked { query: filled(text, range)?, name, language, needs })
}

/// The query as Grafana sends it. What it does not know is told.
fn filled(query: &str, range: &Range) -> anyhow::Result<String> {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let (from, to) = (time(range.from), time(range.to));
    let mut query = query
        .replace("${agent:sqlstring}", &format!("'{}'", range.agent))
        .replace("${agent}", &range.agent)
        .replace("$__timeFrom()", &format!("'{from}'"))
        .replace("$__timeTo()", &format!("'{to}'"))
        .replace("v.timeRangeStart", &from)
        .replace("v.timeRangeStop", &to)
        .replace("v.windowPeriod", "1m");
    while let Some(at) = query.find("$__timeFilter(") {
        let rest = &query[at + "$__timeFilter(".len()..];
        let (column, after) = rest.split_once(')').context("a filter is closed")?;
        query = format!("{}{column} BETWEEN '{from}' AND '{to}'{after}", &query[..at]);
    }
    ensure!(!query.contains('$'), "something is left to fill in: {query}");
    Ok(query)
}

impl Asked {
    /// Fails unless a row comes with a value in it.
    pub(super) async fn must_have_rows(&self, stage: &Stage) -> anyhow::Result<()> {
        match self.language {
            Language::Flux => {
                let query = self.query.replace("v.defaultBucket", &format!("\"{}\"", stage.influx.bucket));
                let answer = stage.influx.query(&query).await?;
                ensure!(has_point(&answer), "no point");
            }
            Language::Sql => {
                let rows = stage
                    .postgres
                    .texts(&format!("select to_jsonb(row)::text from ({}) row", self.query))
                    .await?;
                let mut told = false;
                for row in rows {
                    let row: Value = serde_json::from_str(&row)?;
                    for column in self.needs {
                        ensure!(row.get(column).is_some(), "no column {column}");
                    }
                    told |= row.as_object().is_some_and(|row| row.values().all(|value| !value.is_null()))
                        || row.as_object().is_some_and(|row| {
                            row.len() > 3
                                && row.values().filter(|value| !value.is_null()).count() * 2 > row.len()
                        });
                }
                ensure!(told, "no row with values");
            }
        }
        Ok(())
    }
}

/// True if a line of an annotated CSV answer has a time and a value.
fn has_point(answer: &str) -> bool {
    let mut columns: Option<(usize, usize)> = None;
    for line in answer.lines().map(str::trim_end) {
        let cells: Vec<&str> = line.split(',').collect();
        let at = |name: &str| cells.iter().position(|cell| *cell == name);
        if let (Some(time), Some(value)) = (at("_time"), at("_value")) {
            columns = Some((time, value));
        } else if let Some((time, value)) = columns {
            let filled = |at: usize| cells.get(at).is_some_and(|cell| !cell.is_empty());
            if filled(time) && filled(value) {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_values_is_empty() {
        assert!(!has_point(""));
        assert!(!has_point(",result,table,_time,_value\r\n"));
        assert!(!has_point(",result,table,_time,_value\r\n,_result,0,2026-01-01T00:00:00Z,\r\n"));
        assert!(has_point(",result,table,_time,_value\r\n,_result,0,2026-01-01T00:00:00Z,1\r\n"));
    }
}

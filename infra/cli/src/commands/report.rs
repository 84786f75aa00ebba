//! `varta report`: the report of a day or a week, computed now from what PostgreSQL holds. Nothing is stored.

use std::path::PathBuf;

use anyhow::Context as _;
use chrono::NaiveDate;
use clap::ValueEnum;
use sinks::reports::{self, Kind, Period, Subject};

use crate::config::Config;
use crate::exit::Exit;

/// What `varta report` can be told.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("period").required(true))]
pub(crate) struct Args {
    /// The day, e.g. 2026-01-05.
    #[arg(long, value_name = "DATE", group = "period")]
    day: Option<NaiveDate>,
    /// The week, from Monday on, that holds this day.
    #[arg(long, value_name = "DATE", group = "period")]
    week: Option<NaiveDate>,
    /// Only this agent's machine.
    #[arg(long, value_name = "ID", conflicts_with = "user")]
    agent: Option<String>,
    /// Only this user, on all machines.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// How it is written.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Where to; without it standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal.
    Text,
    /// All sections, as they are stored.
    Json,
    /// One page with plots that needs nothing else.
    Html,
}

/// Exit code 3 if nothing at all is known of the period.
pub(crate) async fn report(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let period = match (args.day, args.week) {
        (Some(day), _) => Period::holding(Kind::Day, day),
        (None, Some(day)) => Period::holding(Kind::Week, day),
        (None, None) => anyhow::bail!("name a day or a week"),
    };
    let subject = match (&args.agent, &args.user) {
        (Some(id), _) => Subject::Agent(id.clone()),
        (None, Some(name)) => Subject::User(name.clone()),
        (None, None) => Subject::Fleet,
    };
    let mut connection = sinks::postgres::connect(&config.sinks.postgres, "varta-report").await?;
    let limit = 2 * config.sinks.postgres.timeout;
    let report = reports::compute(&mut connection, period, &subject, &config.reports.zone, limit)
        .await
        .context("computing the report")?;
    let body = report.body()?;
    let written = match args.format {
        Format::Text => reports::text(&body),
        Format::Json => format!("{:#}\n", report.json),
        Format::Html => reports::html(&body)?,
    };
    match &args.out {
        Some(path) => fs_err::write(path, written)?,
        None => print!("{written}"),
    }
    Ok(if body.is_empty() { Exit::NotMet } else { Exit::Done })
}

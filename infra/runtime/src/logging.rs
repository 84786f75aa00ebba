//! Where the process's own log goes.

use std::io::IsTerminal;
use std::path::PathBuf;

use serde::Deserialize;
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{ByteSize, Check, Problems};
use crate::rotation::RotatingFile;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged and where to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A level for Varta's own modules, or levels by module such as `info,eventlog=debug`.
    pub level: String,
    /// `text` or `json`.
    pub format: Format,
    /// The file; without one the log goes to standard error.
    pub file: Option<PathBuf>,
    /// A file that would grow beyond this is renamed and a new one begun.
    pub max_size: ByteSize,
    /// How many full files are kept beside the current one.
    pub keep: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: Format::Text,
            file: None,
            max_size: ByteSize::mib(16),
            keep: 4,
        }
    }
}

impl Check for LogConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        if let Err(error) = filter(&self.level) {
            let hint = "a level is error, warn, info, debug or trace".to_owned();
            problems.add(format!("{at}.level"), error.to_string(), Some(hint));
        }
        if self.max_size.bytes() < 4096 {
            problems.add(format!("{at}.max_size"), format!("{} is less than 4 KiB", self.max_size), None);
        }
    }
}

/// Why logging could not start.
#[derive(Debug, Error)]
pub enum LogSetupError {
    /// The file or its folder cannot be made or opened.
    #[error("cannot open the log file: {0}")]
    File(#[from] std::io::Error),
    /// The levels cannot be understood.
    #[error("log level: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// Another subscriber was installed before.
    #[error("{0}")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

/// Holds the log open; keep it until the process ends.
#[must_use = "the log belongs to whoever holds the guard"]
pub struct Guard {
    _file: Option<RotatingFile>,
}

/// Sends all `tracing` events of the process to where the configuration says.
pub fn init(config: &LogConfig) -> Result<Guard, LogSetupError> {
    let Some(path) = &config.file else {
        let colours = std::io::stderr().is_terminal();
        install(config, std::io::stderr, colours)?;
        return Ok(Guard { _file: None });
    };
    let file = RotatingFile::open(path, config.max_size.bytes(), config.keep)?;
    install(config, file.clone(), false)?;
    Ok(Guard { _file: Some(file) })
}

/// The crates whose facts an operator asked for by naming a level.
const OURS: [&str; 8] =
    ["runtime", "schemas", "eventlog", "edge_agent", "bridge", "processors", "sinks", "varta"];

/// A plain level is about Varta's own modules; libraries then only warn. Anything with a module is taken as it is.
fn filter(level: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    if level.contains(['=', ',']) || level.parse::<tracing_subscriber::filter::LevelFilter>().is_err() {
        return EnvFilter::try_new(level);
    }
    let ours = OURS.map(|module| format!("{module}={level}")).join(",");
    EnvFilter::try_new(format!("warn,{ours}"))
}

fn install<W>(config: &LogConfig, writer: W, colours: bool) -> Result<(), LogSetupError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    use tracing_subscriber::util::SubscriberInitExt;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&config.level)?)
        .with_writer(writer)
        .with_ansi(colours);
    match config.format {
        Format::Text => builder.finish().try_init()?,
        Format::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

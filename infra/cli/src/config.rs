//! The configuration of the server: one TOML file, a section for each part.

use std::path::Path;
use std::time::Duration;

use bridge::BridgeConfig;
use eventlog::kafka::KafkaConfig;
use eventlog::registry::RegistryConfig;
use processors::ProcessConfig;
use runtime::config::{Check, Problems, key};
use runtime::logging::LogConfig;
use schemas::topics::Topics;
use serde::Deserialize;
use sinks::influx::InfluxConfig;
use sinks::lake::LakeConfig;
use sinks::postgres::PostgresConfig;

/// Everything that `varta` can be told; each section is described in the reference of its crate.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The log.
    pub kafka: KafkaConfig,
    /// The schema registry.
    pub registry: RegistryConfig,
    /// Names and sizes of the topics.
    pub topics: TopicsConfig,
    /// MQTT in, Kafka out.
    pub bridge: BridgeConfig,
    /// Stream jobs.
    pub process: ProcessConfig,
    /// Destinations.
    pub sinks: SinksConfig,
    /// Metrics and health over HTTP.
    pub http: HttpConfig,
    /// Logs.
    pub log: LogConfig,
    /// How a process ends.
    pub shutdown: ShutdownConfig,
}

/// Destinations, a section each.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SinksConfig {
    /// Delta tables of Parquet files.
    pub lake: LakeConfig,
    /// Time series.
    pub influx: InfluxConfig,
    /// Tables.
    pub postgres: PostgresConfig,
}

impl Check for SinksConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        self.lake.check(&key(at, "lake"), problems);
        self.influx.check(&key(at, "influx"), problems);
        self.postgres.check(&key(at, "postgres"), problems);
    }
}

/// Names and sizes of the topics.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TopicsConfig {
    /// What every topic name begins with, before its first dot.
    pub prefix: String,
    /// Partitions of each topic; fixed when the topics are created.
    pub partitions: i32,
}

impl Default for TopicsConfig {
    fn default() -> Self {
        Self { prefix: "varta".into(), partitions: 4 }
    }
}

/// Where metrics and health are served.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HttpConfig {
    /// Address and port; empty: no server.
    pub listen: String,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9464".into() }
    }
}

/// How a process ends.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ShutdownConfig {
    /// How long the parts may take to finish what they hold.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { drain: Duration::from_secs(20) }
    }
}

impl Config {
    /// The topics under the configured prefix.
    pub(crate) fn topic_names(&self) -> Topics {
        Topics::new(self.topics.prefix.as_str())
    }
}

impl Check for Config {
    fn check(&self, at: &str, problems: &mut Problems) {
        self.kafka.check(&key(at, "kafka"), problems);
        self.registry.check(&key(at, "registry"), problems);
        self.bridge.check(&key(at, "bridge"), problems);
        self.process.check(&key(at, "process"), problems);
        self.sinks.check(&key(at, "sinks"), problems);
        self.log.check(&key(at, "log"), problems);
        let prefix = &self.topics.prefix;
        let legal = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
        if prefix.is_empty() || prefix.len() > 100 || !prefix.chars().all(legal) {
            problems.add(
                key(at, "topics.prefix"),
                format!("{prefix:?} cannot begin the name of a topic"),
                Some("1 to 100 letters, digits, dots, underscores and hyphens".into()),
            );
        }
        if self.topics.partitions < 1 {
            problems.add(
                key(at, "topics.partitions"),
                format!("{} partitions", self.topics.partitions),
                Some("at least 1".into()),
            );
        }
        if !self.http.listen.is_empty() && self.http.listen.parse::<std::net::SocketAddr>().is_err() {
            problems.add(
                key(at, "http.listen"),
                format!("{:?} is not an address with a port", self.http.listen),
                Some("for example 127.0.0.1:9464, or empty for none".into()),
            );
        }
    }
}

/// Reads the file; without one, the defaults.
pub(crate) fn read(path: Option<&Path>) -> Result<Config, Problems> {
    let (text, origin) = match path {
        None => (String::new(), "the defaults".to_owned()),
        Some(path) => match fs_err::read_to_string(path) {
            Ok(text) => (text, path.display().to_string()),
            Err(error) => {
                let mut problems = Problems::default();
                problems.add("", error.to_string(), Some("name the file with --config FILE".into()));
                return Err(problems);
            }
        },
    };
    runtime::config::load(&text, &origin, &|name| std::env::var(name).ok())
}

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
use sinks::mqtt::MqttConfig;
use sinks::notifier::NotifierConfig;
use sinks::postgres::PostgresConfig;
use sinks::reports::ReportsConfig;

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
    /// Daily and weekly reports.
    pub reports: ReportsConfig,
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
    /// People.
    pub notifier: NotifierConfig,
    /// Alerts on the MQTT bus.
    pub mqtt: MqttConfig,
}

impl SinksConfig {
    /// The PostgreSQL sink, told what people are to be told.
    pub(crate) fn postgres(&self) -> PostgresConfig {
        PostgresConfig { notify: self.notifier.notify(), ..self.postgres.clone() }
    }

    /// The notifier, told where its outbox is.
    pub(crate) fn notifier(&self) -> NotifierConfig {
        let url = self.notifier.url.clone().unwrap_or_else(|| self.postgres.url.clone());
        NotifierConfig { url: Some(url), ..self.notifier.clone() }
    }
}

impl Check for SinksConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        self.lake.check(&key(at, "lake"), problems);
        self.influx.check(&key(at, "influx"), problems);
        self.postgres.check(&key(at, "postgres"), problems);
        self.notifier.check(&key(at, "notifier"), problems);
        self.mqtt.check(&key(at, "mqtt"), problems);
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
        self.reports.check(&key(at, "reports"), problems);
        self.log.check(&key(at, "log"), problems);
        let prefix = &self.topics.prefix;
        if !is_prefix(prefix) {
            problems.add(
                key(at, "topics.prefix"),
                format!("{prefix:?} cannot begin the name of a topic"),
                Some(PREFIX_RULE.into()),
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

/// What can begin the name of a topic.
pub(crate) const PREFIX_RULE: &str = "1 to 100 letters, digits, dots, underscores and hyphens";

/// Whether a topic's name can begin so.
pub(crate) fn is_prefix(prefix: &str) -> bool {
    let legal = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    (1..=100).contains(&prefix.len()) && prefix.chars().all(legal)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines that begin with `#` and no blank are settings that somebody may want.
    #[test]
    fn every_setting_of_the_file_is_known_those_that_are_commented_out_too() {
        let file = include_str!("../../config/varta.toml");
        let all: Vec<&str> = file
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .collect();
        // What the file names as examples must be there.
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let all = all.join("\n");
        let all = all.split('"').map(|part| if part.starts_with("/etc/varta/") { here } else { part });
        let all = all.collect::<Vec<_>>().join("\"");
        for (text, is_on) in [(file.to_owned(), false), (all, true)] {
            let env = |name: &str| {
                let value = match name {
                    "VARTA_POSTGRES" => "postgres://v@h/v",
                    "VARTA_KAFKA" => "127.0.0.1:1",
                    "VARTA_MQTT_PORT" => "1883",
                    "VARTA_MQTT_HOST" => "localhost",
                    _ => "http://127.0.0.1:1",
                };
                Some(value.to_owned())
            };
            let read: Result<Config, Problems> = runtime::config::load(&text, "varta.toml", &env);
            let config = read.unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(config.sinks.notifier.is_on(), is_on);
        }
    }
}

//! The agent's configuration file; every option is described in `infra/config/agent.toml`, which
//! `varta-agent --print-config` prints.

use std::path::{Path, PathBuf};

use runtime::config::{Check, Problems, load};
use runtime::logging::LogConfig;
use serde::Deserialize;

use crate::monitors::MonitorsConfig;
use crate::outbox::OutboxConfig;
use crate::publisher::{MqttConfig, PublisherConfig};
use crate::scheduler::SchedulerConfig;

/// The documented configuration, with the default of every option.
pub const DOCUMENTED: &str = include_str!("../../infra/config/agent.toml");

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// Id of the agent; absent means the one made at the first start.
    pub agent_id: Option<String>,
    /// Host name in events; absent means the system's.
    pub host: Option<String>,
    /// Folder of identity and outbox; made if missing.
    pub state_dir: PathBuf,
    /// The broker.
    pub mqtt: MqttConfig,
    /// What is sent how.
    pub publisher: PublisherConfig,
    /// What is kept until it is confirmed.
    pub outbox: OutboxConfig,
    /// What is worth an event.
    pub scheduler: SchedulerConfig,
    /// What is watched.
    pub monitors: MonitorsConfig,
    /// The agent's own log.
    pub log: LogConfig,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            agent_id: None,
            host: None,
            state_dir: PathBuf::from("/var/lib/varta-agent"),
            mqtt: MqttConfig::default(),
            publisher: PublisherConfig::default(),
            outbox: OutboxConfig::default(),
            scheduler: SchedulerConfig::default(),
            monitors: MonitorsConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Check for AgentConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        use runtime::config::key;
        if let Some(id) = &self.agent_id
            && !schemas::mqtt::is_agent_id(id)
        {
            let hint = "1 to 128 bytes, none of / + # and no control characters".to_owned();
            problems.add(key(at, "agent_id"), format!("`{id}` cannot be part of a topic"), Some(hint));
        }
        if self.state_dir.as_os_str().is_empty() {
            problems.add(key(at, "state_dir"), "is empty", None);
        }
        self.mqtt.check(&key(at, "mqtt"), problems);
        self.publisher.check(&key(at, "publisher"), problems);
        self.outbox.check(&key(at, "outbox"), problems);
        self.scheduler.check(&key(at, "scheduler"), problems);
        self.monitors.check(&key(at, "monitors"), problems);
        self.log.check(&key(at, "log"), problems);
        let batch = self.publisher.batch_size;
        if self.outbox.max_event_size.bytes() + 1024 > schemas::mqtt::MAX_BATCH_BYTES as u64 {
            let what = format!("{} does not fit into a message of 256 KiB", self.outbox.max_event_size);
            problems.add(key(at, "outbox.max_event_size"), what, Some("255 KiB at most".to_owned()));
        } else if batch.bytes() > self.outbox.limit.bytes() {
            problems.add(key(at, "publisher.batch_size"), "is larger than the outbox", None);
        }
    }
}

impl AgentConfig {
    /// Reads a file; all problems at once.
    pub fn read(path: &Path) -> Result<Self, Problems> {
        let text = fs_err::read_to_string(path).map_err(|error| {
            let mut problems = Problems::default();
            let hint = "varta-agent --print-config prints one to begin with".to_owned();
            problems.add("config", error.to_string(), Some(hint));
            problems
        })?;
        Self::parse(&text, &path.to_string_lossy(), &|name| std::env::var(name).ok())
    }

    /// Reads a text; `origin` names it in problems.
    pub fn parse(text: &str, origin: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        load(text, origin, env)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AgentConfig, Problems> {
        AgentConfig::parse(text, "agent.toml", &|name| (name == "SECRET").then(|| "hunter2".to_owned()))
    }

    #[test]
    fn the_documented_file_is_valid_and_shows_the_defaults() {
        let documented = parse(DOCUMENTED).unwrap();
        assert_eq!(show(&documented), show(&AgentConfig::default()));
    }

    /// The gauge rules shown are those built in: compared apart, for the default holds none.
    fn show(config: &AgentConfig) -> String {
        let mut config = config.clone();
        config.scheduler.gauges.clear();
        format!("{config:#?}")
    }

    #[test]
    fn the_documented_gauge_rules_are_the_built_in_ones() {
        let documented = parse(DOCUMENTED).unwrap().scheduler;
        assert_eq!(documented.gauges.len(), 4);
        for (event_type, rule) in &documented.gauges {
            assert_eq!(SchedulerConfig::default().rule(event_type), *rule, "{event_type}");
        }
    }

    #[test]
    fn the_documented_file_names_every_option() {
        // `Debug` names every field; each must be in the text, as an option or as a table.
        for line in format!("{:#?}", AgentConfig::default()).lines() {
            let Some((name, _)) = line.trim().split_once(": ") else {
                continue;
            };
            let is_field = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            let named = [format!("{name} ="), format!("[{name}"), format!(".{name}")];
            assert!(
                !is_field || named.iter().any(|text| DOCUMENTED.contains(text)),
                "{name} is not documented"
            );
        }
        for name in
            ["ca_file", "cert_file", "key_file", "dead_band", "heartbeat", "aggregate", "high", "clear"]
        {
            assert!(DOCUMENTED.contains(&format!("{name} =")), "{name} is not documented");
        }
    }

    #[test]
    fn all_problems_come_at_once() {
        let text = r#"
            agent_id = "a/b"
            stat_dir = "/x"
            [mqtt]
            host = "tcp://h"
            port = 0
            password = "x"
            [mqtt.tls]
            cert_file = "/nowhere/cert.pem"
            [publisher]
            inflight = 0
            confirm_within = "10 parsecs"
            [outbox]
            limit = "1 KiB"
            [scheduler.gauges.cpu_usage]
            clear = 5.0
            [monitors.process]
            interval = "1ms"
        "#;
        let problems = parse(text).unwrap_err();
        let at: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        for expected in [
            "agent_id",
            "stat_dir",
            "mqtt.host",
            "mqtt.port",
            "mqtt.username",
            "mqtt.tls.cert_file",
            "mqtt.tls.ca_file",
            "publisher.inflight",
            "publisher.confirm_within",
            "outbox.limit",
            "scheduler.gauges.cpu_usage.clear",
            "monitors.process.interval",
        ] {
            assert!(at.contains(&expected), "{expected} is missing among {at:?}");
        }
    }

    #[test]
    fn secrets_come_from_the_environment_and_are_never_shown() {
        let config = parse("[mqtt]\nusername = \"me\"\npassword = \"${SECRET}\"\n").unwrap();
        assert_eq!(config.mqtt.password.as_ref().unwrap().expose(), "hunter2");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

//! What may be set for alerts on the MQTT bus.

use std::{path::PathBuf, time::Duration};

use runtime::config::{ByteSize, Check, Problems, Secret, key};
use serde::Deserialize;

/// Whom reports on the bus may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All machines.
    Fleet,
    /// A machine.
    Agent,
    /// A person.
    User,
}

impl Scope {
    /// As reports are stored.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Agent => "agent",
            Self::User => "user",
        }
    }
}

/// Section `[sinks.mqtt]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// Whether this process runs the sink. Off by default.
    pub enabled: bool,
    /// Host name or address of the broker.
    pub host: String,
    /// Its port: 1883, with TLS usually 8883.
    pub port: u16,
    /// Client identifier; two processes must never share one.
    pub client_id: String,
    /// User name; without one the sink connects anonymously.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// TLS; absent: plain TCP.
    pub tls: Option<TlsConfig>,
    /// Whom reports on the bus are about; empty: none. Without `user`, nobody is named in those of machines either.
    pub reports: Vec<Scope>,
    /// How often the table of reports is looked at.
    #[serde(with = "humantime_serde")]
    pub reports_every: Duration,
    /// Consumer group; its committed offsets are where the sink goes on.
    pub group: String,
    /// Static membership name of this process in the group.
    pub instance: Option<String>,
    /// Largest payload; an alert that is larger goes without its evidence.
    pub max_payload: ByteSize,
    /// Alerts are published when so many are held …
    pub batch_rows: usize,
    /// … or the oldest has this age.
    #[serde(with = "humantime_serde")]
    pub batch_age: Duration,
    /// Longest wait for the broker to acknowledge what is held.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long an alert waits while the broker does not let us publish to its topic; then it is a dead letter. The
    /// offsets behind it are not stored meanwhile. `0s`: it does not wait.
    #[serde(with = "humantime_serde")]
    pub access_wait: Duration,
    /// Rows in one poll at most.
    pub poll_rows: usize,
    /// Bytes that one poll aims at.
    pub poll_bytes: ByteSize,
    /// How long a stop may take to publish what is held.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

/// Section `[sinks.mqtt.tls]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificates (PEM) that may sign the broker's; absent: those of the system.
    pub ca: Option<PathBuf>,
    /// Own certificate chain (PEM), for mutual TLS.
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM).
    pub key: Option<PathBuf>,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            host: "127.0.0.1".to_owned(),
            port: 1883,
            client_id: "varta-alerts-1".to_owned(),
            username: None,
            password: None,
            tls: None,
            reports: vec![Scope::Fleet, Scope::Agent],
            reports_every: Duration::from_secs(10),
            group: "varta-mqtt".to_owned(),
            instance: None,
            max_payload: ByteSize::kib(256),
            batch_rows: 500,
            batch_age: Duration::from_millis(50),
            timeout: Duration::from_secs(15),
            access_wait: Duration::from_hours(1),
            poll_rows: 500,
            poll_bytes: ByteSize::mib(1),
            drain: Duration::from_secs(10),
        }
    }
}

impl MqttConfig {
    /// The broker, in words of the configuration.
    pub(super) fn broker(&self) -> String {
        format!("mqtt at {}:{}", self.host, self.port)
    }
}

impl Check for MqttConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        if self.host.is_empty() || self.host.contains([' ', '/']) {
            problems.add(key(at, "host"), "is not a host name or address", None);
        }
        if self.port == 0 {
            problems.add(key(at, "port"), "must not be 0", None);
        }
        if self.password.is_some() && self.username.is_none() {
            problems.add(key(at, "password"), "given without `username`", None);
        }
        for (name, value) in [("client_id", &self.client_id), ("group", &self.group)] {
            if value.is_empty() || value.len() > 128 {
                problems.add(key(at, name), "must have 1 to 128 characters", None);
            }
        }
        for (name, value) in [("batch_rows", self.batch_rows), ("poll_rows", self.poll_rows)] {
            if value == 0 {
                problems.add(key(at, name), "must be greater than nothing", None);
            }
        }
        if self.reports_every < Duration::from_millis(100) || self.reports_every > Duration::from_hours(1) {
            problems.add(key(at, "reports_every"), "must be between 100 ms and 1 h", None);
        }
        if self.access_wait > Duration::from_hours(24) {
            problems.add(key(at, "access_wait"), "must be at most a day", None);
        }
        if self.max_payload < ByteSize::kib(16) || self.max_payload > ByteSize::mib(2) {
            problems.add(key(at, "max_payload"), "must be between 16 KiB and 2 MiB", None);
        }
        if let Some(tls) = &self.tls {
            if tls.certificate.is_some() != tls.key.is_some() {
                problems.add(key(at, "tls"), "`certificate` and `key` belong together", None);
            } else if tls.certificate.is_some() && tls.ca.is_none() {
                problems.add(key(at, "tls"), "a client certificate needs `ca` as well", None);
            } else if self.enabled {
                for (name, path) in [("ca", &tls.ca), ("certificate", &tls.certificate), ("key", &tls.key)] {
                    if let Some(path) = path {
                        problems.file(key(at, &format!("tls.{name}")), path);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::config::load;

    use super::*;

    #[test]
    fn off_by_default_and_all_problems_are_named_at_once() {
        assert!(!load::<MqttConfig>("", "test", &|_| None).unwrap().enabled);
        let text = "host = \"a/b\"\nport = 0\npassword = \"hunter2\"\nclient_id = \"\"\nmax_payload = \"1 B\"\n\
                    reports = [\"people\"]\nreports_every = \"0s\"\naccess_wait = \"2days\"\n[tls]\nkey = \"/k\"";
        let problems = load::<MqttConfig>(text, "test", &|_| None).unwrap_err();
        let named: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        for place in [
            "host",
            "port",
            "password",
            "client_id",
            "max_payload",
            "reports[0]",
            "reports_every",
            "access_wait",
            "tls",
        ] {
            assert!(named.contains(&place), "{place} is missing from {named:?}");
        }
        assert!(!problems.to_string().contains("hunter2"));
    }
}

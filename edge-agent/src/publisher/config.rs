//! Configuration of the MQTT connection and of what is sent how.

use std::path::PathBuf;
use std::time::Duration;

use runtime::config::{ByteSize, Check, Problems, Secret, key};
use serde::Deserialize;

use super::window::Limits;

/// The broker and how to reach it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// Host name or address of the broker.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name, if the broker wants one.
    pub username: Option<String>,
    /// Password: a text, `${NAME}` from the environment or `file:PATH`.
    pub password: Option<Secret>,
    /// Time without traffic after which the connection is probed; whole seconds, at least 5.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// Time for TCP, TLS and the broker's greeting.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Longest pause between two attempts to connect.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
    /// Encryption; absent means plain TCP.
    pub tls: Option<TlsConfig>,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            port: 1883,
            username: None,
            password: None,
            keep_alive: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            retry_max: Duration::from_secs(30),
            tls: None,
        }
    }
}

/// Certificates, PEM files.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Authorities that may have signed the broker's certificate; absent means those of the system.
    pub ca_file: Option<PathBuf>,
    /// Certificate of this agent, for brokers that ask for one.
    pub cert_file: Option<PathBuf>,
    /// Its private key.
    pub key_file: Option<PathBuf>,
}

impl Check for MqttConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        if self.host.trim().is_empty() {
            problems.add(key(at, "host"), "is empty", None);
        } else if self.host.contains("://") || self.host.contains('/') {
            let hint = "write the bare name; port and tls are settings of their own".to_owned();
            problems.add(key(at, "host"), format!("`{}` is not a host name", self.host), Some(hint));
        }
        if self.port == 0 {
            problems.add(key(at, "port"), "is 0", None);
        }
        if self.keep_alive < Duration::from_secs(5) || self.keep_alive > Duration::from_hours(12) {
            problems.add(key(at, "keep_alive"), "is not between 5s and 12h", None);
        }
        if self.connect_timeout.is_zero() {
            problems.add(key(at, "connect_timeout"), "is zero", None);
        }
        if self.retry_max < Duration::from_secs(1) {
            problems.add(key(at, "retry_max"), "is less than 1s", None);
        }
        if self.password.is_some() && self.username.is_none() {
            problems.add(key(at, "username"), "is missing though there is a password", None);
        }
        if let Some(tls) = &self.tls {
            tls.check(&key(at, "tls"), problems);
        }
    }
}

impl Check for TlsConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        for (name, file) in
            [("ca_file", &self.ca_file), ("cert_file", &self.cert_file), ("key_file", &self.key_file)]
        {
            if let Some(file) = file
                && let Err(error) = fs_err::File::open(file)
            {
                problems.add(key(at, name), error.to_string(), None);
            }
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            problems.add(key(at, "cert_file"), "certificate and key come together", None);
        }
        if self.cert_file.is_some() && self.ca_file.is_none() {
            problems.add(key(at, "ca_file"), "is needed beside a client certificate", None);
        }
    }
}

/// When rows leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Critical and normal at once; bulk gathers for `batch_interval`.
    #[default]
    Realtime,
    /// Critical at once; normal and bulk gather for `batch_interval`.
    Hybrid,
    /// All lanes gather for `batch_interval`.
    Batch,
}

/// What is sent how.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublisherConfig {
    /// When rows leave.
    pub mode: Mode,
    /// How long rows gather, where the mode says so.
    #[serde(with = "humantime_serde")]
    pub batch_interval: Duration,
    /// Largest array in one message; at most 256 KiB.
    pub batch_size: ByteSize,
    /// Most events in one array.
    pub batch_rows: usize,
    /// A lane with at least so many unsent events is sent as arrays.
    pub batch_above: u64,
    /// Events sent and not yet confirmed by the bridge.
    pub window_rows: u64,
    /// Messages that the broker has not yet acknowledged.
    pub inflight: u16,
    /// Bytes of those messages.
    pub inflight_size: ByteSize,
    /// Time for the bridge's confirmation; after it the events are sent again.
    #[serde(with = "humantime_serde")]
    pub confirm_within: Duration,
    /// The same after repeated attempts: the time doubles up to this.
    #[serde(with = "humantime_serde")]
    pub confirm_within_max: Duration,
    /// At a clean stop, time to send and confirm what is left; the rest stays in the outbox.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for PublisherConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Realtime,
            batch_interval: Duration::from_secs(1),
            batch_size: ByteSize::kib(128),
            batch_rows: 400,
            batch_above: 16,
            window_rows: 20_000,
            inflight: 100,
            inflight_size: ByteSize::mib(1),
            confirm_within: Duration::from_secs(10),
            confirm_within_max: Duration::from_mins(5),
            drain: Duration::from_secs(5),
        }
    }
}

impl Check for PublisherConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        if self.batch_size < ByteSize::kib(1)
            || self.batch_size.bytes() > schemas::mqtt::MAX_BATCH_BYTES as u64
        {
            problems.add(
                key(at, "batch_size"),
                format!("{} is not between 1 KiB and 256 KiB", self.batch_size),
                None,
            );
        }
        let zero = [
            ("batch_rows", self.batch_rows == 0),
            ("window_rows", self.window_rows == 0),
            ("inflight", self.inflight == 0),
            ("inflight_size", self.inflight_size.bytes() == 0),
        ];
        for (name, is_zero) in zero {
            if is_zero {
                problems.add(key(at, name), "is 0: nothing would ever be sent", None);
            }
        }
        if self.confirm_within < Duration::from_secs(1) {
            let hint = "the bridge gathers confirmations for up to 500ms".to_owned();
            problems.add(key(at, "confirm_within"), "is less than 1s", Some(hint));
        }
        if self.confirm_within_max < self.confirm_within {
            problems.add(key(at, "confirm_within_max"), "is less than confirm_within", None);
        }
    }
}

impl PublisherConfig {
    pub(super) fn limits(&self) -> Limits {
        let gather = match self.mode {
            Mode::Realtime => [Duration::ZERO, Duration::ZERO, self.batch_interval],
            Mode::Hybrid => [Duration::ZERO, self.batch_interval, self.batch_interval],
            Mode::Batch => [self.batch_interval; 3],
        };
        Limits {
            rows: self.window_rows,
            messages: usize::from(self.inflight),
            bytes: usize::try_from(self.inflight_size.bytes()).unwrap_or(usize::MAX),
            array_rows: self.batch_rows,
            array_above: self.batch_above.max(2),
            confirm_within: self.confirm_within,
            confirm_within_max: self.confirm_within_max,
            gather,
        }
    }

    /// Age from which an event counts as replayed.
    pub(super) fn replayed_after(&self) -> Duration {
        Duration::from_secs(30).max(self.batch_interval.saturating_mul(2))
    }
}

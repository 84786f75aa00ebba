//! What a bridge is told. Everything has a default that suits one machine.

use std::path::PathBuf;
use std::time::Duration;

use runtime::config::{ByteSize, Check, Problems, Secret, key};
use serde::Deserialize;

pub use crate::http::config::{HttpConfig, HttpTlsConfig, LimitsConfig};
use crate::sizing::{self, Verdict};

/// Section `[bridge]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BridgeConfig {
    /// Name of this bridge in clock records, confirmations and metrics; also its MQTT client identifier. Two
    /// bridges must never share one, and a bridge must keep its own: the broker's session hangs on it.
    pub id: String,
    /// The MQTT broker and how to talk to it.
    pub mqtt: MqttConfig,
    /// Events and feedback over HTTPS.
    pub http: HttpConfig,
    /// How much may be on its way from MQTT to Kafka at once.
    pub in_flight: InFlightConfig,
    /// How the agents are told what is in Kafka.
    pub confirmations: ConfirmationConfig,
    /// The load that this bridge is meant to carry; checked at start.
    pub sizing: SizingConfig,
    /// How often a clock record goes into each partition of the raw topic.
    #[serde(with = "humantime_serde")]
    pub clock_interval: Duration,
    /// How long a stopping bridge waits for Kafka to confirm what is in flight.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            id: "varta-bridge-1".to_owned(),
            mqtt: MqttConfig::default(),
            http: HttpConfig::default(),
            in_flight: InFlightConfig::default(),
            confirmations: ConfirmationConfig::default(),
            sizing: SizingConfig::default(),
            clock_interval: Duration::from_secs(5),
            drain: Duration::from_secs(10),
        }
    }
}

/// Section `[bridge.mqtt]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// Host name or address of the broker.
    pub host: String,
    /// Its port: 1883, with TLS usually 8883.
    pub port: u16,
    /// User name; without one the bridge connects anonymously.
    pub username: Option<String>,
    /// Password: a text, `${VARIABLE}` or `file:PATH`.
    pub password: Option<Secret>,
    /// TLS; absent: plain TCP.
    pub tls: Option<TlsConfig>,
    /// Name of the share group. Bridges of one group share the messages between them.
    pub share_group: String,
    /// Also accept the five sample topics below `agent/{agent_id}/`: `sysinfo/cpu`, `sysinfo/mem`,
    /// `sysinfo/processes`, `user/activity` and `logs/offline`.
    pub sample_topics: bool,
    /// `$SYS` topics whose numbers are exported as metrics.
    pub broker_statistics: Vec<String>,
    /// How long the connection may be silent before it is probed.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// How long a connection attempt may take.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long the broker keeps the session, with all that is queued in it, while the bridge is away. As long as
    /// it does, Mosquitto deals an absent bridge its share of the group as well; those messages wait for its
    /// return, or until their agents, who were not told that Kafka has them, send them again.
    #[serde(with = "humantime_serde")]
    pub session_expiry: Duration,
    /// Largest packet accepted. The broker must refuse larger ones from their senders: what it accepts but may
    /// not pass on to us it drops without a word.
    pub max_packet_size: ByteSize,
    /// Longest wait between two connection attempts.
    #[serde(with = "humantime_serde")]
    pub max_backoff: Duration,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 1883,
            username: None,
            password: None,
            tls: None,
            share_group: "varta".to_owned(),
            sample_topics: false,
            broker_statistics: vec![
                "$SYS/broker/publish/messages/dropped".to_owned(),
                "$SYS/broker/store/messages/count".to_owned(),
                "$SYS/broker/clients/connected".to_owned(),
            ],
            keep_alive: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            session_expiry: Duration::from_hours(7 * 24),
            max_packet_size: ByteSize(2 << 20),
            max_backoff: Duration::from_secs(10),
        }
    }
}

/// Section `[bridge.mqtt.tls]`.
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

/// Section `[bridge.in_flight]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InFlightConfig {
    /// MQTT messages that the broker may have unacknowledged at once (*receive maximum*). Brokers have a limit
    /// of their own as well (Mosquitto: `max_inflight_messages`); the smaller of the two counts.
    pub messages: u16,
    /// Events given to Kafka and not yet confirmed.
    pub events: usize,
    /// Bytes of MQTT messages held, 256 for each beside its own. Kafka's client holds about as much again. A broker
    /// that sends more than its window is borne up to here.
    pub bytes: ByteSize,
}

impl Default for InFlightConfig {
    fn default() -> Self {
        Self { messages: 500, events: 50_000, bytes: ByteSize(128 << 20) }
    }
}

/// Section `[bridge.confirmations]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfirmationConfig {
    /// How long confirmations of one agent are gathered before they are sent; at most 500 ms.
    #[serde(with = "humantime_serde")]
    pub gather: Duration,
    /// Ranges of sequence numbers kept over all agents while the broker is away; more are forgotten, and the
    /// agents send those events again.
    pub max_ranges: usize,
}

impl Default for ConfirmationConfig {
    fn default() -> Self {
        Self { gather: Duration::from_millis(200), max_ranges: 20_000 }
    }
}

/// Section `[bridge.sizing]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SizingConfig {
    /// Events a second that this bridge is to carry; 0: do not check.
    pub events_per_second: f64,
    /// Events in one MQTT message, on average.
    pub events_per_message: f64,
    /// Time from giving a record to Kafka to its confirmation, including the producer's linger.
    #[serde(with = "humantime_serde")]
    pub kafka_latency: Duration,
}

impl Default for SizingConfig {
    fn default() -> Self {
        Self { events_per_second: 5_000.0, events_per_message: 1.0, kafka_latency: Duration::from_millis(25) }
    }
}

/// MQTT obliges a broker to accept client identifiers of 23 bytes; those in use accept far longer ones.
const MAX_NAME: usize = 128;

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_NAME
        && !text.contains(['/', '+', '#', '$'])
        && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

impl Check for BridgeConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        if !is_name(&self.id) {
            problems.add(
                key(at, "id"),
                "must have 1 to 128 characters, none of them a blank or one of / + # $",
                None,
            );
        }
        if self.clock_interval.is_zero() || self.clock_interval > Duration::from_mins(1) {
            problems.add(
                key(at, "clock_interval"),
                "must be between 1 ms and 60 s",
                Some("silence of agents is noticed in steps of this".to_owned()),
            );
        }
        self.mqtt.check(&key(at, "mqtt"), problems);
        self.http.check(&key(at, "http"), problems);
        self.in_flight.check(&key(at, "in_flight"), problems);
        self.confirmations.check(&key(at, "confirmations"), problems);
        if self.in_flight.bytes.0 < 2 * self.mqtt.max_packet_size.0 {
            problems.add(
                key(at, "in_flight.bytes"),
                "smaller than two packets of mqtt.max_packet_size",
                Some("raise one or lower the other".to_owned()),
            );
        }
        self.sizing.check(&key(at, "sizing"), problems);
        if let Verdict::TooSmall { carries } = sizing::judge(&self.sizing, self.in_flight.messages) {
            problems.add(
                key(at, "in_flight.messages"),
                format!(
                    "{} messages in flight carry at most {carries:.0} events/s, not the {:.0} of sizing",
                    self.in_flight.messages, self.sizing.events_per_second
                ),
                Some("raise in_flight.messages, or correct sizing".to_owned()),
            );
        }
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
        if !is_name(&self.share_group) {
            problems.add(
                key(at, "share_group"),
                "must not be empty nor hold a blank or one of / + # $",
                None,
            );
        }
        for (index, topic) in self.broker_statistics.iter().enumerate() {
            if !topic.starts_with("$SYS/") || topic.contains(['+', '#']) {
                problems.add(
                    key(at, &format!("broker_statistics[{index}]")),
                    "must be one topic below `$SYS/`",
                    None,
                );
            }
        }
        if self.keep_alive < Duration::from_secs(1) || self.keep_alive > Duration::from_hours(1) {
            problems.add(key(at, "keep_alive"), "must be between 1 s and 1 h", None);
        }
        if self.session_expiry < Duration::from_mins(1) {
            problems.add(
                key(at, "session_expiry"),
                "shorter than a minute",
                Some("the broker drops what is queued for a bridge that is away for longer".to_owned()),
            );
        }
        if self.max_packet_size.0 < 64 << 10 || self.max_packet_size.0 > 64 << 20 {
            problems.add(key(at, "max_packet_size"), "must be between 64 KiB and 64 MiB", None);
        }
        if let Some(tls) = &self.tls
            && tls.certificate.is_some() != tls.key.is_some()
        {
            problems.add(key(at, "tls"), "`certificate` and `key` belong together", None);
        } else if let Some(tls) = &self.tls {
            for (name, path) in [("ca", &tls.ca), ("certificate", &tls.certificate), ("key", &tls.key)] {
                if let Some(path) = path {
                    problems.file(key(at, &format!("tls.{name}")), path);
                }
            }
        }
    }
}

impl Check for InFlightConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        if self.messages == 0 {
            problems.add(key(at, "messages"), "must not be 0", None);
        }
        if self.events == 0 {
            problems.add(key(at, "events"), "must not be 0", None);
        }
    }
}

impl Check for ConfirmationConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        if self.gather > Duration::from_millis(500) {
            problems.add(
                key(at, "gather"),
                "longer than 500 ms",
                Some("agents hold every event in their outbox until it is confirmed".to_owned()),
            );
        }
        if self.max_ranges == 0 {
            problems.add(key(at, "max_ranges"), "must not be 0", None);
        }
    }
}

impl Check for SizingConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        if !self.events_per_second.is_finite() || self.events_per_second < 0.0 {
            problems.add(key(at, "events_per_second"), "must be a number of at least 0", None);
        }
        if !self.events_per_message.is_finite() || self.events_per_message <= 0.0 {
            problems.add(key(at, "events_per_message"), "must be a number above 0", None);
        }
        if self.kafka_latency.is_zero() {
            problems.add(key(at, "kafka_latency"), "must not be 0", None);
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::config;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        bridge: BridgeConfig,
    }

    impl Check for File {
        fn check(&self, at: &str, problems: &mut Problems) {
            self.bridge.check(&key(at, "bridge"), problems);
        }
    }

    fn load(text: &str) -> Result<File, Problems> {
        config::load(text, "test.toml", &|_| None)
    }

    #[test]
    fn the_defaults_are_sound() {
        let file = load("").unwrap();
        assert_eq!(file.bridge.in_flight.messages, 500);
    }

    #[test]
    fn all_problems_come_at_once_and_name_their_place() {
        let problems = load(
            r#"
            [bridge]
            id = "a/b"
            clock_interval = "2m"
            [bridge.mqtt]
            prot = 1883
            port = 0
            password = "x"
            share_group = ""
            broker_statistics = ["other/topic"]
            tls = { key = "/k" }
            [bridge.in_flight]
            messages = 10
            bytes = "1 MiB"
            [bridge.confirmations]
            gather = "1s"
            "#,
        )
        .unwrap_err();
        let places: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        for place in [
            "bridge.id",
            "bridge.clock_interval",
            "bridge.mqtt.prot",
            "bridge.mqtt.port",
            "bridge.mqtt.password",
            "bridge.mqtt.share_group",
            "bridge.mqtt.broker_statistics[0]",
            "bridge.mqtt.tls",
            "bridge.in_flight.messages",
            "bridge.in_flight.bytes",
            "bridge.confirmations.gather",
        ] {
            assert!(places.contains(&place), "{place} is missing from {places:?}");
        }
        assert_eq!(problems.len(), 11, "{problems}");
    }
}

//! What the HTTP intake is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use runtime::config::{ByteSize, Check, Problems, key};
use schemas::translate::{MAX_EVENTS, MAX_MESSAGE_BYTES};
use serde::Deserialize;

/// Memory counted for each event beside its bytes: its row, its record, and the places in lists of both.
pub(super) const EVENT: u64 = 512;
/// What the inflater of a body holds beside what comes out of it: its window and buffers.
pub(super) const INFLATER: u64 = 80 << 10;

/// Memory counted for the events of a body beside the body itself.
pub(super) fn for_events(body: usize, events: usize) -> u64 {
    2 * body as u64 + EVENT * events as u64
}

/// Most memory that one request can be counted with: a body of the smallest pieces that could be events.
fn most_for_one(body: u64) -> u64 {
    let events = (body / 2 + 1).min(MAX_EVENTS as u64);
    body + for_events(body as usize, events as usize) + INFLATER
}

/// Section `[bridge.http]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Address and port of `POST /v1/events` and `POST /v1/feedback`; empty: no such server.
    pub listen: String,
    /// Certificates; absent: plain HTTP.
    pub tls: Option<HttpTlsConfig>,
    /// Allow plain HTTP on an address that others can reach, e.g. behind a proxy that ends TLS.
    pub allow_plain: bool,
    /// The file of API keys that `varta keys` writes. Looked at every second.
    pub keys: PathBuf,
    /// Bounds.
    pub limits: LimitsConfig,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: String::new(),
            tls: None,
            allow_plain: false,
            keys: PathBuf::from("keys.toml"),
            limits: LimitsConfig::default(),
        }
    }
}

impl HttpConfig {
    /// Where to listen; `None`: not at all. [`Check`] has seen that it is an address.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.listen.parse().ok()
    }
}

/// Section `[bridge.http.tls]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTlsConfig {
    /// Certificate chain of this server (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// Certificates (PEM) that must have signed the client's; absent: clients show none.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// Section `[bridge.http.limits]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Largest body, as sent and inflated; at most 2 MiB, the largest message of MQTT.
    pub body: ByteSize,
    /// Bytes that all requests may hold at once, until Kafka has confirmed them: a body counts three times (itself,
    /// rows, records), each event 512 more. Kafka's client holds about a body more.
    pub bytes_in_flight: ByteSize,
    /// Requests of which Kafka has not confirmed all events.
    pub requests_in_flight: usize,
    /// Connections open at once; more wait to be accepted.
    pub connections: usize,
    /// Requests a second of one key, over time …
    pub requests_per_second: f64,
    /// … and at once.
    pub burst: u32,
    /// How long a TLS handshake, and then the head of a request, may take; also how long a connection may idle.
    #[serde(with = "humantime_serde")]
    pub head_timeout: Duration,
    /// How long the body of a request may take; also how long an answer may wait without a byte of it being read.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long Kafka may take to confirm a request before its sender hears 503.
    #[serde(with = "humantime_serde")]
    pub kafka_timeout: Duration,
    /// A connection older than this is closed after the request at hand.
    #[serde(with = "humantime_serde")]
    pub connection_age: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            body: ByteSize::mib(2),
            bytes_in_flight: ByteSize::mib(64),
            requests_in_flight: 256,
            connections: 512,
            requests_per_second: 50.0,
            burst: 100,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            kafka_timeout: Duration::from_secs(10),
            connection_age: Duration::from_mins(10),
        }
    }
}

impl Check for HttpConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        self.limits.check(&key(at, "limits"), problems);
        if self.listen.is_empty() {
            return;
        }
        let Some(address) = self.address() else {
            problems.add(
                key(at, "listen"),
                format!("{:?} is not an address with a port", self.listen),
                Some("for example 127.0.0.1:8443, or empty for none".to_owned()),
            );
            return;
        };
        if self.tls.is_none() && !address.ip().is_loopback() && !self.allow_plain {
            problems.add(
                key(at, "listen"),
                "others can reach this address, and API keys would travel unencrypted",
                Some("set `tls`, or `allow_plain = true` behind a proxy that ends TLS".to_owned()),
            );
        }
        if self.keys.as_os_str().is_empty() {
            problems.add(key(at, "keys"), "must name a file", None);
        }
        if let Some(tls) = &self.tls {
            problems.file(key(at, "tls.certificate"), &tls.certificate);
            problems.file(key(at, "tls.key"), &tls.key);
            if let Some(client_ca) = &tls.client_ca {
                problems.file(key(at, "tls.client_ca"), client_ca);
            }
        }
    }
}

impl Check for LimitsConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        let limit = MAX_MESSAGE_BYTES as u64;
        if self.body.0 == 0 || self.body.0 > limit {
            problems.add(key(at, "body"), format!("must be 1 byte to {}", ByteSize(limit)), None);
        }
        let needed = most_for_one(self.body.0);
        if self.bytes_in_flight.0 < needed {
            problems.add(
                key(at, "bytes_in_flight"),
                format!("smaller than what one request of {} may need", self.body),
                Some(format!("at least {needed} bytes: many small events count several times their bytes")),
            );
        }
        if self.bytes_in_flight.0 > ByteSize::gib(64).0 {
            problems.add(key(at, "bytes_in_flight"), "larger than 64 GiB", None);
        }
        for (name, value) in
            [("requests_in_flight", self.requests_in_flight), ("connections", self.connections)]
        {
            if value == 0 || value > 100_000 {
                problems.add(key(at, name), "must be 1 to 100000", None);
            }
        }
        if !self.requests_per_second.is_finite() || self.requests_per_second <= 0.0 {
            problems.add(key(at, "requests_per_second"), "must be a number above 0", None);
        }
        if self.burst == 0 {
            problems.add(key(at, "burst"), "must not be 0", None);
        }
        for (name, value) in [
            ("head_timeout", self.head_timeout),
            ("body_timeout", self.body_timeout),
            ("kafka_timeout", self.kafka_timeout),
            ("connection_age", self.connection_age),
        ] {
            if value.is_zero() || value > Duration::from_hours(1) {
                problems.add(key(at, name), "must be between 1 ms and 1 h", None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::config::load;

    use super::*;

    fn problems(text: &str) -> Vec<String> {
        match load::<HttpConfig>(text, "test", &|_| None) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(|problem| problem.at.clone()).collect(),
        }
    }

    #[test]
    fn keys_travel_encrypted_unless_the_owner_says_otherwise() {
        assert!(problems("").is_empty());
        assert!(problems("listen = \"127.0.0.1:80\"").is_empty());
        assert!(problems("listen = \"[::1]:80\"").is_empty());
        assert_eq!(problems("listen = \"0.0.0.0:80\""), ["listen"]);
        assert!(problems("listen = \"0.0.0.0:80\"\nallow_plain = true").is_empty());
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let tls = format!("listen = \"0.0.0.0:443\"\ntls = {{ certificate = \"{file}\", key = \"{file}\" }}");
        assert!(problems(&tls).is_empty());
        let elsewhere = "listen = \"0.0.0.0:443\"\n\
                         tls = { certificate = \"/no/certificate\", key = \"/no/key\", client_ca = \"/\" }";
        assert_eq!(problems(elsewhere), ["tls.certificate", "tls.key", "tls.client_ca"]);
        assert_eq!(problems("listen = \"localhost\""), ["listen"]);
    }

    #[test]
    fn bounds_that_bind_nothing_are_named() {
        let text = "keys = \"\"\nlisten = \"127.0.0.1:80\"\n[limits]\nbody = \"3 MiB\"\nbytes_in_flight = 1\n\
                    requests_in_flight = 0\nconnections = 0\nrequests_per_second = 0\nburst = 0\n\
                    head_timeout = \"0s\"\nbody_timeout = \"2h\"";
        let mut found = problems(text);
        found.sort();
        assert_eq!(
            found,
            [
                "keys",
                "limits.body",
                "limits.body_timeout",
                "limits.burst",
                "limits.bytes_in_flight",
                "limits.connections",
                "limits.head_timeout",
                "limits.requests_in_flight",
                "limits.requests_per_second",
            ]
        );
    }
}

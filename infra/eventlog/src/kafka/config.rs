//! How Kafka is reached and used.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use runtime::config::{ByteSize, Check, Problems, key};
use serde::Deserialize;

/// What record batches are compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4: little CPU, about a third of the size for events.
    #[default]
    Lz4,
    /// Zstandard at level 1: smaller, more CPU.
    Zstd,
}

/// How Kafka is reached and used.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// Addresses to begin with, `host:port,host:port`.
    pub brokers: String,
    /// Name under which the broker's logs show this process.
    pub client_id: String,
    /// A member of a group that is silent for so long has left.
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    /// A member that does not poll for so long, a restore included, has left.
    #[serde(with = "humantime_serde")]
    pub poll_timeout: Duration,
    /// The broker aborts a transaction that is open for so long; nobody reads past it until then.
    #[serde(with = "humantime_serde")]
    pub transaction_timeout: Duration,
    /// How long a call waits for brokers that do not answer before it fails; callers may call again.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long single records wait for company before they are sent.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// The same for records of a transaction. A commit waits for it, and for its offsets at the same time.
    #[serde(with = "humantime_serde")]
    pub commit_linger: Duration,
    /// What a consumer fetches ahead of whoever polls it, over all its partitions, and asks for at once. The client
    /// needs about twice as much memory for it.
    pub fetch_ahead: ByteSize,
    /// What record batches are compressed with.
    pub compression: Compression,
    /// Copies of each partition when topics are made; -1 leaves it to the broker.
    pub replication: i32,
    /// Settings of librdkafka, passed on as they are: security, and what is not named here. They come last.
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".to_owned(),
            client_id: "varta".to_owned(),
            session_timeout: Duration::from_secs(10),
            poll_timeout: Duration::from_mins(5),
            transaction_timeout: Duration::from_secs(15),
            request_timeout: Duration::from_secs(15),
            // as Kafka's own clients since 4.0; with 2 ms a bridge of single events needs a third more CPU
            linger: Duration::from_millis(5),
            // with five requests of a partition under way librdkafka does not wait for an answer but looks for one all the
            // time; with 2 ms that was always so at a broker that takes 10 ms
            commit_linger: Duration::from_millis(10),
            fetch_ahead: ByteSize::mib(16),
            compression: Compression::Lz4,
            replication: -1,
            properties: BTreeMap::new(),
        }
    }
}

impl Check for KafkaConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        let is_address = |text: &str| {
            let port =
                text.trim().rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
            port.is_some_and(|port| port.parse::<u16>().is_ok())
        };
        if !self.brokers.split(',').all(is_address) {
            let what = format!("`{}` is not a list of host:port", self.brokers);
            problems.add(key(at, "brokers"), what, Some("such as 127.0.0.1:9092".to_owned()));
        }
        if self.transaction_timeout > Duration::from_secs(15) {
            let what = "longer than 15 s: readers would wait for a dead worker for so long".to_owned();
            problems.add(key(at, "transaction_timeout"), what, None);
        }
        if self.transaction_timeout < Duration::from_secs(1) {
            problems.add(key(at, "transaction_timeout"), "shorter than 1 s", None);
        }
        if self.session_timeout < Duration::from_secs(1) || self.session_timeout > self.poll_timeout {
            problems.add(key(at, "session_timeout"), "must be from 1 s to `poll_timeout`", None);
        }
        for (name, linger) in [("linger", self.linger), ("commit_linger", self.commit_linger)] {
            if linger > Duration::from_millis(100) {
                problems.add(key(at, name), "longer than 100 ms: everything would wait for it", None);
            }
        }
        if !(ByteSize::mib(1)..=ByteSize::mib(1024)).contains(&self.fetch_ahead) {
            problems.add(key(at, "fetch_ahead"), "must be from 1 MiB to 1 GiB", Some("16 MiB".to_owned()));
        }
        if self.replication == 0 || self.replication < -1 {
            problems.add(key(at, "replication"), "must be at least 1, or -1 for the broker's choice", None);
        }
    }
}

impl KafkaConfig {
    fn base(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("client.id", &self.client_id);
        // A broker that comes back is found soon; librdkafka's default waits up to 10 s.
        config.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "1000");
        config.set("socket.keepalive.enable", "true").set("log.connection.close", "false");
        config
    }

    fn finish(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }

    fn reading(&self) -> ClientConfig {
        let mut config = self.base();
        config.set("isolation.level", "read_committed");
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error");
        // When the local queue is full librdkafka sleeps for this long whatever the reader does: its default of 1 s
        // starves a fast reader again and again.
        config.set("fetch.queue.backoff.ms", "2").set("fetch.error.backoff.ms", "100");
        config.set("fetch.wait.max.ms", "100");
        // By default 64 MiB are held and 50 MiB, before decompression, asked for at once: for a sink that reads seventy
        // partitions this was half of its memory. What a message costs beside its bytes is not counted there.
        let ahead = self.fetch_ahead.bytes();
        config.set("queued.max.messages.kbytes", (ahead / 1024).to_string());
        config.set("fetch.max.bytes", (ahead / 4).max(1 << 20).to_string());
        config
    }

    pub(super) fn consumer(&self, group: &str, instance: Option<&str>) -> ClientConfig {
        let mut config = self.reading();
        config.set("group.id", group);
        config.set("partition.assignment.strategy", "range");
        config.set("session.timeout.ms", self.session_timeout.as_millis().to_string());
        let heartbeat = (self.session_timeout / 4).min(Duration::from_secs(3));
        config.set("heartbeat.interval.ms", heartbeat.as_millis().to_string());
        config.set("max.poll.interval.ms", self.poll_timeout.as_millis().to_string());
        if let Some(instance) = instance {
            config.set("group.instance.id", instance);
        }
        self.finish(config)
    }

    /// Reads assigned partitions; never joins the group that librdkafka wants to be named.
    pub(super) fn reader(&self) -> ClientConfig {
        let mut config = self.reading();
        config
            .set("group.id", "varta-reader")
            .set("enable.partition.eof", "true")
            // It reads up to an end that is known, one partition at a time: nothing to wait for, and room for all.
            .set("fetch.wait.max.ms", "1")
            .set("max.partition.fetch.bytes", (self.fetch_ahead.bytes() / 4).max(1 << 20).to_string());
        self.finish(config)
    }

    pub(super) fn inquirer(&self) -> ClientConfig {
        let mut config = self.base();
        config.set("isolation.level", "read_uncommitted");
        self.finish(config)
    }

    fn writing(&self) -> ClientConfig {
        let mut config = self.base();
        config.set("enable.idempotence", "true").set("acks", "all");
        config.set("partitioner", "murmur2_random");
        config.set("queue.buffering.max.messages", "1000000").set("queue.buffering.max.kbytes", "262144");
        // A topic's limit is for whole batches: one that company makes too large would fail all its records. Our
        // smallest limit is 1 MiB.
        config.set("batch.size", "524288");
        // For a single record: above every topic's own limit, so that the broker decides.
        config.set("message.max.bytes", (8 * 1024 * 1024).to_string());
        match self.compression {
            Compression::None => config.set("compression.type", "none"),
            Compression::Lz4 => config.set("compression.type", "lz4"),
            Compression::Zstd => config.set("compression.type", "zstd").set("compression.level", "1"),
        };
        config
    }

    pub(super) fn transactional(&self, id: &str) -> ClientConfig {
        let mut config = self.writing();
        config.set("transactional.id", id);
        config.set("linger.ms", self.commit_linger.as_millis().to_string());
        config.set("transaction.timeout.ms", self.transaction_timeout.as_millis().to_string());
        // The transaction succeeds or fails as a whole: reports of success would only cost.
        config.set("delivery.report.only.error", "true");
        self.finish(config)
    }

    pub(super) fn appender(&self) -> ClientConfig {
        let mut config = self.writing();
        config.set("linger.ms", self.linger.as_millis().to_string());
        // Never give up: an outage is back-pressure.
        config.set("message.timeout.ms", "0");
        self.finish(config)
    }

    pub(super) fn admin(&self) -> ClientConfig {
        self.finish(self.base())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_wrong_values_are_all_named() {
        let mut problems = Problems::default();
        KafkaConfig::default().check("kafka", &mut problems);
        assert!(problems.is_empty(), "{problems}");
        let wrong = KafkaConfig {
            brokers: "localhost".to_owned(),
            transaction_timeout: Duration::from_mins(1),
            session_timeout: Duration::from_hours(1),
            linger: Duration::from_secs(1),
            fetch_ahead: ByteSize(1),
            replication: 0,
            ..KafkaConfig::default()
        };
        wrong.check("kafka", &mut problems);
        let at: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        let expected =
            ["brokers", "transaction_timeout", "session_timeout", "linger", "fetch_ahead", "replication"];
        assert_eq!(at, expected.map(|name| format!("kafka.{name}")));
    }

    #[test]
    fn properties_come_last() {
        let mut config = KafkaConfig::default();
        config.properties.insert("linger.ms".to_owned(), "7".to_owned());
        assert_eq!(config.transactional("w").get("linger.ms"), Some("7"));
        assert_eq!(config.consumer("g", Some("i")).get("group.instance.id"), Some("i"));
    }
}

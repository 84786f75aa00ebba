//! From the event time at the agent to the alert being readable by a read_committed consumer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apache_avro::types::Value;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;

use crate::audit::SchemaCache;

/// How many of the slowest are told one by one.
const SLOWEST: usize = 12;

/// The rule that the load sets off, once for each path.
pub const RULE: &str = "suspicious-path";

/// Percentiles of a set of latencies.
#[derive(Debug)]
pub struct Latency {
    /// How many alerts were measured.
    pub alerts: usize,
    /// Half are faster.
    pub p50: Duration,
    /// 99 in 100 are faster.
    pub p99: Duration,
    /// The slowest.
    pub max: Duration,
    /// The slowest few, and how long after the warming up each was read.
    pub slowest: Vec<(Duration, Duration)>,
}

/// Alerts as they become readable: framed value and µs since 1970 when it was read.
pub fn read_alerts(kafka: &str, topic: &str, stop: &Arc<AtomicBool>) -> anyhow::Result<Vec<(Vec<u8>, i64)>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", format!("varta-latency-{}", uuid::Uuid::new_v4()))
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "latest")
        .set("fetch.wait.max.ms", "10")
        .create()?;
    consumer.subscribe(&[topic])?;
    let mut read = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as i64;
            read.push((message.payload().unwrap_or_default().to_vec(), now));
        }
    }
    Ok(read)
}

/// Compares with the event time in each alert of one rule that judges rows; windows and silences are told when they end,
/// which is no delay. What was read before `from` (µs since 1970) is warming up.
pub async fn judge(
    read: &[(Vec<u8>, i64)],
    schemas: &mut SchemaCache,
    rule: &str,
    from: i64,
) -> anyhow::Result<Option<Latency>> {
    let mut delays = Vec::new();
    for (value, at) in read.iter().filter(|(_, at)| *at >= from) {
        let (_, fields) = schemas.decode(value).await?;
        let field = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        if !matches!(field("rule_id"), Some(Value::String(id)) if id == rule) {
            continue;
        }
        if let Some(Value::TimestampMicros(event_time)) = field("event_time") {
            delays.push(((at - event_time).max(0), at - from));
        }
    }
    delays.sort_unstable();
    let Some(max) = delays.last() else { return Ok(None) };
    let at = |share: f64| {
        Duration::from_micros(delays[((delays.len() - 1) as f64 * share) as usize].0.unsigned_abs())
    };
    let micros = |value: i64| Duration::from_micros(value.unsigned_abs());
    let slowest = delays.iter().rev().take(SLOWEST).map(|(delay, at)| (micros(*delay), micros(*at)));
    Ok(Some(Latency {
        alerts: delays.len(),
        p50: at(0.5),
        p99: at(0.99),
        max: micros(max.0),
        slowest: slowest.collect(),
    }))
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "{} alerts: p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms\n  the slowest:",
            self.alerts,
            ms(self.p50),
            ms(self.p99),
            ms(self.max)
        )?;
        for (delay, at) in &self.slowest {
            write!(f, " {:.0} ms at {:.1} s", ms(*delay), at.as_secs_f64())?;
        }
        Ok(())
    }
}

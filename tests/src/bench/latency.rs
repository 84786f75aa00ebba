//! From the event time at the agent to the alert being readable by a read_committed consumer.

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
    /// The slowest few, and how long after the first alert each was read.
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

/// Compares with the event time in each alert; the first `warm_up` alerts are left out.
pub async fn judge(
    read: &[(Vec<u8>, i64)],
    schemas: &mut SchemaCache,
    warm_up: usize,
) -> anyhow::Result<Option<Latency>> {
    let mut delays = Vec::new();
    let began = read.get(warm_up).map_or(0, |(_, at)| *at);
    for (value, at) in read.iter().skip(warm_up) {
        let (_, fields) = schemas.decode(value).await?;
        if let Some((_, Value::TimestampMicros(event_time))) =
            fields.iter().find(|(name, _)| name == "event_time")
        {
            delays.push(((at - event_time).max(0), at - began));
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

//! Feeds a bridge over MQTT: several agents, each on a connection of its own, with or without arrays.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event as MqttEvent, MqttOptions, PublishOptions};
use schemas::mqtt;

use super::fill::{Fill, agent_id};
use crate::servers::variable;

/// Messages that may be on their way between sender and Kafka. Further ahead the broker's queue decides: Mosquitto
/// 2.0.11 then sends more than the bridge's window and drops messages far below its limit, which real agents send
/// again and this load does not.
const AHEAD: u64 = 2_000;

/// How far the load is.
#[derive(Debug, Default)]
pub struct Progress {
    sent: AtomicU64,
    arrived: AtomicU64,
}

impl Progress {
    /// So many messages have arrived.
    pub fn has_arrived(&self, messages: u64) {
        self.arrived.store(messages, Ordering::Relaxed);
    }

    async fn may_send(&self) {
        while self.sent.load(Ordering::Relaxed) >= self.arrived.load(Ordering::Relaxed) + AHEAD {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
    }
}

/// Publishes the load, never further ahead of what has arrived than agents would, and waits until the broker has
/// acknowledged all of it. Events of one message: `together`.
pub async fn publish(fill: Fill, together: usize, progress: Arc<Progress>) -> anyhow::Result<()> {
    let mut seqs = vec![[0_i64; 3]; usize::try_from(fill.agents)?];
    let mut messages: Vec<Vec<(String, Bytes)>> = vec![Vec::new(); seqs.len()];
    let mut open: Vec<Vec<Vec<u8>>> = vec![Vec::new(); seqs.len()];
    for n in 0..fill.events {
        let event = fill.event(n, &mut seqs)?;
        let at = usize::try_from(n % fill.agents)?;
        let json = serde_json::to_vec(&event)?;
        if together <= 1 {
            messages[at].push((mqtt::event_topic(&event.agent_id, &event.event_type), json.into()));
            continue;
        }
        open[at].push(json);
        if open[at].len() >= together {
            messages[at].push((mqtt::batch_topic(&event.agent_id), array(&mut open[at])));
        }
    }
    for (at, rest) in open.iter_mut().enumerate().filter(|(_, rest)| !rest.is_empty()) {
        messages[at].push((mqtt::batch_topic(&agent_id(fill.first_agent + at as u64)), array(rest)));
    }
    let mut senders = tokio::task::JoinSet::new();
    for (at, messages) in messages.into_iter().enumerate() {
        senders.spawn(connection(agent_id(fill.first_agent + at as u64), messages, Arc::clone(&progress)));
    }
    while let Some(done) = senders.join_next().await {
        done??;
    }
    Ok(())
}

fn array(events: &mut Vec<Vec<u8>>) -> Bytes {
    let mut text = vec![b'['];
    text.extend(events.join(&b','));
    text.push(b']');
    events.clear();
    text.into()
}

async fn connection(
    agent: String,
    messages: Vec<(String, Bytes)>,
    progress: Arc<Progress>,
) -> anyhow::Result<()> {
    let mut options = MqttOptions::new(
        &agent,
        (variable("VARTA_MQTT_HOST")?, variable("VARTA_MQTT_PORT")?.parse::<u16>()?),
    );
    options.set_credentials(variable("VARTA_MQTT_USER_AGENT")?, variable("VARTA_MQTT_PASSWORD_AGENT")?);
    options.set_keep_alive(30).set_clean_start(true).set_outgoing_inflight_upper_limit(500);
    let (client, mut events) = AsyncClient::builder(options).capacity(1000).build();
    let expected = messages.len();
    let feeder = {
        let client = client.clone();
        tokio::spawn(async move {
            for (topic, payload) in messages {
                progress.may_send().await;
                client.publish(topic, payload, PublishOptions::at_least_once()).await?;
            }
            anyhow::Ok(())
        })
    };
    let mut acknowledged = 0;
    while acknowledged < expected {
        let event =
            tokio::time::timeout(Duration::from_mins(1), events.poll()).await.with_context(|| {
                format!("{acknowledged} of {expected} messages acknowledged, then nothing for 60 s")
            })??;
        if matches!(event, MqttEvent::Incoming(Packet::PubAck(_))) {
            acknowledged += 1;
        }
    }
    feeder.await??;
    client.disconnect().await.ok();
    let _ = tokio::time::timeout(Duration::from_millis(300), events.poll()).await;
    Ok(())
}

//! A sender of raw bytes over MQTT, as anybody may be one; and a listener.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use rumqttc::mqttbytes::v5::{Packet, PubAckReason};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, PublishOptions, QoS};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Stage;

/// Longest wait for the broker's answer to one message.
const ANSWER: Duration = Duration::from_secs(20);

/// Connected under an agent's id, which the broker asks for (client id = agent id).
pub(crate) struct Sender {
    client: AsyncClient,
    events: EventLoop,
}

impl Sender {
    /// Connects as this agent.
    pub(crate) fn connect(stage: &Stage, agent_id: &str) -> anyhow::Result<Self> {
        let options = options(stage, Account::Agent, agent_id)?;
        let (client, events) = AsyncClient::builder(options).capacity(10).build();
        Ok(Self { client, events })
    }

    /// Publishes and waits until the broker has taken it.
    pub(crate) async fn publish(&mut self, topic: &str, payload: impl Into<Bytes>) -> anyhow::Result<()> {
        self.client.publish(topic.to_owned(), payload.into(), PublishOptions::at_least_once()).await?;
        loop {
            let event = tokio::time::timeout(ANSWER, self.events.poll())
                .await
                .with_context(|| format!("no answer from the broker to a message on {topic}"))??;
            if let Event::Incoming(Packet::PubAck(ack)) = event {
                ensure!(
                    matches!(ack.reason, PubAckReason::Success),
                    "the broker refuses a message on {topic}: {:?}",
                    ack.reason
                );
                return Ok(());
            }
        }
    }
}

/// Whose rights a client has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Account {
    Agent,
    Bridge,
}

fn options(stage: &Stage, account: Account, client_id: &str) -> anyhow::Result<MqttOptions> {
    let broker = stage.stack.variables()?;
    let address = (broker.get("VARTA_MQTT_HOST")?, broker.get("VARTA_MQTT_PORT")?.parse::<u16>()?);
    let name = match account {
        Account::Agent => "AGENT",
        Account::Bridge => "BRIDGE",
    };
    let user = broker.get(&format!("VARTA_MQTT_USER_{name}"))?;
    let password = broker.get(&format!("VARTA_MQTT_PASSWORD_{name}"))?;
    let mut options = MqttOptions::new(client_id, address);
    options.set_credentials(user, password).set_keep_alive(30).set_clean_start(true);
    Ok(options)
}

/// A message that a listener heard.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) topic: String,
    /// The broker had kept it.
    pub(crate) is_retained: bool,
    pub(crate) body: Value,
}

/// A client that hears what the broker lets it hear, and may send. Dropping it ends it.
pub(crate) struct Listener {
    client: AsyncClient,
    heard: Arc<Mutex<Vec<Heard>>>,
    polling: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

impl Listener {
    /// Connects and subscribes; returns when the broker has answered. What the account may not read does not come.
    pub(crate) async fn connect(
        stage: &Stage,
        account: Account,
        client_id: &str,
        filter: &str,
    ) -> anyhow::Result<Self> {
        let options = options(stage, account, client_id)?;
        let (client, mut events) = AsyncClient::builder(options).capacity(10).build();
        client.subscribe(filter.to_owned(), QoS::AtLeastOnce).await?;
        let heard = Arc::<Mutex<Vec<Heard>>>::default();
        let shared = Arc::clone(&heard);
        let (granted, grant) = oneshot::channel();
        let polling = tokio::spawn(async move {
            let mut granted = Some(granted);
            while let Ok(event) = events.poll().await {
                match event {
                    Event::Incoming(Packet::SubAck(_)) => {
                        if let Some(granted) = granted.take() {
                            // Nobody waits any more when the deadline has passed.
                            let _ = granted.send(());
                        }
                    }
                    Event::Incoming(Packet::Publish(message)) => {
                        let told = Heard {
                            topic: String::from_utf8_lossy(&message.topic).into_owned(),
                            is_retained: message.retain,
                            body: serde_json::from_slice(&message.payload).unwrap_or(Value::Null),
                        };
                        shared.lock().unwrap_or_else(PoisonError::into_inner).push(told);
                    }
                    _ => {}
                }
            }
        });
        tokio::time::timeout(ANSWER, grant).await.context("no answer from the broker")??;
        Ok(Self { client, heard, polling })
    }

    /// Sends, and does not wait for an answer.
    pub(crate) async fn publish(&self, topic: &str, event: &Value) -> anyhow::Result<()> {
        let options = PublishOptions::at_least_once();
        Ok(self.client.publish(topic.to_owned(), Bytes::from(event.to_string()), options).await?)
    }

    /// All so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

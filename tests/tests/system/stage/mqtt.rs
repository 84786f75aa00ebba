//! A sender of raw bytes over MQTT, as anybody may be one.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use rumqttc::mqttbytes::v5::{Packet, PubAckReason};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, PublishOptions};

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
        let broker = stage.stack.variables()?;
        let address = (broker.get("VARTA_MQTT_HOST")?, broker.get("VARTA_MQTT_PORT")?.parse::<u16>()?);
        let mut options = MqttOptions::new(agent_id, address);
        options
            .set_credentials(broker.get("VARTA_MQTT_USER_AGENT")?, broker.get("VARTA_MQTT_PASSWORD_AGENT")?);
        options.set_keep_alive(30).set_clean_start(true);
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

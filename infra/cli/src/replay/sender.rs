//! One recorded host as an agent: a session of its own, gapless sequences, everything sent again until
//! the bridge has confirmed that Kafka has it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event as MqttEvent, EventLoop, MqttOptions, PublishOptions};
use schemas::confirmation::Confirmation;
use schemas::identity::Lane;
use schemas::mqtt;

/// How to reach the broker.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    /// Name or address.
    pub host: String,
    /// TCP port of the plain listener.
    pub port: u16,
    /// User and password, where the broker asks for them.
    pub credentials: Option<(String, String)>,
}

/// One event ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    /// Its session.
    pub session: i64,
    /// Its lane.
    pub lane: Lane,
    /// Its number there.
    pub seq: i64,
    /// The whole event as JSON.
    pub json: Vec<u8>,
    /// When to send it; `None`: at once.
    pub due: Option<Instant>,
}

/// What became of one host's events.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Events given to the sender.
    pub events: usize,
    /// Events that the bridge confirmed.
    pub confirmed: usize,
    /// Messages sent again because no confirmation came in time.
    pub resent: usize,
}

/// A message is at most this large; the bridge and the broker take more, other brokers may not.
const MESSAGE_BYTES: usize = 200 * 1024;
/// Messages without confirmation that may be under way.
const WINDOW: usize = 16;
/// Events that are due within this of each other may share a message.
const TOGETHER: Duration = Duration::from_millis(200);
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);

struct Message {
    payload: Bytes,
    waiting: Vec<(Lane, i64)>,
    sent_at: Option<Instant>,
    /// When, on the rescaled clock, the last event in it happened; `None`: at once.
    due: Option<Instant>,
}

/// Sends the events and waits until all are confirmed or `give_up` has passed without progress.
pub(crate) async fn send(
    broker: &Broker,
    agent_id: &str,
    events: &[Outgoing],
    give_up: Duration,
) -> anyhow::Result<Outcome> {
    let mut options = MqttOptions::new(agent_id, (broker.host.clone(), broker.port));
    options.set_keep_alive(30).set_clean_start(true).set_outgoing_inflight_upper_limit(100);
    if let Some((user, password)) = &broker.credentials {
        options.set_credentials(user.clone(), password.clone());
    }
    let (client, mut events_of_mqtt) = AsyncClient::builder(options).capacity(2 * WINDOW).build();
    let mut messages = pack(events);
    let mut outcome = Outcome { events: events.len(), ..Outcome::default() };
    let mut owner: BTreeMap<(Lane, i64), usize> = BTreeMap::new();
    for (index, message) in messages.iter().enumerate() {
        owner.extend(message.waiting.iter().map(|key| (*key, index)));
    }
    let session = events.first().map_or(0, |event| event.session);
    connect(&client, &mut events_of_mqtt, agent_id, give_up).await?;
    let topic = mqtt::batch_topic(agent_id);
    let mut next = 0;
    let mut under_way: Vec<usize> = Vec::new();
    let mut progress = Instant::now();
    while outcome.confirmed < outcome.events {
        let now = Instant::now();
        while next < messages.len()
            && under_way.len() < WINDOW
            && messages[next].due.is_none_or(|due| due <= now)
        {
            publish(&client, &topic, &mut messages[next])?;
            under_way.push(next);
            next += 1;
        }
        for index in &under_way {
            if messages[*index].sent_at.is_some_and(|sent| now.duration_since(sent) > CONFIRM_WITHIN)
                && publish(&client, &topic, &mut messages[*index]).is_ok()
            {
                outcome.resent += 1;
            }
        }
        match tokio::time::timeout(Duration::from_millis(50), events_of_mqtt.poll()).await {
            Ok(Ok(MqttEvent::Incoming(Packet::Publish(publish)))) => {
                if let Ok(confirmation) = serde_json::from_slice::<Confirmation>(&publish.payload) {
                    let confirmed = settle(&confirmation, session, &mut owner, &mut messages);
                    outcome.confirmed += confirmed;
                    under_way.retain(|index| !messages[*index].waiting.is_empty());
                    if confirmed > 0 {
                        progress = Instant::now();
                    }
                }
            }
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, agent_id, "connection to the broker lost, connecting again");
                connect(&client, &mut events_of_mqtt, agent_id, give_up).await?;
            }
        }
        let next_is_due = next < messages.len() && messages[next].due.is_some_and(|due| due > now);
        if under_way.is_empty() && next_is_due {
            progress = Instant::now();
        }
        if progress.elapsed() > give_up {
            bail!(
                "{} of {} events of {agent_id} are not confirmed after {give_up:?} without progress; is the bridge running?",
                outcome.events - outcome.confirmed,
                outcome.events
            );
        }
    }
    client.disconnect().await.ok();
    while tokio::time::timeout(Duration::from_millis(200), events_of_mqtt.poll())
        .await
        .is_ok_and(|r| r.is_ok())
    {}
    Ok(outcome)
}

/// Polls until connected and subscribed to the confirmations.
async fn connect(
    client: &AsyncClient,
    events: &mut EventLoop,
    agent_id: &str,
    give_up: Duration,
) -> anyhow::Result<()> {
    let mut backoff = runtime::backoff::Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let deadline = Instant::now() + give_up;
    let mut asked = false;
    loop {
        match tokio::time::timeout(Duration::from_secs(5), events.poll()).await {
            Ok(Ok(MqttEvent::Incoming(Packet::ConnAck(_)))) if !asked => {
                client.try_subscribe(mqtt::ack_topic(agent_id), QoS::AtLeastOnce)?;
                asked = true;
            }
            Ok(Ok(MqttEvent::Incoming(Packet::SubAck(_)))) => return Ok(()),
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) if Instant::now() > deadline => {
                return Err(error).context("cannot reach the MQTT broker");
            }
            Ok(Err(_)) => {
                asked = false;
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
        if Instant::now() > deadline {
            bail!("the MQTT broker does not accept the subscription of {agent_id}");
        }
    }
}

fn publish(client: &AsyncClient, topic: &str, message: &mut Message) -> anyhow::Result<()> {
    client.try_publish(topic.to_owned(), message.payload.clone(), PublishOptions::at_least_once())?;
    message.sent_at = Some(Instant::now());
    Ok(())
}

/// Strikes off what the confirmation names; returns how many events that were.
fn settle(
    confirmation: &Confirmation,
    session: i64,
    owner: &mut BTreeMap<(Lane, i64), usize>,
    messages: &mut [Message],
) -> usize {
    let mut confirmed = 0;
    for ack in confirmation.acks.iter().filter(|ack| ack.session == session) {
        for (first, last) in &ack.ranges {
            let named: Vec<_> = owner
                .range((ack.lane, *first)..=(ack.lane, *last))
                .map(|(key, index)| (*key, *index))
                .collect();
            for (key, index) in named {
                owner.remove(&key);
                messages[index].waiting.retain(|waiting| *waiting != key);
                confirmed += 1;
            }
        }
    }
    confirmed
}

/// JSON arrays in order, none over the size; events of one array are due together.
fn pack(events: &[Outgoing]) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    let mut text = Vec::new();
    let mut waiting = Vec::new();
    let mut due: Option<Instant> = None;
    for event in events {
        let is_later = matches!((due, event.due), (Some(due), Some(at)) if at > due + TOGETHER);
        if !waiting.is_empty() && (text.len() + event.json.len() > MESSAGE_BYTES || is_later) {
            messages.push(close(&mut text, &mut waiting, due));
            due = None;
        }
        text.push(if text.is_empty() { b'[' } else { b',' });
        text.extend_from_slice(&event.json);
        waiting.push((event.lane, event.seq));
        due = due.or(event.due);
    }
    if !waiting.is_empty() {
        messages.push(close(&mut text, &mut waiting, due));
    }
    messages
}

fn close(text: &mut Vec<u8>, waiting: &mut Vec<(Lane, i64)>, due: Option<Instant>) -> Message {
    text.push(b']');
    Message {
        payload: Bytes::from(std::mem::take(text)),
        waiting: std::mem::take(waiting),
        sent_at: None,
        due,
    }
}

#[cfg(test)]
mod tests {
    use schemas::confirmation::LaneAck;

    use super::*;

    fn event(seq: i64, name: &str) -> Outgoing {
        let json = serde_json::json!({"seq": seq, "payload": {"name": name}});
        Outgoing { session: 7, lane: Lane::Normal, seq, json: json.to_string().into_bytes(), due: None }
    }

    #[test]
    fn messages_hold_all_events_in_order_and_stay_small() {
        let events: Vec<_> = (1..=3000).map(|seq| event(seq, &"x".repeat(100))).collect();
        let messages = pack(&events);
        assert!(messages.len() > 1);
        let mut seqs = Vec::new();
        for message in &messages {
            assert!(message.payload.len() <= MESSAGE_BYTES + 2);
            let array: Vec<serde_json::Value> = serde_json::from_slice(&message.payload).unwrap();
            seqs.extend(array.iter().map(|event| event["seq"].as_i64().unwrap()));
        }
        assert_eq!(seqs, (1..=3000).collect::<Vec<_>>());
    }

    #[test]
    fn only_this_session_is_struck_off_and_only_once() {
        let events: Vec<_> = (1..=10).map(|seq| event(seq, "x")).collect();
        let mut messages = pack(&events);
        let mut owner: BTreeMap<_, _> = messages[0].waiting.iter().map(|key| (*key, 0)).collect();
        let ack = |session, ranges| Confirmation {
            bridge: "b".into(),
            acks: vec![LaneAck { session, lane: Lane::Normal, ranges }],
        };
        assert_eq!(settle(&ack(6, vec![(1, 10)]), 7, &mut owner, &mut messages), 0);
        assert_eq!(settle(&ack(7, vec![(1, 4)]), 7, &mut owner, &mut messages), 4);
        assert_eq!(settle(&ack(7, vec![(3, 99)]), 7, &mut owner, &mut messages), 6);
        assert!(messages[0].waiting.is_empty());
    }
}

//! One MQTT connection: options, and the loop that turns what the client reports into signals.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, MqttOptions, Outgoing, Packet,
    PubAckReason, QoS, TlsConfiguration, Transport,
};
use schemas::mqtt;
use tokio::sync::mpsc;

use super::PublishError;
use super::config::{MqttConfig, PublisherConfig, TlsConfig};

/// What the connection reports.
#[derive(Debug)]
pub(super) enum Signal {
    /// The broker greeted us.
    Connected,
    /// The next publish of the queue got this packet id.
    Sent(u16),
    /// The broker answered for a packet id; `None` is success.
    Acknowledged(u16, Option<PubAckReason>),
    /// The subscription was refused.
    SubscriptionRefused(String),
    /// A message on the topic of confirmations.
    Confirmation(Bytes),
    /// Our goodbye is on the wire.
    Disconnected,
}

/// Options of the next connection; the last will is part of them.
pub(super) fn options(
    agent_id: &str,
    mqtt: &MqttConfig,
    publisher: &PublisherConfig,
    last_will: Vec<u8>,
) -> Result<MqttOptions, PublishError> {
    let mut options = MqttOptions::new(agent_id, (mqtt.host.as_str(), mqtt.port));
    options
        // The outbox remembers what is not confirmed, so the broker needs no session of ours: what it would keep
        // for us are confirmations, and an event whose confirmation is lost is sent again.
        .set_clean_start(true)
        .set_keep_alive(u16::try_from(mqtt.keep_alive.as_secs()).unwrap_or(u16::MAX))
        .set_connect_timeout(mqtt.connect_timeout)
        .set_outgoing_inflight_upper_limit(publisher.inflight)
        .set_max_packet_size(Some(mqtt::MAX_BATCH_BYTES as u32 * 2))
        .set_last_will(LastWill::new(mqtt::status_topic(agent_id), last_will, QoS::AtLeastOnce, true, None));
    match (&mqtt.username, &mqtt.password) {
        (Some(user), Some(password)) => {
            options.set_credentials(user, password.expose().to_owned());
        }
        (Some(user), None) => {
            options.set_username(user);
        }
        (None, _) => {}
    }
    if let Some(tls) = &mqtt.tls {
        options.set_transport(Transport::tls_with_config(tls_configuration(tls)?));
    }
    Ok(options)
}

fn tls_configuration(tls: &TlsConfig) -> Result<TlsConfiguration, PublishError> {
    runtime::tls::install_crypto();
    let Some(ca_file) = &tls.ca_file else {
        return TlsConfiguration::try_default_rustls().map_err(|error| PublishError::Tls(error.to_string()));
    };
    let client_auth = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => Some((fs_err::read(cert)?, fs_err::read(key)?)),
        _ => None,
    };
    Ok(TlsConfiguration::Simple { ca: fs_err::read(ca_file)?, alpn: None, client_auth })
}

/// Polls until the connection ends and says why. It waits for nothing but the network and the
/// channel, whose reader never waits for it.
pub(super) async fn poll(mut connection: EventLoop, signals: mpsc::Sender<Signal>) -> ConnectionError {
    loop {
        let signal = match connection.poll().await {
            Ok(event) => signal(event),
            Err(error) => return error,
        };
        if let Some(signal) = signal
            && signals.send(signal).await.is_err()
        {
            return ConnectionError::RequestsDone;
        }
    }
}

fn signal(event: Event) -> Option<Signal> {
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Some(Signal::Connected),
        Event::Incoming(Packet::PubAck(ack)) => {
            let refused = match ack.reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
                reason => Some(reason),
            };
            Some(Signal::Acknowledged(ack.pkid, refused))
        }
        Event::Incoming(Packet::Publish(message)) => Some(Signal::Confirmation(message.payload)),
        Event::Incoming(Packet::SubAck(ack)) => {
            let refused = ack
                .return_codes
                .iter()
                .find(|code| !matches!(code, rumqttc::SubscribeReasonCode::Success(_)))?;
            Some(Signal::SubscriptionRefused(format!("{refused:?}")))
        }
        Event::Outgoing(Outgoing::Publish(packet)) => Some(Signal::Sent(packet)),
        Event::Outgoing(Outgoing::Disconnect) => Some(Signal::Disconnected),
        _ => None,
    }
}

/// Why no connection came about, with what a person can do about it.
pub(super) fn advice(error: &ConnectionError) -> &'static str {
    match error {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => "the broker refuses user name, password or client id",
        ConnectionError::Tls(_) => "check ca_file, cert_file and the broker's host name",
        ConnectionError::Io(_) | ConnectionError::Timeout(_) => "waiting for network and broker",
        _ => "will try again",
    }
}

/// Pause before the next attempt is at least this, so that a broker that greets and hangs up is
/// not hammered.
pub(super) const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

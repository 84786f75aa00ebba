//! From our configuration to the client library's.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rumqttc::{
    AckMode, MqttOptions, NetworkOptions, QoS, RetainForwardRule, SubscribeFilterInput, TlsConfiguration,
    Transport,
};
use schemas::mqtt::{EVENT_TOPICS, SAMPLE_TOPICS};

use super::session::EmptySession;
use super::socket::Coalescing;
use crate::BridgeError;
use crate::config::{BridgeConfig, MqttConfig, TlsConfig};
use crate::sizing;

/// Confirmations under way to the broker at once. The client walks over its window at each flush, so a wide one
/// is slow.
const OUTGOING_WINDOW: u16 = 128;
/// Packets that may wait to be written.
pub(super) const REQUESTS: usize = 4096;
/// Packets written before the client looks at the network again.
const WRITE_BATCH: usize = 64;

fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// Options of a persistent session with manual acknowledgement; `eager` makes flushes immediate.
pub(super) fn options(config: &BridgeConfig, eager: &Arc<AtomicBool>) -> Result<MqttOptions, BridgeError> {
    let mqtt = &config.mqtt;
    let expiry_seconds = whole_seconds(mqtt.session_expiry);
    let mut options = MqttOptions::new(config.id.clone(), (mqtt.host.clone(), mqtt.port));
    options
        .set_clean_start(false)
        .set_session_expiry_interval(Some(expiry_seconds))
        .set_session_store(EmptySession { expiry_seconds, outgoing_window: OUTGOING_WINDOW })
        .set_ack_mode(AckMode::Manual)
        .set_receive_maximum(Some(config.in_flight.messages))
        .set_max_packet_size(Some(u32::try_from(mqtt.max_packet_size.0).unwrap_or(u32::MAX)))
        .set_keep_alive(u16::try_from(mqtt.keep_alive.as_secs()).unwrap_or(u16::MAX))
        .set_connect_timeout(mqtt.connect_timeout)
        .set_outgoing_inflight_upper_limit(OUTGOING_WINDOW)
        .set_max_request_batch(WRITE_BATCH)
        .set_read_batch_size(sizing::read_batch(config));
    match (&mqtt.username, &mqtt.password) {
        (Some(username), Some(password)) => {
            options.set_credentials(username.clone(), password.expose().as_bytes().to_vec());
        }
        (Some(username), None) => {
            options.set_username(username.clone());
        }
        (None, _) => {}
    }
    if let Some(tls) = &mqtt.tls {
        options.set_transport(Transport::tls_with_config(tls_configuration(tls)?));
    }
    let eager = Arc::clone(eager);
    options.set_socket_connector(move |address, mut network: NetworkOptions| {
        let eager = Arc::clone(&eager);
        async move {
            // Packets are sent together already; waiting for more would only add latency.
            network.set_tcp_nodelay(true);
            let stream = rumqttc::default_socket_connect(address, network).await?;
            Ok(Coalescing::new(stream, eager))
        }
    });
    Ok(options)
}

fn tls_configuration(tls: &TlsConfig) -> Result<TlsConfiguration, BridgeError> {
    runtime::tls::install_crypto();
    let read = |path: &std::path::PathBuf| fs_err::read(path).map_err(BridgeError::Certificate);
    let client_auth = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        _ => None,
    };
    match &tls.ca {
        Some(ca) => Ok(TlsConfiguration::Simple { ca: read(ca)?, alpn: None, client_auth }),
        None if client_auth.is_none() => {
            TlsConfiguration::try_default_rustls().map_err(|error| BridgeError::Tls(error.to_string()))
        }
        None => Err(BridgeError::Tls("a client certificate needs `ca` as well".to_owned())),
    }
}

/// What the bridge subscribes to for events, at QoS 1. Retained messages are not asked for: each was delivered
/// when it was published.
pub(super) fn event_filters(mqtt: &MqttConfig) -> Vec<SubscribeFilterInput> {
    let group = &mqtt.share_group;
    let samples = if mqtt.sample_topics { SAMPLE_TOPICS.as_slice() } else { &[] };
    let topics = EVENT_TOPICS.iter().chain(samples);
    topics
        .map(|topic| {
            SubscribeFilterInput::new(format!("$share/{group}/{topic}"), QoS::AtLeastOnce)
                .retain_forward_rule(RetainForwardRule::Never)
        })
        .collect()
}

/// The broker's own numbers, at QoS 0; the retained ones are the latest ones.
pub(super) fn statistics_filters(mqtt: &MqttConfig) -> Vec<SubscribeFilterInput> {
    let topics = mqtt.broker_statistics.iter();
    topics.map(|topic| SubscribeFilterInput::new(topic.clone(), QoS::AtMostOnce)).collect()
}

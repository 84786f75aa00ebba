//! The connection to the broker: messages go in, and what it acknowledged comes out.

use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectionError, EventLoop, MqttOptions, PublishNoticeError, PublishOptions, PublishResult,
    TlsConfiguration, Transport,
};
use tokio::task::JoinHandle;

use super::{
    config::{MqttConfig, TlsConfig},
    refusal::{Failed, Verdict},
};
use crate::SinkError;

/// Messages that the broker has not acknowledged at most.
const WINDOW: u16 = 100;

/// How long a connection that has lost its messages may take to say why.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// What is published, with QoS 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    /// The broker keeps it for whoever subscribes later, in place of the one before.
    pub(super) is_retained: bool,
}

/// One connection; it is not used again when anything on it failed, but for a refused message.
pub(super) struct Publisher {
    client: AsyncClient,
    polling: JoinHandle<ConnectionError>,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

impl Publisher {
    /// Begins to connect; whether it comes to anything shows with the first message.
    pub(super) fn start(config: &MqttConfig, client_id: String) -> Result<Self, SinkError> {
        let options = options(config, client_id)?;
        let (client, events) = AsyncClient::builder(options).capacity(WINDOW.into()).build();
        // Owned by this value: it ends with it.
        let polling = tokio::spawn(poll(events));
        Ok(Self { client, polling })
    }

    /// Whether the connection has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.polling.is_finished()
    }

    /// Publishes all and waits for the broker's acknowledgement of each; `acknowledged` is called in their order. Ends
    /// with the part in which one is refused, or when the connection does. What is told to wait, and not refused, is an
    /// error of the whole.
    pub(super) async fn publish(
        &mut self,
        messages: &[Message],
        mut acknowledged: impl FnMut(),
    ) -> Result<(), Failed> {
        let client = self.client.clone();
        let work = async {
            for part in messages.chunks(WINDOW.into()) {
                let mut notices = Vec::with_capacity(part.len());
                for Message { topic, payload, is_retained } in part {
                    let options = PublishOptions::at_least_once().retain(*is_retained);
                    let notice = client.publish_tracked(topic.clone(), payload.clone(), options).await;
                    notices.push(notice.map_err(|error| Failed::Away(error.to_string()))?);
                }
                let mut verdicts: Vec<Verdict> = Vec::new();
                for notice in notices {
                    match judge(notice.wait_async().await) {
                        Verdict::Taken if verdicts.is_empty() => acknowledged(),
                        Verdict::Later(reason) if verdicts.is_empty() => return Err(Failed::Away(reason)),
                        verdict => verdicts.push(verdict),
                    }
                }
                if !verdicts.is_empty() {
                    return Err(Failed::Refused(verdicts));
                }
            }
            Ok(())
        };
        let outcome = tokio::select! {
            biased;
            outcome = work => outcome,
            ended = &mut self.polling => return Err(why(ended)),
        };
        // What was on its way is lost with the connection, which knows why.
        if matches!(outcome, Err(Failed::Away(_)))
            && let Ok(ended) = tokio::time::timeout(LAST_WORDS, &mut self.polling).await
        {
            return Err(why(ended));
        }
        outcome
    }
}

fn why(ended: Result<ConnectionError, tokio::task::JoinError>) -> Failed {
    match ended {
        Ok(error) => Failed::ended(&error),
        Err(error) => Failed::Away(error.to_string()),
    }
}

fn judge(notice: Result<PublishResult, PublishNoticeError>) -> Verdict {
    match notice {
        Ok(PublishResult::Qos1(ack)) => Verdict::of(ack.reason),
        Ok(other) => Verdict::Later(format!("the broker answers {other:?}")),
        Err(error) => Verdict::Later(error.to_string()),
    }
}

async fn poll(mut events: EventLoop) -> ConnectionError {
    loop {
        if let Err(error) = events.poll().await {
            return error;
        }
    }
}

fn options(config: &MqttConfig, client_id: String) -> Result<MqttOptions, SinkError> {
    let mut options = MqttOptions::new(client_id, (config.host.clone(), config.port));
    options
        // What is not acknowledged is still held here and published again, so the broker needs no session of ours.
        .set_clean_start(true)
        .set_keep_alive(30)
        .set_connect_timeout(config.timeout.min(Duration::from_secs(10)))
        .set_outgoing_inflight_upper_limit(WINDOW);
    match (&config.username, &config.password) {
        (Some(user), Some(password)) => {
            options.set_credentials(user.clone(), password.expose().as_bytes().to_vec());
        }
        (Some(user), None) => {
            options.set_username(user.clone());
        }
        (None, _) => {}
    }
    if let Some(tls) = &config.tls {
        options.set_transport(Transport::tls_with_config(tls_configuration(tls)?));
    }
    Ok(options)
}

fn tls_configuration(tls: &TlsConfig) -> Result<TlsConfiguration, SinkError> {
    runtime::tls::install_crypto();
    let fatal = |error: &dyn std::fmt::Display| SinkError::Fatal(format!("mqtt: {error}"));
    let read = |path: &std::path::PathBuf| fs_err::read(path).map_err(|error| fatal(&error));
    let client_auth = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        _ => None,
    };
    match &tls.ca {
        Some(ca) => Ok(TlsConfiguration::Simple { ca: read(ca)?, alpn: None, client_auth }),
        None => TlsConfiguration::try_default_rustls().map_err(|error| fatal(&error)),
    }
}

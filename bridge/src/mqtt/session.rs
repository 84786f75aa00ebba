//! Taking up the broker's session after a restart.
//!
//! The broker keeps what the bridge has not acknowledged, so the bridge has to remember nothing. The client
//! library nevertheless refuses a session of which it holds no checkpoint, because packet identifiers of the
//! *client's own* messages might still be in use. Ours are confirmations and subscriptions: a new process has
//! none under way, and the broker keeps no trace of a QoS 1 message that a client once sent. So an empty
//! checkpoint is the true one.

use rumqttc::{PersistedAckMode, PersistedSession, SessionStore, SessionStoreError, SessionStoreKey};
use std::pin::Pin;

type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

/// Knows one checkpoint, the empty one, and never stores another.
#[derive(Debug)]
pub(super) struct EmptySession {
    pub(super) expiry_seconds: u32,
    pub(super) outgoing_window: u16,
}

impl SessionStore for EmptySession {
    fn load<'a>(&'a self, key: &'a SessionStoreKey) -> StoreFuture<'a, Option<PersistedSession>> {
        Box::pin(std::future::ready(Ok(Some(PersistedSession {
            format_version: 1,
            client_id: key.client_id().to_owned(),
            clean_start: false,
            session_expiry_interval: Some(self.expiry_seconds),
            outgoing_inflight_upper_limit: Some(self.outgoing_window),
            ack_mode: PersistedAckMode::Manual,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        }))))
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, _: &'a PersistedSession) -> StoreFuture<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> StoreFuture<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

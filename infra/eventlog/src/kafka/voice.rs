//! What is said about brokers that do not answer: once, not at each attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use runtime::backoff::Backoff;

use crate::error::{LogError, LogErrorKind};

pub(super) struct Voice {
    brokers: String,
    is_waiting: AtomicBool,
}

impl Voice {
    pub(super) fn new(brokers: &str) -> Self {
        Self { brokers: brokers.to_owned(), is_waiting: AtomicBool::new(false) }
    }

    /// A client could not reach the brokers.
    fn waiting(&self, reason: &str) {
        if self.is_waiting.swap(true, Ordering::Relaxed) {
            tracing::debug!(brokers = %self.brokers, %reason, "still waiting for kafka");
        } else {
            tracing::warn!(brokers = %self.brokers, %reason, "waiting for kafka");
        }
    }

    /// They answered.
    pub(super) fn answered(&self) {
        if self.is_waiting.load(Ordering::Relaxed) && self.is_waiting.swap(false, Ordering::Relaxed) {
            tracing::info!(brokers = %self.brokers, "kafka answers again");
        }
    }

    /// Repeats a question until it is answered, refused for good, or `limit` has passed.
    pub(super) fn patiently<T>(
        &self,
        limit: Duration,
        mut ask: impl FnMut() -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let deadline = Instant::now() + limit;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        loop {
            let error = match ask() {
                Ok(answer) => {
                    self.answered();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if error.kind != LogErrorKind::Unavailable || Instant::now() >= deadline {
                return Err(error);
            }
            tracing::debug!(%error, "asking again");
            std::thread::sleep(backoff.next_delay());
        }
    }

    pub(super) fn error(&self, error: &KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(
                Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut,
            ) => self.waiting(reason),
            // Asked for, by whoever reads to an end.
            Some(Code::PartitionEOF) => {}
            // The call that it concerns returns it.
            Some(Code::Fatal) => tracing::debug!(%reason, "kafka client failed"),
            _ => tracing::warn!(%error, %reason, "kafka client"),
        }
    }
}

/// librdkafka's own lines: connection attempts are told by [`Voice::error`], the rest is for debugging.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    let is_told_elsewhere = matches!(facility, "FAIL" | "ERROR" | "REQTMOUT" | "MAXPOLL");
    match level {
        RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
        _ if is_told_elsewhere => tracing::debug!(target: "librdkafka", facility, "{message}"),
        _ => tracing::warn!(target: "librdkafka", facility, "{message}"),
    }
}

/// A client context that only speaks.
pub(super) struct VoiceContext(pub(super) Arc<Voice>);

impl ClientContext for VoiceContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(&error, reason);
    }
}

impl ConsumerContext for VoiceContext {}

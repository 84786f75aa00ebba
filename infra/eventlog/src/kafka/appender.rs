//! Single records, each exactly once, without transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};

use super::config::KafkaConfig;
use super::errors;
use super::message::outgoing;
use super::serving::{Served, Serving};
use super::voice::Voice;
use crate::error::{AppendError, LogError, LogErrorKind};
use crate::log::{Appender, OnDelivery};
use crate::record::NewRecord;

struct Context {
    voice: Arc<Voice>,
    on_delivery: OnDelivery,
    in_flight: AtomicUsize,
    /// Records answered for so far, by the one thread that serves the client.
    reported: AtomicUsize,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::voice::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(&error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivered: &DeliveryResult<'_>, token: usize) {
        let outcome = match delivered {
            Ok(message) => {
                self.voice.answered();
                Ok((message.partition(), message.offset()))
            }
            Err((error, message)) => Err(errors::of(error, &format!("record for {}", message.topic()))),
        };
        (self.on_delivery)(token, outcome);
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.reported.fetch_add(1, Ordering::Relaxed);
    }
}

/// An idempotent appender; see [`crate::Appender`]. Dropping it reports what is still in flight as failed: flush
/// first.
pub struct KafkaAppender {
    // Before the client: its thread holds the client, which is to be dropped by whoever drops this.
    serving: Serving,
    producer: Arc<BaseProducer<Context>>,
}

impl KafkaAppender {
    pub(super) fn open(
        config: &KafkaConfig,
        voice: &Arc<Voice>,
        on_delivery: OnDelivery,
    ) -> Result<Self, LogError> {
        let context = Context {
            voice: Arc::clone(voice),
            on_delivery,
            in_flight: AtomicUsize::new(0),
            reported: AtomicUsize::new(0),
        };
        let producer: BaseProducer<Context> =
            config.appender().create_with_context(context).map_err(|error| errors::of(&error, "appender"))?;
        let producer = Arc::new(producer);
        let served = Arc::clone(&producer);
        let serving = Serving::start("kafka appender", move || {
            served.poll(Duration::ZERO);
            let context = served.context();
            Served {
                reported: context.reported.load(Ordering::Relaxed),
                is_expecting: context.in_flight.load(Ordering::SeqCst) > 0,
            }
        })?;
        Ok(Self { serving, producer })
    }

    fn refusal(&self, error: &KafkaError, topic: &str) -> LogError {
        let doing = format!("record for {topic}");
        match self.producer.client().fatal_error() {
            Some((code, why)) => LogError::fatal(format!("{doing}: {code}: {why}")),
            None => errors::of(error, &doing),
        }
    }
}

impl Appender for KafkaAppender {
    fn append(&self, record: NewRecord, token: usize) -> Result<(), AppendError> {
        let in_flight = &self.producer.context().in_flight;
        // Counted first: the report may come before `send` returns.
        let before = in_flight.fetch_add(1, Ordering::SeqCst);
        let refused = match self.producer.send(outgoing(&record, token)) {
            Ok(()) => {
                if before == 0 {
                    self.serving.wake();
                }
                return Ok(());
            }
            Err((error, _)) => error,
        };
        in_flight.fetch_sub(1, Ordering::SeqCst);
        if matches!(refused, KafkaError::MessageProduction(Code::QueueFull)) {
            return Err(AppendError::QueueFull(record));
        }
        Err(AppendError::Log(self.refusal(&refused, &record.topic)))
    }

    fn flush(&self, limit: Duration) -> Result<(), LogError> {
        let deadline = Instant::now() + limit;
        while self.in_flight() > 0 {
            if Instant::now() >= deadline {
                let message = format!("{} records are still in flight after {limit:?}", self.in_flight());
                return Err(LogError::new(LogErrorKind::Unavailable, message));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.producer.context().in_flight.load(Ordering::SeqCst)
    }
}

//! Transactions on Kafka.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};

use super::consumer::{Membership, positions};
use super::message::outgoing;
use super::voice::Voice;
use super::{Inner, errors};
use crate::error::{LogError, LogErrorKind};
use crate::log::{GroupToken, TransactionalProducer};
use crate::record::{NewRecord, Position};

/// After so many records events are served, so that a failure is noticed before the queue is full.
const SERVE_EVERY: u32 = 1024;

/// Between two attempts at a step that may be repeated.
const AGAIN: Duration = Duration::from_millis(5);

/// Between two looks at what is still in flight. rdkafka's own poll cannot wait for less than a whole millisecond:
/// what is left of one it spends asking again and again, which at a commit each 50 ms was half of all CPU time.
const LOOK: Duration = Duration::from_micros(300);

/// Records of which none is acknowledged for so long are not waited for before an abort.
const STUCK: Duration = Duration::from_millis(500);

struct Context {
    voice: Arc<Voice>,
    /// The first delivery of this transaction that failed.
    failure: Mutex<Option<LogError>>,
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
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        let Err((error, message)) = delivered else { return };
        let judged = errors::of(error, &format!("record for {}-{}", message.topic(), message.partition()));
        let kind = match judged.kind {
            LogErrorKind::Fenced | LogErrorKind::TooLarge => judged.kind,
            _ => LogErrorKind::Aborted,
        };
        self.failure.lock().get_or_insert(LogError::new(kind, judged.message));
    }
}

/// A transactional producer; see [`crate::TransactionalProducer`]. Dropping it leaves its transaction to be aborted
/// by its successor or by its timeout.
pub struct KafkaProducer {
    producer: BaseProducer<Context>,
    inner: Arc<Inner>,
    id: String,
    doing: String,
    timeout: Duration,
    is_open: bool,
    unserved: u32,
}

impl KafkaProducer {
    pub(super) fn open(inner: Arc<Inner>, id: &str) -> Result<Self, LogError> {
        let producer = connect(&inner, id)?;
        let timeout = inner.config.transaction_timeout;
        let doing = format!("transactional producer {id}");
        Ok(Self { producer, inner, id: id.to_owned(), doing, timeout, is_open: false, unserved: 0 })
    }

    fn check_deliveries(&self) -> Result<(), LogError> {
        match self.producer.context().failure.lock().clone() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Serves what has come, after a moment.
    fn look(&self) {
        std::thread::sleep(LOOK);
        self.producer.poll(Duration::ZERO);
    }

    /// Waits until every record is acknowledged. rdkafka's own flush would sleep in steps of 100 ms.
    fn drain(&self) -> Result<(), LogError> {
        let deadline = Instant::now() + self.timeout;
        while self.producer.in_flight_count() > 0 {
            self.look();
            self.check_deliveries()?;
            if Instant::now() >= deadline {
                let message =
                    format!("{}: records were not acknowledged within {:?}", self.doing, self.timeout);
                return Err(LogError::new(LogErrorKind::Aborted, message));
            }
        }
        self.check_deliveries()
    }

    /// Lets the broker have what is queued although it is to be aborted; true when all of it arrived. Gives up when
    /// a record failed or none moves.
    fn let_it_land(&self) -> bool {
        let (mut left, mut moved_at) = (self.producer.in_flight_count(), Instant::now());
        while left > 0 && self.check_deliveries().is_ok() && moved_at.elapsed() < STUCK {
            self.look();
            let now_left = self.producer.in_flight_count();
            if now_left != left {
                (left, moved_at) = (now_left, Instant::now());
            }
        }
        left == 0 && self.check_deliveries().is_ok()
    }

    /// Repeats a step of the transaction while librdkafka says that repeating may help.
    fn insist(&self, mut step: impl FnMut(Duration) -> Result<(), KafkaError>) -> Result<(), LogError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let error = match step(left) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let is_retriable = matches!(&error, KafkaError::Transaction(inner) if inner.is_retriable());
            self.producer.poll(Duration::ZERO);
            // What failed says more than that the step cannot be done.
            self.check_deliveries()?;
            if !is_retriable || Instant::now() >= deadline {
                return Err(errors::of(&error, &self.doing));
            }
            std::thread::sleep(AGAIN);
        }
    }
}

/// A client that has fenced its predecessors. Their open transaction is aborted, and one that is being committed is
/// waited for.
fn connect(inner: &Inner, id: &str) -> Result<BaseProducer<Context>, LogError> {
    let doing = format!("transactional producer {id}");
    let context = Context { voice: Arc::clone(&inner.voice), failure: Mutex::default() };
    let producer: BaseProducer<Context> = inner
        .config
        .transactional(id)
        .create_with_context(context)
        .map_err(|error| errors::of(&error, &doing))?;
    let limit = inner.config.request_timeout + inner.config.transaction_timeout;
    inner.voice.patiently(limit, || {
        producer.init_transactions(inner.config.request_timeout).map_err(|error| errors::of(&error, &doing))
    })?;
    Ok(producer)
}

impl TransactionalProducer for KafkaProducer {
    fn begin(&mut self) -> Result<(), LogError> {
        self.producer.begin_transaction().map_err(|error| errors::of(&error, &self.doing))?;
        *self.producer.context().failure.lock() = None;
        self.is_open = true;
        Ok(())
    }

    fn send(&mut self, record: NewRecord) -> Result<(), LogError> {
        self.unserved += 1;
        if self.unserved >= SERVE_EVERY {
            self.unserved = 0;
            self.producer.poll(Duration::ZERO);
            self.check_deliveries()?;
        }
        let mut outgoing = outgoing(&record, ());
        loop {
            match self.producer.send(outgoing) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) => {
                    // Acknowledgements or, when Kafka is away, the records' timeout make room.
                    self.look();
                    self.check_deliveries()?;
                    outgoing = back;
                }
                Err((error, _)) => {
                    let doing = format!("{}: record for {}", self.doing, record.topic);
                    let error = errors::of(&error, &doing);
                    // After a fatal error librdkafka refuses records without saying why.
                    return Err(match self.producer.client().fatal_error() {
                        Some((code, why)) => errors::of_code(code, &format!("{doing}: {why}")),
                        None if error.kind == LogErrorKind::Fatal => {
                            LogError::new(LogErrorKind::Aborted, error.message)
                        }
                        None => error,
                    });
                }
            }
        }
    }

    fn commit(&mut self, offsets: &[Position], group: &GroupToken) -> Result<(), LogError> {
        let Some(membership) = group.0.downcast_ref::<Membership>() else {
            return Err(LogError::fatal("the group token is of another log"));
        };
        self.producer.poll(Duration::ZERO);
        self.check_deliveries()?;
        // While the last records linger and travel.
        if !offsets.is_empty() {
            let list = positions(offsets).map_err(|error| errors::of(&error, &self.doing))?;
            self.insist(|left| self.producer.send_offsets_to_transaction(&list, &membership.0, left))?;
        }
        self.drain()?;
        runtime::failpoint::hit("worker.in_commit");
        self.insist(|left| self.producer.commit_transaction(left))?;
        self.is_open = false;
        self.producer.context().voice.answered();
        Ok(())
    }

    fn abort(&mut self) -> Result<(), LogError> {
        if !self.is_open {
            return Ok(());
        }
        let failed = self.check_deliveries();
        if let Err(error) = failed
            && error.kind == LogErrorKind::Fenced
        {
            return Err(error);
        }
        if self.let_it_land() {
            self.insist(|left| self.producer.abort_transaction(left))?;
        } else {
            // librdkafka would purge what is queued, and then leave a gap in the sequence numbers that makes the
            // broker refuse the next transaction. A new client begins a new sequence; its start aborts this one.
            tracing::info!(id = %self.id, "records were not delivered, starting the producer anew");
            self.producer = connect(&self.inner, &self.id)?;
        }
        *self.producer.context().failure.lock() = None;
        self.is_open = false;
        Ok(())
    }
}

//! Dead letters of the sinks: handed to the log, and only then is the row let go.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventlog::{AppendError, Appender, Log, LogError, LogErrorKind, NewRecord, dead_letter::DeadLetter};
use parking_lot::Mutex;
use schemas::topics::Topics;

use crate::batch::{Batch, Poison};

/// How long one delivery may take before it counts as failed and is tried again.
const DELIVERY: Duration = Duration::from_secs(10);

/// What is kept of an original that the topic does not take.
const CUT_TO: usize = 256 * 1024;

type Outcomes = Arc<Mutex<HashMap<usize, Result<(), LogError>>>>;

/// Writes to the topic of dead letters. Cheap to clone.
#[derive(Clone)]
pub struct DeadLetters {
    appender: Arc<dyn Appender>,
    outcomes: Outcomes,
    next: Arc<AtomicUsize>,
    topic: Arc<str>,
    stage: &'static str,
}

impl DeadLetters {
    /// A writer for one sink; `stage` is the sink's name.
    pub fn open<L: Log>(log: &L, topics: &Topics, stage: &'static str) -> Result<Self, LogError> {
        let outcomes = Outcomes::default();
        let arrived = Arc::clone(&outcomes);
        let appender = log.appender(Box::new(move |token, outcome| {
            arrived.lock().insert(token, outcome.map(|_| ()));
        }))?;
        Ok(Self {
            appender: Arc::new(appender),
            outcomes,
            next: Arc::new(AtomicUsize::new(0)),
            topic: topics.dlq(),
            stage,
        })
    }

    /// Delivers all of them, or fails and may be called again with the same letters: a repeat is
    /// recognised by its origin.
    pub async fn deliver(&self, letters: Vec<DeadLetter>) -> Result<(), LogError> {
        if letters.is_empty() {
            return Ok(());
        }
        metrics::counter!("varta_sinks_dead_letters_total", "sink" => self.stage)
            .increment(letters.len() as u64);
        for letter in &letters {
            tracing::warn!(sink = self.stage, origin = %letter.origin, reason = %letter.reason, "dead letter");
        }
        let this = self.clone();
        let delivered = tokio::task::spawn_blocking(move || this.deliver_blocking(&letters)).await;
        delivered.unwrap_or_else(|_| Err(LogError::unavailable("the delivery of dead letters was cut short")))
    }

    fn deliver_blocking(&self, letters: &[DeadLetter]) -> Result<(), LogError> {
        let at = runtime::clock::now_us();
        let tokens: Vec<(usize, &DeadLetter)> =
            letters.iter().map(|letter| (self.next.fetch_add(1, Ordering::Relaxed), letter)).collect();
        for (token, letter) in &tokens {
            let record = (*letter).clone().into_record(Arc::clone(&self.topic), at);
            if let Err(error) = self.append(record, *token) {
                self.outcomes.lock().insert(*token, Err(error));
            }
        }
        self.appender.flush(DELIVERY)?;
        let mut too_large = Vec::new();
        {
            let mut outcomes = self.outcomes.lock();
            for (token, letter) in tokens {
                match outcomes.remove(&token) {
                    Some(Ok(())) => {}
                    Some(Err(error))
                        if error.kind == LogErrorKind::TooLarge && letter.original.len() > CUT_TO =>
                    {
                        too_large.push(cut(letter));
                    }
                    Some(Err(error)) => return Err(error),
                    None => return Err(LogError::unavailable("a dead letter was not confirmed in time")),
                }
            }
        }
        if too_large.is_empty() { Ok(()) } else { self.deliver_blocking(&too_large) }
    }

    fn append(&self, mut record: NewRecord, token: usize) -> Result<(), LogError> {
        loop {
            match self.appender.append(record, token) {
                Ok(()) => return Ok(()),
                Err(AppendError::QueueFull(back)) => {
                    record = back;
                    self.appender.flush(DELIVERY)?;
                }
                Err(AppendError::Log(error)) => return Err(error),
            }
        }
    }

    /// The letter of a record that could not be decoded.
    pub(crate) fn of_poison(&self, topic: &str, poison: Poison) -> DeadLetter {
        DeadLetter {
            stage: self.stage,
            reason: poison.reason,
            origin: origin(topic, poison.place.partition, poison.place.offset),
            key: poison.key,
            original: poison.original,
            headers: poison.headers,
        }
    }

    /// Takes the poison out of a batch, as letters with the places they come from.
    pub(crate) fn take_poison(&self, batch: &mut Batch) -> Vec<(i32, i64, DeadLetter)> {
        let topic = Arc::clone(&batch.topic);
        let poison = std::mem::take(&mut batch.poison);
        let letter = |p: Poison| (p.place.partition, p.place.offset, self.of_poison(&topic, p));
        poison.into_iter().map(letter).collect()
    }
}

/// A letter whose original is cut, and says so.
fn cut(letter: &DeadLetter) -> DeadLetter {
    let reason = format!("{} (original of {} bytes cut)", letter.reason, letter.original.len());
    DeadLetter { reason, original: letter.original.slice(..CUT_TO), ..letter.clone() }
}

/// How a dead letter names the place of a record: `topic-partition-offset`.
pub(crate) fn origin(topic: &str, partition: i32, offset: i64) -> String {
    format!("{topic}-{partition}-{offset}")
}

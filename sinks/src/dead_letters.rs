//! Dead letters of the sinks: handed to the log, and only then is the row let go.

use std::{collections::HashMap, sync::Arc, time::Duration};

use eventlog::{AppendError, Appender, Log, LogError, LogErrorKind, dead_letter::DeadLetter};
use parking_lot::Mutex;
use schemas::topics::Topics;

use crate::batch::{Batch, Poison};

/// How long one delivery may take before it counts as failed and is tried again.
const DELIVERY: Duration = Duration::from_secs(10);

/// What is kept of an original that the topic does not take.
const CUT_TO: usize = 256 * 1024;

/// Letters remembered at most, beside those that are being delivered.
const REMEMBERED: usize = 10_000;

/// What became of a letter that was handed to the log.
#[derive(Debug, Clone)]
enum Fate {
    InFlight,
    Delivered,
    Failed(LogError),
}

/// The letters handed to the log, by origin. One that is on its way is not sent again, however often its sink tries.
#[derive(Default)]
struct Sent {
    fates: HashMap<String, Fate>,
    origins: HashMap<usize, String>,
    next: usize,
}

impl Sent {
    /// A token for the letter of this origin, unless it is on its way or there. Second: whether it is a new one.
    fn begin(&mut self, origin: &str) -> Option<(usize, bool)> {
        let before = self.fates.get(origin);
        if matches!(before, Some(Fate::InFlight | Fate::Delivered)) {
            return None;
        }
        let is_new = before.is_none();
        self.fates.insert(origin.to_owned(), Fate::InFlight);
        self.next += 1;
        self.origins.insert(self.next, origin.to_owned());
        Some((self.next, is_new))
    }

    fn end(&mut self, token: usize, outcome: Result<(), LogError>) {
        if let Some(origin) = self.origins.remove(&token) {
            let fate = outcome.map_or_else(Fate::Failed, |()| Fate::Delivered);
            self.fates.insert(origin, fate);
        }
    }

    /// All these are delivered, and nobody asks for them again.
    fn forget(&mut self, letters: &[DeadLetter]) {
        for letter in letters {
            self.fates.remove(&letter.origin);
        }
        // Letters of partitions that went elsewhere before their delivery was heard of.
        if self.fates.len() > REMEMBERED {
            self.fates.retain(|_, fate| matches!(fate, Fate::InFlight));
        }
    }
}

/// Writes to the topic of dead letters. Cheap to clone.
#[derive(Clone)]
pub struct DeadLetters {
    appender: Arc<dyn Appender>,
    sent: Arc<Mutex<Sent>>,
    /// One delivery at a time: one that its sink gave up waiting for still runs.
    turn: Arc<Mutex<()>>,
    topic: Arc<str>,
    stage: &'static str,
}

impl DeadLetters {
    /// A writer for one sink; `stage` is the sink's name.
    pub fn open<L: Log>(log: &L, topics: &Topics, stage: &'static str) -> Result<Self, LogError> {
        let sent = Arc::<Mutex<Sent>>::default();
        let arrived = Arc::clone(&sent);
        let appender = log.appender(Box::new(move |token, outcome| {
            arrived.lock().end(token, outcome.map(|_| ()));
        }))?;
        Ok(Self { appender: Arc::new(appender), sent, turn: Arc::default(), topic: topics.dlq(), stage })
    }

    /// Delivers all of them, or fails and may be called again with the same letters: those on their way are waited
    /// for, only those that failed are sent again. A repeat after a restart is recognised by its origin.
    pub async fn deliver(&self, letters: Vec<DeadLetter>) -> Result<(), LogError> {
        if letters.is_empty() {
            return Ok(());
        }
        let this = self.clone();
        let delivered = tokio::task::spawn_blocking(move || this.deliver_blocking(&letters)).await;
        delivered.unwrap_or_else(|_| Err(LogError::unavailable("the delivery of dead letters was cut short")))
    }

    fn deliver_blocking(&self, letters: &[DeadLetter]) -> Result<(), LogError> {
        let turn = self.turn.lock();
        let at = runtime::clock::now_us();
        for letter in letters {
            self.send(letter.clone(), at);
        }
        let flushed = self.appender.flush(DELIVERY);
        let large: Vec<DeadLetter> =
            letters.iter().filter(|letter| self.must_be_cut(letter)).map(cut).collect();
        let cut_too = if large.is_empty() { Ok(()) } else { self.resend(large, at) };
        let mut sent = self.sent.lock();
        for letter in letters {
            match sent.fates.get(&letter.origin) {
                Some(Fate::Delivered) => {}
                Some(Fate::Failed(error)) => return Err(error.clone()),
                Some(Fate::InFlight) | None => {
                    flushed.and(cut_too)?;
                    return Err(LogError::unavailable("a dead letter was not confirmed in time"));
                }
            }
        }
        sent.forget(letters);
        drop(sent);
        drop(turn);
        Ok(())
    }

    fn must_be_cut(&self, letter: &DeadLetter) -> bool {
        let sent = self.sent.lock();
        let is_refused = |error: &LogError| error.kind == LogErrorKind::TooLarge;
        letter.original.len() > CUT_TO
            && matches!(sent.fates.get(&letter.origin), Some(Fate::Failed(error)) if is_refused(error))
    }

    fn resend(&self, letters: Vec<DeadLetter>, at: i64) -> Result<(), LogError> {
        for letter in letters {
            self.send(letter, at);
        }
        self.appender.flush(DELIVERY)
    }

    /// Hands a letter to the log, unless it is there or on its way.
    fn send(&self, letter: DeadLetter, at: i64) {
        // Not locked while the log takes it: the log may answer on this thread.
        let Some((token, is_new)) = self.sent.lock().begin(&letter.origin) else { return };
        if is_new {
            metrics::counter!("varta_sinks_dead_letters_total", "sink" => self.stage).increment(1);
            tracing::warn!(sink = self.stage, origin = %letter.origin, reason = %letter.reason, "dead letter");
        }
        let mut record = letter.into_record(Arc::clone(&self.topic), at);
        let failed = loop {
            match self.appender.append(record, token) {
                Ok(()) => return,
                Err(AppendError::QueueFull(back)) => {
                    record = back;
                    if let Err(error) = self.appender.flush(DELIVERY) {
                        break error;
                    }
                }
                Err(AppendError::Log(error)) => break error,
            }
        };
        self.sent.lock().end(token, Err(failed));
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::testing::World;

    fn letter(offset: i64, original: usize) -> DeadLetter {
        DeadLetter {
            stage: "test",
            reason: "why".to_owned(),
            origin: origin("t", 0, offset),
            key: None,
            original: Bytes::from(vec![b'x'; original]),
            headers: Vec::new(),
        }
    }

    #[tokio::test]
    async fn letters_on_their_way_are_waited_for_and_not_sent_again() {
        let world = World::new(1);
        let dead = DeadLetters::open(&world.log, &world.topics, "test").unwrap();
        let letters = vec![letter(1, 10), letter(2, 10)];
        world.log.hold_deliveries(100);
        for _ in 0..3 {
            dead.deliver(letters.clone()).await.unwrap_err();
        }
        world.log.release_deliveries(1);
        dead.deliver(letters.clone()).await.unwrap_err();
        world.log.release_deliveries(usize::MAX);
        dead.deliver(letters).await.unwrap();
        assert_eq!(world.dead_letters().len(), 2);
        let sent = dead.sent.lock();
        assert!(sent.fates.is_empty() && sent.origins.is_empty());
    }

    #[tokio::test]
    async fn what_the_log_did_not_take_is_sent_again_and_its_neighbour_is_not() {
        let world = World::new(1);
        let log = world.log.handle();
        let dead = DeadLetters::open(&log, &world.topics, "test").unwrap();
        log.fail_at(2, eventlog::memory::Fault::Unavailable);
        let letters = vec![letter(1, 10), letter(2, 10)];
        dead.deliver(letters.clone()).await.unwrap_err();
        dead.deliver(letters).await.unwrap();
        assert_eq!(world.dead_letters().len(), 2);
    }
}

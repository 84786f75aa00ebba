//! The sink's side of the queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    time::{Duration, Instant},
};

use eventlog::{Log, Position, TopicPartition, registry::SchemaRegistry};
use runtime::{
    backoff::Backoff,
    fate::Fate,
    health::{Component, Health},
    shutdown::Shutdown,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Feed,
    reader::{Command, Ends, Event, Reader},
};
use crate::{Flush, Sink, SinkError, batch::Batch};

/// Batches between thread and sink.
const QUEUE: usize = 4;
/// Commands on their way to the thread; it takes them between two polls, so there are hardly ever two.
const COMMANDS: usize = 256;

/// Stops the reading thread however the task ends.
struct StopReading(Arc<AtomicBool>);

impl Drop for StopReading {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What to do after an error that passes.
enum Next {
    Again,
    /// Partitions are asked back: what was tried may be about them.
    GiveWay,
    Stop,
}

pub(super) struct Drive<S> {
    sink: S,
    feed: Feed,
    component: Component,
    shutdown: Shutdown,
    backoff: Backoff,
    /// Partitions that were assigned and not revoked.
    owned: Vec<TopicPartition>,
    /// Records are dropped until the thread has begun again from the store's offsets.
    restarting: bool,
    /// Number of the assignment that was heard of last.
    assignment: u64,
    /// How many times the thread has asked partitions back, and how many of them were answered.
    revoking: watch::Receiver<u64>,
    revoked: u64,
    /// Positions that the log has not yet stored.
    unstored: Vec<Position>,
}

impl<S: Sink> Drive<S> {
    pub(super) fn new(sink: S, feed: Feed, health: &Health, shutdown: Shutdown) -> Self {
        let component = health.component(format!("sink.{}", sink.name()));
        component.waiting("starting");
        Self {
            sink,
            feed,
            component,
            shutdown,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(15)),
            owned: Vec::new(),
            restarting: false,
            assignment: 0,
            revoking: watch::channel(0).1,
            revoked: 0,
            unstored: Vec::new(),
        }
    }

    pub(super) async fn run<L: Log>(
        mut self,
        log: L,
        registry: Arc<dyn SchemaRegistry>,
        health: Health,
    ) -> Result<(), SinkError> {
        let name = self.sink.name();
        while let Err(error) = self.sink.open().await {
            if let Next::Stop = self.wait("open the store", error).await? {
                return Ok(());
            }
        }
        self.backoff.reset();
        self.component.waiting("no partitions assigned yet");
        tracing::info!(sink = name, group = %self.feed.group, "store is there, reading begins");

        let stop = StopReading(Arc::new(AtomicBool::new(false)));
        let (events, mut inbox) = mpsc::channel(QUEUE);
        let (commands, orders) = std::sync::mpsc::sync_channel(COMMANDS);
        let (revoking, asked_back) = watch::channel(0);
        self.revoking = asked_back;
        let reader = Reader::new(
            name,
            self.feed.clone(),
            self.sink.takes_new_fields(),
            Ends { events, commands: orders, revoking },
            Arc::clone(&stop.0),
            health.component(format!("sink.{name}.log")),
        );
        let thread = std::thread::Builder::new()
            .name(format!("sink-{name}"))
            .spawn(move || reader.run(&log, registry))
            .map_err(|error| SinkError::Fatal(format!("no thread for reading the log: {error}")))?;

        let outcome = self.serve(&mut inbox, &commands).await;
        let drained = match outcome {
            Ok(()) => self.drain(&commands).await,
            Err(error) => {
                self.component.failed(error.to_string());
                Err(error)
            }
        };
        drop(stop);
        drop(inbox);
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            return drained.and(Err(SinkError::Fatal("the reading thread panicked".to_owned())));
        }
        drained
    }

    /// Handles events until a stop is asked for.
    async fn serve(
        &mut self,
        inbox: &mut mpsc::Receiver<Event>,
        commands: &SyncSender<Command>,
    ) -> Result<(), SinkError> {
        let shutdown = self.shutdown.clone();
        loop {
            let due = self.sink.due();
            // Not left to the timer: it is looked at when there is nothing else to do, and a queue that is always full would
            // make a sink hold more than it may. Partitions that are asked back come first.
            let is_due = due.is_some_and(|at| at <= Instant::now());
            if is_due && !shutdown.is_requested() && !self.must_give_way() {
                self.flush(Flush::Due, commands).await?;
                continue;
            }
            let wake = due.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
            tokio::select! {
                biased;
                () = shutdown.wait() => return Ok(()),
                () = tokio::time::sleep_until(wake.into()), if due.is_some() && !self.must_give_way() => {
                    // flushed at the head of the loop
                }
                event = inbox.recv() => match event {
                    Some(event) => self.handle(event, commands).await?,
                    None => return Err(SinkError::Fatal("the reading thread ended".to_owned())),
                },
            }
        }
    }

    async fn handle(&mut self, event: Event, commands: &SyncSender<Command>) -> Result<(), SinkError> {
        match event {
            Event::Batch(batch) if self.restarting => drop(batch),
            Event::Batch(batch) => {
                self.count(&batch);
                self.sink.accept(batch).await?;
            }
            Event::Assigned { partitions, number, again } => {
                if again {
                    self.restarting = false;
                }
                self.assignment = number;
                self.start(partitions, commands).await?;
            }
            Event::Revoked { partitions, lost, done } => {
                if !lost {
                    self.give_back(commands).await;
                }
                self.sink.discard(&partitions);
                self.owned.retain(|owned| !partitions.contains(owned));
                self.unstored.retain(|at| {
                    !partitions.iter().any(|p| p.topic == at.topic && p.partition == at.partition)
                });
                self.revoked += 1;
                // The thread may have stopped waiting; then the partitions are gone already.
                let _ = done.send(());
            }
            Event::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Tells the thread where to begin, as soon as the store says so.
    async fn start(
        &mut self,
        partitions: Vec<TopicPartition>,
        commands: &SyncSender<Command>,
    ) -> Result<(), SinkError> {
        self.sink.discard(&partitions);
        let starts = loop {
            match self.sink.starts(&partitions).await {
                Ok(starts) => break starts,
                Err(error) => {
                    match self.wait("ask for the offsets it holds", error).await? {
                        Next::Again => {}
                        // The next assignment asks anew.
                        Next::GiveWay | Next::Stop => return Ok(()),
                    }
                }
            }
        };
        self.recovered();
        for partition in &partitions {
            if !self.owned.contains(partition) {
                self.owned.push(partition.clone());
            }
        }
        tracing::info!(
            sink = self.sink.name(),
            assigned = partitions.len(),
            owned = self.owned.len(),
            "partitions assigned"
        );
        let _ = commands.send(Command::Start {
            number: self.assignment,
            at: partitions.into_iter().zip(starts).collect(),
        });
        Ok(())
    }

    /// Whether partitions are asked back and still held.
    fn must_give_way(&self) -> bool {
        *self.revoking.borrow() > self.revoked
    }

    /// Flushes until the store has it, or until partitions are asked back: what is held of them may be another's.
    async fn flush(&mut self, how: Flush, commands: &SyncSender<Command>) -> Result<(), SinkError> {
        loop {
            let began = Instant::now();
            match self.sink.flush(how).await {
                Ok(positions) => {
                    metrics::histogram!("varta_sinks_flush_seconds", "sink" => self.sink.name())
                        .record(began.elapsed().as_secs_f64());
                    self.recovered();
                    self.store_positions(positions, commands).await;
                    return Ok(());
                }
                Err(SinkError::Stale(reason)) => {
                    tracing::warn!(sink = self.sink.name(), %reason, "begins again from the store's offsets");
                    self.sink.discard(&self.owned.clone());
                    self.restarting = true;
                    let _ = commands.send(Command::Restart);
                    return Ok(());
                }
                Err(error) => match self.wait("write", error).await? {
                    Next::Again => {}
                    Next::GiveWay | Next::Stop => return Ok(()),
                },
            }
        }
    }

    /// One attempt to make everything durable before partitions are given back. What it does not
    /// manage is read again by the next owner.
    async fn give_back(&mut self, commands: &SyncSender<Command>) {
        match tokio::time::timeout(self.feed.drain, self.sink.flush(Flush::All)).await {
            Ok(Ok(positions)) => self.store_positions(positions, commands).await,
            Ok(Err(error)) => {
                tracing::info!(sink = self.sink.name(), %error, "partitions are given back unflushed");
            }
            Err(_) => {
                tracing::info!(sink = self.sink.name(), "partitions are given back unflushed: too slow");
            }
        }
    }

    /// The last flush of a clean stop: attempts until the deadline.
    async fn drain(&mut self, commands: &SyncSender<Command>) -> Result<(), SinkError> {
        let deadline = Instant::now() + self.feed.drain;
        while Instant::now() < deadline && !self.restarting {
            match tokio::time::timeout_at(deadline.into(), self.sink.flush(Flush::All)).await {
                Ok(Ok(positions)) => {
                    self.store_positions(positions, commands).await;
                    tracing::info!(sink = self.sink.name(), "drained");
                    return Ok(());
                }
                Ok(Err(error)) if error.fate() == Fate::Fatal => return Err(error),
                Ok(Err(SinkError::Stale(_))) | Err(_) => break,
                Ok(Err(error)) => {
                    tracing::warn!(sink = self.sink.name(), %error, "cannot drain yet");
                    tokio::time::sleep(self.backoff.next_delay().min(Duration::from_secs(1))).await;
                }
            }
        }
        tracing::warn!(
            sink = self.sink.name(),
            "stopped before all was durable; it is read again at the next start"
        );
        Ok(())
    }

    /// Hands positions to the log's group and waits for its answer. A failure only means that more is
    /// read again after a restart, so the next flush carries the positions along.
    async fn store_positions(&mut self, positions: Vec<Position>, commands: &SyncSender<Command>) {
        for position in positions {
            self.unstored.retain(|at| at.topic != position.topic || at.partition != position.partition);
            self.unstored.push(position);
        }
        if self.unstored.is_empty() {
            return;
        }
        let (answer, answered) = oneshot::channel();
        let _ = commands.send(Command::Store { number: self.assignment, at: self.unstored.clone(), answer });
        match tokio::time::timeout(Duration::from_secs(10), answered).await {
            Ok(Ok(Ok(()))) => {
                self.unstored.clear();
                self.sink.positions_stored();
            }
            Ok(Ok(Err(error))) => {
                tracing::warn!(sink = self.sink.name(), %error, "offsets not stored, tried again with the next");
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(
                    sink = self.sink.name(),
                    "offsets not stored in time, tried again with the next"
                );
            }
        }
    }

    fn recovered(&mut self) {
        if self.backoff.attempts() > 0 {
            tracing::info!(sink = self.sink.name(), "the store is back");
        }
        self.backoff.reset();
        self.component.ready();
    }

    /// Waits as an error asks for; a fatal one is returned.
    async fn wait(&mut self, step: &str, error: SinkError) -> Result<Next, SinkError> {
        let name = self.sink.name();
        metrics::counter!("varta_sinks_errors_total", "sink" => name).increment(1);
        if error.fate() == Fate::Fatal {
            return Err(error);
        }
        let delay = self.backoff.next_delay().max(error.retry_after().unwrap_or_default());
        tracing::warn!(sink = name, %error, step, wait_ms = delay.as_millis() as u64, "waiting for the store");
        self.component.waiting(format!("{step}: {error}"));
        let revoked = self.revoked;
        let asked_back = async {
            if self.revoking.wait_for(|count| *count > revoked).await.is_err() {
                // The thread is gone, and says so in its own way.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.shutdown.wait() => Ok(Next::Stop),
            () = asked_back => Ok(Next::GiveWay),
            () = tokio::time::sleep(delay) => Ok(Next::Again),
        }
    }

    fn count(&self, batch: &Batch) {
        let rows: usize = batch.rows.iter().map(|rows| rows.places.len()).sum();
        let read = metrics::counter!(
            "varta_sinks_rows_total", "sink" => self.sink.name(), "topic" => batch.topic.to_string()
        );
        read.increment((rows + batch.plain.len() + batch.poison.len()) as u64);
    }
}

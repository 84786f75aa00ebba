//! The thread that owns the outbox file: gathers commands, commits them together, then answers.

use std::sync::Arc;
use std::time::Instant;

use schemas::event::{AgentStatus, Payload, event_type};
use schemas::identity::Lane;
use tokio::sync::{mpsc, oneshot, watch};

use super::row::{LANES, LaneRange, NewRow, ReadRequest, Row};
use super::store::{Shed, Store};
use super::{Batch, Mark, OutboxConfig, OutboxError, Owner, Stats};
use crate::observation::Observation;

/// Commands committed together at most.
const GROUP: usize = 64;

type Reply<T> = oneshot::Sender<Result<T, Arc<OutboxError>>>;

#[derive(Debug)]
pub(super) enum Command {
    Append(Arc<Batch>, Reply<()>),
    Confirm(Vec<LaneRange>, Reply<u64>),
    Read(ReadRequest, Reply<Vec<Row>>),
}

/// Owner of the file; [`Writer::run`] ends when every [`super::Outbox`] is gone.
pub struct Writer {
    pub(super) store: Store,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) stats: watch::Sender<Stats>,
    pub(super) owner: Owner,
    pub(super) config: OutboxConfig,
    pub(super) synced_at: Instant,
    pub(super) dirty: bool,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("session", &self.store.session).finish_non_exhaustive()
    }
}

/// What a transaction did beside its rows.
#[derive(Default)]
struct Done {
    removed: Vec<u64>,
    shed: Vec<Shed>,
}

impl Writer {
    /// Serves commands until the last handle is dropped, then flushes to the disk.
    pub fn run(mut self) -> Result<(), OutboxError> {
        while let Some(first) = self.commands.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(next) = self.commands.try_recv()
            {
                group.push(next);
            }
            self.serve(group);
        }
        self.store.begin(true)?;
        self.store.set_fact("closed_at", &runtime::clock::now_us().to_string())?;
        self.store.commit()
    }

    pub(super) fn serve(&mut self, group: Vec<Command>) {
        let mut writes = Vec::new();
        for command in group {
            match command {
                // Only committed rows are handed out: what is sent must be on record first.
                Command::Read(wanted, reply) => {
                    self.write(std::mem::take(&mut writes));
                    let _ = reply.send(self.store.read(&wanted).map_err(Arc::new));
                }
                write => writes.push(write),
            }
        }
        self.write(writes);
    }

    fn write(&mut self, writes: Vec<Command>) {
        if writes.is_empty() {
            return;
        }
        match self.transaction(&writes) {
            Ok(done) => {
                self.publish(&writes, &done);
                answer(writes, done.removed);
            }
            Err(error) => {
                self.store.roll_back();
                tracing::error!(%error, "outbox transaction failed, nothing of it was stored");
                let error = Arc::new(error);
                for write in writes {
                    match write {
                        Command::Append(_, reply) => drop(reply.send(Err(error.clone()))),
                        Command::Confirm(_, reply) => drop(reply.send(Err(error.clone()))),
                        Command::Read(..) => {}
                    }
                }
            }
        }
    }

    fn transaction(&mut self, writes: &[Command]) -> Result<Done, OutboxError> {
        let mut done = Done::default();
        let mut critical = false;
        let mut empty = true;
        for write in writes {
            match write {
                Command::Append(batch, _) => {
                    critical |= batch.rows.iter().any(|row| row.lane == 0);
                    empty &= batch.rows.is_empty() && batch.cursors.is_empty();
                }
                Command::Confirm(ranges, _) => empty &= ranges.is_empty(),
                Command::Read(..) => {}
            }
        }
        if empty && !(self.dirty && self.synced_at.elapsed() >= self.config.sync_interval) {
            done.removed.resize(writes.len(), 0);
            return Ok(done);
        }

        let synced = critical || self.synced_at.elapsed() >= self.config.sync_interval;
        self.store.begin(synced)?;
        for write in writes {
            match write {
                Command::Append(batch, _) => {
                    self.append(batch, &mut done.shed)?;
                    done.removed.push(0);
                }
                Command::Confirm(ranges, _) => {
                    runtime::failpoint::hit("agent.confirm.before_delete");
                    let mut removed = 0;
                    for range in ranges {
                        removed += self.store.remove(range)?;
                    }
                    done.removed.push(removed);
                }
                Command::Read(..) => {}
            }
        }
        self.make_room(&mut done.shed)?;
        self.explain(&done.shed)?;
        if synced {
            // A transaction without a frame would not be flushed.
            self.store.set_fact("synced_at", &runtime::clock::now_us().to_string())?;
        }
        self.store.commit()?;
        self.dirty = !synced;
        if synced {
            self.synced_at = Instant::now();
        }
        Ok(done)
    }

    fn append(&mut self, batch: &Batch, shed: &mut Vec<Shed>) -> Result<(), OutboxError> {
        for row in &batch.rows {
            if row.body.len() as u64 <= self.config.max_event_size.bytes() {
                self.store.append(row)?;
                continue;
            }
            let seq = self.store.skip(row.lane);
            tracing::error!(event_type = %row.event_type, bytes = row.body.len(), seq, "event is larger than the outbox takes");
            let range = LaneRange { lane: LANES[row.lane], session: self.store.session, from: seq, to: seq };
            shed.push(Shed { range, rows: 1 });
        }
        for (monitor, value) in &batch.cursors {
            self.store.set_cursor(monitor, *value)?;
        }
        Ok(())
    }

    fn make_room(&mut self, shed: &mut Vec<Shed>) -> Result<(), OutboxError> {
        let limit = self.config.limit.bytes();
        if self.store.counters.all_bytes() <= limit {
            return Ok(());
        }
        let target = limit - limit / 20;
        for lane in (0..LANES.len()).rev() {
            let excess = self.store.counters.all_bytes().saturating_sub(target);
            if excess == 0 {
                break;
            }
            shed.extend(self.store.shed(lane, excess)?);
        }
        Ok(())
    }

    /// One `events_shed` event for each run, in the transaction that shed it.
    fn explain(&mut self, shed: &[Shed]) -> Result<(), OutboxError> {
        let mut total = self.stats.borrow().shed_total;
        for run in shed {
            total += run.rows;
            let LaneRange { lane, session, from, to } = run.range;
            tracing::warn!(
                lane = lane.as_str(),
                session,
                from,
                to,
                "events shed, the outbox cannot hold them"
            );
            let status = AgentStatus {
                shed_lane: Some(lane.as_str().to_owned()),
                shed_from: Some(from),
                shed_to: Some(to),
                shed_total: Some(total as i64),
                previous_session: (session != self.store.session).then_some(session),
                queue_bytes: Some(self.store.counters.all_bytes() as i64),
                queue_limit_bytes: Some(self.config.limit.bytes() as i64),
                reason: Some("outbox full or event too large".to_owned()),
                ..AgentStatus::default()
            };
            let seen = Observation::new(
                self.owner.clock.now(),
                Lane::Critical,
                event_type::EVENTS_SHED,
                "agent/outbox",
                Payload::AgentStatus(status),
            );
            self.store.append(&NewRow::new(&seen, &self.owner.host)?.guarded())?;
        }
        Ok(())
    }

    fn publish(&mut self, writes: &[Command], done: &Done) {
        let low_water = writes
            .iter()
            .filter_map(|write| match write {
                Command::Append(batch, _) => batch.low_water,
                _ => None,
            })
            .max();
        let counters = self.store.counters;
        let oldest = self.store.oldest().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot tell the oldest row of the outbox");
            None
        });
        self.stats.send_if_modified(|stats| {
            let before = *stats;
            if let Some(time) = low_water {
                let time = stats.marks.map_or(time, |marks| marks[0].time.max(time));
                stats.marks = Some(counters.last_seq.map(|seq| Mark { seq, time }));
            }
            stats.rows = counters.rows;
            stats.bytes = counters.bytes;
            stats.last_seq = counters.last_seq;
            stats.oldest = oldest;
            stats.shed_total += done.shed.iter().map(|run| run.rows).sum::<u64>();
            let only_marks = Stats { marks: before.marks, ..*stats } == before;
            !only_marks
        });
    }
}

fn answer(writes: Vec<Command>, removed: Vec<u64>) {
    for (write, removed) in writes.into_iter().zip(removed) {
        match write {
            Command::Append(_, reply) => drop(reply.send(Ok(()))),
            Command::Confirm(_, reply) => {
                runtime::failpoint::hit("agent.confirm.after_delete");
                let _ = reply.send(Ok(removed));
            }
            Command::Read(..) => {}
        }
    }
}

//! Workers on one log that a test steps by hand, and what may happen to them.

use std::sync::Arc;
use std::time::Duration;

use eventlog::memory::{Fault, MemoryLog};
use eventlog::{Log, TopicPartition};

use super::{Chance, Manual};
use crate::engine::job::Job;
use crate::engine::restore::OnMismatch;
use crate::engine::worker::{Defect, Worker, WorkerError, WorkerSettings};

const GROUP: &str = "job";

pub(crate) fn settings(slot: usize) -> WorkerSettings {
    WorkerSettings {
        group: GROUP.to_owned(),
        transactional_id: format!("job-{slot}"),
        instance: None,
        input: "in".into(),
        state: "state".into(),
        commit_interval: Duration::from_millis(30),
        urgent_commit_interval: Duration::from_millis(10),
        behind_commit_interval: Duration::from_millis(70),
        max_commit_rows: 1_000,
        max_commit_bytes: 1 << 20,
        max_batch_rows: 4,
        linger: Duration::ZERO,
        restore_deadline: Duration::from_hours(1),
        on_state_mismatch: OnMismatch::Refuse,
        span: None,
    }
}

/// Workers on one log, stepped by one thread.
pub(crate) struct Fleet<J: Job> {
    pub(crate) log: MemoryLog,
    pub(crate) ticker: Arc<Manual>,
    workers: Vec<(MemoryLog, Worker<MemoryLog, J>)>,
    asleep: Vec<u64>,
    make: Box<dyn Fn() -> J>,
    settings: Box<dyn Fn(usize) -> WorkerSettings>,
    defect: Option<Defect>,
}

impl<J: Job> Fleet<J> {
    pub(crate) fn new(
        log: MemoryLog,
        count: usize,
        make: Box<dyn Fn() -> J>,
        settings: Box<dyn Fn(usize) -> WorkerSettings>,
        defect: Option<Defect>,
    ) -> Self {
        let ticker = Arc::new(Manual::default());
        let mut fleet =
            Self { log, ticker, workers: Vec::new(), asleep: vec![0; count], make, settings, defect };
        for slot in 0..count {
            let made = fleet.start(slot);
            fleet.workers.push(made);
        }
        fleet
    }

    fn start(&self, slot: usize) -> (MemoryLog, Worker<MemoryLog, J>) {
        let handle = self.log.handle();
        let settings = (self.settings)(slot);
        let mut worker =
            Worker::new(handle.clone(), (self.make)(), settings, Arc::clone(&self.ticker) as _, None);
        worker.defect.clone_from(&self.defect);
        let seen = self.log.clone();
        worker.last_stable = Some(Box::new(move |of: &TopicPartition| {
            let records = seen.records(&of.topic);
            records
                .iter()
                .filter(|record| record.partition == of.partition)
                .map(|r| r.offset + 1)
                .max()
                .unwrap_or(0)
        }));
        (handle, worker)
    }

    pub(crate) fn handle(&self, slot: usize) -> &MemoryLog {
        &self.workers[slot].0
    }

    /// How many records of the input a worker has read, over its partitions.
    pub(crate) fn processed(&self, slot: usize) -> i64 {
        self.workers[slot].1.positions().iter().map(|(_, next)| next).sum()
    }

    pub(crate) fn restart(&mut self, slot: usize) {
        self.workers[slot].0.kill();
        let made = self.start(slot);
        self.workers[slot] = made;
    }

    /// One turn of one worker; one whose handle died is replaced, as a process manager would.
    pub(crate) fn step(&mut self, slot: usize) -> Result<(), WorkerError> {
        if self.asleep[slot] > 0 {
            self.asleep[slot] -= 1;
            return Ok(());
        }
        if is_dead(&self.workers[slot].0) {
            self.restart(slot);
        }
        let stepped = self.workers[slot].1.step();
        if is_dead(&self.workers[slot].0) {
            return Ok(());
        }
        stepped.map(|_| ())
    }

    /// Something bad, chosen by chance.
    pub(crate) fn disturb(&mut self, chance: &mut Chance) {
        let slot = chance.below(self.workers.len() as u64) as usize;
        let state = TopicPartition::new((self.settings)(0).state, chance.below(3) as i32);
        let group = (self.settings)(0).group;
        match chance.below(9) {
            0 => self.log.rebalance(&group),
            1 => self.restart(slot),
            2 => {
                // A zombie: its session times out while it is stopped, and it wakes in the middle of things.
                self.workers[slot].0.expel();
                self.asleep[slot] = chance.below(40);
            }
            3 => self.log.delay_markers(&state),
            4 => self.log.delay_offsets(&group),
            5 => self.log.time_out_transactions(),
            6 => self.asleep[slot] = chance.below(20),
            _ => {
                let faults = [
                    Fault::Unavailable,
                    Fault::Aborted,
                    Fault::Fatal,
                    Fault::LostAnswer,
                    Fault::Kill,
                    Fault::KillAfter,
                ];
                let handle = &self.workers[slot].0;
                let next = handle.calls().len() as u64 + 1 + chance.below(12);
                handle.fail_at(next, faults[chance.below(6) as usize]);
            }
        }
    }

    pub(crate) fn settle(&self) {
        let settings = (self.settings)(0);
        for partition in 0..self.log.partitions(&settings.input).unwrap_or(0) {
            self.log.release_markers(&TopicPartition::new(Arc::clone(&settings.state), partition));
        }
        self.log.release_offsets(&settings.group);
    }

    /// Everything is committed, and nobody sleeps on an open transaction that would hide what is behind it.
    pub(crate) fn is_done(&self) -> bool {
        let settings = (self.settings)(0);
        if self.asleep.iter().any(|turns| *turns > 0) {
            return false;
        }
        let partitions = self.log.partitions(&settings.input).unwrap_or(0);
        let held = self.workers.iter().map(|(_, worker)| worker).filter(|worker| worker.is_settled());
        if held.map(|worker| worker.positions().len()).sum::<usize>() != partitions as usize {
            return false;
        }
        let raw = self.log.raw(&settings.input);
        (0..partitions).all(|partition| {
            let end = raw
                .keys()
                .filter(|(of, _)| *of == partition)
                .map(|(_, offset)| offset + 1)
                .max()
                .unwrap_or(0);
            let of = TopicPartition::new(Arc::clone(&settings.input), partition);
            end == self.log.committed_offset(&settings.group, &of).unwrap_or(0)
        })
    }
}

fn is_dead(handle: &MemoryLog) -> bool {
    handle.partitions("in").is_err() && handle.partitions("varta.raw").is_err()
}

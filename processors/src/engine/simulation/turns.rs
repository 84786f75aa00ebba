//! What is put off: partitions take turns with it, and whoever gives them back has done it all.

use std::sync::Arc;

use eventlog::memory::MemoryLog;
use eventlog::{Appender, Log, NewRecord, Record};
use parking_lot::Mutex;

use super::{Fleet, settings};
use crate::engine::job::{Job, JobError, Output, PartitionState, Share};
use crate::engine::operator::Operator;

const PARTITIONS: i32 = 3;
/// What each record gives to do.
const PIECES: usize = 3;

/// Forgets what it owes when its partition goes: what is not done by then is never done.
struct Debts {
    partition: i32,
    owed: usize,
}

impl PartitionState for Debts {
    fn operators(&mut self) -> Vec<&mut dyn Operator> {
        Vec::new()
    }
}

/// Does one piece for a share, and notes whose it was.
struct Debtor(Arc<Mutex<Vec<i32>>>);

impl Job for Debtor {
    type State = Debts;

    fn open(&mut self, partition: i32) -> Result<Debts, JobError> {
        Ok(Debts { partition, owed: 0 })
    }

    fn process(&mut self, state: &mut Debts, records: &[Record], _: &mut Output<'_>) -> Result<(), JobError> {
        state.owed += PIECES * records.len();
        Ok(())
    }

    fn settle(&mut self, state: &mut Debts, share: Share, output: &mut Output<'_>) -> Result<bool, JobError> {
        let most = match share {
            Share::None => 0,
            Share::Some => 1,
            Share::All => usize::MAX,
        };
        for _ in 0..state.owed.min(most) {
            state.owed -= 1;
            self.0.lock().push(state.partition);
            output.send(NewRecord::keyed("out", "piece", "done"))?;
        }
        Ok(state.owed > 0)
    }
}

/// A worker that has read a record of each partition, and whose pieces were done so far.
fn indebted() -> (Fleet<Debtor>, Arc<Mutex<Vec<i32>>>) {
    let log = MemoryLog::new();
    for topic in ["in", "out", "state"] {
        log.create(topic, PARTITIONS);
    }
    let done: Arc<Mutex<Vec<i32>>> = Arc::default();
    let notes = Arc::clone(&done);
    let make = Box::new(move || Debtor(Arc::clone(&notes)));
    let fleet = Fleet::new(log, 1, make, Box::new(settings), None);
    let writer = fleet.log.handle().appender(Box::new(|_, _| {})).unwrap();
    for partition in 0..PARTITIONS {
        writer.append(NewRecord::keyed("in", "k", "v").to_partition(partition), 0).unwrap();
    }
    (fleet, done)
}

fn step(fleet: &mut Fleet<Debtor>) {
    fleet.ticker.advance(10);
    fleet.step(0).unwrap();
}

#[test]
fn partitions_take_turns_and_nobody_waits_for_ever() {
    let (mut fleet, done) = indebted();
    for _ in 0..200 {
        step(&mut fleet);
    }
    assert_eq!(*done.lock(), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    assert!(fleet.is_done());
    assert_eq!(fleet.log.records("out").len(), PIECES * PARTITIONS as usize);
}

#[test]
fn who_gives_partitions_back_has_done_what_was_put_off() {
    let (mut fleet, done) = indebted();
    while done.lock().len() < 2 {
        step(&mut fleet);
    }
    fleet.log.rebalance("job");
    for _ in 0..200 {
        step(&mut fleet);
    }
    assert_eq!(done.lock().len(), PIECES * PARTITIONS as usize);
    assert_eq!(fleet.log.records("out").len(), PIECES * PARTITIONS as usize);
}

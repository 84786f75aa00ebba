//! What is kept: reading it back, what a lane with holes takes, how large its changelog grows.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use eventlog::memory::MemoryLog;
use eventlog::{Appender, Log, NewRecord, TopicPartition};
use processors::dedup::Sequence;
use processors::engine::{Monotonic, OnMismatch, Step, Worker, WorkerSettings};
use processors::jobs::{CoreJob, CoreSetup};
use schemas::topics::Topics;

use crate::input::{Input, START};
use crate::measure::{SECOND, setup, shipped, show};
use crate::meters::Meters;
use crate::play::COMMIT;

fn settings(rows: usize) -> WorkerSettings {
    let topics = Topics::default();
    WorkerSettings {
        group: "costs".into(),
        transactional_id: "costs-0".into(),
        instance: None,
        input: topics.raw(),
        state: topics.state("core"),
        commit_interval: Duration::from_secs(1),
        urgent_commit_interval: Duration::from_secs(1),
        behind_commit_interval: Duration::from_secs(1),
        max_commit_rows: rows,
        max_commit_bytes: 1 << 30,
        max_batch_rows: rows.min(4_000),
        linger: Duration::ZERO,
        restore_deadline: Duration::from_mins(1),
        on_state_mismatch: OnMismatch::Refuse,
        span: None,
    }
}

/// What lives and what was written, bytes, as the job measures both.
struct Sizes {
    live: f64,
    written: f64,
}

/// A worker on the log in memory until nothing is left, with a commit every so many rows.
fn work(meters: &Meters, log: &MemoryLog, setup: CoreSetup, rows: usize) -> anyhow::Result<Sizes> {
    let raw = Topics::default().raw();
    let of = TopicPartition::new(Arc::clone(&raw), 0);
    let job = CoreJob::new(setup)?;
    let mut worker = Worker::new(log.handle(), job, settings(rows), Arc::new(Monotonic::start()), None);
    let end = log.raw(&raw).len() as i64;
    while log.committed_offset("costs", &of).unwrap_or(0) < end || worker.positions().is_empty() {
        if let Step::Waiting(time) = worker.step()? {
            bail!("it waits for {time:?}");
        }
    }
    let sizes = Sizes {
        live: meters.total("varta_processors_state_bytes", ""),
        written: meters.total("varta_processors_changelog_bytes", ""),
    };
    worker.drain()?;
    Ok(sizes)
}

/// A log with events of so many agents. `per_second`: events of one agent.
fn log_of(setup: &CoreSetup, agents: usize, events: usize, per_second: f64) -> anyhow::Result<MemoryLog> {
    let log = MemoryLog::new();
    for spec in Topics::default().all() {
        log.create(&spec.name, 1);
    }
    let writer = log.handle().appender(Box::new(|_, _| {}))?;
    let mut input = Input::new(setup.ids.clone(), agents as i64, per_second);
    for record in input.records(events)? {
        log.set_time(record.timestamp);
        let new = NewRecord {
            topic: record.topic,
            partition: Some(0),
            key: record.key,
            value: record.value,
            headers: Vec::new(),
        };
        if writer.append(new, 0).is_err() {
            bail!("the log in memory is full");
        }
    }
    Ok(log)
}

/// A second worker takes over what the first has left.
pub(crate) fn restore(meters: &Meters, agents: usize) -> anyhow::Result<()> {
    let setup = setup(shipped()?)?;
    let log = log_of(&setup, agents, 20 * agents, 0.2)?;
    work(meters, &log, setup.clone(), COMMIT)?;
    let before = meters.total("varta_processors_restore_seconds", "");
    work(meters, &log, setup, COMMIT)?;
    let seconds = meters.total("varta_processors_restore_seconds", "") - before;
    let rows = meters.total("varta_processors_restored_rows_total", "");
    show(&format!("restore, {rows:.0} rows of {agents} agents, log in memory"), rows / seconds, "rows/s");
    show("restore of a million rows, log in memory", seconds / rows.max(1.0) * 1e6, "s");
    Ok(())
}

/// What a lane takes in memory of whose numbers every twentieth is missing: for good, or until eight more have come.
pub(crate) fn dedup(agents: usize) {
    const NUMBERS: i64 = 1_000;
    /// A hole that lane time has waited for so long is passed, quiet clock in µs.
    const PASSED: i64 = 30 * SECOND;
    for (what, comes_late) in [("never come", false), ("come eight numbers late", true)] {
        let (mut fresh, mut bytes) = (0, 0);
        for agent in 0..agents as i64 {
            let is_hole = |seq: i64| seq >= 0 && (seq + agent) % 20 == 5;
            let mut lane = Sequence::new(0);
            for at in 0..NUMBERS {
                let late = (comes_late && is_hole(at - 8)).then_some(at - 8);
                for seq in (!is_hole(at)).then_some(at).into_iter().chain(late) {
                    lane.see(seq, START + seq * SECOND, at * SECOND);
                }
                lane.release(at * SECOND - PASSED);
            }
            fresh += size_of::<Sequence>() + lane.heap_bytes();
            lane.release(NUMBERS * SECOND);
            bytes += size_of::<Sequence>() + lane.heap_bytes();
        }
        let what = format!("dedup, a lane of {NUMBERS} numbers of which 5 % {what}");
        show(&what, bytes as f64 / agents as f64, "bytes");
        show(&format!("{what}, while it goes on"), fresh as f64 / agents as f64, "bytes");
    }
}

/// So many hours of event time, committed about as often as in life: few rows a commit.
pub(crate) fn changelog(meters: &Meters, agents: usize, hours: f64) -> anyhow::Result<()> {
    let setup = setup(shipped()?)?;
    let per_second = 0.25;
    let events = (agents as f64 * per_second * 3_600.0 * hours) as usize;
    let log = log_of(&setup, agents, events.max(100), per_second)?;
    let sizes = work(meters, &log, setup, 20)?;
    let topic = Topics::default().state("core");
    let size = || -> f64 {
        let records = log.records(&topic);
        records.iter().filter_map(|record| record.value.as_ref()).map(Bytes::len).sum::<usize>() as f64
    };
    show(&format!("live state of {agents} agents after {hours} h"), sizes.live / 1e6, "MB");
    show("changelog since the last whole write / live state", sizes.written / sizes.live.max(1.0), "");
    show("state topic as written", size() / 1e6, "MB");
    log.compact(&topic);
    show("state topic, compacted", size() / 1e6, "MB");
    show("state topic, compacted / live state", size() / sizes.live.max(1.0), "");
    Ok(())
}

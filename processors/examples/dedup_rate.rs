//! Measures dedup and event time: events a second on one thread, and how much state an agent's lane takes.
//!
//! `cargo run --release -p processors --example dedup_rate [events]`: each row of the table plays so many events (ten
//! million if not given), spread over three lanes of each agent, with a clock record for every five events of an agent.
//! *late*: every twentieth number comes eight numbers late. *lost*: it never comes. *with changes*: the rows for the
//! changelog are made every 5,000 events, as commits would. State is counted at the end: in memory what a lane holds,
//! without the agent it belongs to and the allocator's own; written what a snapshot has, agents and names shared out
//! among their lanes.
#![allow(clippy::print_stdout, reason = "a command line program")]

use std::time::{Duration, Instant};

use processors::dedup::Sequence;
use processors::engine::operator::StateError;
use processors::engine::pieces::batch_bytes;
use processors::event_time::{Hold, Lateness, Row, Tracker, Verdict};
use schemas::identity::Lane;

const SECOND: i64 = 1_000_000;
const START: i64 = 1_700_000_000 * SECOND;
const LANES: [Lane; 3] = [Lane::Critical, Lane::Normal, Lane::Bulk];
/// Events of one agent that follow each other, as in a message.
const TOGETHER: i64 = 6;
const COMMIT: i64 = 5_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Holes {
    None,
    Late,
    Lost,
}

/// The numbers that come as the `at`-th of a lane; agents have their holes at different places.
fn number(agent: usize, at: i64, holes: Holes) -> [Option<i64>; 2] {
    let is_hole = |at: i64| at >= 0 && (at + agent as i64) % 20 == 5;
    match holes {
        Holes::None => [Some(at), None],
        Holes::Late => [(!is_hole(at)).then_some(at), is_hole(at - 8).then_some(at - 8)],
        Holes::Lost => [(!is_hole(at)).then_some(at), None],
    }
}

struct Outcome {
    events: u64,
    took: Duration,
    tracker: Tracker,
    numbers: Vec<u32>,
}

fn play(agents: i64, events: i64, holes: Holes, with_changes: bool) -> Result<Outcome, StateError> {
    let mut tracker = Tracker::new(Lateness(2 * SECOND), Hold(30 * 86_400 * SECOND));
    let names: Vec<String> =
        (0..agents).map(|agent| format!("{agent:08x}-0000-4000-8000-000000000000")).collect();
    let mut numbers = Vec::new();
    let mut fresh = 0_u64;
    let mut uncommitted = 0;
    let started = Instant::now();
    for round in 0..(events / agents / TOGETHER).max(1) {
        let now = START + round * TOGETHER * SECOND;
        tracker.tick("bridge", now, true, false);
        numbers.clear();
        for (place, name) in names.iter().enumerate() {
            let agent = tracker.intern(name);
            numbers.push(agent);
            for at in round * TOGETHER..(round + 1) * TOGETHER {
                let lane = LANES[(at % 3) as usize];
                for seq in number(place, at / 3, holes).into_iter().flatten() {
                    let time = START + at * SECOND;
                    let row = Row {
                        agent,
                        session: START,
                        lane,
                        seq,
                        event_id: None,
                        event_time: time,
                        received_at: time,
                        replayed: false,
                        hearsay: false,
                        speaks: false,
                    };
                    fresh += u64::from(tracker.event(&row).verdict == Verdict::Fresh);
                }
            }
            uncommitted += TOGETHER;
            if with_changes && uncommitted >= COMMIT {
                uncommitted = 0;
                for operator in tracker.operators() {
                    operator.changes().try_for_each(|piece| piece.map(drop))?;
                }
            }
        }
        tracker.take_advanced();
    }
    Ok(Outcome { events: fresh, took: started.elapsed(), tracker, numbers })
}

/// Bytes of a lane in memory and in a snapshot.
fn state(outcome: &mut Outcome) -> Result<(usize, usize), StateError> {
    let (mut lanes, mut memory, mut written) = (0, 0, 0);
    for number in &outcome.numbers {
        let sessions = &outcome.tracker.agent(*number).sessions;
        for sequence in sessions.iter().flat_map(|session| &session.lanes).flatten() {
            lanes += 1;
            memory += size_of::<Sequence>() + sequence.heap_bytes();
        }
    }
    for operator in outcome.tracker.operators() {
        for piece in operator.all() {
            written += batch_bytes(&piece?);
        }
    }
    Ok((memory / lanes.max(1), written / lanes.max(1)))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let events: i64 = std::env::args().nth(1).map_or(Ok(10_000_000), |text| text.parse())?;
    let rate = |outcome: &Outcome| outcome.events as f64 / outcome.took.as_secs_f64() / 1e6;
    println!(" agents  holes  events   M events/s  with changes  bytes a lane: memory  written");
    for agents in [100, 100_000] {
        for holes in [Holes::None, Holes::Late, Holes::Lost] {
            let mut outcome = play(agents, events, holes, false)?;
            let with_changes = play(agents, events, holes, true)?;
            let (memory, written) = state(&mut outcome)?;
            println!(
                "{agents:7}  {:5}  {:8} {:10.2} {:13.2} {memory:21} {written:8}",
                format!("{holes:?}").to_lowercase(),
                outcome.events,
                rate(&outcome),
                rate(&with_changes),
            );
        }
    }
    Ok(())
}

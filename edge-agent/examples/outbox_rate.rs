//! How many events a second the outbox carries: four threads append batches, one confirms behind
//! them, as in the field. `cargo run --release -p edge-agent --example outbox_rate [EVENTS] [BATCH]`
#![allow(clippy::print_stdout, reason = "a tool for a person at a terminal")]

use std::time::Instant;

use edge_agent::clock::EventClock;
use edge_agent::observation::Observation;
use edge_agent::outbox::{Batch, LaneRange, NewRow, Outbox, OutboxConfig, Owner};
use runtime::config::ByteSize;
use schemas::event::{HostMetrics, Payload};
use schemas::identity::Lane;

const THREADS: u64 = 4;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let events = arguments.next().transpose()?.unwrap_or(200_000);
    let batch = arguments.next().transpose()?.unwrap_or(50);
    let folder = std::env::temp_dir().join(format!("outbox-rate-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let owner =
        Owner { agent_id: "rate".into(), host: "pc001".into(), clock: EventClock::new(), last_session: None };
    let config = OutboxConfig { limit: ByteSize::gib(1), ..OutboxConfig::default() };
    let (outbox, writer, start) =
        Outbox::open(&folder.join("outbox.db"), &config, &owner, |_| seen(0, Lane::Critical))?;
    let writing = std::thread::spawn(move || writer.run());

    let began = Instant::now();
    let appenders: Vec<_> = (0..THREADS)
        .map(|_| {
            let outbox = outbox.clone();
            std::thread::spawn(move || -> anyhow::Result<()> {
                for first in (0..events / THREADS).step_by(batch as usize) {
                    let rows = (first..first + batch).map(|n| NewRow::new(&seen(n, Lane::Normal), "pc001"));
                    outbox.append(Batch { rows: rows.collect::<Result<_, _>>()?, ..Batch::default() })?;
                }
                Ok(())
            })
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut confirmed = 0;
    while appenders.iter().any(|appender| !appender.is_finished()) {
        let range =
            LaneRange { lane: Lane::Normal, session: start.session, from: 0, to: outbox.stats().last_seq[1] };
        confirmed += runtime.block_on(outbox.confirm(vec![range]))?;
    }
    let elapsed = began.elapsed();
    let stored = outbox.stats().last_seq[1] + 1;
    println!(
        "{stored} events in {elapsed:.2?}, {:.0}/s, {confirmed} confirmed meanwhile, batches of {batch}",
        stored as f64 / elapsed.as_secs_f64()
    );
    drop(outbox);
    let _ = writing.join();
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn seen(n: u64, lane: Lane) -> Observation {
    let metrics = HostMetrics {
        cpu_percent: Some(n as f64 % 100.0),
        cpu_count: Some(8),
        load_1: Some(0.5),
        load_5: Some(0.4),
        load_15: Some(0.3),
        ..HostMetrics::default()
    };
    Observation::new(n as i64, lane, "cpu_usage", "cpu/rate", Payload::HostMetrics(metrics))
}

//! The agent: watches one machine and sends what it saw, once, in order.
//!
//! It knows the contract of events (`schemas`), SQLite and MQTT. It never knows Kafka, Avro or
//! Arrow, runs no rules, and looks with no more rights than it was started with.
//!
//! ```text
//! monitors ─▶ scheduler ─▶ outbox (SQLite) ─▶ publisher ══ MQTT 5 ══▶ bridge
//!  thread      (same)       thread             task        ◀═ confirmation ═
//! ```
//!
//! Each arrow hands over a promise: what the scheduler was told is stored is on record with its
//! number, and what the publisher removes was confirmed by the bridge. A synthetic source plugs in
//! as a [`monitors::Monitor`] with a cursor, through [`run_with`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod clock;
pub mod config;
pub mod identity;
pub mod monitors;
pub mod observation;
pub mod outbox;
pub mod publisher;
pub mod scheduler;
mod whole;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use runtime::shutdown::Shutdown;
use runtime::supervisor::{Failed, Supervisor};
use thiserror::Error;

use clock::EventClock;
use config::AgentConfig;
use identity::Identity;
use monitors::Monitor;
use outbox::{Outbox, OutboxError, Owner};
use publisher::{Link, Parts, Publisher};
use scheduler::Scheduler;

/// Why the agent ended.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The folder of its state cannot be used.
    #[error("state: {0}")]
    State(#[from] io::Error),
    /// The outbox cannot be opened.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// One of its parts failed.
    #[error(transparent)]
    Failed(#[from] Failed),
}

/// Runs the agent with the monitors that the configuration asks for, until the shutdown.
pub async fn run(config: AgentConfig, shutdown: Shutdown) -> Result<(), AgentError> {
    let monitors = monitors::build(&config.monitors, &config.state_dir);
    run_with(config, monitors, shutdown).await
}

/// Runs the agent with these monitors. A monitor that has a cursor is handed the one that was
/// stored with its last rows, so it continues exactly where it was, also after a kill -9.
///
/// Returns after the shutdown, when what was left is sent or the drain time is over; rows not yet
/// confirmed stay in the outbox for the next run.
pub async fn run_with(
    config: AgentConfig,
    monitors: Vec<Box<dyn Monitor>>,
    shutdown: Shutdown,
) -> Result<(), AgentError> {
    fs_err::create_dir_all(&config.state_dir)?;
    let mut identity = Identity::open(&config.state_dir, config.agent_id.as_deref())?;
    let host: Arc<str> = match &config.host {
        Some(host) => host.as_str().into(),
        None => sysinfo::System::host_name().unwrap_or_else(|_| "unknown".to_owned()).into(),
    };
    let clock = EventClock::new();
    let owner = Owner {
        agent_id: identity.agent_id.clone(),
        host: host.clone(),
        clock: clock.clone(),
        last_session: identity.last_session,
    };
    let path = config.state_dir.join("outbox.db");
    let (outbox, writer, start) = Outbox::open(&path, &config.outbox, &owner, |start| {
        scheduler::started(start, &monitors, config.scheduler.report_interval, clock.now())
    })?;
    identity.begin(start.session)?;
    tracing::info!(
        agent_id = %identity.agent_id,
        session = start.session,
        previous_session = start.previous.session,
        queued_rows = outbox.stats().all_rows(),
        monitors = monitors.len(),
        "agent started"
    );

    let link = Link::default();
    let scheduler = Scheduler::new(
        &config.scheduler,
        monitors,
        &start.cursors,
        outbox.clone(),
        clock,
        host.clone(),
        link.clone(),
    );
    let drain = config.publisher.drain;
    let publisher = Publisher::new(Parts {
        mqtt: config.mqtt,
        publisher: config.publisher,
        agent_id: identity.agent_id.clone(),
        host,
        outbox,
        link,
    });

    let mut supervisor = Supervisor::new(shutdown.clone(), drain + Duration::from_secs(10));
    supervisor.spawn_thread("outbox", move || writer.run());
    let stored = Shutdown::new();
    let (stop, stopped) = sync_channel(1);
    let ended = stored.clone();
    supervisor.spawn_thread("scheduler", move || {
        let outcome = scheduler.run(&stopped);
        ended.request();
        outcome
    });
    let asked = shutdown.clone();
    supervisor.spawn("stop", async move {
        asked.wait().await;
        // Full means that it was told already.
        let _ = stop.try_send(());
        Ok::<(), io::Error>(())
    });
    supervisor.spawn("publisher", publisher.run(shutdown, stored));
    let outcome = supervisor.run_until_done().await;
    match &outcome {
        Ok(()) => tracing::info!("agent stopped"),
        Err(failed) => tracing::error!(task = %failed.task, error = %failed.error, "agent failed"),
    }
    Ok(outcome?)
}

//! `varta-load`: an agent whose only monitor is the synthetic load. Outbox and publisher are the real ones, so
//! it can be killed at any moment and continues exactly where it was.
//!
//! Ends with code 0 when every event has been made and confirmed, with 3 when some are left in the outbox after the
//! agent's drain time. How many it has made so far is in the file `progress` of its folder.
#![expect(clippy::print_stderr, reason = "a command line talks on its terminal")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use edge_agent::config::AgentConfig;
use runtime::shutdown::{Shutdown, on_signals};
use tests::audit::read_outbox;
use tests::load::{Mix, Synthetic};

/// Sends a load that anyone can compute again.
#[derive(Parser)]
struct Args {
    /// Configuration of the agent.
    #[arg(long)]
    config: PathBuf,
    /// How many events in all, over all restarts.
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// How many a second.
    #[arg(long, default_value_t = 5_000)]
    rate: u64,
    /// Event time of the first event, µs since 1970.
    #[arg(long, default_value_t = 1_760_000_000_000_000)]
    base: i64,
    /// Event time between two events, µs.
    #[arg(long, default_value_t = 200)]
    step: i64,
    /// Every so many process events one is suspicious; 0: none.
    #[arg(long, default_value_t = 50)]
    suspicious_every: u64,
    /// Event times are the clock's: for measuring latency.
    #[arg(long)]
    live: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    runtime::tls::install_crypto();
    let args = Args::parse();
    let config = match AgentConfig::read(&args.config) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return Ok(ExitCode::from(2));
        }
    };
    let _log = runtime::logging::init(&config.log)?;
    let outbox = config.state_dir.join("outbox.db");
    let shutdown = Shutdown::new();
    on_signals(&shutdown);
    let mix = Mix { base: args.base, step: args.step, suspicious_every: args.suspicious_every, machines: 1 };
    let source = Synthetic::new(mix, args.events, args.rate, args.live);
    let last_word = 3 * config.scheduler.report_interval;
    let watcher = tokio::spawn(stop_when_made(
        source.progress(),
        args.events,
        config.state_dir.join("progress"),
        last_word,
        shutdown.clone(),
    ));
    edge_agent::run_with(config, vec![Box::new(source)], shutdown).await?;
    watcher.abort();
    let made = read_outbox(&outbox)?;
    if made.unsent_data > 0 || made.cursor.is_none_or(|cursor| cursor < args.events) {
        eprintln!("made {:?} of {}, {} not confirmed", made.cursor, args.events, made.unsent_data);
        return Ok(ExitCode::from(3));
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the agent to end when all events are made and it had the time to empty its outbox and to report once more: with
/// event times of long ago whatever waits there is a backlog, and only such a report tells that it is gone. The agent
/// drains what is not confirmed yet. The outbox cannot tell, for a running agent holds it alone.
async fn stop_when_made(
    made: Arc<AtomicU64>,
    events: u64,
    progress: PathBuf,
    last_word: Duration,
    shutdown: Shutdown,
) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let so_far = made.load(Ordering::Relaxed);
        // whole or not at all: others read it while it is written
        let draft = progress.with_extension("new");
        let written =
            fs_err::write(&draft, so_far.to_string()).and_then(|()| fs_err::rename(&draft, &progress));
        if written.is_ok() && so_far >= events {
            tokio::time::sleep(last_word).await;
            shutdown.request();
            return;
        }
    }
}

//! `varta-load`: an agent whose only monitor is the synthetic load. Outbox and publisher are the real ones, so
//! it can be killed at any moment and continues exactly where it was.
//!
//! Ends with code 0 when every event has been made and confirmed.
#![expect(clippy::print_stderr, reason = "a command line talks on its terminal")]

use std::path::PathBuf;
use std::process::ExitCode;
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
    let mix = Mix {
        base: args.base,
        step: args.step,
        suspicious_every: args.suspicious_every,
    };
    let source = Synthetic::new(mix, args.events, args.rate, args.live);
    let watcher = tokio::spawn(stop_when_sent(outbox, args.events, shutdown.clone()));
    edge_agent::run_with(config, vec![Box::new(source)], shutdown).await?;
    watcher.abort();
    Ok(ExitCode::SUCCESS)
}

/// Asks the agent to end when its outbox has numbered all events and holds none of them any more.
async fn stop_when_sent(outbox: PathBuf, events: u64, shutdown: Shutdown) {
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        if let Ok(made) = read_outbox(&outbox)
            && made.cursor.is_some_and(|cursor| cursor >= events)
            && made.unsent_data == 0
        {
            shutdown.request();
            return;
        }
    }
}

//! `varta-agent`: reads its arguments and configuration, runs the agent, says how it ended.
//!
//! Exit codes: 0 stopped as asked, 1 failed while running, 2 wrong arguments or configuration.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use edge_agent::config::{AgentConfig, DOCUMENTED};
use runtime::shutdown::{Shutdown, on_signals};

/// Watches this machine and sends what it saw over MQTT.
#[derive(Debug, Parser)]
#[command(name = "varta-agent", version)]
struct Arguments {
    /// Configuration file
    #[arg(long, short, default_value = "/etc/varta/agent.toml")]
    config: PathBuf,
    /// Check the configuration, name every problem, start nothing
    #[arg(long)]
    check: bool,
    /// Print a documented configuration with every option and its default
    #[arg(long)]
    print_config: bool,
}

const FAILED: u8 = 1;
const WRONG_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.print_config {
        return match std::io::stdout().write_all(DOCUMENTED.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(FAILED),
        };
    }
    let config = match AgentConfig::read(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            say(&format!("{}:\n{problems}", arguments.config.display()));
            return ExitCode::from(WRONG_CONFIGURATION);
        }
    };
    if arguments.check {
        say(&format!("{}: no problems", arguments.config.display()));
        return ExitCode::SUCCESS;
    }
    let _log = match runtime::logging::init(&config.log) {
        Ok(guard) => guard,
        Err(error) => {
            say(&format!("log: {error}"));
            return ExitCode::from(WRONG_CONFIGURATION);
        }
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "agent ended");
            say(&format!("{error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

fn run(config: AgentConfig) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = Shutdown::new();
        on_signals(&shutdown);
        // The task that listens must have begun before anything is opened.
        tokio::task::yield_now().await;
        edge_agent::run(config, shutdown).await
    })?;
    Ok(())
}

/// A word to the person at the terminal; nobody there is no error.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

//! `varta`, the server binary: thin over bridge, processors and sinks, so that one process can run
//! everything (`varta up`) or each part runs alone and scales out.
//!
//! Exit codes: 0 done; 1 something failed while running, a test of rules among it; 2 the configuration, a rule or the call is wrong,
//! nothing was started; 3 a check was made and did not hold.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks on its terminal")]

mod commands;
mod config;
mod exit;
mod onlooker;
mod parts;
mod replay;
mod stores;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::{
    backfill, check, feedback, keys, lake, notify, replay as replay_command, report, rules, run, tap, topics,
    watch,
};
use crate::exit::Exit;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Stream processing of user activity: MQTT in, Kafka, exactly-once jobs, lake, InfluxDB, PostgreSQL.
#[derive(Parser)]
#[command(name = "varta", version, max_term_width = 100)]
struct Cli {
    /// The configuration file; without it every setting has its default.
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the bridge: MQTT and HTTPS in, Kafka out.
    Bridge,
    /// Run the stream jobs; with --from and --out-prefix once more over old records, into other topics.
    Process(backfill::Args),
    /// Run sinks; all that are enabled, or those named.
    Sink {
        /// lake, influx, postgres, reports, notifier, mqtt
        #[arg(value_enum)]
        names: Vec<parts::SinkName>,
    },
    /// Run everything in one process.
    Up,
    /// Look at the configuration: all problems at once, nothing is started.
    Check(check::Args),
    /// Create the topics, or describe them.
    Topics(topics::Args),
    /// Print decoded records of a topic as JSON lines.
    Tap(tap::Args),
    /// Issue, list and revoke API keys of the HTTPS intake.
    Keys(keys::Args),
    /// Say what an alert turned out to be.
    Feedback(feedback::Args),
    /// Look at the lake, prove it whole, merge its files, make it anew.
    Lake(lake::Args),
    /// Check rules, run their tests, explain one; no server is asked.
    Rules(rules::Args),
    /// Send recorded Windows events through MQTT as an agent of each recorded host would.
    Replay(replay_command::Args),
    /// Compute the report of a day or a week: of all machines, of one, of a user.
    Report(report::Args),
    /// Say where people are told of alerts, and whether a test message gets through.
    Notify(notify::Args),
    /// Show what flows: events by family, the last rows in the stores, alerts as they come.
    Watch(watch::Args),
}

fn main() -> ExitCode {
    runtime::tls::install_crypto();
    let cli = Cli::parse();
    let config = match config::read(cli.config.as_deref()) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return Exit::WrongConfiguration.into();
        }
    };
    if matches!(cli.command, Command::Sink { .. } | Command::Lake(_)) {
        runtime::memory::prefer_small_pages();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the async runtime: {error}");
            return Exit::Failed.into();
        }
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Bridge => run::run(config, &[parts::Part::Bridge]).await,
            Command::Process(args) => {
                let mut config = config;
                config.process.job = args.job.unwrap_or(config.process.job);
                match args.backfill(&config) {
                    Some(wanted) => backfill::backfill(config, wanted).await,
                    None => run::run(config, &[parts::Part::Process]).await,
                }
            }
            Command::Sink { names } => run::run(config, &parts::sinks(&names)).await,
            Command::Up => run::run(config, &parts::all()).await,
            Command::Check(args) => check::check(&config, &args).await,
            Command::Topics(args) => topics::topics(&config, &args),
            Command::Tap(args) => tap::tap(&config, &args),
            Command::Keys(args) => keys::keys(&config, &args),
            Command::Feedback(args) => feedback::feedback(&config, &args),
            Command::Lake(args) => lake::lake(&config, args).await,
            Command::Rules(args) => rules::rules(&config, &args).await,
            Command::Replay(args) => replay_command::replay(&config, &args).await,
            Command::Report(args) => report::report(&config, &args).await,
            Command::Notify(args) => notify::notify(&config, &args).await,
            Command::Watch(args) => watch::watch(&config, &args).await,
        }
    });
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::Failed.into()
        }
    }
}

//! `varta-costs`: what the job costs, by its steps, as rules, agents and state grow, and what exactly once adds
//! (`make bench ARGS="costs …"`).
//!
//! Each line is measured in a process of its own. All but `delivery` and `windows` need no server: records lie in memory, one thread
//! works, and making the records is not counted. The time of a step is the job's own metric
//! `varta_processors_operator_seconds`, so it is charged while it is at work in the whole job; the whole job's is CPU time
//! of its thread, with the changes of state made but not written. The allocator is that of the server.
#![expect(clippy::print_stdout, reason = "a command line talks on its terminal")]

mod delivery;
mod input;
mod measure;
mod meters;
mod play;
mod state;
mod windows;

use std::process::Command;

use anyhow::{bail, ensure};
use clap::{Parser, ValueEnum};

use self::meters::Meters;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the job costs.
#[derive(Parser)]
struct Args {
    /// What to measure; all but `delivery` and `windows`, which need Kafka, without it.
    #[arg(long, value_enum)]
    only: Vec<What>,
    /// So much of the load: 0.01 shows in seconds that it works.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// How many rules or agents, where that is what grows; each number of the series without it.
    #[arg(long)]
    number: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Events per CPU-second of each step and of the whole, 10,000 agents, the shipped rules.
    Steps,
    /// The same as rules grow.
    Rules,
    /// Time and memory as agents grow.
    Agents,
    /// Reading a partition's state back.
    Restore,
    /// Bytes that a lane with holes takes.
    Dedup,
    /// Size of the changelog beside that of what lives.
    Changelog,
    /// Kafka to Kafka: exactly once beside at least once, and a worker that takes over (`VARTA_KAFKA`).
    Delivery,
    /// Kafka to Kafka: windows of a minute on host metrics and nothing else (`VARTA_KAFKA`).
    Windows,
}

impl What {
    const fn needs_kafka(self) -> bool {
        matches!(self, Self::Delivery | Self::Windows)
    }

    /// The numbers that are measured one by one, and what they count.
    const fn series(self) -> &'static [usize] {
        match self {
            Self::Rules => &[1, 10, 50, 100, 500],
            Self::Agents => &[100, 1_000, 10_000, 100_000],
            Self::Steps | Self::Dedup | Self::Windows => &[10_000],
            Self::Restore => &[20_000],
            Self::Changelog => &[100],
            Self::Delivery => &[1_000],
        }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.scale > 0.0, "--scale is a number above 0");
    if let ([what], Some(number)) = (args.only.as_slice(), args.number) {
        return one(*what, number, args.scale);
    }
    ensure!(args.number.is_none(), "--number needs one --only");
    println!("profile {}, scale {}", if cfg!(debug_assertions) { "debug" } else { "release" }, args.scale);
    println!("{:<72} {:>12}  unit", "what", "measured");
    let wanted = |what: &What| {
        if args.only.is_empty() { !what.needs_kafka() } else { args.only.contains(what) }
    };
    for what in What::value_variants().iter().filter(|what| wanted(what)) {
        for number in what.series() {
            let name = what.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            let (number, scale) = (number.to_string(), args.scale.to_string());
            let arguments = ["--only", &name, "--number", &number, "--scale", &scale];
            let status = Command::new(std::env::current_exe()?).args(arguments).status()?;
            if !status.success() {
                bail!("{name} {number} ended with {status}");
            }
        }
    }
    Ok(())
}

fn one(what: What, number: usize, scale: f64) -> anyhow::Result<()> {
    let meters = Meters::install()?;
    let scaled = |number: usize| ((number as f64 * scale) as usize).max(1);
    match what {
        What::Steps => play::steps(&meters, scaled(number), scaled(2_000_000)),
        What::Rules => play::rules(&meters, number, scaled(10_000), scaled(600_000)),
        What::Agents => play::agents(scaled(number), scaled(300_000).max(30 * scaled(number))),
        What::Restore => state::restore(&meters, scaled(number)),
        What::Dedup => {
            state::dedup(scaled(number));
            Ok(())
        }
        What::Changelog => state::changelog(&meters, number, scale.min(1.0)),
        What::Delivery => delivery::compare(&meters, scaled(number), scaled(600_000)),
        What::Windows => windows::alone(&meters, scaled(number), scaled(240 * number)),
    }
}

//! `varta-audit`: an outsider compares the sets of identities: made by the agent, in `varta.raw`, in
//! `varta.events.*`, in the lake. Exit code 0 when all are equal, 3 when not.
#![expect(clippy::print_stdout, reason = "a command line talks on its terminal")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use schemas::topics::Topics;
use tests::audit::{compare, read_outbox};
use tests::servers::Servers;

/// Compares what agents made with what arrived in the topics and in the lake.
#[derive(Parser)]
struct Args {
    /// Outboxes of agents (SQLite files); what they hold or held is what must have arrived.
    #[arg(long)]
    outbox: Vec<PathBuf>,
    /// Root folder of the lake.
    #[arg(long)]
    lake: Option<PathBuf>,
    /// What every topic name begins with.
    #[arg(long, default_value = "varta")]
    prefix: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    runtime::tls::install_crypto();
    let args = Args::parse();
    let servers = Servers::from_environment()?;
    let mut made = None;
    for outbox in &args.outbox {
        let read = read_outbox(outbox)?;
        if read.unsent > 0 {
            println!(
                "{}: {} rows are still in the outbox",
                outbox.display(),
                read.unsent
            );
        }
        made.get_or_insert_with(tests::audit::Counts::new)
            .extend(read.identities);
    }
    let findings = compare(
        &servers,
        &Topics::new(args.prefix.as_str()),
        args.lake.as_deref(),
        made.as_ref(),
    )
    .await?;
    let mut equal = true;
    println!("{:<48} {:>10}", "compared", "identities");
    for finding in &findings {
        equal &= finding.difference.is_none();
        println!(
            "{:<48} {:>10}  {}",
            finding.what, finding.identities, finding.difference
        );
    }
    Ok(if equal {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(3)
    })
}

//! `varta-audit`: an outsider compares the sets of identities: made by the agent, in `varta.raw`, in
//! `varta.events.*`, in the lake. Exit code 0 when all are equal, 3 when not.
#![expect(clippy::print_stdout, reason = "a command line talks on its terminal")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use schemas::topics::Topics;
use tests::audit::{Counts, compare, read_outbox};
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
    /// Look again until all is equal, at most so many seconds: what was just sent is still on its way.
    #[arg(long, default_value_t = 0)]
    within: u64,
    /// What every topic name begins with.
    #[arg(long, default_value = "varta")]
    prefix: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    runtime::tls::install_crypto();
    let args = Args::parse();
    let servers = Servers::from_environment()?;
    let topics = Topics::new(args.prefix.as_str());
    let deadline = Instant::now() + Duration::from_secs(args.within);
    loop {
        let mut made = None;
        let mut unsent = 0;
        for outbox in &args.outbox {
            let read = read_outbox(outbox)?;
            unsent += read.unsent;
            made.get_or_insert_with(Counts::new).extend(read.identities);
        }
        let findings = compare(&servers, &topics, args.lake.as_deref(), made.as_ref()).await?;
        let equal = findings.iter().all(|finding| finding.difference.is_none());
        if !equal && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        println!("{:<48} {:>10}", "compared", "identities");
        for finding in &findings {
            println!("{:<48} {:>10}  {}", finding.what, finding.identities, finding.difference);
        }
        if unsent > 0 {
            println!("{unsent} rows are still in the outbox");
        }
        return Ok(if equal { ExitCode::SUCCESS } else { ExitCode::from(3) });
    }
}

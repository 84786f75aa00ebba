//! `varta notify`: the channels by which people are told; with `--test` each gets a message; what failed is listed, and
//! with `--again` it is tried again.

use crate::config::Config;
use crate::exit::Exit;

/// What `varta notify` can be told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Send a test message through each channel, past outbox and quiet hours.
    #[arg(long)]
    test: bool,
    /// Try again what this channel's service has refused.
    #[arg(long, value_name = "CHANNEL")]
    again: Option<String>,
}

/// Exit code 3 when a channel does not take its test message, or there is no channel at all.
pub(crate) async fn notify(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let notifier = config.sinks.notifier();
    if !notifier.is_on() {
        println!("nobody is told: [sinks.notifier] has no channel, or is not enabled");
        return Ok(Exit::NotMet);
    }
    if args.test {
        let mut failed = false;
        for trial in sinks::notifier::try_out(&notifier).await? {
            let said = trial.problem.as_deref().unwrap_or("took the message");
            println!("{:<20} {:<9} {said}", trial.channel, trial.service);
            failed |= trial.problem.is_some();
        }
        return Ok(if failed { Exit::NotMet } else { Exit::Done });
    }
    if let Some(channel) = &args.again {
        let messages = sinks::notifier::try_again(&notifier, channel).await?;
        println!("{channel}: {messages} messages are tried again");
        return Ok(Exit::Done);
    }
    println!("{:<20} {:>14} {:>14} {:>14}", "channel", "items waiting", "messages open", "refused");
    for standing in sinks::notifier::standing(&notifier).await? {
        println!(
            "{:<20} {:>14} {:>14} {:>14}",
            standing.channel, standing.waiting, standing.open, standing.refused
        );
        for reason in standing.reasons {
            println!("  refused: {reason}");
        }
    }
    Ok(Exit::Done)
}

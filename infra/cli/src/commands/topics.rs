//! `varta topics`: create what is missing, say what is there.

use eventlog::Log;
use eventlog::kafka::KafkaLog;
use schemas::topics::{Cleanup, TopicSpec};

use crate::config::Config;
use crate::exit::Exit;

/// What `varta topics` can be told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only describe; create nothing.
    #[arg(long)]
    describe: bool,
}

/// Creates the topics that are missing and lists all of them.
pub(crate) fn topics(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let log = KafkaLog::connect(&config.kafka)?;
    let specs = config.topic_names().all();
    if !args.describe {
        log.create_topics(&specs, config.topics.partitions)?;
    }
    println!("{:<36} {:>10}  kept", "topic", "partitions");
    let mut missing = 0;
    for spec in &specs {
        if let Ok(partitions) = log.partitions(&spec.name) {
            println!("{:<36} {partitions:>10}  {}", spec.name, kept(spec));
        } else {
            missing += 1;
            println!("{:<36} {:>10}  {}", spec.name, "missing", kept(spec));
        }
    }
    Ok(if missing == 0 { Exit::Done } else { Exit::NotMet })
}

fn kept(spec: &TopicSpec) -> String {
    match spec.retention {
        _ if spec.cleanup == Cleanup::Compact => "the last record of each key".into(),
        Some(retention) => humantime::format_duration(retention).to_string(),
        None => "for ever".into(),
    }
}

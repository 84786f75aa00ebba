//! `varta feedback ALERT_ID tp|fp|benign`: what a person says about an alert.

use std::sync::mpsc::sync_channel;

use anyhow::Context as _;
use eventlog::kafka::KafkaLog;
use eventlog::registry::{HttpRegistry, SchemaRegistry as _};
use eventlog::{AppendError, Appender as _, Log as _, NewRecord};
use schemas::record::RecordKind;
use schemas::translate::{Feedback, Verdict};
use schemas::wire;

use crate::config::Config;
use crate::exit::Exit;

/// What `varta feedback` can be told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The alert: its finding_uid, as messages, tables and topics show it.
    alert_id: String,
    /// tp: it is true; fp: the rule is wrong; benign: it is true and was allowed.
    #[arg(value_parser = Verdict::ALL.map(Verdict::as_str))]
    verdict: String,
    /// What else there is to say.
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Who says it; the newest word of an author about an alert holds.
    #[arg(long, value_name = "NAME", env = "USER")]
    author: String,
}

/// Writes the verdict and returns when Kafka has it.
pub(crate) fn feedback(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let verdict = Verdict::parse(&args.verdict).context("no such verdict")?;
    let given = Feedback::new(
        &args.alert_id,
        verdict,
        args.note.clone(),
        args.author.clone(),
        runtime::clock::now_us(),
    );
    let feedback = match given {
        Ok(feedback) => feedback,
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(Exit::WrongConfiguration);
        }
    };
    let kind = RecordKind::Feedback;
    let schema = HttpRegistry::new(&config.registry)?.register(kind.subject(), kind.avsc())?;
    let mut value = Vec::new();
    wire::frame(schema, &feedback.datum(), &mut value);
    let record = NewRecord::keyed(config.topic_names().feedback(), feedback.key(), value);

    let log = KafkaLog::connect(&config.kafka)?;
    let (told, outcome) = sync_channel(1);
    // Nobody listens any more when the time is over.
    let appender = log.appender(Box::new(move |_, outcome| drop(told.try_send(outcome))))?;
    appender.append(record, 0).map_err(|error| match error {
        AppendError::Log(error) => anyhow::Error::from(error),
        AppendError::QueueFull(_) => anyhow::anyhow!("no room for a single record"),
    })?;
    let limit = config.kafka.request_timeout;
    let outcome = outcome.recv_timeout(limit);
    outcome.with_context(|| {
        format!("Kafka has not confirmed within {limit:?}; it may have it all the same")
    })??;
    println!("{}: {} by {}", feedback.alert_id(), feedback.verdict().as_str(), feedback.author());
    Ok(Exit::Done)
}

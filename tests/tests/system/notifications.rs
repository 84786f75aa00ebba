//! People are told: from an event to a message, and through every death of a notifier and of a service.

mod edge;
mod receiver;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use schemas::event::event_type;
use schemas::mqtt;
use serde_json::{Value, json};
use tests::bench::part::Part;

use crate::stage::{
    Account, Listener, Load, Options, PATIENCE, Postgres, Program, Stage, blocking, place, text, until,
};
use receiver::{Mood, Receiver};

/// An outbox, and notifiers on it.
struct Office {
    prefix: String,
    folder: PathBuf,
    postgres: Postgres,
    receiver: Receiver,
    config: PathBuf,
}

impl Office {
    /// `channels` are sections of the file; `{receiver}` in them is the receiver's address.
    async fn new(name: &str, channels: &str) -> anyhow::Result<Self> {
        runtime::tls::install_crypto();
        let (prefix, folder) = place(name)?;
        let postgres = Postgres::create(&tests::servers::variable("VARTA_POSTGRES")?, &prefix).await?;
        let receiver = Receiver::start().await?;
        let config = folder.join("notifier.toml");
        let sections = format!(
            "[http]\nlisten = \"\"\n[sinks.postgres]\nurl = \"{}\"\n\
             [sinks.notifier]\npoll = \"50ms\"\ntimeout = \"2s\"\n{}",
            postgres.url,
            channels.replace("{receiver}", &receiver.url(""))
        );
        fs_err::write(&config, sections)?;
        let office = Self { prefix, folder, postgres, receiver, config };
        // Asking how it stands makes the tables.
        let output = office.varta(&["notify"])?;
        ensure!(output.status.success(), "varta notify: {}", said(&output));
        Ok(office)
    }

    fn varta(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(Program::Varta.path()?);
        Ok(blocking(|| command.arg("--config").arg(&self.config).args(arguments).output())?)
    }

    fn notifier(&self, name: &str, failpoint: &str) -> anyhow::Result<Part> {
        let arguments = ["--config", text(&self.config)?, "sink", "notifier"];
        let environment = [("VARTA_FAILPOINT", failpoint.to_owned())];
        Part::start(name, &Program::Varta.path()?, &arguments, &environment, &self.folder)
    }

    /// Rows as the PostgreSQL sink writes them.
    async fn write(&self, from: i64, count: i64) -> anyhow::Result<()> {
        let query = format!(
            "INSERT INTO notification_outbox (key, kind, change, severity_id, rule_id, title, agent_id, host, message, \
             count, event_time) SELECT 'test:' || n, 'alert', 'new', 3 + n % 3, 'rule-' || n % 5, 'Rule ' || n % 5, \
             'agent-' || n % 40, 'host-' || n % 40, 'something happened', 1, now() \
             FROM generate_series({from}, {}) n RETURNING id::text",
            from + count - 1
        );
        let written = self.postgres.texts(&query).await?;
        ensure!(written.len() as i64 == count, "{} rows written", written.len());
        Ok(())
    }

    /// Connections of notifiers.
    async fn sessions(&self) -> anyhow::Result<i64> {
        let query = "SELECT count(DISTINCT pid) FROM pg_stat_activity \
                     WHERE application_name = 'varta-notifier' AND datname = current_database()";
        self.number(query).await
    }

    async fn number(&self, query: &str) -> anyhow::Result<i64> {
        let texts = self.postgres.texts(&format!("SELECT ({query})::text")).await?;
        Ok(texts.first().context("a number")?.parse()?)
    }

    /// Items of the channel that are in messages of this state.
    async fn items(&self, channel: &str, state: &str) -> anyhow::Result<i64> {
        self.number(&format!(
            "SELECT coalesce(sum(items), 0) FROM notification_messages WHERE channel = '{channel}' AND state = '{state}'"
        ))
        .await
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

const ONE_WEBHOOK: &str = "[[sinks.notifier.webhook]]\nname = \"hook\"\nurl = \"{receiver}/hook\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_any_two_steps_a_message_arrives_and_always_under_one_key() -> anyhow::Result<()> {
    for (failpoint, sent_by_the_dead, sent_again) in
        [("notifier.after_claim", 0, 1), ("notifier.after_send", 1, 1), ("notifier.after_mark", 1, 0)]
    {
        let office = Office::new("killed", ONE_WEBHOOK).await?;
        let mut doomed = office.notifier("doomed", failpoint)?;
        office.write(1, 3).await?;
        until("the notifier dies at the failpoint", PATIENCE, async || doomed.has_ended()).await?;
        ensure!(
            doomed.deaths_at(failpoint)? == 1,
            "it died of something else; see {}",
            office.folder.display()
        );
        let arrived = office.receiver.arrived("/hook").len();
        ensure!(arrived == sent_by_the_dead, "{failpoint}: {arrived} arrived before the death");

        let mut next = office.notifier("next", "")?;
        until("all three are told, and the second notifier looks for more", PATIENCE, async || {
            next.must_run()?;
            // A dealer and a channel: before that a stop would only end a program that has not begun.
            Ok(office.sessions().await? == 2 && office.items("hook", "sent").await? == 3)
        })
        .await?;
        let arrived = office.receiver.arrived("/hook");
        ensure!(arrived.len() == sent_by_the_dead + sent_again, "{failpoint}: {} arrived", arrived.len());
        let messages: BTreeSet<(&str, &[u8])> =
            arrived.iter().map(|arrived| (arrived.key.as_str(), arrived.bytes.as_slice())).collect();
        ensure!(messages.len() == 1, "{failpoint}: the repetition is not the same message");
        let rows: Vec<&Value> = arrived[0].body["items"].as_array().into_iter().flatten().collect();
        ensure!(rows.len() == 3, "{failpoint}: {:?}", arrived[0].body);
        ensure!(blocking(|| next.stop(PATIENCE))? == 0, "the second notifier does not end in order");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_notifiers_tell_each_item_once_and_a_dead_service_holds_up_nobody() -> anyhow::Result<()> {
    const ITEMS: i64 = 10_000;
    let office = Office::new(
        "flood",
        "[[sinks.notifier.webhook]]\nname = \"well\"\nurl = \"{receiver}/well\"\npace = { digest_every = \"1s\" }\n\
         [[sinks.notifier.webhook]]\nname = \"dead\"\nurl = \"{receiver}/dead\"\npace = { digest_every = \"1s\" }\n\
         [[sinks.notifier.telegram]]\nname = \"group\"\ntoken = \"123:abc\"\nchat = \"-5\"\napi = \"{receiver}\"\n\
         pace = { digest_every = \"1s\" }\n",
    )
    .await?;
    office.receiver.set("/dead", Mood::Hangs);
    let mut notifiers = [office.notifier("first", "")?, office.notifier("second", "")?];
    until("both look at the outbox", PATIENCE, async || {
        // A dealer and three channels each.
        Ok(office.sessions().await? == 8)
    })
    .await?;

    let began = Instant::now();
    office.write(1, 1).await?;
    until("the first message arrives", PATIENCE, async || Ok(!office.receiver.arrived("/well").is_empty()))
        .await?;
    let first = office.receiver.arrived("/well")[0].at.saturating_duration_since(began);
    ensure!(first < Duration::from_secs(1), "the first message came after {first:?}");

    // The rest comes in pieces, as a sink writes them.
    for piece in 0..20 {
        office.write(2 + piece * (ITEMS / 20), ITEMS / 20).await?;
    }
    let mut told = async |channel: &'static str| -> anyhow::Result<bool> {
        notifiers.iter_mut().try_for_each(Part::must_run)?;
        Ok(office.items(channel, "sent").await? == ITEMS + 1)
    };
    until("the service that is well is told everything", PATIENCE, async || told("well").await).await?;
    until("the group is told everything", PATIENCE, async || told("group").await).await?;
    ensure!(office.items("dead", "sent").await? == 0, "a service that hangs was told");
    office.receiver.set("/dead", Mood::Well);
    until("the service that was dead is told everything", PATIENCE, async || told("dead").await).await?;

    for (channel, path) in [("well", "/well"), ("dead", "/dead"), ("group", "/bot123:abc/sendMessage")] {
        let arrived = office.receiver.arrived(path);
        let (a_second, a_minute) = if channel == "group" { (1, 20) } else { (10, 600) };
        for (limit, span) in [(a_second, Duration::from_secs(1)), (a_minute, Duration::from_mins(1))] {
            let most = receiver::most_within(&arrived, span);
            ensure!(most <= limit, "{channel}: {most} messages within {span:?}");
        }
        let in_messages = office
            .number(&format!(
                "SELECT count(*) FROM notification_deliveries WHERE channel = '{channel}' AND message_id IS NOT NULL"
            ))
            .await?;
        ensure!(in_messages == ITEMS + 1, "{channel}: {in_messages} items are in messages");
        if channel == "well" {
            let keys: BTreeSet<&str> = arrived.iter().map(|arrived| arrived.key.as_str()).collect();
            ensure!(keys.len() == arrived.len(), "a message was sent twice though nobody died");
            let total: u64 = arrived.iter().filter_map(|arrived| arrived.body["total"].as_u64()).sum();
            ensure!(total == ITEMS as u64 + 1, "{total} items arrived");
            let digests: Vec<&Value> = arrived
                .iter()
                .map(|arrived| &arrived.body)
                .filter(|body| body["is_digest"] == json!(true))
                .collect();
            ensure!(!digests.is_empty(), "nothing was told as a digest");
            for digest in digests {
                let groups = digest["groups"].as_array().context("a digest counts by rule and agent")?;
                let named: u64 = groups.iter().filter_map(|group| group["count"].as_u64()).sum();
                ensure!(json!(named) == digest["total"], "a digest of {} names {named}", digest["total"]);
            }
        }
    }
    for notifier in notifiers {
        let (_, peak) = notifier.rss()?;
        ensure!(peak < 300 << 20, "{} used {} MiB", notifier.name(), peak >> 20);
        ensure!(blocking(|| notifier.stop(PATIENCE))? == 0, "a notifier does not end in order");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_refuses_is_told_to_a_person_and_can_be_sent_again() -> anyhow::Result<()> {
    let office = Office::new("refused", ONE_WEBHOOK).await?;
    office.receiver.set("/hook", Mood::Answers(403));
    let output = office.varta(&["notify", "--test"])?;
    ensure!(output.status.code() == Some(3) && said(&output).contains("403"), "{}", said(&output));
    let mut notifier = office.notifier("notifier", "")?;
    office.write(1, 2).await?;
    until("the refusal is on record", PATIENCE, async || {
        notifier.must_run()?;
        Ok(office.items("hook", "failed").await? == 2)
    })
    .await?;
    let output = office.varta(&["notify"])?;
    ensure!(said(&output).contains("refused: answers 403"), "{}", said(&output));
    office.receiver.set("/hook", Mood::Well);
    let output = office.varta(&["notify", "--again", "hook"])?;
    ensure!(output.status.success(), "{}", said(&output));
    until("what was refused is told", PATIENCE, async || Ok(office.items("hook", "sent").await? == 2))
        .await?;
    let arrived = office.receiver.arrived("/hook");
    // What was refused is told anew, with whatever waits by then.
    ensure!(arrived.len() == 3 && arrived[1].key != arrived[2].key, "{} requests", arrived.len());
    let output = office.varta(&["notify", "--test"])?;
    ensure!(output.status.success() && said(&output).contains("took the message"), "{}", said(&output));
    ensure!(!said(&output).contains(&office.prefix), "the database is named");
    ensure!(blocking(|| notifier.stop(PATIENCE))? == 0, "the notifier does not end in order");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_that_slept_past_its_lease_repeats_at_most_the_message_it_held() -> anyhow::Result<()> {
    for failpoint in ["notifier.after_claim", "notifier.after_send"] {
        let office = Office::new("slept", ONE_WEBHOOK).await?;
        let sleeper = office.notifier("sleeper", &format!("{failpoint}=1:stop"))?;
        office.write(1, 3).await?;
        until("the notifier falls asleep", PATIENCE, async || sleeper.is_suspended()).await?;
        let mut heir = office.notifier("heir", "")?;
        office.write(4, 3).await?;
        until("another tells all six", PATIENCE, async || {
            heir.must_run()?;
            Ok(office.items("hook", "sent").await? == 6)
        })
        .await?;
        sleeper.suspend(false)?;
        until("the sleeper has done what it was about to do", PATIENCE, async || {
            let arrived = office.receiver.arrived("/hook");
            let keys: BTreeSet<&str> = arrived.iter().map(|arrived| arrived.key.as_str()).collect();
            Ok(arrived.len() > keys.len())
        })
        .await?;
        office.write(7, 1).await?;
        until("both go on", PATIENCE, async || Ok(office.items("hook", "sent").await? == 7)).await?;
        ensure!(blocking(|| sleeper.stop(PATIENCE))? == 0, "the sleeper does not end in order");
        ensure!(blocking(|| heir.stop(PATIENCE))? == 0, "the heir does not end in order");
        let arrived = office.receiver.arrived("/hook");
        let messages: BTreeSet<(&str, &[u8])> =
            arrived.iter().map(|arrived| (arrived.key.as_str(), arrived.bytes.as_slice())).collect();
        let keys: BTreeSet<&str> = arrived.iter().map(|arrived| arrived.key.as_str()).collect();
        ensure!(keys.len() == messages.len(), "{failpoint}: two messages under one key");
        ensure!(
            arrived.len() == keys.len() + 1,
            "{failpoint}: {} requests for {} messages",
            arrived.len(),
            keys.len()
        );
        ensure!(office.items("hook", "open").await? == 0, "{failpoint}: a message was opened again");
    }
    Ok(())
}

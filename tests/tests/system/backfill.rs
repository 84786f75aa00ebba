//! `varta process --from … --out-prefix …`: old records give other topics what the live job gave its own, although
//! the program is killed on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schemas::topics::Topics;

use crate::stage::{AgentOptions, Load, Options, PARTITIONS, PATIENCE, Stage, blocking};

const EVENTS: u64 = 4_000;
const ASK: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn old_records_give_what_the_live_job_gave() -> anyhow::Result<()> {
    let stage = Stage::new("backfill").await?;
    stage.start_server(&Options::default())?;
    let load = send(&stage).await?;
    stage.stop("up")?;
    // the bridge may have said goodbye after the job had left
    live(&stage, &load, &["core"]).await?;

    let prefix = format!("{}-again", stage.prefix);
    let command = ["process", "--from", "earliest", "--out-prefix", &prefix];
    let again = stage.starter("again", &command, &Options::default())?;
    in_small_steps(&stage, "again")?;
    for failpoint in ["worker.before_commit=3", "worker.after_commit=3", "worker.after_restore=2"] {
        let mut killed = again.start(&load, &[("VARTA_FAILPOINT", failpoint.to_owned())])?;
        stage.until("it is killed", PATIENCE, async || killed.has_ended()).await?;
        ensure!(killed.wait()?.is_none(), "{failpoint}: it ended by itself; see again.log");
    }
    ensure!(
        written(&stage, &prefix)? != written(&stage, &stage.prefix)?,
        "it was done before the last start"
    );
    let mut last = again.start(&load, &[])?;
    stage.until("it ends by itself", PATIENCE, async || last.has_ended()).await?;
    ensure!(last.wait()? == Some(0), "it ends with an error; see again.log");
    let said = stage.log("again");
    ensure!(said.contains("going on with what was begun") && said.contains("offsets are done"), "{said}");
    must_be_equal(&stage, &prefix)?;

    let elsewhere = ["process", "--from", "latest", "--out-prefix", &prefix];
    let live_prefix = ["process", "--from", "earliest", "--out-prefix", &stage.prefix];
    for (name, command) in [("elsewhere", elsewhere), ("live-prefix", live_prefix)] {
        let mut refused = stage.starter(name, &command, &Options::default())?.start(&load, &[])?;
        stage.until("it is refused", PATIENCE, async || refused.has_ended()).await?;
        ensure!(refused.wait()? == Some(2), "{name} is not refused; see {name}.log");
    }
    Ok(())
}

/// The live job in two, and the fused one over the same records.
#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_give_what_one_gives() -> anyhow::Result<()> {
    let stage = Stage::new("split").await?;
    let bridge = stage.starter("bridge", &["bridge"], &Options::default())?;
    let bridge = bridge.start(&Load::new(0, 1, 1), &[])?;
    let load = send(&stage).await?;
    ensure!(blocking(|| bridge.stop(PATIENCE))? == 0, "the bridge ends with an error; see bridge.log");
    live(&stage, &load, &["normalise", "detect"]).await?;
    let prefix = format!("{}-fused", stage.prefix);
    let command = ["process", "--from", "earliest", "--out-prefix", &prefix];
    let mut fused = stage.starter("fused", &command, &Options::default())?.start(&load, &[])?;
    stage.until("it ends by itself", PATIENCE, async || fused.has_ended()).await?;
    ensure!(fused.wait()? == Some(0), "it ends with an error; see fused.log");
    must_be_equal(&stage, &prefix)
}

/// Sends a load through the bridge, and waits for every confirmation.
async fn send(stage: &Stage) -> anyhow::Result<Load> {
    // thirteen minutes of event time, so that windows of all but the largest size close
    let load = Load::new(EVENTS, 400, 200_000);
    let mut sender = stage.load_starter("load", &AgentOptions::new("old-host"))?.start(&load, &[])?;
    stage.until("the load is confirmed", PATIENCE, async || sender.has_ended()).await?;
    ensure!(sender.wait()? == Some(0), "the load ends with an error; see load.log");
    Ok(load)
}

/// Runs live jobs until each has read its input to the end.
async fn live(stage: &Stage, load: &Load, jobs: &[&str]) -> anyhow::Result<()> {
    let mut parts = Vec::new();
    for job in jobs {
        let starter = stage.starter(job, &["process", "--job", job], &Options::default())?;
        parts.push(starter.start(load, &[])?);
    }
    for job in jobs {
        stage.until("a live job has read all", PATIENCE, async || has_read_all(stage, job)).await?;
    }
    for part in parts {
        ensure!(blocking(|| part.stop(PATIENCE))? == 0, "a live job ends with an error; see its log");
    }
    Ok(())
}

/// The topics below this prefix hold what those of the live jobs hold.
fn must_be_equal(stage: &Stage, prefix: &str) -> anyhow::Result<()> {
    let (expected, found) = (written(stage, &stage.prefix)?, written(stage, prefix)?);
    let events = of_kind(&expected, "events.");
    ensure!(events as u64 >= EVENTS, "{events} events");
    let (features, alerts) = (of_kind(&expected, "features."), of_kind(&expected, "alerts"));
    ensure!(features > 10 && alerts > 10, "{features} features and {alerts} alerts");
    for (record, count) in &expected {
        ensure!(found.get(record) == Some(count), "{record:?}: {count} live, {:?} again", found.get(record));
    }
    ensure!(found.len() == expected.len(), "{} records too many", found.len() - expected.len());
    Ok(())
}

/// Many commits, each of which can be the last.
fn in_small_steps(stage: &Stage, name: &str) -> anyhow::Result<()> {
    let path = stage.folder.join(format!("{name}.toml"));
    let text = fs_err::read_to_string(&path)?;
    let smaller = text.replace("[process]", "[process]\nmax_batch_rows = 200\nmax_commit_rows = 200");
    Ok(fs_err::write(&path, smaller)?)
}

/// Topic below its prefix, partition, key, value and headers; and how often.
type Written = BTreeMap<(String, i32, String, Vec<u8>, BTreeMap<String, String>), usize>;

/// Everything that a job wrote for others.
fn written(stage: &Stage, prefix: &str) -> anyhow::Result<Written> {
    let mut found = Written::new();
    for spec in Topics::new(prefix).written() {
        let name = spec.name.trim_start_matches(prefix).trim_start_matches('.').to_owned();
        if name.starts_with("state.") {
            continue;
        }
        for record in stage.records(&spec.name)? {
            let row = (name.clone(), record.partition, record.key, record.value, record.headers);
            *found.entry(row).or_default() += 1;
        }
    }
    Ok(found)
}

fn of_kind(written: &Written, begin: &str) -> usize {
    written.iter().filter(|((name, ..), _)| name.starts_with(begin)).map(|(_, count)| count).sum()
}

/// Whether the group of a live job has committed every record of its input.
fn has_read_all(stage: &Stage, job: &str) -> anyhow::Result<bool> {
    let input = if job == "detect" { stage.topics().clean() } else { stage.topics().raw() };
    let mut ends = BTreeMap::new();
    for record in stage.records(&input)? {
        ends.insert(record.partition, record.offset + 1);
    }
    ensure!(ends.len() == PARTITIONS as usize, "{input} has records in {} partitions only", ends.len());
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &stage.kafka)
        .set("group.id", format!("{}-{job}", stage.prefix))
        .create()?;
    let mut asked = TopicPartitionList::new();
    for partition in ends.keys() {
        asked.add_partition(&input, *partition);
    }
    let committed = blocking(|| consumer.committed_offsets(asked, ASK))?;
    for element in committed.elements() {
        let end = ends[&element.partition()];
        let read = element.offset();
        ensure!(read == Offset::Offset(end), "{input}-{}: {read:?} of {end}", element.partition());
    }
    Ok(true)
}

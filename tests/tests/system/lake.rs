//! The commands of the lake on tables that a real sink has written: proof, compaction that is killed, tables made anew.

use std::process::{Command, Output};

use anyhow::{Context as _, bail, ensure};
use schemas::family::Family;
use tests::audit::read_outbox;

use crate::stage::{AgentOptions, Load, NOT_CONFIRMED, Options, PATIENCE, Program, Stage, text};

const EVENTS: u64 = 3000;
/// What a load leaves in its outbox when it ends its next life sends; so many lives are enough.
const LIVES: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn the_lake_is_proved_compacted_and_made_anew() -> anyhow::Result<()> {
    let stage = Stage::new("lake").await?;
    stage.start_server(&Options::default())?;
    let whole = Load::new(EVENTS, 500, 1000);
    let starter = stage.load_starter("load", &AgentOptions::new("busy-host"))?;
    // the second half comes when the lake has the first: at least two commits, however slow the machine
    for load in [Load { events: EVENTS / 2, ..whole }, whole] {
        for life in 1..=LIVES {
            let mut sender = starter.start(&load, &[])?;
            stage.until("the load ends", PATIENCE, async || sender.has_ended()).await?;
            match sender.wait()? {
                Some(0) => break,
                Some(NOT_CONFIRMED) if life < LIVES => {}
                code => bail!("the load ends with {code:?}; see load.log"),
            }
        }
        stage.until_equal(&read_outbox(&stage.outbox("load"))?.identities).await?;
    }
    let made = read_outbox(&stage.outbox("load"))?;
    stage.stop("up")?;

    let verified = lake(&stage, &["verify"], &[])?;
    ensure!(verified.status.code() == Some(0), "{}", said(&verified));
    let before = files(&stage, Family::HostMetrics)?;
    ensure!(before > 1, "only {before} files to compact");

    let killed = lake(&stage, &["optimize"], &[("VARTA_FAILPOINT", "lake.optimize.before_commit=1")])?;
    ensure!(killed.status.code().is_none(), "it was to be killed: {}", said(&killed));
    stage.must_equal(&made.identities).await.context("after a compaction was killed")?;
    let optimized = lake(&stage, &["optimize"], &[])?;
    ensure!(optimized.status.success(), "{}", said(&optimized));
    ensure!(files(&stage, Family::HostMetrics)? < before, "nothing was compacted: {}", said(&optimized));
    stage.must_equal(&made.identities).await.context("after compaction")?;
    let verified = lake(&stage, &["verify"], &[])?;
    ensure!(verified.status.code() == Some(0), "{}", said(&verified));

    let anew = stage.folder.join("anew");
    let rebuilt = lake(&stage, &["rebuild", "--into", text(&anew)?, "--from-offsets", "oldest"], &[])?;
    ensure!(rebuilt.status.success(), "{}", said(&rebuilt));
    let rows = tests::audit::count_lake(&anew.join("raw")).await?;
    ensure!(rows == stage.table_rows("raw").await?, "{rows} rows made anew");
    let itself = lake(&stage, &["rebuild", "--into", text(&stage.lake())?, "--from-offsets", "oldest"], &[])?;
    ensure!(!itself.status.success(), "the lake was rebuilt into itself");

    // what compaction replaced is still there; whichever file counts is among them
    for victim in parquet(&stage, Family::HostMetrics)? {
        let mut content = fs_err::read(&victim)?;
        content[100] ^= 1;
        fs_err::write(&victim, content)?;
    }
    let verified = lake(&stage, &["verify"], &[])?;
    ensure!(verified.status.code() == Some(3), "{}", said(&verified));
    ensure!(said(&verified).contains("its hash differs"), "{}", said(&verified));
    Ok(())
}

fn lake(stage: &Stage, command: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Output> {
    let mut varta = Command::new(Program::Varta.path()?);
    varta.arg("--config").arg(stage.folder.join("up.toml")).arg("lake").args(command);
    Ok(varta.envs(environment.iter().copied()).output()?)
}

fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}: {out}{err}", output.status)
}

fn parquet(stage: &Stage, family: Family) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for day in fs_err::read_dir(stage.lake().join(family.name()))? {
        let day = day?.path();
        if day.file_name().is_some_and(|name| name.to_string_lossy().starts_with("dt=")) {
            for file in fs_err::read_dir(day)? {
                files.push(file?.path());
            }
        }
    }
    Ok(files)
}

/// Files that `varta lake info` counts.
fn files(stage: &Stage, family: Family) -> anyhow::Result<usize> {
    let info = lake(stage, &["info"], &[])?;
    let text = said(&info);
    let line = text.lines().find(|line| line.starts_with(family.name())).context("no such table")?;
    line.split_whitespace().nth(4).context("no number of files")?.parse().context(text.clone())
}

//! A wrong configuration: all problems at once, exit code 2, nothing started.

use std::process::{Command, Output};

use anyhow::ensure;

use crate::stage::Program;

const SERVER: &str = r#"
[kafka]
brokers = "no port"
borkers = "127.0.0.1:9092"
[registry]
url = "not a url"
[topics]
partitions = 0
[bridge]
id = "a/b"
clock_interval = "often"
[bridge.mqtt]
port = 70000
password = "${VARTA_TEST_NO_SUCH_VARIABLE}"
[process]
workers = 0
[bridge.http]
listen = "127.0.0.1:0"
tls = { certificate = "/no/server.crt", key = "/no/server.key" }
[sinks.lake]
root = "LAKE"
zstd_level = 99
[reports]
zone = "Mars/Olympus"
[sinks.postgres]
url = "mysql://x"
[http]
listen = "everywhere"
"#;

const SERVER_PROBLEMS: [&str; 15] = [
    "kafka.brokers",
    "kafka.borkers",
    "registry.url",
    "topics.partitions",
    "bridge.id",
    "bridge.clock_interval",
    "bridge.mqtt.port",
    "VARTA_TEST_NO_SUCH_VARIABLE",
    "bridge.http.tls.certificate",
    "bridge.http.tls.key",
    "process.workers",
    "sinks.lake.zstd_level",
    "reports.zone",
    "sinks.postgres.url",
    "http.listen",
];

const AGENT: &str = r#"
agent_id = "a/b"
state_dir = "STATE"
stat_dir = "/x"
[mqtt]
host = "tcp://broker"
port = 0
[publisher]
inflight = 0
confirm_within = "10 parsecs"
[outbox]
limit = "1 KiB"
"#;

const AGENT_PROBLEMS: [&str; 7] = [
    "agent_id",
    "stat_dir",
    "mqtt.host",
    "mqtt.port",
    "publisher.inflight",
    "publisher.confirm_within",
    "outbox.limit",
];

#[test]
fn a_server_names_every_problem_and_starts_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (config, lake) = (folder.path().join("varta.toml"), folder.path().join("lake"));
    fs_err::write(&config, SERVER.replace("LAKE", &lake.to_string_lossy()))?;
    for command in
        [vec!["up"], vec!["bridge"], vec!["process"], vec!["sink", "lake"], vec!["topics"], vec!["check"]]
    {
        let output =
            Command::new(Program::Varta.path()?).arg("--config").arg(&config).args(&command).output()?;
        refused(&output, &SERVER_PROBLEMS)?;
        ensure!(!lake.exists(), "`varta {}` has made the lake", command.join(" "));
    }
    Ok(())
}

#[test]
fn rules_that_cannot_be_used_are_found_before_any_server_is_asked() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (config, rules) = (folder.path().join("varta.toml"), folder.path().join("rules"));
    fs_err::create_dir(&rules)?;
    fs_err::write(rules.join("one.yaml"), "id: one\nkind: match\nfamily: no_such_family\n")?;
    fs_err::write(rules.join("two.yaml"), "id: [\n")?;
    fs_err::write(&config, format!("[process]\nrules = \"{}\"\n", rules.display()))?;
    for command in ["check", "up", "process"] {
        let output =
            Command::new(Program::Varta.path()?).arg("--config").arg(&config).arg(command).output()?;
        refused(&output, &["one.yaml", "two.yaml"])?;
    }
    Ok(())
}

#[test]
fn an_agent_names_every_problem_and_starts_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (config, state) = (folder.path().join("agent.toml"), folder.path().join("state"));
    fs_err::write(&config, AGENT.replace("STATE", &state.to_string_lossy()))?;
    let output = Command::new(Program::Agent.path()?).arg("--config").arg(&config).output()?;
    refused(&output, &AGENT_PROBLEMS)?;
    ensure!(!state.exists(), "the agent has made its folder");
    Ok(())
}

#[test]
fn a_missing_file_is_a_wrong_configuration() -> anyhow::Result<()> {
    for program in [Program::Varta, Program::Agent] {
        let mut command = Command::new(program.path()?);
        command.args(["--config", "/nowhere/varta.toml"]);
        if program == Program::Varta {
            command.arg("up");
        }
        refused(&command.output()?, &["/nowhere/varta.toml"])?;
    }
    Ok(())
}

#[test]
fn a_secret_is_never_repeated() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("varta.toml");
    fs_err::write(
        &config,
        "[sinks.postgres]\nurl = \"postgres://varta:hunter2@[\"\n[bridge.mqtt]\npassword = 5\n",
    )?;
    let output = Command::new(Program::Varta.path()?).arg("--config").arg(&config).arg("up").output()?;
    refused(&output, &["sinks.postgres.url"])?;
    ensure!(!said(&output).contains("hunter2"), "the password is in: {}", said(&output));
    Ok(())
}

fn refused(output: &Output, problems: &[&str]) -> anyhow::Result<()> {
    let said = said(output);
    ensure!(output.status.code() == Some(2), "ended with {} and said: {said}", output.status);
    let unnamed: Vec<_> = problems.iter().filter(|problem| !said.contains(**problem)).collect();
    ensure!(unnamed.is_empty(), "{unnamed:?} are not named in:\n{said}");
    Ok(())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

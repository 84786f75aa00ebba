//! Programs that send over HTTPS, and people who say what alerts turned out to be.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::{Certificate, Client, Identity, StatusCode};
use schemas::event::event_type;
use serde_json::{Value, json};
use tests::audit::{Counts, Id};
use tests::bench::part::Part;
use tokio::task::JoinSet;

use crate::stage::{Load, Options, PATIENCE, Program, Stage, blocking, text};

const SESSION: i64 = 1_760_000_000_000_000;
/// Events of one request.
const BATCH: i64 = 20;
/// Programs that send at once, each for an agent of its own.
const SENDERS: usize = 4;

/// Between Kafka's confirmation and the answer.
const FAILPOINT: &str = "bridge.http_after_kafka";

/// One of the senders' agents.
fn agent(sender: usize) -> String {
    format!("https-{sender}")
}

/// What all senders and the test know of each other.
#[derive(Default)]
struct Progress {
    /// Events that were answered with 202.
    taken: AtomicU64,
    /// Requests that were answered with 503.
    away: AtomicU64,
    is_enough: AtomicBool,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_with_202_arrives_everywhere_once() -> anyhow::Result<()> {
    let stage = Stage::alone("https")?;
    let own = stage.stack.variables()?;
    let authority = PathBuf::from(own.get("VARTA_MQTT_CA")?);
    let certificates = authority.parent().context("the authority lies in a folder")?;
    let (listen, doomed_listen) = (free_address()?, free_address()?);
    let extra = |listen: &str| {
        format!(
            "[bridge.http]\nlisten = \"{listen}\"\nkeys = \"{}\"\n\
             tls = {{ certificate = \"{}\", key = \"{}\" }}\n[bridge.http.limits]\nkafka_timeout = \"2s\"\n",
            stage.folder.join("keys.toml").display(),
            certificates.join("server.crt").display(),
            certificates.join("server.key").display()
        )
    };
    blocking(|| stage.stack.up(&["kafka", "registry", "mosquitto", "postgres", "influx"]))?;
    stage.start_server(&Options { extra: extra(&listen), ..Options::default() })?;
    // A second bridge, which is killed between Kafka's word and its own.
    let options = Options { bridge: "doomed".into(), extra: extra(&doomed_listen), ..Options::default() };
    let fate = [("VARTA_FAILPOINT", format!("{FAILPOINT}=15"))];
    let doomed = stage.starter("doomed", &["bridge"], &options)?.start(&Load::new(0, 1, 1), &fate)?;
    let config = stage.folder.join("up.toml");
    let key = issue(&config, &["--agent", "https-*", "--feedback", "--name", "soc"])?;
    let http = Client::builder()
        .tls_certs_only([Certificate::from_pem(&fs_err::read(&authority)?)?])
        .timeout(Duration::from_secs(20))
        .build()?;
    let bases = [listen.as_str(), &doomed_listen].map(|listen| format!("https://{listen}"));
    for base in &bases {
        stage
            .until("the server answers over TLS and knows the key", PATIENCE, async || {
                let answer = post(&http, base, &key, "/v1/events", "[]".into()).await?;
                Ok(answer == StatusCode::ACCEPTED)
            })
            .await?;
    }
    let base = &bases[0];
    let plain = reqwest::get(format!("http://{listen}/v1/events")).await;
    ensure!(plain.is_err(), "plain HTTP is answered: {plain:?}");

    let made = a_bridge_and_kafka_die_during_the_load(&stage, &http, &bases, &key, &doomed).await?;
    stage
        .until("answered with 202 = raw = events = lake, once each", PATIENCE, async || {
            stage.must_equal(&made).await?;
            Ok(true)
        })
        .await?;
    feedback_reaches_the_stores(&stage, &http, base, &key, &config).await?;

    let id = key.split('_').nth(1).context("a key has an id")?;
    varta(&config, &["keys", "revoke", id])?;
    stage
        .until("the revoked key is shut out", PATIENCE, async || {
            Ok(post(&http, base, &key, "/v1/events", "[]".into()).await? == StatusCode::UNAUTHORIZED)
        })
        .await?;
    stage.stop("up")
}

#[tokio::test(flavor = "multi_thread")]
async fn with_mutual_tls_only_who_shows_our_certificate_is_heard() -> anyhow::Result<()> {
    let stage = Stage::new("mutual").await?;
    let own = stage.stack.variables()?;
    let authority = PathBuf::from(own.get("VARTA_MQTT_CA")?);
    let certificates = authority.parent().context("the authority lies in a folder")?;
    let listen = free_address()?;
    let extra = format!(
        "[bridge.http]\nlisten = \"{listen}\"\nkeys = \"{}\"\n\
         tls = {{ certificate = \"{}\", key = \"{}\", client_ca = \"{}\" }}\n",
        stage.folder.join("keys.toml").display(),
        certificates.join("server.crt").display(),
        certificates.join("server.key").display(),
        authority.display(),
    );
    let starter = stage.starter("bridge", &["bridge"], &Options { extra, ..Options::default() })?;
    stage.watch(starter.start(&Load::new(0, 1, 1), &[])?)?;
    let key = issue(&stage.folder.join("bridge.toml"), &["--agent", "https-*", "--name", "guarded"])?;
    let client = |identity: Option<(PathBuf, PathBuf)>| -> anyhow::Result<Client> {
        let builder = Client::builder()
            .tls_certs_only([Certificate::from_pem(&fs_err::read(&authority)?)?])
            .timeout(Duration::from_secs(20));
        let Some((certificate, key)) = identity else { return Ok(builder.build()?) };
        let pem = [fs_err::read(certificate)?, fs_err::read(key)?].concat();
        Ok(builder.identity(Identity::from_pem(&pem)?).build()?)
    };
    let ours = client(Some((certificates.join("client.crt"), certificates.join("client.key"))))?;
    let base = format!("https://{listen}");
    let one = |seq| json!([event(0, seq)]).to_string();
    stage
        .until("who shows our certificate is heard", PATIENCE, async || {
            Ok(post(&ours, &base, &key, "/v1/events", one(0)).await? == StatusCode::ACCEPTED)
        })
        .await?;

    // No certificate; one of an authority of its own, under the same names; ours, but no key of the intake.
    let stranger = client(Some(of_another_authority(&stage.folder)?))?;
    for (who, client) in [("nobody", &client(None)?), ("a stranger", &stranger)] {
        let answer = post(client, &base, &key, "/v1/events", one(1)).await;
        ensure!(answer.is_err(), "{who} is answered: {answer:?}");
    }
    let answer = post(&ours, &base, "varta_no_key", "/v1/events", one(2)).await?;
    ensure!(answer == StatusCode::UNAUTHORIZED, "{answer}");
    // They have done no harm, and nothing of theirs was taken.
    let answer = post(&ours, &base, &key, "/v1/events", one(3)).await?;
    ensure!(answer == StatusCode::ACCEPTED, "{answer}");
    let rows = stage.rows(&stage.topics().raw()).await?;
    let seqs: Vec<i64> = rows
        .iter()
        .filter(|row| row.text("agent_id") == Some(&agent(0)))
        .filter_map(|row| row.long("seq"))
        .collect();
    // the wait may have sent the first more than once
    ensure!(seqs.contains(&0) && seqs.contains(&3) && !seqs.contains(&1) && !seqs.contains(&2), "{seqs:?}");
    stage.stop("bridge")
}

/// A client's certificate and key that an authority signed which nobody here knows.
fn of_another_authority(folder: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let path = |name: &str| folder.join(name);
    let openssl = |arguments: &[&str]| -> anyhow::Result<()> {
        let output = Command::new("openssl").args(arguments).current_dir(folder).output()?;
        ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority = ["req", "-x509", "-subj", "/CN=Varta development CA", "-keyout", "other-ca.key"];
    openssl(&[&authority[..], &["-out", "other-ca.crt", "-days", "2"], &new].concat())?;
    let request = ["req", "-new", "-subj", "/CN=agent", "-keyout", "other.key", "-out", "other.csr"];
    openssl(&[&request[..], &new].concat())?;
    fs_err::write(path("other.ext"), "extendedKeyUsage=clientAuth\nbasicConstraints=CA:FALSE\n")?;
    let sign = ["x509", "-req", "-days", "2", "-extfile", "other.ext", "-CA", "other-ca.crt"];
    let by = ["-CAkey", "other-ca.key", "-CAcreateserial", "-in", "other.csr", "-out", "other.crt"];
    openssl(&[&sign[..], &by].concat())?;
    Ok((path("other.crt"), path("other.key")))
}

/// What was answered with 202.
async fn a_bridge_and_kafka_die_during_the_load(
    stage: &Stage,
    http: &Client,
    bases: &[String; 2],
    key: &str,
    doomed: &Part,
) -> anyhow::Result<Counts> {
    let progress = Arc::new(Progress::default());
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let (http, bases, key) = (http.clone(), bases.clone(), key.to_owned());
        let progress = Arc::clone(&progress);
        senders.spawn(async move { send_until_enough(&http, &bases, &key, sender, &progress).await });
    }
    let taken = || progress.taken.load(Ordering::Relaxed);
    stage.until("events are taken", PATIENCE, async || Ok(taken() > 1000)).await?;
    stage
        .until("one of the bridges is dead", PATIENCE, async || Ok(doomed.deaths_at(FAILPOINT)? == 1))
        .await?;
    blocking(|| stage.stack.kill("kafka"))?;
    let told = progress.away.load(Ordering::Relaxed);
    stage
        .until("each sender hears that Kafka is away", PATIENCE, async || {
            Ok(progress.away.load(Ordering::Relaxed) > told + 2 * SENDERS as u64)
        })
        .await?;
    let before = taken();
    blocking(|| stage.stack.start("kafka"))?;
    stage.until("events are taken again", PATIENCE, async || Ok(taken() > before + 1000)).await?;
    progress.is_enough.store(true, Ordering::Relaxed);
    let mut made = Counts::new();
    while let Some(sent) = senders.join_next().await {
        let (sender, events) = sent??;
        let id = |seq| Id::Own { agent_id: agent(sender), session: SESSION, lane: "normal".into(), seq };
        made.extend((0..events).map(|seq| (id(seq), 1)));
    }
    ensure!(made.len() as u64 == taken(), "{} made, {} taken", made.len(), taken());
    Ok(made)
}

/// Sends batch after batch, each until it is answered with 202; how many events were.
async fn send_until_enough(
    http: &Client,
    bases: &[String; 2],
    key: &str,
    sender: usize,
    progress: &Progress,
) -> anyhow::Result<(usize, i64)> {
    let (mut next, mut bridge) = (0, sender % 2);
    while !progress.is_enough.load(Ordering::Relaxed) {
        let events: Vec<String> = (next..next + BATCH).map(|seq| event(sender, seq).to_string()).collect();
        loop {
            let request = http.post(format!("{}/v1/events", bases[bridge])).bearer_auth(key);
            // Each in another way.
            let request = if sender < SENDERS / 2 {
                request.header("Content-Type", "application/json").body(format!("[{}]", events.join(",")))
            } else {
                request
                    .header("Content-Type", "application/x-ndjson")
                    .header("Content-Encoding", "gzip")
                    .body(gzip(&events.join("\n"))?)
            };
            match request.send().await {
                Ok(answer) if answer.status() == StatusCode::ACCEPTED => break,
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
                    ensure!(answer.headers().contains_key("Retry-After"), "503 without Retry-After");
                    progress.away.fetch_add(1, Ordering::Relaxed);
                }
                Ok(answer) if answer.status() == StatusCode::TOO_MANY_REQUESTS => {}
                Ok(answer) => anyhow::bail!("{}: {}", answer.status(), answer.text().await?),
                // No answer is no answer; the other bridge may have one.
                Err(_) => bridge = 1 - bridge,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        next += BATCH;
        progress.taken.fetch_add(BATCH as u64, Ordering::Relaxed);
    }
    Ok((sender, next))
}

async fn feedback_reaches_the_stores(
    stage: &Stage,
    http: &Client,
    base: &str,
    key: &str,
    config: &Path,
) -> anyhow::Result<()> {
    let alert = uuid::Uuid::new_v4().to_string();
    varta(config, &["feedback", &alert, "fp", "--author", "ann"])?;
    varta(config, &["feedback", &alert, "tp", "--author", "ann", "--note", "looked twice"])?;
    let body = json!({ "alert_id": alert, "verdict": "benign" });
    let answer = post(http, base, key, "/v1/feedback", body.to_string()).await?;
    ensure!(answer == StatusCode::ACCEPTED, "{answer}");
    ensure!(varta(config, &["feedback", "no-alert", "fp", "--author", "ann"]).is_err(), "taken for an alert");

    let rows = stage.rows(&stage.topics().feedback()).await?;
    let said: BTreeMap<(&str, &str), usize> = rows.iter().fold(BTreeMap::new(), |mut said, row| {
        let word = (row.text("author").unwrap_or_default(), row.text("verdict").unwrap_or_default());
        *said.entry(word).or_default() += 1;
        said
    });
    let expected = [(("ann", "fp"), 1), (("ann", "tp"), 1), (("soc", "benign"), 1)];
    ensure!(said == expected.into(), "on the topic: {said:?}");
    stage
        .until("all that was said is in the lake", PATIENCE, async || {
            Ok(stage.table_rows("feedback").await? == 3)
        })
        .await?;
    stage
        .until("the newest of each author is in PostgreSQL", PATIENCE, async || {
            let query = format!(
                "SELECT author || ' ' || verdict || ' ' || verdict_id || ' ' || coalesce(note, '-') \
                 FROM alert_feedback WHERE alert_id = '{alert}' ORDER BY author"
            );
            let stored = stage.postgres.texts(&query).await?;
            ensure!(stored == ["ann tp 2 looked twice", "soc benign 5 -"], "{stored:?}");
            Ok(true)
        })
        .await
}

fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn event(sender: usize, seq: i64) -> Value {
    json!({
        "agent_id": agent(sender), "session": SESSION, "lane": "normal", "seq": seq,
        "event_time": SESSION + seq * 1000, "event_type": event_type::CPU_USAGE, "source": "test/https",
        "host": "far-away", "payload": { "cpu_percent": 12.5 },
    })
}

async fn post(http: &Client, base: &str, key: &str, path: &str, body: String) -> anyhow::Result<StatusCode> {
    let request = http.post(format!("{base}{path}")).bearer_auth(key);
    Ok(request.header("Content-Type", "application/json").body(body).send().await?.status())
}

fn gzip(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes())?;
    Ok(encoder.finish()?)
}

fn issue(config: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let arguments: Vec<&str> = ["keys", "issue"].into_iter().chain(arguments.iter().copied()).collect();
    Ok(varta(config, &arguments)?.trim().to_owned())
}

/// Runs a command of the server's program; what it prints.
fn varta(config: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(Program::Varta.path()?);
    command.arg("--config").arg(text(config)?).args(arguments);
    let output = blocking(|| command.output())?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "varta {}: {}: {complaint}", arguments.join(" "), output.status);
    Ok(String::from_utf8(output.stdout)?)
}

//! `varta replay FILE`: recorded events through MQTT, every one accounted for.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::exit::Exit;
use crate::replay::agent::{self, Pace};
use crate::replay::recording::{self, Recording};
use crate::replay::sender::{self, Broker, Outcome};

/// What `varta replay` can be told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// JSON lines, plain or gzip: Sysmon 1, 3, 5, 11 and Security 4688, 4689.
    file: PathBuf,
    /// Move the events to now and play them so many times faster than they happened; without it they keep
    /// their times and go as fast as they are confirmed.
    #[arg(long, value_name = "FACTOR")]
    speed: Option<f64>,
    /// With --speed: the longest pause between two events of a host, before it is sped up.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    max_gap: Duration,
    /// Give up on a host after so long without a confirmation.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    give_up: Duration,
    /// MQTT user name of the agents; the password comes from VARTA_MQTT_PASSWORD_AGENT.
    #[arg(long, env = "VARTA_MQTT_USER_AGENT")]
    mqtt_user: Option<String>,
}

/// Sends the recording; 0 when every event is confirmed or refused with a reason.
pub(crate) async fn replay(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let recording = recording::read(&args.file)?;
    describe(&recording);
    let broker = Broker {
        host: config.bridge.mqtt.host.clone(),
        port: config.bridge.mqtt.port,
        credentials: args
            .mqtt_user
            .clone()
            .map(|user| (user, std::env::var("VARTA_MQTT_PASSWORD_AGENT").unwrap_or_default())),
    };
    let session = runtime::clock::now_us();
    let started = Instant::now();
    let mut total = Outcome::default();
    let pace = args.speed.map(|speed| Pace { speed, max_gap: args.max_gap });
    let mut hosts = tokio::task::JoinSet::new();
    for (host, events) in recording.hosts {
        let (broker, give_up) = (broker.clone(), args.give_up);
        let agent_id = agent::id_of(&host);
        let events = agent::speak(&host, &agent_id, session, events, pace)?;
        hosts.spawn(async move {
            let outcome = sender::send(&broker, &agent_id, &events, give_up).await;
            (host, agent_id, outcome)
        });
    }
    let mut failed = 0;
    while let Some(joined) = hosts.join_next().await {
        let (host, agent_id, outcome) = joined?;
        match outcome {
            Ok(outcome) => {
                println!(
                    "{host:<36} {agent_id}  {:>6} events confirmed, {} messages sent again",
                    outcome.confirmed, outcome.resent
                );
                total.events += outcome.events;
                total.confirmed += outcome.confirmed;
                total.resent += outcome.resent;
            }
            Err(error) => {
                failed += 1;
                eprintln!("{host:<36} {agent_id}  {error:#}");
            }
        }
    }
    println!(
        "{} events confirmed in {:.1} s (one agent_started for each host among them), {} hosts failed",
        total.confirmed,
        started.elapsed().as_secs_f64(),
        failed
    );
    Ok(if failed == 0 { Exit::Done } else { Exit::NotMet })
}

fn describe(recording: &Recording) {
    println!(
        "{} lines: {} events of {} hosts, {} refused",
        recording.lines,
        recording.events(),
        recording.hosts.len(),
        recording.refused.values().sum::<usize>()
    );
    for (reason, lines) in &recording.refused {
        println!("  refused {lines:>6}: {reason}");
    }
}

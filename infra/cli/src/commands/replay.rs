//! `varta replay FILE`: recorded events through MQTT, every one accounted for.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use schemas::event::{AgentStatus, Event, Payload, event_type};
use schemas::identity::Lane;
use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::exit::Exit;
use crate::replay::recording::{self, Recording};
use crate::replay::sender::{self, Broker, Outcome};
use crate::replay::windows::Mapped;

/// What `varta replay` can be told.
#[derive(clap::Args)]
pub struct Args {
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
pub async fn replay(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let recording = recording::read(&args.file)?;
    describe(&recording);
    let broker = Broker {
        host: config.bridge.mqtt.host.clone(),
        port: config.bridge.mqtt.port,
        credentials: args.mqtt_user.clone().map(|user| {
            (
                user,
                std::env::var("VARTA_MQTT_PASSWORD_AGENT").unwrap_or_default(),
            )
        }),
    };
    let session = runtime::clock::now_us();
    let started = Instant::now();
    let mut total = Outcome::default();
    let mut hosts = tokio::task::JoinSet::new();
    for (host, events) in recording.hosts {
        let (broker, give_up) = (broker.clone(), args.give_up);
        let agent_id = agent_of(&host);
        let events = as_agent(
            &host,
            &agent_id,
            session,
            events,
            args.speed.map(|speed| (speed, args.max_gap)),
        );
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

/// A recorded host is always the same agent: a UUID from its name.
fn agent_of(host: &str) -> String {
    let digest = Sha256::digest(format!("varta replay {host}"));
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

/// The events with the identities that an agent would give them, and when each is due.
fn as_agent(
    host: &str,
    agent_id: &str,
    session: i64,
    events: Vec<Mapped>,
    rescale: Option<(f64, Duration)>,
) -> Vec<(Event, Option<Instant>)> {
    let mut due = Instant::now();
    let mut time = runtime::clock::now_us();
    let mut last: Option<i64> = None;
    let mut sent = Vec::with_capacity(events.len() + 1);
    for (index, mapped) in events.into_iter().enumerate() {
        let gap = last.map_or(0, |last| mapped.event_time - last);
        last = Some(mapped.event_time);
        let (event_time, at) = match rescale {
            None => (mapped.event_time, None),
            Some((speed, max_gap)) => {
                let gap = Duration::from_micros(gap.unsigned_abs())
                    .min(max_gap)
                    .div_f64(speed.max(1e-6));
                due += gap;
                time += gap.as_micros() as i64;
                (time, Some(due))
            }
        };
        let event = |lane, seq, event_type: &str, source: &str, user, payload| Event {
            agent_id: agent_id.into(),
            session,
            lane,
            seq,
            event_time,
            event_type: event_type.into(),
            source: source.into(),
            host: Some(host.to_owned()),
            user,
            replayed: true,
            payload,
        };
        if index == 0 {
            let status = AgentStatus {
                agent_version: Some(env!("CARGO_PKG_VERSION").into()),
                os: Some("windows".into()),
                reason: Some("replay of a recording".into()),
                ..AgentStatus::default()
            };
            sent.push((
                event(
                    Lane::Critical,
                    0,
                    event_type::AGENT_STARTED,
                    "replay",
                    None,
                    Payload::AgentStatus(status),
                ),
                at,
            ));
        }
        sent.push((
            event(
                Lane::Normal,
                index as i64,
                mapped.event_type,
                &mapped.source,
                mapped.user,
                mapped.payload,
            ),
            at,
        ));
    }
    sent
}

#[cfg(test)]
mod tests {
    use schemas::event::ProcessEvent;

    use super::*;

    fn mapped(event_time: i64) -> Mapped {
        Mapped {
            host: "W1".into(),
            event_time,
            event_type: event_type::PROCESS_STARTED,
            source: "sysmon/1".into(),
            user: None,
            recording: None,
            payload: Payload::ProcessEvent(ProcessEvent::default()),
        }
    }

    #[test]
    fn sequences_are_gapless_and_times_are_kept() {
        let sent = as_agent("W1", "a", 9, vec![mapped(5), mapped(8)], None);
        let seen: Vec<_> = sent
            .iter()
            .map(|(event, _)| (event.lane, event.seq, event.event_time))
            .collect();
        assert_eq!(
            seen,
            [(Lane::Critical, 0, 5), (Lane::Normal, 0, 5), (Lane::Normal, 1, 8)]
        );
    }

    #[test]
    fn rescaling_shortens_gaps_and_bounds_them() {
        let hour = 3_600_000_000;
        let sent = as_agent(
            "W1",
            "a",
            9,
            vec![mapped(0), mapped(2_000_000), mapped(hour)],
            Some((2.0, Duration::from_secs(10))),
        );
        let times: Vec<_> = sent.iter().skip(1).map(|(event, _)| event.event_time).collect();
        assert_eq!(times[1] - times[0], 1_000_000);
        assert_eq!(times[2] - times[1], 5_000_000);
    }

    #[test]
    fn a_host_is_always_the_same_agent() {
        assert_eq!(agent_of("W1"), agent_of("W1"));
        assert_ne!(agent_of("W1"), agent_of("W2"));
    }
}

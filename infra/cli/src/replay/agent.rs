//! A recorded host as the agent that it never had: a session, gapless numbers, times kept or moved.

use std::time::{Duration, Instant};

use schemas::event::{AgentStatus, Event, Payload, event_type};
use schemas::identity::Lane;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::sender::Outgoing;
use super::windows::Mapped;

/// How to move events to now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// So many times faster than it happened.
    pub speed: f64,
    /// The longest pause between two events, before it is sped up.
    pub max_gap: Duration,
}

/// A recorded host is always the same agent: a UUID from its name.
pub(crate) fn id_of(host: &str) -> String {
    let digest = Sha256::digest(format!("varta replay {host}"));
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

/// The events as that agent would send them: `agent_started`, then all of lane normal in order. The recording that
/// an event comes from travels as a payload key of its own and so ends in the column `extra`.
pub(crate) fn speak(
    host: &str,
    agent_id: &str,
    session: i64,
    events: Vec<Mapped>,
    pace: Option<Pace>,
) -> anyhow::Result<Vec<Outgoing>> {
    let mut voice = Voice { host, agent_id, session, due: None, last: None, time: 0, pace };
    if pace.is_some() {
        voice.due = Some(Instant::now());
        voice.time = runtime::clock::now_us();
    }
    let mut sent = Vec::with_capacity(events.len() + 1);
    for (index, mapped) in events.into_iter().enumerate() {
        voice.advance(mapped.event_time);
        if index == 0 {
            sent.push(voice.started()?);
        }
        let recording = mapped.recording.clone();
        let event = voice.event(
            Lane::Normal,
            index as i64,
            mapped.event_type,
            &mapped.source,
            mapped.user,
            mapped.payload,
        );
        let mut json = serde_json::to_value(&event)?;
        if let (Some(recording), Some(Value::Object(payload))) = (recording, json.get_mut("payload")) {
            payload.insert("recording".into(), recording.into());
        }
        sent.push(voice.outgoing(&event, &json)?);
    }
    Ok(sent)
}

struct Voice<'a> {
    host: &'a str,
    agent_id: &'a str,
    session: i64,
    pace: Option<Pace>,
    /// Event time of the event before, as recorded.
    last: Option<i64>,
    /// Event time of the present event, as sent.
    time: i64,
    due: Option<Instant>,
}

impl Voice<'_> {
    fn advance(&mut self, recorded: i64) {
        let Some(pace) = self.pace else {
            self.time = recorded;
            return;
        };
        let gap = Duration::from_micros((recorded - self.last.unwrap_or(recorded)).unsigned_abs());
        let gap = gap.min(pace.max_gap).div_f64(pace.speed.max(1e-6));
        self.last = Some(recorded);
        self.time += gap.as_micros() as i64;
        self.due = self.due.map(|due| due + gap);
    }

    fn started(&self) -> anyhow::Result<Outgoing> {
        let status = AgentStatus {
            agent_version: Some(env!("CARGO_PKG_VERSION").into()),
            os: Some("windows".into()),
            reason: Some("replay of a recording".into()),
            ..AgentStatus::default()
        };
        let kind = event_type::AGENT_STARTED;
        let event = self.event(Lane::Critical, 0, kind, "replay", None, Payload::AgentStatus(status));
        self.outgoing(&event, &serde_json::to_value(&event)?)
    }

    fn event(
        &self,
        lane: Lane,
        seq: i64,
        event_type: &str,
        source: &str,
        user: Option<String>,
        payload: Payload,
    ) -> Event {
        Event {
            agent_id: self.agent_id.into(),
            session: self.session,
            lane,
            seq,
            event_time: self.time,
            event_type: event_type.into(),
            source: source.into(),
            host: Some(self.host.to_owned()),
            user,
            replayed: true,
            payload,
        }
    }

    fn outgoing(&self, event: &Event, json: &Value) -> anyhow::Result<Outgoing> {
        Ok(Outgoing {
            session: event.session,
            lane: event.lane,
            seq: event.seq,
            json: serde_json::to_vec(json)?,
            due: self.due,
        })
    }
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
            recording: Some("a.zip".into()),
            payload: Payload::ProcessEvent(ProcessEvent::default()),
        }
    }

    fn times(sent: &[Outgoing]) -> Vec<i64> {
        let time =
            |event: &Outgoing| serde_json::from_slice::<Value>(&event.json).unwrap()["event_time"].as_i64();
        sent.iter().map(|event| time(event).unwrap()).collect()
    }

    #[test]
    fn sequences_are_gapless_and_times_and_recordings_are_kept() {
        let sent = speak("W1", "a", 9, vec![mapped(5), mapped(8)], None).unwrap();
        let seen: Vec<_> = sent.iter().map(|event| (event.lane, event.seq)).collect();
        assert_eq!(seen, [(Lane::Critical, 0), (Lane::Normal, 0), (Lane::Normal, 1)]);
        assert_eq!(times(&sent), [5, 5, 8]);
        let json: Value = serde_json::from_slice(&sent[2].json).unwrap();
        assert_eq!(json["payload"]["recording"], "a.zip");
    }

    #[test]
    fn rescaling_shortens_gaps_and_bounds_them() {
        let hour = 3_600_000_000;
        let pace = Pace { speed: 2.0, max_gap: Duration::from_secs(10) };
        let sent = speak("W1", "a", 9, vec![mapped(0), mapped(2_000_000), mapped(hour)], Some(pace)).unwrap();
        let times = times(&sent);
        assert_eq!(times[2] - times[1], 1_000_000);
        assert_eq!(times[3] - times[2], 5_000_000);
    }

    #[test]
    fn a_host_is_always_the_same_agent() {
        assert_eq!(id_of("W1"), id_of("W1"));
        assert_ne!(id_of("W1"), id_of("W2"));
    }
}

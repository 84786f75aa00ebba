//! Puts stored rows behind their identity: bytes of messages, without any I/O.

use std::io::Write as _;

use bytes::Bytes;
use schemas::identity::Lane;
use schemas::mqtt;

use crate::outbox::Row;

/// Turns rows of one agent into MQTT messages.
#[derive(Debug, Clone)]
pub struct Composer {
    agent_id: String,
    /// The id as a JSON text, quotes included.
    quoted_id: String,
    batch_topic: String,
    max_bytes: usize,
}

/// A message and how many of the rows are in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where to publish.
    pub topic: String,
    /// JSON object or array.
    pub payload: Bytes,
    /// Rows taken from the front.
    pub rows: usize,
}

impl Composer {
    /// `max_bytes` bounds an array; a single event is sent whatever its size.
    pub fn new(agent_id: &str, max_bytes: usize) -> Self {
        Self {
            agent_id: agent_id.to_owned(),
            quoted_id: serde_json::Value::from(agent_id).to_string(),
            batch_topic: mqtt::batch_topic(agent_id),
            max_bytes,
        }
    }

    /// One event on the topic of its type. A type that cannot be part of a topic goes as an array
    /// of one.
    pub fn single(&self, lane: Lane, row: &Row, replayed: bool) -> Message {
        if !fits_topic(&row.event_type) {
            return self.array(lane, std::slice::from_ref(row), |_| replayed);
        }
        let mut payload = Vec::with_capacity(row.body.len() + 160);
        self.write(&mut payload, lane, row, replayed);
        let topic = mqtt::event_topic(&self.agent_id, &row.event_type);
        Message { topic, payload: payload.into(), rows: 1 }
    }

    /// An array of as many rows from the front as fit; at least one, all of one session.
    pub fn array(&self, lane: Lane, rows: &[Row], replayed: impl Fn(&Row) -> bool) -> Message {
        let session = rows.first().map(|row| row.place.session);
        let mut payload = vec![b'['];
        let mut taken = 0;
        for row in rows.iter().take_while(|row| Some(row.place.session) == session) {
            let before = payload.len();
            if taken > 0 {
                payload.push(b',');
            }
            self.write(&mut payload, lane, row, replayed(row));
            if payload.len() + 1 > self.max_bytes && taken > 0 {
                payload.truncate(before);
                break;
            }
            taken += 1;
        }
        payload.push(b']');
        Message { topic: self.batch_topic.clone(), payload: payload.into(), rows: taken }
    }

    fn write(&self, out: &mut Vec<u8>, lane: Lane, row: &Row, replayed: bool) {
        // Writing into memory cannot fail.
        let _ = write!(
            out,
            r#"{{"agent_id":{},"session":{},"lane":"{}","seq":{},"replayed":{replayed},"#,
            self.quoted_id,
            row.place.session,
            lane.as_str(),
            row.place.seq,
        );
        out.extend_from_slice(&row.body);
    }
}

fn fits_topic(event_type: &str) -> bool {
    event_type != "batch"
        && !event_type.is_empty()
        && event_type.len() <= 128
        && event_type.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use schemas::event::{Event, HostMetrics, Payload};

    use super::*;
    use crate::observation::Observation;
    use crate::outbox::{NewRow, Place};

    fn row(seq: i64, event_type: &'static str) -> Row {
        let payload = Payload::HostMetrics(HostMetrics { cpu_percent: Some(37.5), ..HostMetrics::default() });
        let seen = Observation::new(1_000, Lane::Normal, event_type, "system/sysinfo", payload);
        let new = NewRow::new(&seen, "pc\"001").unwrap();
        Row {
            place: Place { session: 5, seq },
            event_time: 1_000,
            event_type: event_type.to_owned(),
            body: new.body.into(),
        }
    }

    #[test]
    fn a_single_event_reads_back_as_what_was_observed() {
        let message = Composer::new("a-1", 1000).single(Lane::Normal, &row(7, "cpu_usage"), true);
        assert_eq!(message.topic, "agent/a-1/event/cpu_usage");
        let event: Event = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!((event.session, event.lane, event.seq, event.replayed), (5, Lane::Normal, 7, true));
        assert_eq!((event.event_time, event.host.as_deref()), (1_000, Some("pc\"001")));
        assert!(matches!(event.payload, Payload::HostMetrics(host) if host.cpu_percent == Some(37.5)));
    }

    #[test]
    fn an_array_stops_at_its_bound_and_at_another_session() {
        let rows: Vec<Row> = (0..10).map(|seq| row(seq, "cpu_usage")).collect();
        let composer = Composer::new("a-1", 600);
        let message = composer.array(Lane::Normal, &rows, |_| false);
        assert!(message.payload.len() <= 600, "{}", message.payload.len());
        assert!(message.rows > 1 && message.rows < 10);
        let events: Vec<Event> = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(events.len(), message.rows);

        let mut mixed = rows[..3].to_vec();
        mixed[2].place.session = 6;
        assert_eq!(Composer::new("a-1", 100_000).array(Lane::Normal, &mixed, |_| false).rows, 2);
        assert_eq!(Composer::new("a-1", 10).array(Lane::Normal, &rows, |_| false).rows, 1, "one always goes");
    }

    #[test]
    fn types_that_are_no_topic_level_travel_in_an_array() {
        for event_type in ["a/b", "batch", "+", "two words"] {
            let message = Composer::new("a-1", 1000).single(Lane::Normal, &row(1, event_type), false);
            assert_eq!(message.topic, "agent/a-1/event/batch", "{event_type}");
            assert_eq!(message.payload[0], b'[');
        }
    }
}

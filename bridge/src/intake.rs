//! What becomes of one message: a pure decision. Of MQTT here, of HTTP in `request`.
//!
//! Topic and bytes in; Kafka records, and the sequence numbers to confirm once Kafka has them, out. Nothing here
//! fails and nothing is dropped: what is not an event becomes a dead letter with its original bytes and the
//! reason, and where its identity can be read a *rejected* marker explains the hole in the sequence.
//!
//! | in | records out | confirmed to the agent |
//! |---|---|---|
//! | event | row in raw | yes |
//! | event that breaks the contract, identity readable | dead letter, rejected marker in raw | yes |
//! | event that breaks the contract otherwise | dead letter | no |
//! | event under another agent's name | dead letter, security event in raw under the topic's name | no |
//! | message that is no event at all, or on a strange topic | dead letter | no |
//! | message that Kafka refuses for good | dead letter of all of it, rejected marker in raw for each readable identity | those that are marked |
//!
//! A foreign name leaves no marker: whoever may write to one topic must not be able to explain away holes in
//! the sequence of somebody else. Nor is it confirmed to anybody: an agent never speaks under another's name.

mod request;

use std::sync::Arc;

use bytes::Bytes;
use eventlog::NewRecord;
use schemas::family::Family;
use schemas::identity::{AgentId, Identity, Lane};
use schemas::mqtt::{self, MqttKind, MqttTopic, Sample};
use schemas::record::RecordKind;
use schemas::topics::Topics;
use schemas::translate::{Clock, Context, Refused, RefusedReason, Rejected, Row, Translator};
use schemas::wire;
use serde_json::json;
use uuid::Uuid;

use crate::confirmations::{Span, extend};
use crate::dead_letters;

pub(crate) use request::{Turned, Voice, cut};

/// Event type of the security event that tells of a foreign agent id.
pub const AGENT_MISMATCH: &str = "bridge_agent_mismatch";

/// One message or request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// Topic of MQTT, or what takes its place in dead letters of HTTP.
    pub(crate) topic: Bytes,
    pub(crate) payload: Bytes,
    /// The sender's clock, in µs.
    pub(crate) sent_at: Option<i64>,
    /// The bridge's clock, in µs.
    pub(crate) received_at: i64,
    /// For events that bring no identifier.
    pub(crate) mint: Mint,
}

/// Root of the identifiers minted for the events of one message. It belongs to the arrival, so that taking the
/// message in once more yields the very same records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mint {
    /// Random, one a process; over HTTP from the sender's key of repetition where there is one.
    pub(crate) process: Uuid,
    /// Number of the message in the process.
    pub(crate) message: u64,
}

impl Mint {
    fn id(self, event: impl std::fmt::Display) -> String {
        format!("{}-{}-{event}", self.process.simple(), self.message)
    }
}

/// What is written for a message, and what may be confirmed after that.
#[derive(Debug, Default)]
pub(crate) struct Parcel {
    pub(crate) records: Vec<NewRecord>,
    pub(crate) agent: Option<AgentId>,
    pub(crate) settled: Vec<Span>,
    pub(crate) tally: Tally,
}

/// What was found in a message.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) families: [u32; Family::ALL.len()],
    pub(crate) dead_letters: u32,
    pub(crate) rejected: u32,
    pub(crate) mismatches: u32,
}

/// Schema identifiers under which the bridge writes.
#[derive(Debug, Clone)]
pub(crate) struct WriterIds {
    pub(crate) families: [u32; Family::ALL.len()],
    pub(crate) clock: u32,
    pub(crate) rejected: u32,
    pub(crate) feedback: u32,
}

impl WriterIds {
    pub(crate) fn new(id: impl Fn(RecordKind) -> u32) -> Self {
        Self {
            families: Family::ALL.map(|family| id(RecordKind::Family(family))),
            clock: id(RecordKind::Clock),
            rejected: id(RecordKind::Rejected),
            feedback: id(RecordKind::Feedback),
        }
    }
}

/// See the module.
pub(crate) struct Intake {
    translator: Translator,
    ids: WriterIds,
    bridge: Arc<str>,
    raw: Arc<str>,
    dlq: Arc<str>,
    feedback: Arc<str>,
}

impl Intake {
    pub(crate) fn new(bridge: &str, translator: Translator, ids: WriterIds, topics: &Topics) -> Self {
        Self {
            translator,
            ids,
            bridge: bridge.into(),
            raw: topics.raw(),
            dlq: topics.dlq(),
            feedback: topics.feedback(),
        }
    }

    /// The decision; see the module.
    pub(crate) fn take(&self, arrival: &Arrival) -> Parcel {
        let mut parcel = Parcel::default();
        let Ok(topic) = std::str::from_utf8(&arrival.topic) else {
            self.bury(&mut parcel, arrival, None, &arrival.payload, "the topic is not UTF-8");
            return parcel;
        };
        let Some(MqttTopic { agent_id, kind }) = mqtt::parse(topic) else {
            let reason = "the topic is not one of an agent, or its agent id is longer than 128 bytes or has \
                          control characters";
            self.bury(&mut parcel, arrival, None, &arrival.payload, reason);
            return parcel;
        };
        let key = Bytes::copy_from_slice(agent_id.as_bytes());
        let source = match kind {
            // Nothing on the status topic is how a retained status is taken back: no event.
            MqttKind::Status if arrival.payload.is_empty() => return parcel,
            MqttKind::Event(event_type) => Source::Events(Some(event_type)),
            MqttKind::Batch | MqttKind::Status => Source::Events(None),
            MqttKind::Sample(sample) => Source::Sample(sample),
        };
        let results = self.translate(arrival, agent_id, &arrival.payload, source);
        self.fill(&mut parcel, arrival, agent_id, &key, results);
        parcel
    }

    /// As [`Self::take`], for a message that Kafka itself refuses for good: one dead letter, and a marker for each
    /// number that the agent is told is settled, since it never sends that one again.
    pub(crate) fn condemn(&self, arrival: &Arrival, reason: &str) -> Parcel {
        let mut parcel = self.take(arrival);
        parcel.records.clear();
        parcel.tally = Tally::default();
        let key = parcel.agent.as_ref().map(|agent| Bytes::copy_from_slice(agent.as_bytes()));
        self.bury(&mut parcel, arrival, key.clone(), &arrival.payload, reason);
        if let (Some(agent_id), Some(key)) = (parcel.agent.clone(), key) {
            for Span { session, lane, first, last } in parcel.settled.clone() {
                for seq in first..=last {
                    let identity = Identity { agent_id: agent_id.clone(), session, lane, seq };
                    self.mark(&mut parcel, arrival, &key, identity, reason.to_owned());
                }
            }
        }
        parcel
    }

    /// A record of the bridge's clock, unkeyed, for one partition of the raw topic.
    pub(crate) fn clock_record(&self, partition: i32, clock: &Clock) -> NewRecord {
        let value = framed(self.ids.clock, &self.translator.clock(clock));
        NewRecord {
            topic: Arc::clone(&self.raw),
            partition: Some(partition),
            key: Some(Bytes::copy_from_slice(self.bridge.as_bytes())),
            value: Some(value),
            headers: Vec::new(),
        }
    }

    /// Name of the bridge.
    pub(crate) fn bridge(&self) -> &str {
        &self.bridge
    }

    fn fill(
        &self,
        parcel: &mut Parcel,
        arrival: &Arrival,
        agent_id: &str,
        key: &Bytes,
        results: Vec<Result<Row, Refused>>,
    ) {
        // All rows of a message are slices of one allocation.
        let rows = results.iter().flatten();
        let mut arena = Vec::with_capacity(rows.map(|row| wire::PREFIX + row.datum.len()).sum());
        let mut ends = Vec::with_capacity(results.len());
        let mut refusals = Vec::new();
        for result in results {
            match result {
                Ok(row) => {
                    if row.lane != Lane::Foreign {
                        extend(&mut parcel.settled, row.session, row.lane, row.seq);
                    }
                    parcel.tally.families[row.family as usize] += 1;
                    wire::frame(self.ids.families[row.family as usize], &row.datum, &mut arena);
                    ends.push(arena.len());
                }
                Err(refused) => refusals.push(refused),
            }
        }
        parcel.records.reserve(ends.len() + 2 * refusals.len());
        let arena = Bytes::from(arena);
        let mut start = 0;
        for end in ends {
            parcel.records.push(self.raw_record(key, arena.slice(start..end)));
            start = end;
        }
        for refused in &refusals {
            self.refuse(parcel, arrival, key, refused);
        }
        if let Some(mismatch) = refusals.iter().find(|refused| refused.agent_mismatch) {
            self.tell_of_mismatch(parcel, arrival, agent_id, key, &mismatch.reason);
        }
        parcel.agent = Some(agent_id.into());
    }

    fn translate(
        &self,
        arrival: &Arrival,
        agent_id: &str,
        payload: &Bytes,
        source: Source<'_>,
    ) -> Vec<Result<Row, Refused>> {
        let mut minted = 0_u32;
        let mut mint = || {
            minted += 1;
            arrival.mint.id(minted)
        };
        let mut context = Context {
            topic_agent: agent_id,
            topic_event_type: None,
            received_at: arrival.received_at,
            sent_at: arrival.sent_at,
            mint: &mut mint,
        };
        match source {
            Source::Events(event_type) => {
                context.topic_event_type = event_type;
                self.translator.message(payload, context)
            }
            Source::Sample(sample) => self.translator.sample(sample, payload, context),
        }
    }

    fn refuse(&self, parcel: &mut Parcel, arrival: &Arrival, key: &Bytes, refused: &Refused) {
        let reason = refused.reason.to_string();
        self.bury(parcel, arrival, Some(key.clone()), &refused.original, &reason);
        let Some(identity) = refused.identity.clone().filter(Identity::is_sequenced) else {
            return;
        };
        if refused.agent_mismatch || identity.agent_id.as_bytes() != key {
            return;
        }
        extend(&mut parcel.settled, identity.session, identity.lane, identity.seq);
        self.mark(parcel, arrival, key, identity, reason);
    }

    /// A rejected marker: whoever counts does not wait for this number.
    fn mark(&self, parcel: &mut Parcel, arrival: &Arrival, key: &Bytes, identity: Identity, reason: String) {
        let marker = Rejected { identity, reason, received_at: arrival.received_at };
        let value = framed(self.ids.rejected, &self.translator.rejected(&marker));
        parcel.records.push(self.raw_record(key, value));
        parcel.tally.rejected += 1;
    }

    /// A dead letter.
    fn bury(
        &self,
        parcel: &mut Parcel,
        arrival: &Arrival,
        key: Option<Bytes>,
        original: &Bytes,
        reason: &str,
    ) {
        let key = key.unwrap_or_else(|| Bytes::copy_from_slice(self.bridge.as_bytes()));
        parcel.records.push(dead_letters::record(&self.dlq, arrival, key, original, reason));
        parcel.tally.dead_letters += 1;
    }

    /// An event that rules can alert on: somebody with the right to one agent's topic used another's name. One a
    /// message, however many events it had.
    fn tell_of_mismatch(
        &self,
        parcel: &mut Parcel,
        arrival: &Arrival,
        agent_id: &str,
        key: &Bytes,
        reason: &RefusedReason,
    ) {
        parcel.tally.mismatches += 1;
        let claimed = if let RefusedReason::AgentMismatch { event, .. } = reason { event } else { "" };
        let event = json!({
            "agent_id": agent_id,
            "event_id": arrival.mint.id("mismatch"),
            "event_time": arrival.received_at,
            "event_type": AGENT_MISMATCH,
            "source": "bridge/intake",
            "payload": {
                "bridge_id": &*self.bridge,
                "claimed_agent_id": claimed,
                "topic": String::from_utf8_lossy(&arrival.topic),
            },
        });
        let payload = Bytes::from(event.to_string());
        for result in self.translate(arrival, agent_id, &payload, Source::Events(Some(AGENT_MISMATCH))) {
            match result {
                Ok(row) => {
                    let id = self.ids.families[row.family as usize];
                    parcel.records.push(self.raw_record(key, framed(id, &row.datum)));
                }
                Err(refused) => {
                    tracing::error!(reason = %refused.reason, "the bridge's own security event was refused");
                }
            }
        }
    }

    fn raw_record(&self, key: &Bytes, value: Bytes) -> NewRecord {
        NewRecord {
            topic: Arc::clone(&self.raw),
            partition: None,
            key: Some(key.clone()),
            value: Some(value),
            headers: Vec::new(),
        }
    }
}

/// How a payload is to be read.
#[derive(Debug, Clone, Copy)]
enum Source<'a> {
    /// As our own events, with the type that the topic names.
    Events(Option<&'a str>),
    Sample(Sample),
}

fn framed(schema_id: u32, datum: &[u8]) -> Bytes {
    let mut value = Vec::with_capacity(wire::PREFIX + datum.len());
    wire::frame(schema_id, datum, &mut value);
    value.into()
}

#[cfg(test)]
mod tests;

//! What becomes of one HTTP request: as with an MQTT message, a pure decision.
//!
//! Two things differ. A request may speak for several agents, all of which its key must be bound to; and its sender
//! hears what is wrong, so that nothing of a bad request need be taken at all.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use eventlog::NewRecord;
use schemas::identity::AgentId;
use schemas::mqtt::is_agent_id;
use schemas::translate::{self, Context, Feedback, Form, Refused, RefusedReason, Row};
use serde::Deserialize;

use super::{Arrival, Intake, Parcel, framed};

/// For whom a request may speak.
pub(crate) trait Voice {
    /// Whether it may speak for this agent.
    fn may_speak_for(&self, agent_id: &str) -> bool;
    /// The agent of events that name none.
    fn default_agent(&self) -> Option<&str>;
}

/// One event of a request, judged.
#[derive(Debug)]
pub(crate) struct Judged {
    /// `None` where it cannot be told; then the event is refused.
    agent: Option<AgentId>,
    result: Result<Row, Refused>,
}

impl Judged {
    /// Why the event is not taken.
    pub(crate) fn refused(&self) -> Option<&RefusedReason> {
        self.result.as_ref().err().map(|refused| &refused.reason)
    }
}

/// Why a request is not even looked at event by event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Turned {
    /// It does not hold together.
    Whole(RefusedReason),
    /// An event names an agent that the key is not bound to.
    Unbound {
        /// Index of the event.
        index: usize,
    },
}

/// All that has to be known of an event before it is judged.
#[derive(Deserialize)]
struct Peek<'a> {
    #[serde(borrow)]
    agent_id: Option<Cow<'a, str>>,
}

impl Intake {
    /// Judges each event of a request, in order.
    pub(crate) fn judge(
        &self,
        arrival: &Arrival,
        events: &[Bytes],
        voice: &impl Voice,
    ) -> Result<Vec<Judged>, Turned> {
        let mut judged = Vec::with_capacity(events.len());
        let mut last: Option<AgentId> = None;
        for (index, event) in events.iter().enumerate() {
            let peeked = serde_json::from_slice::<Peek<'_>>(event);
            let is_object = peeked.is_ok();
            let named = peeked.ok().and_then(|peek| peek.agent_id);
            let Some(agent_id) = named.as_deref().or(voice.default_agent()) else {
                let result = self.without_agent(arrival, index, event, is_object);
                judged.push(Judged { agent: None, result });
                continue;
            };
            if !voice.may_speak_for(agent_id) {
                return Err(Turned::Unbound { index });
            }
            if !is_agent_id(agent_id) {
                let reason = RefusedReason::WrongType {
                    field: "agent_id".to_owned(),
                    expected: "1 to 128 bytes without control characters and / + #",
                    found: format!("{} bytes", agent_id.len()),
                };
                judged.push(Judged { agent: None, result: Err(refused(event, reason)) });
                continue;
            }
            let agent = last.take().filter(|last| **last == *agent_id).unwrap_or_else(|| agent_id.into());
            let result = self.single(arrival, index, event, &agent);
            judged.push(Judged { agent: Some(AgentId::clone(&agent)), result });
            last = Some(agent);
        }
        Ok(judged)
    }

    /// The records of events that were judged: a row or, for a refused one, a dead letter and where possible a
    /// marker.
    pub(crate) fn gather(&self, arrival: &Arrival, judged: Vec<Judged>) -> Parcel {
        let mut parcel = Parcel::default();
        let mut by_agent: BTreeMap<AgentId, Vec<Result<Row, Refused>>> = BTreeMap::new();
        for Judged { agent, result } in judged {
            match (agent, result) {
                (Some(agent), result) => by_agent.entry(agent).or_default().push(result),
                (None, Err(refused)) => {
                    self.bury(&mut parcel, arrival, None, &refused.original, &refused.reason.to_string());
                }
                // Nothing is taken in nobody's name.
                (None, Ok(_)) => {}
            }
        }
        for (agent, results) in by_agent {
            let key = Bytes::copy_from_slice(agent.as_bytes());
            self.fill(&mut parcel, arrival, &agent, &key, results);
        }
        parcel
    }

    /// The record of a person's word about an alert.
    pub(crate) fn feedback_record(&self, feedback: &Feedback) -> NewRecord {
        let value = framed(self.ids.feedback, &feedback.datum());
        NewRecord::keyed(self.feedback.clone(), feedback.key(), value)
    }

    #[expect(clippy::result_large_err, reason = "what the translator returns")]
    fn single(&self, arrival: &Arrival, index: usize, event: &Bytes, agent_id: &str) -> Result<Row, Refused> {
        // By its place, so that a request that is sent again under the same key of repetition mints the same.
        let mut mint = || arrival.mint.id(index);
        let context = Context {
            topic_agent: agent_id,
            topic_event_type: None,
            received_at: arrival.received_at,
            sent_at: arrival.sent_at,
            mint: &mut mint,
        };
        self.translator.single(event, context)
    }

    /// Finds the best reason for an event of which not even the agent can be told.
    #[expect(clippy::result_large_err, reason = "what the translator returns")]
    fn without_agent(
        &self,
        arrival: &Arrival,
        index: usize,
        event: &Bytes,
        is_object: bool,
    ) -> Result<Row, Refused> {
        let missing = || Err(refused(event, RefusedReason::Missing { field: "agent_id" }));
        if is_object {
            return missing();
        }
        match self.single(arrival, index, event, "") {
            Err(found) if !found.agent_mismatch => Err(refused(event, found.reason)),
            _ => missing(),
        }
    }
}

/// A refusal of which no identity is believed.
fn refused(event: &Bytes, reason: RefusedReason) -> Refused {
    Refused { reason, identity: None, original: event.clone(), agent_mismatch: false }
}

/// The events of a request, each by its bytes.
pub(crate) fn cut(body: &Bytes, form: Form) -> Result<Vec<Bytes>, Turned> {
    translate::cut(body, form).map_err(Turned::Whole)
}

//! From the JSON of one message to Avro rows: the hot path of the bridge, and pure.
//!
//! One element of a batch is judged alone: what is wrong with it never takes its neighbours. Per event there are two
//! passes that copy nothing: one cuts the envelope into slices of the text, one the payload; then the Avro datum is
//! written directly, driven by a table that is made of the `.avsc` files.
//!
//! What is accepted:
//! - integers where a floating-point number is asked for, and whole numbers such as `37.0` or `1e3` where an integer
//!   is asked for (up to 2^53, beyond which they are no longer exact); text is never taken for a number or the
//!   reverse;
//! - a session and a seq up to [`MAX_NUMBER`]; beyond, the identity counts as unreadable;
//! - times as integer µs or as RFC 3339 text; an event time before 2000 or after 9999 is refused;
//! - `null` for any field that may be missing;
//! - a known field twice is refused, since an ambiguous event is never guessed at; unknown fields are kept as written.
//!
//! Unknown payload fields go to the column `extra` as the text of a JSON object, unknown envelope fields below its key
//! `_envelope`. They, and the payload of a custom event, may nest [`MAX_DEPTH`] deep, and are checked so that any
//! reader can parse them later.
//!
//! Limits: [`MAX_MESSAGE_BYTES`], [`MAX_EVENT_BYTES`], [`MAX_EVENTS`], [`MAX_UNKNOWN_FIELDS`].

mod control;
mod datum;
mod event;
mod feedback;
mod refused;
mod sample;
mod split;
mod strict;
mod table;
mod value;
mod walk;

use bytes::Bytes;

pub use control::{Clock, Rejected};
pub use feedback::{Feedback, FeedbackRefused, MAX_AUTHOR_BYTES, MAX_NOTE_BYTES, Verdict};
pub use refused::{Refused, RefusedReason};
pub use split::{Form, cut};

use crate::family::Family;
use crate::identity::{AgentId, Lane};
use crate::mqtt::Sample;
use table::Table;

/// Largest message, in bytes.
pub const MAX_MESSAGE_BYTES: usize = crate::mqtt::MAX_PAYLOAD_BYTES;
/// Largest single event, in bytes of JSON.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;
/// Most events in one message.
pub const MAX_EVENTS: usize = 10_000;
/// Most unknown fields in one object.
pub const MAX_UNKNOWN_FIELDS: usize = 1_000;
/// Largest session and largest seq: 2^53, which every reader of JSON takes exactly and to which one can be added.
pub const MAX_NUMBER: i64 = 1 << 53;
/// Deepest nesting of arrays and objects in an unknown field or in the payload of a custom event.
pub const MAX_DEPTH: u8 = 32;

/// What is known of a message beside its payload.
pub struct Context<'a> {
    /// The agent that the topic, or the key of an HTTP request, speaks for.
    pub topic_agent: &'a str,
    /// The event type in the topic, for events that do not name their own.
    pub topic_event_type: Option<&'a str>,
    /// When the bridge received the message, in µs.
    pub received_at: i64,
    /// When the agent sent it, in µs by its own clock, where it says so.
    pub sent_at: Option<i64>,
    /// Makes an id for an event that has neither sequence nor id.
    pub mint: &'a mut dyn FnMut() -> String,
}

/// One event, ready for Kafka once it is framed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Decides the schema.
    pub family: Family,
    /// Which agent; the key.
    pub agent_id: AgentId,
    /// Session; 0 for foreign events.
    pub session: i64,
    /// Lane; `foreign` for sources without sequence.
    pub lane: Lane,
    /// Seq; -1 for foreign events.
    pub seq: i64,
    /// The Avro datum, without the prefix of the wire format.
    pub datum: Vec<u8>,
    /// When it happened, in µs.
    pub event_time: i64,
}

/// Turns messages into rows. Built once, shared by all threads.
#[derive(Debug)]
pub struct Translator {
    /// In the order of [`Family::ALL`].
    tables: [Table; Family::ALL.len()],
}

impl Default for Translator {
    fn default() -> Self {
        Self::new()
    }
}

impl Translator {
    /// Compiles the schemas of all families.
    pub fn new() -> Self {
        Self { tables: Family::ALL.map(Table::new) }
    }

    /// Judges a message: one event, or an array of events. The result has one entry for each event, in order; a
    /// message that is neither, or whose array does not hold together, is one [`Refused`] with all its bytes.
    pub fn message(&self, payload: &Bytes, mut ctx: Context<'_>) -> Vec<Result<Row, Refused>> {
        let job = event::Job { replayed: false, agent_id: ctx.topic_agent.into() };
        split::elements(payload, |element| self.event(&job, element, &mut ctx))
    }

    /// Judges one event that [`cut`] has cut out of a message.
    #[expect(clippy::result_large_err, reason = "a refusal travels by value, as rows do; it is rare")]
    pub fn single(&self, event: &Bytes, mut ctx: Context<'_>) -> Result<Row, Refused> {
        let job = event::Job { replayed: false, agent_id: ctx.topic_agent.into() };
        self.event(&job, event, &mut ctx).map_err(|refusal| refusal.with(event.clone()))
    }

    /// Judges a message on one of the sample topics, whose payloads have no envelope: each becomes a foreign event
    /// that happened when it was received (unless it says `event_time`). Memory is taken as MiB.
    pub fn sample(&self, sample: Sample, payload: &Bytes, mut ctx: Context<'_>) -> Vec<Result<Row, Refused>> {
        let job = event::Job { replayed: sample == Sample::LogsOffline, agent_id: ctx.topic_agent.into() };
        split::elements(payload, |element| {
            if sample == Sample::LogsOffline {
                return self.event(&job, element, &mut ctx);
            }
            let canonical = sample::canonical(sample, element, &ctx)?;
            self.event(&job, &canonical, &mut ctx)
        })
    }

    /// The Avro datum of a clock record, without prefix.
    pub fn clock(&self, clock: &Clock) -> Vec<u8> {
        clock.datum()
    }

    /// The Avro datum of a rejected marker, without prefix.
    pub fn rejected(&self, rejected: &Rejected) -> Vec<u8> {
        rejected.datum()
    }
}

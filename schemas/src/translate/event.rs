//! One event: envelope, identity, payload, and the datum made of them.

use std::borrow::Cow;

use super::refused::{Refusal, RefusedReason};
use super::table::{Table, Type};
use super::value::Field;
use super::walk::Fields;
use super::{Context, MAX_EVENT_BYTES, MAX_NUMBER, Row, Translator, datum, strict};
use crate::family::Family;
use crate::identity::{AgentId, FOREIGN_SEQ, FOREIGN_SESSION, Identity, Lane};

/// Longest text of `event_type`, `source` and `event_id`, in bytes.
const MAX_NAME_BYTES: usize = 256;
/// Key in `extra` under which unknown fields of the envelope are kept.
const ENVELOPE_KEY: &str = "_envelope";

/// Fields of the envelope as senders write them.
const NAMES: [&str; 12] = [
    "agent_id",
    "session",
    "lane",
    "seq",
    "event_id",
    "event_time",
    "event_type",
    "source",
    "host",
    "user",
    "replayed",
    "payload",
];
const AGENT_ID: usize = 0;
const SESSION: usize = 1;
const LANE: usize = 2;
const SEQ: usize = 3;
const EVENT_ID: usize = 4;
const EVENT_TIME: usize = 5;
const EVENT_TYPE: usize = 6;
const SOURCE: usize = 7;
const HOST: usize = 8;
const USER: usize = 9;
const REPLAYED: usize = 10;
const PAYLOAD: usize = 11;

/// What all events of one message share.
pub(super) struct Job {
    /// `replayed` of an event that does not say.
    pub(super) replayed: bool,
    pub(super) agent_id: AgentId,
}

struct Envelope<'a> {
    event_id: Option<Cow<'a, str>>,
    event_time: i64,
    event_type: Cow<'a, str>,
    source: Cow<'a, str>,
    host: Option<Cow<'a, str>>,
    user: Option<Cow<'a, str>>,
    replayed: bool,
    payload: &'a str,
}

impl Translator {
    /// Judges the bytes of one event.
    pub(super) fn event(&self, job: &Job, bytes: &[u8], ctx: &mut Context<'_>) -> Result<Row, Refusal> {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => return Err(not_utf8(job, bytes, error.valid_up_to())),
        };
        if !text.trim_ascii_start().starts_with('{') {
            return Err(RefusedReason::NotEvents { found: "an element that is no object" }.into());
        }
        let (fields, read) = Fields::read("", text, &NAMES);
        let identity = match (identity(job, &fields), &read) {
            (Ok(identity), _) => identity,
            // What breaks the text explains why the identity is not there.
            (Err(refusal), Err(reason)) if !refusal.agent_mismatch => return Err(reason.clone().into()),
            (Err(refusal), _) => return Err(refusal),
        };
        self.rest(job, bytes, &fields, read, &identity, ctx).map_err(|reason| Refusal {
            reason,
            identity: identity.is_sequenced().then(|| identity.clone()),
            agent_mismatch: false,
        })
    }

    /// All that is judged when the identity is known.
    fn rest(
        &self,
        job: &Job,
        bytes: &[u8],
        fields: &Fields<'_, '_, &str>,
        read: Result<(), RefusedReason>,
        identity: &Identity,
        ctx: &mut Context<'_>,
    ) -> Result<Row, RefusedReason> {
        read?;
        if bytes.len() > MAX_EVENT_BYTES {
            let (found, limit) = (bytes.len(), MAX_EVENT_BYTES);
            return Err(RefusedReason::TooLarge { what: "the event", found, limit });
        }
        let envelope = envelope(job, fields, ctx.topic_event_type)?;
        let family = Family::of_event_type(&envelope.event_type);
        let table = &self.tables[family as usize];
        let mut out = Vec::with_capacity(bytes.len() + 64);
        if family == Family::CustomEvent {
            check_kept("payload", envelope.payload)?;
            write_envelope(identity, &envelope, extra(fields, &[])?.as_deref(), ctx, &mut out);
            datum::optional_text(Some(envelope.payload), &mut out);
        } else {
            if envelope.payload == "null" {
                return Err(RefusedReason::Missing { field: NAMES[PAYLOAD] });
            }
            if !envelope.payload.starts_with('{') {
                let field = Field { within: "", name: "payload", raw: envelope.payload };
                return Err(field.wrong_type("an object"));
            }
            let (payload, read) = Fields::read("payload.", envelope.payload, &table.names);
            read?;
            write_envelope(identity, &envelope, extra(fields, payload.unknown())?.as_deref(), ctx, &mut out);
            write_payload(table, &payload, &mut out)?;
        }
        Ok(Row {
            family: table.family,
            agent_id: identity.agent_id.clone(),
            session: identity.session,
            lane: identity.lane,
            seq: identity.seq,
            datum: out,
            event_time: envelope.event_time,
        })
    }
}

fn field<'a>(fields: &Fields<'a, '_, &str>, place: usize) -> Option<Field<'a>> {
    fields.get(place).map(|raw| Field { within: "", name: NAMES[place], raw })
}

fn mandatory<'a>(fields: &Fields<'a, '_, &str>, place: usize) -> Result<Field<'a>, RefusedReason> {
    field(fields, place).ok_or(RefusedReason::Missing { field: NAMES[place] })
}

/// Which event it is. A source gives session, lane and seq, or none of them: then the event is foreign.
fn identity(job: &Job, fields: &Fields<'_, '_, &str>) -> Result<Identity, Refusal> {
    if let Some(field) = field(fields, AGENT_ID) {
        let agent_id = field.text()?;
        if agent_id != *job.agent_id {
            let (topic, event) = (job.agent_id.to_string(), agent_id.chars().take(80).collect());
            let reason = RefusedReason::AgentMismatch { topic, event };
            return Err(Refusal { reason, identity: None, agent_mismatch: true });
        }
    }
    let agent_id = job.agent_id.clone();
    let lane = match field(fields, LANE) {
        None => None,
        Some(field) => match Lane::parse(&field.text()?) {
            None => return Err(field.wrong_type("critical, normal, bulk or foreign").into()),
            lane => lane,
        },
    };
    let (session, seq) = (field(fields, SESSION), field(fields, SEQ));
    let is_foreign = match lane {
        Some(lane) => lane == Lane::Foreign,
        None => session.is_none() && seq.is_none(),
    };
    if is_foreign {
        for (given, only) in [(session, FOREIGN_SESSION), (seq, FOREIGN_SEQ)] {
            if let Some(field) = given.filter(|_| lane.is_some())
                && field.long()? != only
            {
                return Err(field.wrong_type("nothing for the lane foreign").into());
            }
        }
        return Ok(Identity { agent_id, session: FOREIGN_SESSION, lane: Lane::Foreign, seq: FOREIGN_SEQ });
    }
    let lane = lane.ok_or(RefusedReason::Missing { field: NAMES[LANE] })?;
    let session = session.ok_or(RefusedReason::Missing { field: NAMES[SESSION] })?;
    let session = number(session, 1, "a session of 1 to 2^53")?;
    let seq = seq.ok_or(RefusedReason::Missing { field: NAMES[SEQ] })?;
    let seq = number(seq, 0, "a seq of 0 to 2^53")?;
    Ok(Identity { agent_id, session, lane, seq })
}

fn number(field: Field<'_>, least: i64, expected: &'static str) -> Result<i64, RefusedReason> {
    let value = field.long()?;
    if (least..=MAX_NUMBER).contains(&value) {
        return Ok(value);
    }
    Err(RefusedReason::OutOfRange { field: field.path(), expected, found: value.to_string() })
}

fn envelope<'a>(
    job: &Job,
    fields: &Fields<'a, '_, &str>,
    topic_event_type: Option<&'a str>,
) -> Result<Envelope<'a>, RefusedReason> {
    let event_type = match (field(fields, EVENT_TYPE), topic_event_type) {
        (Some(field), _) => name(field)?,
        (None, Some(event_type)) => Cow::Borrowed(event_type),
        (None, None) => {
            return Err(RefusedReason::Missing { field: NAMES[EVENT_TYPE] });
        }
    };
    let payload = fields.written(PAYLOAD).ok_or(RefusedReason::Missing { field: NAMES[PAYLOAD] })?;
    Ok(Envelope {
        event_id: field(fields, EVENT_ID).map(name).transpose()?,
        event_time: mandatory(fields, EVENT_TIME)?.event_time()?,
        event_type,
        source: name(mandatory(fields, SOURCE)?)?,
        host: field(fields, HOST).map(|field| field.text()).transpose()?,
        user: field(fields, USER).map(|field| field.text()).transpose()?,
        replayed: field(fields, REPLAYED).map_or(Ok(job.replayed), |field| field.boolean())?,
        payload,
    })
}

/// A text that names something: neither empty nor long.
fn name(field: Field<'_>) -> Result<Cow<'_, str>, RefusedReason> {
    let text = field.text()?;
    if (1..=MAX_NAME_BYTES).contains(&text.len()) {
        return Ok(text);
    }
    let found = format!("{} bytes", text.len());
    Err(RefusedReason::OutOfRange { field: field.path(), expected: "a text of 1 to 256 bytes", found })
}

fn write_envelope(
    identity: &Identity,
    envelope: &Envelope<'_>,
    extra: Option<&str>,
    ctx: &mut Context<'_>,
    out: &mut Vec<u8>,
) {
    let minted = (identity.lane == Lane::Foreign && envelope.event_id.is_none()).then(|| (ctx.mint)());
    datum::text(&identity.agent_id, out);
    datum::long(identity.session, out);
    datum::text(identity.lane.as_str(), out);
    datum::long(identity.seq, out);
    datum::optional_text(envelope.event_id.as_deref().or(minted.as_deref()), out);
    datum::long(envelope.event_time, out);
    datum::text(&envelope.event_type, out);
    datum::text(&envelope.source, out);
    datum::optional_text(envelope.host.as_deref(), out);
    datum::optional_text(envelope.user.as_deref(), out);
    datum::boolean(envelope.replayed, out);
    datum::long(ctx.received_at, out);
    match ctx.sent_at {
        Some(sent_at) => {
            datum::present(out);
            datum::long(sent_at, out);
        }
        None => datum::null(out),
    }
    datum::null(out); // flags: set by normalisation
    datum::optional_text(extra, out);
}

fn write_payload(
    table: &Table,
    payload: &Fields<'_, '_, String>,
    out: &mut Vec<u8>,
) -> Result<(), RefusedReason> {
    for (place, (name, kind)) in table.names.iter().zip(&table.types).enumerate() {
        let Some(raw) = payload.get(place) else {
            datum::null(out);
            continue;
        };
        let field = Field { within: "payload.", name, raw };
        datum::present(out);
        match kind {
            Type::Text => datum::text(&field.text()?, out),
            Type::Int => datum::long(field.int()?.into(), out),
            Type::Long => datum::long(field.long()?, out),
            Type::Double => datum::double(field.double()?, out),
            Type::Boolean => datum::boolean(field.boolean()?, out),
            Type::Timestamp => datum::long(field.timestamp()?, out),
        }
    }
    Ok(())
}

/// The text of `extra`: unknown fields of payload and envelope, `None` if there are none.
fn extra(
    envelope: &Fields<'_, '_, &str>,
    payload: &[(Cow<'_, str>, &str)],
) -> Result<Option<String>, RefusedReason> {
    if payload.is_empty() && envelope.unknown().is_empty() {
        return Ok(None);
    }
    let mut text = String::from("{");
    append(&mut text, "payload.", payload)?;
    if !envelope.unknown().is_empty() {
        if !payload.is_empty() {
            text.push(',');
        }
        text.push_str(&quoted(ENVELOPE_KEY));
        text.push_str(":{");
        append(&mut text, "", envelope.unknown())?;
        text.push('}');
    }
    text.push('}');
    Ok(Some(text))
}

fn append(text: &mut String, within: &str, fields: &[(Cow<'_, str>, &str)]) -> Result<(), RefusedReason> {
    for (place, (name, raw)) in fields.iter().enumerate() {
        check_kept(&format!("{within}{name}"), raw)?;
        if place > 0 {
            text.push(',');
        }
        text.push_str(&quoted(name));
        text.push(':');
        text.push_str(raw);
    }
    Ok(())
}

fn quoted(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

fn check_kept(field: &str, raw: &str) -> Result<(), RefusedReason> {
    strict::check(raw).map_err(|detail| RefusedReason::Unreadable { field: field.to_owned(), detail })
}

/// Names the field with the bad bytes and reads the identity, as far as the rest of the text allows.
fn not_utf8(job: &Job, bytes: &[u8], at: usize) -> Refusal {
    const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;
    let text = String::from_utf8_lossy(bytes);
    let (fields, _) = Fields::read("", &text, &NAMES);
    let mut field = fields.find(REPLACEMENT).map(Cow::into_owned);
    if field.as_deref() == Some(NAMES[PAYLOAD]) {
        let none: [&str; 0] = [];
        let (inside, _) = Fields::read("", fields.get(PAYLOAD).unwrap_or_default(), &none);
        field = Some(inside.find(REPLACEMENT).map_or("payload".to_owned(), |name| format!("payload.{name}")));
    }
    let reason = RefusedReason::NotUtf8 { field, at };
    match identity(job, &fields) {
        Ok(identity) => {
            Refusal { reason, identity: identity.is_sequenced().then_some(identity), agent_mismatch: false }
        }
        Err(refusal) => Refusal { reason, ..refusal },
    }
}

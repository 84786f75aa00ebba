//! One pass over a micro-batch in offset order, across record types: decides, and picks what goes on.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, StringBuilder, UInt32Array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use arrow::error::ArrowError;
use eventlog::Record;
use eventlog::batches::Group;
use schemas::family::Family;
use schemas::identity::Lane;
use schemas::record::RecordKind;
use std::sync::Arc;

use super::features::Heard;
use super::status::StatusColumns;
use crate::event_time::{Row, Tracker, Verdict};
use crate::rules::{Seen, Tick};
use crate::windows::Timed;

/// µs of the log's clock.
const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

/// Flag of events that may be repeats.
const UNCERTAIN: &str = "dedup_uncertain";

/// Rows of one group that go on.
#[derive(Default)]
pub(super) struct Picked {
    /// Rows of the group, ascending.
    pub(super) rows: Vec<u32>,
    /// Event time to judge each by, and the agent's watermark before it.
    pub(super) times: Vec<Timed>,
    /// Whose each is.
    pub(super) heard: Vec<Heard>,
    /// Positions in `rows` of events that may be repeats.
    uncertain: Vec<u32>,
}

impl Picked {
    /// The record of the micro-batch that the row at this position of `rows` came from.
    pub(super) fn record(&self, group: &Group, at: u32) -> u32 {
        group.rows[self.rows[at as usize] as usize]
    }

    /// The rows as a batch: a slice if they are neighbours, else a copy.
    pub(super) fn batch(&self, of: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let (Some(first), Some(last)) = (self.rows.first(), self.rows.last()) else {
            return Ok(of.slice(0, 0));
        };
        let batch = if (last - first) as usize + 1 == self.rows.len() {
            of.slice(*first as usize, self.rows.len())
        } else {
            take_record_batch(of, &UInt32Array::from(self.rows.clone()))?
        };
        if self.uncertain.is_empty() { Ok(batch) } else { with_flag(&batch, &self.uncertain, UNCERTAIN) }
    }
}

/// What one segment of a micro-batch came to.
pub(super) struct Segment {
    /// First record after it.
    pub(super) end: usize,
    /// By group.
    pub(super) picked: Vec<Picked>,
    /// What was seen beside events; of agents that have become silent the open windows are emitted as they stand.
    pub(super) seen: Seen,
    /// Repeats left out.
    pub(super) duplicates: u64,
}

/// The decoded micro-batch, ready to be read in offset order.
pub(super) struct Scan<'a> {
    groups: Vec<Columns<'a>>,
    /// For each record its group and row; `u32::MAX` for what could not be read.
    places: Vec<(u32, u32)>,
    records: &'a [Record],
}

enum Columns<'a> {
    Events { events: EventColumns<'a>, status: Option<StatusColumns<'a>> },
    Clock { bridge: &'a StringArray, connected: &'a BooleanArray, goodbye: &'a BooleanArray },
    Rejected(IdentityColumns<'a>),
    Other,
}

struct IdentityColumns<'a> {
    agent: &'a StringArray,
    session: &'a Int64Array,
    lane: &'a StringArray,
    seq: &'a Int64Array,
}

struct EventColumns<'a> {
    identity: IdentityColumns<'a>,
    event_id: &'a StringArray,
    event_time: &'a [i64],
    received_at: &'a [i64],
    replayed: &'a BooleanArray,
}

impl<'a> Scan<'a> {
    pub(super) fn new(records: &'a [Record], groups: &'a [Group]) -> Result<Self, ArrowError> {
        let mut places = vec![(u32::MAX, 0); records.len()];
        for (group, found) in groups.iter().enumerate() {
            for (row, record) in found.rows.iter().enumerate() {
                places[*record as usize] = (group as u32, row as u32);
            }
        }
        let groups = groups.iter().map(Columns::of).collect::<Result<_, _>>()?;
        Ok(Self { groups, places, records })
    }

    /// Scans from `from` to the end, or to the first clock record at which something must be emitted: an agent has become
    /// silent, a minute of the log's clock begins, or `every_tick` asks for it.
    pub(super) fn segment(&self, tracker: &mut Tracker, from: usize, every_tick: bool) -> Segment {
        let mut picked: Vec<Picked> = Vec::new();
        picked.resize_with(self.groups.len(), Picked::default);
        let mut segment = Segment { end: self.records.len(), picked, seen: Seen::default(), duplicates: 0 };
        // Neighbouring rows are often of one agent; looking it up once is enough.
        let mut last: (&str, u32) = ("", 0);
        let mut known = |tracker: &mut Tracker, id: &'a str| {
            if last.0 != id || id.is_empty() {
                last = (id, tracker.intern(id));
            }
            last.1
        };
        for at in from..self.records.len() {
            let (group, row) = self.places[at];
            let Some(columns) = self.groups.get(group as usize) else {
                continue;
            };
            let index = row as usize;
            match columns {
                Columns::Events { events, status } => {
                    let identity = &events.identity;
                    let agent = known(tracker, identity.agent.value(index));
                    let lane = identity.lane(index);
                    let seen = Row {
                        agent,
                        session: identity.session.value(index),
                        lane,
                        seq: identity.seq.value(index),
                        event_id: events.event_id.is_valid(index).then(|| events.event_id.value(index)),
                        event_time: events.event_time[index],
                        received_at: events.received_at[index],
                        replayed: events.replayed.value(index),
                        hearsay: status.is_some() && lane == Lane::Foreign,
                        speaks: status.is_some() && lane != Lane::Foreign,
                    };
                    let decision = tracker.event(&seen);
                    notice(tracker, at, &mut segment.seen);
                    if decision.verdict == Verdict::Duplicate {
                        segment.duplicates += 1;
                        continue;
                    }
                    // The broker's last will and its like have no sequence and say nothing about sequences.
                    if let Some(status) = status
                        && !seen.hearsay
                    {
                        let said = status.read(index, seen.session);
                        tracker.status(agent, seen.session, decision.time, seen.received_at, &said);
                    }
                    let picked = &mut segment.picked[group as usize];
                    if decision.verdict == Verdict::Uncertain {
                        picked.uncertain.push(picked.rows.len() as u32);
                    }
                    picked.rows.push(row);
                    picked.times.push(Timed { time: decision.time, watermark: decision.watermark });
                    picked.heard.push(Heard {
                        agent,
                        interval: tracker.agent(agent).interval,
                        hearsay: seen.hearsay,
                    });
                }
                Columns::Clock { bridge, connected, goodbye } => {
                    let appended = self.records[at].timestamp.saturating_mul(1_000);
                    let (bridge, before) = (bridge.value(index), tracker.now());
                    let (connected, goodbye) = (connected.value(index), goodbye.value(index));
                    let silent = tracker.tick(bridge, appended, connected, goodbye);
                    notice(tracker, at, &mut segment.seen);
                    let (bridge, now) = (bridge.to_owned(), tracker.now());
                    let seen = &mut segment.seen;
                    seen.ticks.push(Tick { bridge, now, connected, goodbye });
                    seen.at_minute = now / MINUTE != before / MINUTE;
                    seen.at_hour = now / HOUR != before / HOUR;
                    if every_tick || seen.at_minute || !silent.is_empty() || tracker.has_expired() {
                        seen.at_tick = true;
                        seen.silent = silent;
                        segment.end = at + 1;
                        return segment;
                    }
                }
                Columns::Rejected(identity) => {
                    let agent = known(tracker, identity.agent.value(index));
                    let seq = identity.seq.value(index);
                    tracker.rejected(agent, identity.session.value(index), identity.lane(index), seq);
                }
                Columns::Other => {}
            }
        }
        segment
    }
}

/// Keeps the place of what the tracker noticed at a record.
fn notice(tracker: &mut Tracker, at: usize, seen: &mut Seen) {
    seen.noticed.extend(tracker.take_noticed().into_iter().map(|noticed| (at as u32, noticed)));
}

impl IdentityColumns<'_> {
    fn lane(&self, row: usize) -> Lane {
        // A lane that nobody knows has no sequence that could be trusted.
        Lane::parse(self.lane.value(row)).unwrap_or(Lane::Foreign)
    }
}

impl<'a> Columns<'a> {
    fn of(group: &'a Group) -> Result<Self, ArrowError> {
        let batch = &group.batch;
        Ok(match group.kind {
            RecordKind::Family(family) => Self::Events {
                events: EventColumns {
                    identity: identity(batch)?,
                    event_id: text(batch, "event_id")?,
                    event_time: micros(batch, "event_time")?,
                    received_at: micros(batch, "received_at")?,
                    replayed: flag(batch, "replayed")?,
                },
                status: (family == Family::AgentStatus).then(|| StatusColumns::new(batch)),
            },
            RecordKind::Clock => Self::Clock {
                bridge: text(batch, "bridge_id")?,
                connected: flag(batch, "mqtt_connected")?,
                goodbye: flag(batch, "goodbye")?,
            },
            RecordKind::Rejected => Self::Rejected(identity(batch)?),
            _ => Self::Other,
        })
    }
}

fn identity(batch: &RecordBatch) -> Result<IdentityColumns<'_>, ArrowError> {
    Ok(IdentityColumns {
        agent: text(batch, "agent_id")?,
        session: long(batch, "session")?,
        lane: text(batch, "lane")?,
        seq: long(batch, "seq")?,
    })
}

fn missing(name: &str) -> ArrowError {
    ArrowError::SchemaError(format!("column {name} is missing or has another type"))
}

/// A text column.
pub(super) fn text<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, ArrowError> {
    batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>()).ok_or_else(|| missing(name))
}

fn long<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a Int64Array, ArrowError> {
    let column = batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref());
    column.ok_or_else(|| missing(name))
}

fn flag<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a BooleanArray, ArrowError> {
    batch.column_by_name(name).and_then(|column| column.as_boolean_opt()).ok_or_else(|| missing(name))
}

/// A timestamp column, µs.
pub(super) fn micros<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [i64], ArrowError> {
    let column =
        batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    column.map(|column| &column.values()[..]).ok_or_else(|| missing(name))
}

/// Adds a flag to the `flags` column of some rows.
fn with_flag(batch: &RecordBatch, rows: &[u32], flag: &str) -> Result<RecordBatch, ArrowError> {
    let (at, _) = batch.schema_ref().column_with_name("flags").ok_or_else(|| missing("flags"))?;
    let flags = text(batch, "flags")?;
    let mut built = StringBuilder::new();
    let mut next = rows.iter().peekable();
    for row in 0..batch.num_rows() {
        let flagged = next.next_if(|wanted| **wanted as usize == row).is_some();
        match (flags.is_valid(row).then(|| flags.value(row)), flagged) {
            (Some(old), true) => built.append_value(format!("{old},{flag}")),
            (None, true) => built.append_value(flag),
            (old, false) => built.append_option(old),
        }
    }
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    columns[at] = Arc::new(built.finish());
    RecordBatch::try_new(batch.schema(), columns)
}

//! Rows become line protocol.
//!
//! One measurement per family. Tags are few and bounded ([`TagGuard`]: who, which kind, which device), everything else
//! is a field. A point is identified by measurement, tags and time, so two rows of one agent at the same
//! microsecond would overwrite each other: the nanoseconds below a microsecond hold `seq` modulo 1000, and the
//! lane is a tag. Events of foreign sources have no number, and often whole seconds: their nanoseconds and the tag
//! `slot`, one of 64, are of the hash of their id; those that still meet are counted. The nanoseconds of a window are its
//! revision, so that an older one that comes late does not overwrite a newer; whoever asks takes the last point of a
//! window. The same row always makes the same point, which makes a repeat harmless.
//!
//! The lines are built with the `influxdb-line-protocol` crate; two things it leaves to its caller. It writes
//! line breaks in tags as they are and doubles a backslash there, where InfluxDB 2 takes a backslash
//! before a comma for an escape, so both are replaced in tags. And it writes NaN and infinity, which InfluxDB refuses,
//! so such a field is left out.

use std::{collections::HashMap, hash::Hasher as _};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch,
        StringArray,
    },
    datatypes::{DataType, Float64Type, Int32Type},
};
use bytes::Bytes;
use influxdb_line_protocol::{
    LineProtocolBuilder,
    builder::{AfterField, AfterMeasurement, FieldValue},
};
use schemas::{family::Family, record::RecordKind};

use super::tags::TagGuard;
use crate::{
    SinkError,
    batch::{Place, Rows},
    column, row_json,
};

/// Times that InfluxDB takes, in µs: it keeps nanoseconds in 64 bits.
const EARLIEST: i64 = i64::MIN / 1000 + 1;
const LATEST: i64 = i64::MAX / 1000 - 1;
/// Values of the tag that keeps events of foreign sources apart.
const SLOTS: u64 = 64;

/// Lines of one write, each with the place of its row.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) text: Vec<u8>,
    /// End of each line in `text`, its line break included.
    pub(super) ends: Vec<(usize, Place)>,
    /// Rows that cannot be a point: where, why, and the row as JSON.
    pub(super) refused: Vec<(Place, String, Bytes)>,
    /// Rows that overwrite another of the same batch, for their ids hash alike.
    pub(super) overwriting: u64,
}

impl Lines {
    /// Forgets the lines from number `done` on whose place is not wanted.
    pub(super) fn keep(&mut self, done: usize, wanted: impl Fn(&Place) -> bool) {
        let begin = done.checked_sub(1).map_or(0, |last| self.ends[last].0);
        let mut kept = self.text[..begin].to_vec();
        let rest = self.ends.split_off(done);
        let mut start = begin;
        for (end, place) in rest {
            if wanted(&place) {
                kept.extend_from_slice(&self.text[start..end]);
                self.ends.push((kept.len(), place));
            }
            start = end;
        }
        self.text = kept;
    }
}

/// Measurement, time column and tags of a kind of record; `None` for what is no time series.
fn measured(kind: RecordKind) -> Option<(&'static str, &'static str, &'static [&'static str])> {
    let time = "event_time";
    match kind {
        RecordKind::Family(Family::HostMetrics) => Some((
            "host_metrics",
            time,
            &["agent_id", "disk", "event_type", "host", "lane", "net_interface", "sensor"],
        )),
        RecordKind::Family(Family::ProcessEvent) => {
            Some(("process_event", time, &["agent_id", "event_type", "host", "lane", "path_class"]))
        }
        RecordKind::Family(Family::FileEvent) => {
            Some(("file_event", time, &["agent_id", "event_type", "host", "lane", "path_class"]))
        }
        // Anybody may invent event types; as a tag they would be series without bound.
        RecordKind::Family(Family::CustomEvent) => {
            Some(("custom_event", time, &["agent_id", "host", "lane"]))
        }
        RecordKind::Family(family) => {
            Some((family.name(), time, &["agent_id", "event_type", "host", "lane"]))
        }
        RecordKind::Feature1m => Some(("features_1m", "window_start", &["agent_id", "host"])),
        RecordKind::Feature5m => Some(("features_5m", "window_start", &["agent_id", "host"])),
        RecordKind::Feature1h => Some(("features_1h", "window_start", &["agent_id", "host"])),
        // Users would have to be a tag, and whoever sends may name any number of them.
        RecordKind::UserFeature1m
        | RecordKind::UserFeature5m
        | RecordKind::UserFeature1h
        | RecordKind::Clock
        | RecordKind::Rejected
        | RecordKind::Feedback
        | RecordKind::FleetRow
        | RecordKind::Alert => None,
    }
}

/// Appends the lines of these rows. `skip`: columns that are not written.
pub(super) fn append(
    rows: &Rows,
    skip: &[String],
    guard: &mut TagGuard,
    lines: &mut Lines,
) -> Result<(), SinkError> {
    let Some((measurement, time, tag_names)) = rows.kind.and_then(measured) else {
        return Ok(());
    };
    let batch = &rows.batch;
    let times = column::long(batch, time)?;
    let mut tags = Vec::with_capacity(tag_names.len());
    for name in tag_names {
        tags.push((*name, column::text(batch, name)?));
    }
    let schema = batch.schema();
    let mut fields = Vec::new();
    for (field, array) in schema.fields().iter().zip(batch.columns()) {
        let name = field.name().as_str();
        let wanted =
            name != time && !tag_names.contains(&name) && !skip.iter().any(|skipped| skipped == name);
        if wanted && array.null_count() < array.len() {
            fields.push((field.name().clone(), Field::of(name, array)?));
        }
    }
    let suffix = Suffix::of(batch)?;
    let agents = column::text(batch, "agent_id")?;
    let mut foreign: HashMap<u64, u64> = HashMap::new();
    for (row, place) in rows.places.iter().enumerate() {
        let micros = times.value(row);
        if times.is_null(row) || !(EARLIEST..=LATEST).contains(&micros) {
            let reason = format!("{time} {micros} µs is outside what InfluxDB can store");
            lines.refused.push((*place, reason, row_json::row(batch, row)));
            continue;
        }
        let start = lines.text.len();
        let text = std::mem::take(&mut lines.text);
        let mut line = LineProtocolBuilder::new_with(text).measurement(measurement);
        let agent = column::cell(agents, row).unwrap_or_default();
        let id = suffix.foreign(row);
        let mut point = xxhash_rust::xxh3::Xxh3Default::new();
        for (name, column) in &tags {
            if let Some(value) = column::cell(column, row) {
                let value = if *name == "agent_id" { value } else { guard.admit(agent, name, value) };
                line = tag(line, name, value);
                point.write(value.as_bytes());
            }
            point.write_u8(0);
        }
        if let Some(id) = id {
            line = line.tag("slot", &(id / 1000 % SLOTS).to_string());
            point.write_u64(id / 1000 % SLOTS);
            point.write_i64(micros);
            point.write_u64(id % 1000);
            lines.overwriting +=
                u64::from(foreign.insert(point.finish(), id).is_some_and(|other| other != id));
        }
        let mut pending = Pending::NoField(line);
        for (name, field) in &fields {
            pending = field.write(row, name, pending);
        }
        match pending {
            Pending::Fields(line) => {
                let nanos = micros * 1000 + suffix.of_row(row);
                lines.text = line.timestamp(nanos).close_line().build();
                lines.ends.push((lines.text.len(), *place));
            }
            Pending::NoField(line) => {
                // A point needs a field; take the begun line back.
                lines.text = line.field("x", true).close_line().build();
                lines.text.truncate(start);
                let reason = "the row has no field that InfluxDB can store".to_owned();
                lines.refused.push((*place, reason, row_json::row(batch, row)));
            }
        }
    }
    Ok(())
}

type Buffer<S> = LineProtocolBuilder<Vec<u8>, S>;

fn tag(line: Buffer<AfterMeasurement>, name: &str, value: &str) -> Buffer<AfterMeasurement> {
    if value.is_empty() {
        return line;
    }
    if value.chars().all(|character| !character.is_control() && character != '\\') {
        return line.tag(name, value);
    }
    let replace = |character: char| match character {
        '\\' => '/',
        other if other.is_control() => ' ',
        other => other,
    };
    line.tag(name, &value.chars().map(replace).collect::<String>())
}

/// A line before and after its first field: the builder's types differ.
enum Pending {
    NoField(Buffer<AfterMeasurement>),
    Fields(Buffer<AfterField>),
}

impl Pending {
    fn with<V: FieldValue>(self, name: &str, value: V) -> Self {
        Self::Fields(match self {
            Self::NoField(line) => line.field(name, value),
            Self::Fields(line) => line.field(name, value),
        })
    }
}

enum Field<'a> {
    Text(&'a StringArray),
    Long(Int64Array),
    Int(&'a Int32Array),
    Double(&'a Float64Array),
    Boolean(&'a BooleanArray),
}

impl<'a> Field<'a> {
    fn of(name: &str, array: &'a ArrayRef) -> Result<Self, SinkError> {
        if let Some(longs) = column::as_long(array) {
            return Ok(Self::Long(longs));
        }
        match array.data_type() {
            DataType::Utf8 => Ok(Self::Text(array.as_string())),
            DataType::Int32 => Ok(Self::Int(array.as_primitive::<Int32Type>())),
            DataType::Float64 => Ok(Self::Double(array.as_primitive::<Float64Type>())),
            DataType::Boolean => Ok(Self::Boolean(array.as_boolean())),
            other => Err(SinkError::Fatal(format!("column `{name}` has the unexpected type {other}"))),
        }
    }

    fn write(&self, row: usize, name: &str, line: Pending) -> Pending {
        match self {
            Self::Text(array) if array.is_valid(row) => line.with(name, array.value(row)),
            Self::Long(array) if array.is_valid(row) => line.with(name, array.value(row)),
            Self::Int(array) if array.is_valid(row) => line.with(name, i64::from(array.value(row))),
            Self::Double(array) if array.is_valid(row) && array.value(row).is_finite() => {
                line.with(name, array.value(row))
            }
            Self::Boolean(array) if array.is_valid(row) => line.with(name, array.value(row)),
            _ => line,
        }
    }
}

/// Nanoseconds below the microsecond that keep rows of one instant apart.
enum Suffix<'a> {
    /// Events: the sequence number, or for foreign events their id.
    Identity { seq: Int64Array, event_id: &'a StringArray },
    /// Features: one row a window and revision.
    Revision(Int64Array),
}

impl<'a> Suffix<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, SinkError> {
        if batch.column_by_name("seq").is_none() {
            return Ok(Self::Revision(column::int(batch, "revision")?.unary(i64::from)));
        }
        Ok(Self::Identity { seq: column::long(batch, "seq")?, event_id: column::text(batch, "event_id")? })
    }

    /// The hash of the row's id, if it is of a foreign source.
    fn foreign(&self, row: usize) -> Option<u64> {
        let Self::Identity { event_id, .. } = self else { return None };
        let mut hash = xxhash_rust::xxh3::Xxh3Default::new();
        hash.write(column::cell(event_id, row)?.as_bytes());
        Some(hash.finish())
    }

    fn of_row(&self, row: usize) -> i64 {
        match self {
            Self::Revision(revision) => revision.value(row).clamp(0, 999),
            Self::Identity { seq, .. } => {
                self.foreign(row).map_or_else(|| seq.value(row).rem_euclid(1000), |id| (id % 1000) as i64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::TimestampMicrosecondArray;
    use arrow::datatypes::{Field as ArrowField, Schema, TimeUnit};
    use influxdb_line_protocol::{FieldValue, parse_lines};
    use proptest::prelude::*;

    use super::*;

    fn rows(columns: Vec<(&str, ArrayRef)>) -> Rows {
        let mut all: Vec<(&str, ArrayRef)> = columns;
        let count = all[0].1.len();
        let empty: ArrayRef = Arc::new(StringArray::new_null(count));
        for name in ["agent_id", "event_type", "host", "lane", "event_id"] {
            if !all.iter().any(|(found, _)| *found == name) {
                all.push((name, Arc::clone(&empty)));
            }
        }
        let field =
            |(name, array): &(&str, ArrayRef)| ArrowField::new(*name, array.data_type().clone(), true);
        let schema = Schema::new(all.iter().map(field).collect::<Vec<_>>());
        let batch = RecordBatch::try_new(Arc::new(schema), all.into_iter().map(|(_, array)| array).collect())
            .unwrap();
        let place = |offset: usize| Place { partition: 0, offset: offset as i64, timestamp: 0 };
        Rows {
            kind: Some(RecordKind::Family(Family::UserActivity)),
            places: (0..count).map(place).collect(),
            batch,
        }
    }

    fn guard() -> TagGuard {
        TagGuard::new(100)
    }

    fn times(values: Vec<i64>) -> ArrayRef {
        let array = TimestampMicrosecondArray::from(values);
        assert!(matches!(array.data_type(), DataType::Timestamp(TimeUnit::Microsecond, None)));
        Arc::new(array)
    }

    fn text(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn longs(values: Vec<i64>) -> ArrayRef {
        Arc::new(Int64Array::from(values))
    }

    #[test]
    fn rows_of_one_instant_are_kept_apart_and_a_repeat_is_the_same_line() {
        let rows = rows(vec![
            ("event_time", times(vec![5, 5])),
            ("agent_id", text(&["a", "a"])),
            ("lane", text(&["bulk", "bulk"])),
            ("seq", longs(vec![1999, 2000])),
        ]);
        let mut lines = Lines::default();
        append(&rows, &[], &mut guard(), &mut lines).unwrap();
        let expected = "user_activity,agent_id=a,lane=bulk seq=1999i 5999\nuser_activity,agent_id=a,lane=bulk seq=2000i 5000\n";
        assert_eq!(String::from_utf8(lines.text.clone()).unwrap(), expected);
        let mut again = Lines::default();
        append(&rows, &[], &mut guard(), &mut again).unwrap();
        assert_eq!(again.text, lines.text);
    }

    #[test]
    fn a_row_that_can_be_no_point_is_refused_and_its_neighbours_stay() {
        let rows = rows(vec![
            ("event_time", times(vec![i64::MAX, 7])),
            ("agent_id", text(&["a", "b"])),
            ("seq", longs(vec![1, 2])),
            ("active_s", Arc::new(Float64Array::from(vec![f64::NAN, f64::INFINITY]))),
        ]);
        let mut lines = Lines::default();
        append(&rows, &["idle_s".to_owned()], &mut guard(), &mut lines).unwrap();
        assert_eq!(String::from_utf8(lines.text).unwrap(), "user_activity,agent_id=b seq=2i 7002\n");
        assert_eq!(lines.refused.len(), 1);
        assert_eq!(lines.refused[0].0.offset, 0);
    }

    #[test]
    fn a_row_without_fields_leaves_no_half_line() {
        let rows =
            rows(vec![("event_time", times(vec![1])), ("agent_id", text(&["a"])), ("seq", longs(vec![1]))]);
        let mut lines = Lines::default();
        append(&rows, &["seq".to_owned()], &mut guard(), &mut lines).unwrap();
        assert!(lines.text.is_empty() && lines.ends.is_empty());
        assert_eq!(lines.refused.len(), 1);
    }

    /// Whole seconds of one agent: a thousand events must stay a thousand points.
    #[test]
    fn events_of_foreign_sources_at_one_instant_stay_apart_and_those_that_meet_are_counted() {
        let ids: Vec<String> = (0..1000).map(|n| format!("event-{n}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let rows = rows(vec![
            ("event_time", times(vec![1_000_000; 1000])),
            ("agent_id", text(&["a"; 1000])),
            ("event_id", text(&ids)),
            ("seq", longs(vec![0; 1000])),
        ]);
        let mut lines = Lines::default();
        append(&rows, &[], &mut guard(), &mut lines).unwrap();
        let all = String::from_utf8(lines.text).unwrap();
        let point = |line: &str| {
            let (tags, rest) = line.split_once(' ').unwrap();
            (tags.to_owned(), rest.rsplit_once(' ').unwrap().1.to_owned())
        };
        let points: std::collections::HashSet<_> = all.lines().map(point).collect();
        assert_eq!(points.len() as u64 + lines.overwriting, 1000);
        assert!(points.len() > 970, "{}", points.len());
        assert!(all.starts_with("user_activity,agent_id=a,slot="), "{}", &all[..60]);
    }

    #[test]
    fn revisions_of_a_window_are_points_of_their_own_and_the_newest_is_the_last() {
        let window = |revisions: Vec<i32>| {
            let count = revisions.len();
            Rows {
                kind: Some(RecordKind::Feature1m),
                ..rows(vec![
                    ("window_start", times(vec![60_000_000; count])),
                    ("revision", Arc::new(Int32Array::from(revisions))),
                ])
            }
        };
        let mut lines = Lines::default();
        append(&window(vec![1, 0, 5000]), &[], &mut guard(), &mut lines).unwrap();
        let all = String::from_utf8(lines.text).unwrap();
        let at: Vec<i64> = all.lines().map(|l| l.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
        assert_eq!(at, [60_000_000_001, 60_000_000_000, 60_000_000_999]);
    }

    #[test]
    fn a_device_name_beyond_the_limit_is_no_series_of_its_own() {
        let rows = rows(vec![
            ("event_time", times(vec![1, 2, 3])),
            ("agent_id", text(&["a", "a", "b"])),
            ("host", text(&["one", "two", "two"])),
            ("seq", longs(vec![0, 0, 0])),
        ]);
        let mut lines = Lines::default();
        append(&rows, &[], &mut TagGuard::new(1), &mut lines).unwrap();
        let all = String::from_utf8(lines.text).unwrap();
        let hosts: Vec<&str> = all.lines().map(|l| l.split(' ').next().unwrap()).collect();
        let expected = [
            "user_activity,agent_id=a,host=one",
            "user_activity,agent_id=a,host=other",
            "user_activity,agent_id=b,host=two",
        ];
        assert_eq!(hosts, expected);
    }

    #[test]
    fn lines_that_are_not_wanted_go_and_those_already_written_stay() {
        let rows = rows(vec![
            ("event_time", times(vec![1, 2, 3, 4])),
            ("agent_id", text(&["a", "b", "c", "d"])),
            ("seq", longs(vec![0; 4])),
        ]);
        let mut lines = Lines::default();
        append(&rows, &[], &mut guard(), &mut lines).unwrap();
        lines.keep(1, |place| place.offset == 2);
        let all = String::from_utf8(lines.text.clone()).unwrap();
        assert_eq!(all, "user_activity,agent_id=a seq=0i 1000\nuser_activity,agent_id=c seq=0i 3000\n");
        assert_eq!(lines.ends.iter().map(|(_, place)| place.offset).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(lines.ends.last().unwrap().0, all.len());
    }

    proptest! {
        /// Whatever the texts and numbers are: one line a row, and the parser reads back what was written.
        #[test]
        fn any_value_comes_back(
            agent in "[^\\x00-\\x1f\\x7f-\\x9f\\\\]{1,20}",
            value: String,
            number: i64,
            double in proptest::num::f64::NORMAL,
            flag: bool,
        ) {
            let rows = rows(vec![
                ("event_time", times(vec![1_763_683_200_000_000])),
                ("agent_id", text(&[&agent])),
                ("seq", longs(vec![number])),
                ("note", text(&[&value])),
                ("active_s", Arc::new(Float64Array::from(vec![double]))),
                ("mouse", Arc::new(BooleanArray::from(vec![flag]))),
            ]);
            let mut lines = Lines::default();
            append(&rows, &[], &mut guard(), &mut lines).unwrap();
            let text = String::from_utf8(lines.text).unwrap();
            let parsed: Vec<_> = parse_lines(&text).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(parsed.len(), 1);
            prop_assert_eq!(parsed[0].tag_value("agent_id").unwrap().to_string(), agent);
            let field = |name: &str| parsed[0].field_value(name).cloned();
            prop_assert_eq!(field("seq"), Some(FieldValue::I64(number)));
            prop_assert_eq!(field("active_s"), Some(FieldValue::F64(double)));
            prop_assert_eq!(field("mouse"), Some(FieldValue::Boolean(flag)));
            match field("note") {
                Some(FieldValue::String(note)) => prop_assert_eq!(note.to_string(), value),
                other => prop_assert!(false, "no text but {:?}", other),
            }
        }

        /// Control characters and backslashes in tags neither break the line nor reach the store.
        #[test]
        fn no_tag_breaks_a_line(agent: String) {
            let rows = rows(vec![
                ("event_time", times(vec![0])),
                ("agent_id", text(&[&agent])),
                ("seq", longs(vec![0])),
            ]);
            let mut lines = Lines::default();
            append(&rows, &[], &mut guard(), &mut lines).unwrap();
            let text = String::from_utf8(lines.text).unwrap();
            prop_assert_eq!(text.matches('\n').count(), 1);
            prop_assert_eq!(parse_lines(&text).flatten().count(), 1);
        }
    }
}

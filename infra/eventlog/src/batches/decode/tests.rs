use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use schemas::family::Family;

use super::*;
use crate::batches::BatchEncoder;
use crate::registry::{MemoryRegistry, SchemaIds, register_all};

const CLOCK: RecordKind = RecordKind::Clock;
const REJECTED: RecordKind = RecordKind::Rejected;

struct Bench {
    registry: Arc<MemoryRegistry>,
    ids: SchemaIds,
    decoder: BatchDecoder,
}

impl Bench {
    fn new() -> Self {
        let registry = Arc::new(MemoryRegistry::new());
        let ids = register_all(registry.as_ref()).unwrap();
        let decoder = BatchDecoder::new(registry.clone());
        Self { registry, ids, decoder }
    }

    fn clock(&self, sequence: i64) -> Bytes {
        framed(self.ids.id(CLOCK), &clock_datum("bridge-1", sequence))
    }

    fn rejected(&self, seq: i64) -> Bytes {
        let mut datum = Vec::new();
        text("agent", &mut datum);
        long(5, &mut datum);
        text("normal", &mut datum);
        long(seq, &mut datum);
        text("no event_time", &mut datum);
        long(99, &mut datum);
        framed(self.ids.id(REJECTED), &datum)
    }

    fn decode(&mut self, values: &[Option<Bytes>]) -> Decoded {
        self.decoder.decode(&records(values)).unwrap()
    }
}

fn records(values: &[Option<Bytes>]) -> Vec<Record> {
    let record = |(offset, value): (i64, &Option<Bytes>)| Record {
        topic: "varta.raw".into(),
        partition: 0,
        offset,
        timestamp: 0,
        key: None,
        value: value.clone(),
        headers: Vec::new(),
    };
    (0..).zip(values).map(record).collect()
}

fn framed(id: u32, datum: &[u8]) -> Bytes {
    let mut out = Vec::new();
    schemas::wire::frame(id, datum, &mut out);
    Bytes::from(out)
}

fn long(value: i64, out: &mut Vec<u8>) {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while left >= 0x80 {
        out.push((left as u8 & 0x7f) | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

fn text(value: &str, out: &mut Vec<u8>) {
    long(value.len() as i64, out);
    out.extend_from_slice(value.as_bytes());
}

fn clock_datum(bridge: &str, sequence: i64) -> Vec<u8> {
    let mut datum = Vec::new();
    text(bridge, &mut datum);
    long(1_700_000_000_000_000 + sequence, &mut datum);
    long(sequence, &mut datum);
    datum.extend([1, 0]);
    datum
}

fn sequences(group: &Group) -> Vec<i64> {
    let column = group.batch.column_by_name("sequence").unwrap();
    column.as_primitive::<Int64Type>().values().to_vec()
}

fn poisoned(decoded: &Decoded) -> Vec<u32> {
    decoded.poison.iter().map(|(row, _)| *row).collect()
}

/// Each record is accounted for exactly once, rows ascend, and rows and batch have one length.
fn assert_whole(decoded: &Decoded, count: usize) {
    let mut seen: Vec<u32> = poisoned(decoded);
    for group in &decoded.groups {
        assert_eq!(group.batch.num_rows(), group.rows.len());
        assert!(group.rows.is_sorted() && !group.rows.is_empty());
        assert_eq!(group.batch.schema(), arrow_schema(group.kind));
        seen.extend(&group.rows);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..count as u32).collect::<Vec<_>>());
}

#[test]
fn mixed_kinds_come_apart_and_keep_their_order() {
    let mut bench = Bench::new();
    let values = [bench.clock(1), bench.rejected(7), bench.clock(2), bench.clock(3)].map(Some);
    let decoded = bench.decode(&values);
    assert_whole(&decoded, 4);
    let kinds: Vec<RecordKind> = decoded.groups.iter().map(|group| group.kind).collect();
    assert_eq!(kinds, [CLOCK, REJECTED]);
    assert_eq!((sequences(&decoded.groups[0]), &decoded.groups[0].rows), (vec![1, 2, 3], &vec![0, 2, 3]));
    let times = decoded.groups[0].batch.column_by_name("bridge_time").unwrap();
    assert_eq!(times.data_type().to_string(), "Timestamp(µs, \"+00:00\")");
    assert_eq!(times.as_primitive::<TimestampMicrosecondType>().value(2), 1_700_000_000_000_003);
}

#[test]
fn each_kind_of_breakage_is_named_and_neighbours_are_kept() {
    let mut bench = Bench::new();
    let id = bench.ids.id(CLOCK);
    let whole = clock_datum("bridge-1", 5);
    let mut invalid = whole.clone();
    invalid[1] = 0xff;
    let mut twice = framed(id, &whole).to_vec();
    twice.extend_from_slice(&framed(id, &whole));
    let mut left_over = framed(id, &whole).to_vec();
    left_over.push(0);
    let broken = [
        (None, "no value"),
        (Some(Bytes::new()), "too few"),
        (Some(Bytes::from_static(b"{\"json\":1}")), "0x7b"),
        (Some(framed(id, &[])), "not a varta.Clock"),
        (Some(framed(id, &whole[..whole.len() - 2])), "cut short"),
        (Some(framed(id, &whole[..3])), "not a varta.Clock"),
        (Some(framed(id, &[0xff; 40])), "not a varta.Clock"),
        (Some(framed(id, &invalid)), "UTF-8"),
        (Some(framed(999, &whole)), "schema 999 is not in the registry"),
        (Some(Bytes::from(twice)), "left over"),
        (Some(Bytes::from(left_over)), "left over"),
    ];
    for (value, reason) in &broken {
        let values = [Some(bench.clock(1)), value.clone(), Some(bench.clock(2)), Some(bench.rejected(1))];
        let decoded = bench.decode(&values);
        assert_whole(&decoded, 4);
        assert_eq!(poisoned(&decoded), [1], "{reason}");
        assert!(
            decoded.poison[0].1.to_lowercase().contains(&reason.to_lowercase()),
            "{reason}: {:?}",
            decoded.poison
        );
        assert_eq!(sequences(&decoded.groups[0]), [1, 2], "{reason}");
    }
    // All at once, each between good ones.
    let mut values = Vec::new();
    for (number, (value, _)) in (0..).zip(&broken) {
        values.extend([Some(bench.clock(number)), value.clone()]);
    }
    let decoded = bench.decode(&values);
    assert_whole(&decoded, values.len());
    assert_eq!(decoded.poison.len(), broken.len());
    assert_eq!(sequences(&decoded.groups[0]), (0..broken.len() as i64).collect::<Vec<_>>());
}

#[test]
fn garbage_never_takes_a_good_record_with_it() {
    let mut bench = Bench::new();
    let ids: Vec<(RecordKind, u32)> = bench.ids.iter().collect();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..300 {
        let mut values = Vec::new();
        for number in 0..6 {
            values.push(Some(bench.clock(number)));
            let (_, id) = ids[random() as usize % ids.len()];
            let garbage: Vec<u8> = (0..random() % 60).map(|_| random() as u8).collect();
            values.push(Some(framed(id, &garbage)));
        }
        let decoded = bench.decode(&values);
        assert_whole(&decoded, values.len());
        for number in 0..6_u32 {
            assert!(!poisoned(&decoded).contains(&(number * 2)), "round {round}");
        }
    }
}

#[test]
fn an_older_version_gets_the_present_columns() {
    let mut bench = Bench::new();
    let older = r#"{"type":"record","name":"Clock","namespace":"varta","fields":[
        {"name":"bridge_id","type":"string"},
        {"name":"bridge_time","type":{"type":"long","logicalType":"timestamp-micros"}},
        {"name":"sequence","type":"long"},
        {"name":"mqtt_connected","type":"boolean"},
        {"name":"goodbye","type":"boolean"},
        {"name":"forgotten","type":["null","string"],"default":null}]}"#;
    let foreign = r#"{"type":"record","name":"Weather","namespace":"elsewhere","fields":[]}"#;
    let older = bench.registry.register("varta.Clock", older).unwrap();
    let foreign = bench.registry.register("elsewhere.Weather", foreign).unwrap();
    let mut datum = clock_datum("bridge-1", 2);
    datum.push(2);
    text("gone", &mut datum);
    let values = [bench.clock(1), framed(older, &datum), bench.clock(3), framed(foreign, &[])].map(Some);
    let decoded = bench.decode(&values);
    assert_whole(&decoded, 4);
    assert_eq!(decoded.groups.len(), 2);
    assert_eq!(sequences(&decoded.groups[1]), [2]);
    assert!(decoded.poison[0].1.contains("elsewhere.Weather"), "{:?}", decoded.poison);
}

#[test]
fn a_registry_that_is_away_loses_nothing() {
    let mut bench = Bench::new();
    let values = records(&[Some(bench.clock(1))]);
    bench.registry.set_down(true);
    assert!(matches!(bench.decoder.decode(&values), Err(RegistryError::Unavailable { .. })));
    bench.registry.set_down(false);
    assert_eq!(sequences(&bench.decoder.decode(&values).unwrap().groups[0]), [1]);
    // Once known, the registry is needed no more.
    bench.registry.set_down(true);
    assert_eq!(sequences(&bench.decoder.decode(&values).unwrap().groups[0]), [1]);
}

#[test]
fn what_is_encoded_is_what_was_decoded() {
    let mut bench = Bench::new();
    let values: Vec<Option<Bytes>> = (0..5).map(|number| Some(bench.clock(number))).collect();
    let decoded = bench.decode(&values);
    let mut encoder = BatchEncoder::new(CLOCK, bench.ids.id(CLOCK));
    for _ in 0..2 {
        let encoded = encoder.encode(&decoded.groups[0].batch).unwrap();
        assert_eq!(encoded.into_iter().map(Some).collect::<Vec<_>>(), values);
    }
    let other = arrow_schema(RecordKind::Family(Family::HostMetrics));
    let one = RecordBatch::new_empty(other);
    assert_eq!(encoder.encode(&one).unwrap(), Vec::<Bytes>::new());
    let wrong = bench.rejected(1);
    let wrong = bench.decode(&[Some(wrong)]).groups.remove(0).batch;
    assert!(encoder.encode(&wrong).unwrap_err().to_string().contains("varta.Clock"));
    assert_eq!(encoder.encode(&decoded.groups[0].batch).unwrap().len(), 5);
}

#[test]
fn every_kind_has_a_decoder_and_an_encoder() {
    let bench = Bench::new();
    for kind in RecordKind::ALL {
        Version::new(bench.ids.id(kind), Arc::from(kind.avsc()), false).map(drop).unwrap();
        let empty = RecordBatch::new_empty(arrow_schema(kind));
        BatchEncoder::new(kind, 1).encode(&empty).unwrap();
    }
}

#[test]
fn fields_of_a_newer_version_become_columns_where_they_are_wanted() {
    let mut bench = Bench::new();
    let mut newer: serde_json::Value = serde_json::from_str(CLOCK.avsc()).unwrap();
    newer["fields"].as_array_mut().unwrap().extend([
        serde_json::json!({"name": "zone", "type": ["null", "string"], "default": null}),
        serde_json::json!({"name": "parts", "type": {"type": "array", "items": "long"}, "default": []}),
        serde_json::json!({"name": "rank", "type": "long", "default": 0}),
    ]);
    let id = bench.registry.register(CLOCK.subject(), &newer.to_string()).unwrap();
    let mut datum = clock_datum("bridge-1", 7);
    long(1, &mut datum);
    text("attic", &mut datum);
    long(0, &mut datum);
    long(42, &mut datum);
    let values = [Some(bench.clock(6)), Some(framed(id, &datum)), Some(framed(id, &datum[..3]))];

    let plain = bench.decode(&values);
    assert!(plain.groups.iter().all(|group| group.batch.schema() == arrow_schema(CLOCK)));
    assert_eq!(plain.poison.len(), 1);

    bench.decoder = BatchDecoder::growing(bench.registry.clone());
    let grown = bench.decode(&values);
    assert_eq!(grown.poison.len(), 1);
    assert_eq!(grown.groups[0].batch.schema(), arrow_schema(CLOCK));
    let batch = &grown.groups[1].batch;
    let known = arrow_schema(CLOCK).fields().len();
    assert_eq!(batch.num_columns(), known + 2);
    assert_eq!(batch.column_by_name("zone").unwrap().as_string::<i32>().value(0), "attic");
    assert_eq!(batch.column_by_name("rank").unwrap().as_primitive::<Int64Type>().value(0), 42);
    assert_eq!(batch.column_by_name("sequence").unwrap().as_primitive::<Int64Type>().value(0), 7);
}

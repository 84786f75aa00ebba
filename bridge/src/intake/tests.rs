use schemas::headers::dead_letter::{ORIGIN, REASON};
use schemas::mqtt::{batch_topic, event_topic, sample_topic, status_topic};

use super::*;

const REJECTED: u32 = 99;
const CLOCK: u32 = 98;
const NOW: i64 = 1_763_683_200_000_000;

fn intake() -> Intake {
    let ids = WriterIds::new(|kind| match kind {
        RecordKind::Family(family) => 10 + family as u32,
        RecordKind::Rejected => REJECTED,
        RecordKind::Clock => CLOCK,
        _ => 0,
    });
    Intake::new("bridge-1", Translator::new(), ids, &Topics::default())
}

fn schema_id(family: Family) -> u32 {
    10 + family as u32
}

fn arrival(topic: &str, payload: impl Into<Bytes>) -> Arrival {
    Arrival {
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        payload: payload.into(),
        sent_at: Some(NOW - 1),
        received_at: NOW,
        mint: Mint { process: Uuid::nil(), message: 7 },
    }
}

fn event(seq: i64) -> serde_json::Value {
    json!({
        "agent_id": "pc001", "session": 5, "lane": "normal", "seq": seq, "event_time": NOW - 10,
        "event_type": "cpu_usage", "source": "system/procfs", "payload": {"cpu_percent": 37.5},
    })
}

/// The event with some fields replaced.
fn with(seq: i64, changes: &serde_json::Value) -> serde_json::Value {
    let mut event = event(seq);
    for (field, value) in changes.as_object().unwrap() {
        event[field] = value.clone();
    }
    event
}

fn span(first: i64, last: i64) -> Span {
    Span { session: 5, lane: Lane::Normal, first, last }
}

/// Schema ids of the records in raw, in order.
fn raw_ids(parcel: &Parcel) -> Vec<u32> {
    let raw = parcel.records.iter().filter(|record| &*record.topic == "varta.raw");
    raw.map(|record| wire::unframe(record.value.as_ref().unwrap()).unwrap().0).collect()
}

fn letters(parcel: &Parcel) -> Vec<&NewRecord> {
    parcel.records.iter().filter(|record| &*record.topic == "varta.dlq").collect()
}

fn header<'a>(record: &'a NewRecord, name: &str) -> &'a str {
    let (_, value) = record.headers.iter().find(|(key, _)| key == name).unwrap();
    std::str::from_utf8(value).unwrap()
}

fn batch(events: &[serde_json::Value]) -> Parcel {
    intake().take(&arrival(&batch_topic("pc001"), serde_json::to_vec(events).unwrap()))
}

/// A bad event between two good ones: those are delivered, it is a dead letter whose reason names `word`.
fn assert_only_the_middle_is_refused(middle: &serde_json::Value, word: &str) -> Parcel {
    let parcel = batch(&[event(1), middle.clone(), event(3)]);
    let good = schema_id(Family::HostMetrics);
    assert_eq!(raw_ids(&parcel)[..2], [good, good], "{middle}");
    let [letter] = letters(&parcel)[..] else { panic!("{middle}: {} letters", letters(&parcel).len()) };
    assert!(header(letter, REASON).contains(word), "{}", header(letter, REASON));
    assert_eq!(header(letter, ORIGIN), "agent/pc001/event/batch");
    let original: serde_json::Value = serde_json::from_slice(letter.value.as_ref().unwrap()).unwrap();
    assert_eq!(&original, middle);
    parcel
}

#[test]
fn a_batch_becomes_rows_keyed_by_agent_and_one_span() {
    let parcel = batch(&[event(1), event(2), event(3)]);
    assert_eq!(raw_ids(&parcel), [schema_id(Family::HostMetrics); 3]);
    assert!(parcel.records.iter().all(|record| record.key.as_deref() == Some(b"pc001".as_slice())));
    assert!(parcel.records.iter().all(|record| record.partition.is_none()));
    assert_eq!(parcel.settled, [span(1, 3)]);
    assert_eq!(parcel.agent.as_deref(), Some("pc001"));
    assert_eq!(parcel.tally.families[Family::HostMetrics as usize], 3);
}

#[test]
fn what_breaks_one_event_leaves_its_neighbours_alone_and_marks_its_seq() {
    for (changes, word) in [
        (json!({"event_time": "yesterday"}), "event_time"),
        (json!({"event_time": null}), "event_time"),
        (json!({"source": null}), "source"),
        (json!({"payload": null}), "payload"),
        (json!({"payload": {"cpu_percent": "many"}}), "cpu_percent"),
        (json!({"payload": [1]}), "payload"),
    ] {
        let parcel = assert_only_the_middle_is_refused(&with(2, &changes), word);
        assert_eq!(raw_ids(&parcel)[2], REJECTED);
        // The agent may forget it: it is judged for good.
        let mut settled: Vec<i64> = parcel.settled.iter().flat_map(|span| span.first..=span.last).collect();
        settled.sort_unstable();
        assert_eq!(settled, [1, 2, 3]);
        assert_eq!((parcel.tally.dead_letters, parcel.tally.rejected), (1, 1));
    }
}

#[test]
fn without_a_readable_identity_there_is_no_marker() {
    for changes in [json!({"seq": "two"}), json!({"session": null}), json!({"lane": "fast"})] {
        let parcel = assert_only_the_middle_is_refused(&with(2, &changes), "");
        assert_eq!(raw_ids(&parcel).len(), 2);
        assert_eq!(parcel.settled, [span(1, 1), span(3, 3)]);
    }
}

#[test]
fn malformed_json_invalid_utf8_and_a_broken_array_are_one_letter_with_all_bytes() {
    let whole = serde_json::to_vec(&[event(1), event(2)]).unwrap();
    for payload in
        [b"{".to_vec(), b"".to_vec(), b"17".to_vec(), b"\xff\xfe".to_vec(), whole[..whole.len() - 9].to_vec()]
    {
        let parcel = intake().take(&arrival(&event_topic("pc001", "cpu_usage"), payload.clone()));
        let [letter] = letters(&parcel)[..] else { panic!("{payload:?}") };
        assert_eq!(letter.value.as_ref().unwrap(), &payload);
        assert_eq!(letter.key.as_deref(), Some(b"pc001".as_slice()));
    }
}

#[test]
fn invalid_utf8_inside_one_event_takes_only_that_one() {
    let mut payload = serde_json::to_vec(&[event(1), with(2, &json!({"host": "HOST"})), event(3)]).unwrap();
    let at = payload.windows(4).position(|window| window == b"HOST").unwrap();
    payload[at] = 0xff;
    let parcel = intake().take(&arrival(&batch_topic("pc001"), payload));
    assert_eq!(letters(&parcel).len(), 1);
    let rows = raw_ids(&parcel).into_iter().filter(|id| *id == schema_id(Family::HostMetrics)).count();
    assert_eq!(rows, 2);
}

#[test]
fn an_unknown_event_type_is_a_custom_event() {
    let parcel = batch(&[with(1, &json!({"event_type": "coffee_made", "payload": {"cups": 2}}))]);
    assert_eq!(raw_ids(&parcel), [schema_id(Family::CustomEvent)]);
}

#[test]
fn an_event_of_a_megabyte_is_a_dead_letter_with_its_seq_marked() {
    let big = with(2, &json!({"event_type": "note", "payload": {"text": "x".repeat(1 << 20)}}));
    let parcel = intake().take(&arrival(&event_topic("pc001", "note"), serde_json::to_vec(&big).unwrap()));
    assert_eq!(letters(&parcel).len(), 1);
    assert_eq!(raw_ids(&parcel), [REJECTED]);
    assert_eq!(parcel.settled, [span(2, 2)]);
}

#[test]
fn another_agents_name_is_a_letter_and_an_event_under_the_topics_name_and_no_marker() {
    let stranger = json!({"agent_id": "pc002"});
    let parcel = batch(&[with(1, &stranger), event(2), with(3, &stranger)]);
    assert_eq!(letters(&parcel).len(), 2);
    // One security event a message, however many events lied.
    assert_eq!(raw_ids(&parcel), [schema_id(Family::HostMetrics), schema_id(Family::CustomEvent)]);
    assert_eq!(parcel.tally.mismatches, 1);
    assert_eq!(parcel.settled, [span(2, 2)]);
    assert!(parcel.records.iter().all(|record| record.key.as_deref() == Some(b"pc001".as_slice())));
    let alarm = parcel.records.last().unwrap().value.clone().unwrap();
    let text = String::from_utf8_lossy(&alarm);
    assert!(text.contains(AGENT_MISMATCH) && text.contains("pc002"), "{text}");
}

#[test]
fn strange_topics_and_impossible_agent_ids_are_letters_of_the_bridge() {
    let long = event_topic(&"x".repeat(129), "cpu_usage");
    for topic in ["agent/a\u{7}b/event/cpu_usage", "agent//status", "other/topic", long.as_str()] {
        let parcel = intake().take(&arrival(topic, event(1).to_string()));
        let [letter] = letters(&parcel)[..] else { panic!("{topic}") };
        assert_eq!(letter.key.as_deref(), Some(b"bridge-1".as_slice()));
        assert_eq!(parcel.records.len(), 1);
        assert!(parcel.settled.is_empty());
    }
    let parcel =
        intake().take(&Arrival { topic: Bytes::from_static(b"agent/\xff/status"), ..arrival("", "{}") });
    assert_eq!(letters(&parcel).len(), 1);
}

#[test]
fn foreign_events_get_an_id_that_is_the_same_when_taken_again_and_are_not_confirmed() {
    let foreign = json!({"event_time": NOW, "source": "x", "payload": {"cpu_percent": 1}});
    let arrival = arrival(&event_topic("pc001", "cpu_usage"), foreign.to_string());
    let (first, again) = (intake().take(&arrival), intake().take(&arrival));
    assert_eq!(first.records, again.records);
    assert!(first.settled.is_empty());
    let other = Arrival { mint: Mint { process: Uuid::nil(), message: 8 }, ..arrival };
    assert_ne!(intake().take(&other).records, first.records);
}

#[test]
fn a_status_taken_back_is_nothing_at_all() {
    assert!(intake().take(&arrival(&status_topic("pc001"), "")).records.is_empty());
    assert_eq!(intake().take(&arrival(&status_topic("pc001"), event(1).to_string())).settled, [span(1, 1)]);
}

#[test]
fn sample_topics_are_taken_and_their_errors_are_letters() {
    let topic = sample_topic("pc001", Sample::SysinfoCpu);
    let parcel = intake().take(&arrival(&topic, r#"{"usage": 37.5}"#));
    assert_eq!(raw_ids(&parcel), [schema_id(Family::HostMetrics)]);
    assert_eq!(letters(&intake().take(&arrival(&topic, r#"{"usage": "much"}"#))).len(), 1);
}

#[test]
fn a_condemned_message_is_one_letter_with_all_bytes_and_a_marker_for_each_readable_number() {
    let refused = with(4, &json!({"source": null}));
    let unreadable = with(5, &json!({"seq": "five"}));
    let stranger = with(6, &json!({"agent_id": "pc002"}));
    let foreign = json!({"event_type": "x", "event_time": NOW, "source": "x", "payload": {}});
    let events = [event(1), event(2), refused, unreadable, stranger, foreign];
    let arrival = arrival(&batch_topic("pc001"), serde_json::to_vec(&events).unwrap());
    let parcel = intake().condemn(&arrival, "kafka refuses it");
    let [letter] = letters(&parcel)[..] else { panic!() };
    assert_eq!(letter.value.as_ref(), Some(&arrival.payload));
    assert_eq!(header(letter, REASON), "kafka refuses it");
    assert_eq!(parcel.settled, [span(1, 2), span(4, 4)]);
    let marks: Vec<_> = parcel.records[1..].iter().map(|record| record.value.clone().unwrap()).collect();
    let expected = [1, 2, 4].map(|seq| {
        let identity = Identity { agent_id: "pc001".into(), session: 5, lane: Lane::Normal, seq };
        let marker = Rejected { identity, reason: "kafka refuses it".into(), received_at: NOW };
        framed(REJECTED, &Translator::new().rejected(&marker))
    });
    assert_eq!(marks, expected);
    assert!(parcel.records[1..].iter().all(|record| &*record.topic == "varta.raw"));
    assert!(parcel.records.iter().all(|record| record.key.as_deref() == Some(b"pc001".as_slice())));
    assert_eq!((parcel.tally.dead_letters, parcel.tally.rejected), (1, 3));
    assert_eq!(parcel.tally.families, [0; Family::ALL.len()]);
}

#[test]
fn a_condemned_message_on_a_strange_topic_is_a_letter_and_no_marker() {
    let parcel = intake().condemn(&arrival("other/topic", event(1).to_string()), "kafka refuses it");
    assert_eq!((parcel.records.len(), letters(&parcel).len()), (1, 1));
}

#[test]
fn clock_records_go_to_their_partition() {
    let clock = Clock {
        bridge_id: "bridge-1".into(),
        bridge_time: NOW,
        sequence: 1,
        mqtt_connected: true,
        goodbye: false,
    };
    let record = intake().clock_record(3, &clock);
    assert_eq!(record.partition, Some(3));
    assert_eq!(wire::unframe(record.value.as_ref().unwrap()).unwrap().0, CLOCK);
}

//! JSON in, Avro out, and apache-avro reads the same values.

use apache_avro::types::Value as Avro;
use schemas::family::Family;
use schemas::identity::{Identity, Lane};
use schemas::record::RecordKind;
use schemas::translate::{Clock, Feedback, Rejected, Translator, Verdict};
use serde_json::{Value, json};

use crate::structs::full_payload;
use crate::support::{
    RECEIVED_AT, decode, decode_row, one, payload_fields, sound, sound_with, sound_without,
};

fn as_avro(value: &Value, kind: &str) -> Avro {
    match (value, kind) {
        (Value::String(text), _) => Avro::String(text.clone()),
        (Value::Bool(flag), _) => Avro::Boolean(*flag),
        (value, "int") => Avro::Int(i32::try_from(value.as_i64().unwrap()).unwrap()),
        (value, "double") => Avro::Double(value.as_f64().unwrap()),
        (value, _) => Avro::Long(value.as_i64().unwrap()),
    }
}

fn text(value: &str) -> Avro {
    Avro::String(value.to_owned())
}

#[test]
fn every_field_of_every_family_arrives() {
    for family in Family::ALL.into_iter().filter(|family| *family != Family::CustomEvent) {
        for event_type in family.event_types() {
            let payload = full_payload(family);
            let mut event = sound();
            event.insert("event_type".into(), json!(event_type));
            event.insert("host".into(), json!("h"));
            event.insert("user".into(), json!("u"));
            event.insert("replayed".into(), json!(true));
            event.insert("event_id".into(), json!("e"));
            event.insert("payload".into(), payload.clone());
            let row = one(&Value::Object(event).to_string()).unwrap();
            assert_eq!((row.family, row.session, row.lane, row.seq), (family, 5, Lane::Normal, 17));
            assert_eq!((&*row.agent_id, row.event_time), ("pc001", 1_732_147_201_000_000));

            let fields = decode_row(&row);
            for (name, kind) in payload_fields(family) {
                assert_eq!(fields[&name], as_avro(&payload[&name], &kind), "{family}.{name}");
            }
            let envelope = [
                ("agent_id", text("pc001")),
                ("session", Avro::Long(5)),
                ("lane", text("normal")),
                ("seq", Avro::Long(17)),
                ("event_id", text("e")),
                ("event_time", Avro::Long(1_732_147_201_000_000)),
                ("event_type", text(event_type)),
                ("source", text("system/procfs")),
                ("host", text("h")),
                ("user", text("u")),
                ("replayed", Avro::Boolean(true)),
                ("received_at", Avro::Long(RECEIVED_AT)),
                ("sent_at", Avro::Long(RECEIVED_AT - 1)),
                ("flags", Avro::Null),
                ("extra", Avro::Null),
            ];
            for (name, value) in envelope {
                assert_eq!(fields[name], value, "{family}.{name}");
            }
        }
    }
}

#[test]
fn missing_and_null_fields_are_null() {
    for payload in [json!({}), json!({ "cpu_percent": null })] {
        let fields = decode_row(&one(&sound_with("payload", payload)).unwrap());
        assert_eq!(fields["cpu_percent"], Avro::Null);
        assert_eq!(fields["host"], Avro::Null);
        assert_eq!(fields["event_id"], Avro::Null, "a sequenced event needs no id");
        assert_eq!(fields["replayed"], Avro::Boolean(false));
    }
}

#[test]
fn what_a_family_does_not_know_is_kept_as_it_was_written() {
    let event =
        sound_with("payload", json!({ "cpu_percent": 1, "gpu": { "load": [1.50, null] }, "a\"b": "é" }));
    let event = event.replacen('{', r#"{"tenant":"x","v":2,"#, 1);
    let fields = decode_row(&one(&event).unwrap());
    let Avro::String(extra) = &fields["extra"] else { panic!("extra") };
    let extra: Value = serde_json::from_str(extra).unwrap();
    let expected = json!({
        "gpu": { "load": [1.50, null] }, "a\"b": "é", "_envelope": { "tenant": "x", "v": 2 },
    });
    assert_eq!(extra, expected);
    assert_eq!(fields["cpu_percent"], Avro::Double(1.0));

    let only_envelope = sound_without(&["payload"]).replacen('{', r#"{"payload":{},"flags":"x","#, 1);
    let fields = decode_row(&one(&only_envelope).unwrap());
    assert_eq!(fields["extra"], text(r#"{"_envelope":{"flags":"x"}}"#));
    assert_eq!(fields["flags"], Avro::Null, "flags are not the sender's to set");
}

#[test]
fn a_custom_event_keeps_its_payload_to_the_letter() {
    for payload in [r#"{"a": 1.10,  "b":[ ]}"#, "null", "17", r#""text""#] {
        let event = sound_without(&["payload", "event_type"]);
        let event =
            event.replacen('{', &format!(r#"{{"event_type":"door_opened","payload": {payload} ,"#), 1);
        let row = one(&event).unwrap();
        assert_eq!(row.family, Family::CustomEvent);
        assert_eq!(decode_row(&row)["payload"], text(payload));
    }
}

#[test]
fn a_source_without_sequence_is_foreign() {
    let bare = sound_without(&["agent_id", "session", "lane", "seq"]);
    let row = one(&bare).unwrap();
    assert_eq!((&*row.agent_id, row.session, row.lane, row.seq), ("pc001", 0, Lane::Foreign, -1));
    assert_eq!(decode_row(&row)["event_id"], text("minted-1"));

    let named = bare.replacen('{', r#"{"event_id":"mine","lane":"foreign","#, 1);
    assert_eq!(decode_row(&one(&named).unwrap())["event_id"], text("mine"));
}

#[test]
fn clock_and_rejected_are_read_by_others() {
    let translator = Translator::new();
    let clock = Clock {
        bridge_id: "b1".into(),
        bridge_time: RECEIVED_AT,
        sequence: -3,
        mqtt_connected: true,
        goodbye: false,
    };
    let fields = decode(RecordKind::Clock, &translator.clock(&clock));
    assert_eq!(fields["bridge_id"], text("b1"));
    assert_eq!(fields["bridge_time"], Avro::Long(RECEIVED_AT));
    assert_eq!(fields["sequence"], Avro::Long(-3));
    assert_eq!(fields["mqtt_connected"], Avro::Boolean(true));
    assert_eq!(fields["goodbye"], Avro::Boolean(false));

    let identity = Identity { agent_id: "pc001".into(), session: i64::MAX, lane: Lane::Bulk, seq: i64::MIN };
    let rejected = Rejected { identity, reason: "payload.pid: missing".into(), received_at: RECEIVED_AT };
    let fields = decode(RecordKind::Rejected, &translator.rejected(&rejected));
    assert_eq!(fields["agent_id"], text("pc001"));
    assert_eq!(fields["session"], Avro::Long(i64::MAX));
    assert_eq!(fields["lane"], text("bulk"));
    assert_eq!(fields["seq"], Avro::Long(i64::MIN));
    assert_eq!(fields["reason"], text("payload.pid: missing"));
    assert_eq!(fields["received_at"], Avro::Long(RECEIVED_AT));
}

#[test]
fn feedback_is_read_by_others() {
    let id = "0b8f4f0a-52c1-8d3e-9f00-3c1d2e4f5a6b";
    let of = |note: Option<&str>| {
        Feedback::new(id, Verdict::Benign, note.map(str::to_owned), "ann".into(), RECEIVED_AT).unwrap()
    };
    let fields = decode(RecordKind::Feedback, &of(Some("планово")).datum());
    assert_eq!((&fields["alert_id"], &fields["author"]), (&text(id), &text("ann")));
    assert_eq!((&fields["verdict"], &fields["verdict_id"]), (&text("benign"), &Avro::Int(5)));
    assert_eq!((&fields["note"], &fields["given_at"]), (&text("планово"), &Avro::Long(RECEIVED_AT)));
    assert_eq!(decode(RecordKind::Feedback, &of(None).datum())["note"], Avro::Null);
}

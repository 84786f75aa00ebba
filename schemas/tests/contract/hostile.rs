//! Bad input: each event gets its own clear reason, and nothing else suffers.

use proptest::prelude::*;
use schemas::identity::{Identity, Lane};
use schemas::mqtt::Sample;
use schemas::translate::{
    MAX_DEPTH, MAX_EVENT_BYTES, MAX_EVENTS, MAX_MESSAGE_BYTES, MAX_NUMBER, Refused, RefusedReason,
};
use serde_json::{Value, json};

use crate::support::{decode_row, one, sound, sound_with, sound_without, translate, translate_sample};

fn refused(payload: &str) -> Refused {
    let refused = one(payload).unwrap_err();
    assert_eq!(refused.original, payload.as_bytes());
    refused
}

fn reason(payload: &str) -> String {
    refused(payload).reason.to_string()
}

fn the_identity() -> Identity {
    Identity { agent_id: "pc001".into(), session: 5, lane: Lane::Normal, seq: 17 }
}

#[test]
fn a_missing_or_null_mandatory_field_is_named() {
    for name in ["event_time", "event_type", "source", "payload"] {
        for event in [sound_without(&[name]), sound_with(name, Value::Null)] {
            let refused = refused(&event);
            assert_eq!(refused.reason, RefusedReason::Missing { field: name });
            assert_eq!(refused.identity, Some(the_identity()));
        }
    }
    for name in ["session", "lane", "seq"] {
        let refused = refused(&sound_without(&[name]));
        assert_eq!(refused.reason, RefusedReason::Missing { field: name });
        assert_eq!(refused.identity, None);
    }
}

#[test]
fn a_wrong_type_is_named_with_what_was_expected_and_found() {
    let cases = [
        (
            "payload",
            json!({ "cpu_percent": "37.5" }),
            "payload.cpu_percent: expected a finite number, found a string",
        ),
        (
            "payload",
            json!({ "cpu_count": 2.5 }),
            "payload.cpu_count: expected an integer of 64 bits, found 2.5",
        ),
        ("payload", json!({ "net_up": 1 }), "payload.net_up: expected true or false, found 1"),
        ("payload", json!({ "disk": ["a"] }), "payload.disk: expected a string, found an array"),
        ("payload", json!([]), "payload: expected an object, found an array"),
        ("source", json!(7), "source: expected a string, found 7"),
        ("host", json!({}), "host: expected a string, found an object"),
        ("replayed", json!("true"), "replayed: expected true or false, found a string"),
        ("lane", json!("urgent"), "lane: expected critical, normal, bulk or foreign, found a string"),
        ("seq", json!("17"), "seq: expected an integer of 64 bits, found a string"),
    ];
    for (name, value, expected) in cases {
        assert_eq!(reason(&sound_with(name, value)), expected);
    }
}

#[test]
fn a_value_out_of_range_is_named() {
    let cases = [
        ("payload", r#"{"cpu_count":3000000000}"#, "payload.cpu_count"),
        ("payload", r#"{"mem_used_bytes":9223372036854775808}"#, "payload.mem_used_bytes"),
        ("payload", r#"{"cpu_percent":1e999}"#, "payload.cpu_percent"),
        ("event_time", "0", "event_time"),
        ("event_time", r#""1999-12-31T23:59:59Z""#, "event_time"),
        ("event_time", "9223372036854775807", "event_time"),
        ("seq", "-1", "seq"),
        ("session", "0", "session"),
        ("source", r#""""#, "source"),
    ];
    for (name, value, expected) in cases {
        let event = sound_without(&[name]).replacen('{', &format!(r#"{{"{name}":{value},"#), 1);
        let reason = refused(&event).reason;
        assert!(
            matches!(&reason, RefusedReason::OutOfRange { field, .. } if field == expected),
            "{value}: {reason}"
        );
    }
}

#[test]
fn a_number_that_cannot_be_counted_on_from_is_named_and_is_no_identity() {
    let cases = ["9007199254740993", "9223372036854775807", "9223372036854775808", "1e300", "-1"];
    for (name, value) in ["seq", "session"].into_iter().flat_map(|name| cases.map(|value| (name, value))) {
        let event = sound_without(&[name]).replacen('{', &format!(r#"{{"{name}":{value},"#), 1);
        let refused = refused(&event);
        assert!(
            matches!(&refused.reason, RefusedReason::OutOfRange { field, .. } if field == name),
            "{name} {value}: {}",
            refused.reason
        );
        assert_eq!(refused.identity, None, "{name} {value}");
    }
    for name in ["seq", "session"] {
        one(&sound_with(name, json!(MAX_NUMBER))).unwrap();
    }
}

#[test]
fn nan_and_other_broken_text_names_the_field_beside_it() {
    let event =
        |payload: &str| sound_without(&["payload"]).replacen('{', &format!(r#"{{"payload":{payload},"#), 1);
    let text = event(r#"{"cpu_percent":NaN}"#);
    assert!(reason(&text).starts_with("payload: not JSON: expected value"), "{}", reason(&text));
    assert!(reason("{ usage: 37.5 }").starts_with("not JSON"));
    assert!(reason(&format!("{} x", Value::Object(sound()))).contains("trailing characters"));
}

#[test]
fn a_truncated_event_never_claims_a_sequence_number_that_was_cut() {
    let event = r#"{"agent_id":"pc001","session":5,"lane":"normal","seq":17"#;
    assert_eq!(refused(event).identity, None);
    assert_eq!(refused(&format!("{event},\"event_time\":1")).identity, Some(the_identity()));
}

#[test]
fn bytes_that_are_no_text_are_located_and_the_identity_survives() {
    let sound = Value::Object(sound()).to_string();
    let cases = [("system/procfs", "source"), ("\"cpu_percent\"", "payload"), ("cpu_usage", "event_type")];
    for (text, expected) in cases {
        let at = sound.find(text).unwrap() + 3;
        let mut bytes = sound.clone().into_bytes();
        bytes[at] = 0xff;
        let refused = translate(&bytes).remove(0).unwrap_err();
        let RefusedReason::NotUtf8 { field, at: found } = &refused.reason else {
            panic!("{}", refused.reason)
        };
        assert!(field.as_ref().unwrap().starts_with(expected), "{field:?}");
        assert_eq!(*found, at);
        assert_eq!(refused.identity, Some(the_identity()));
        assert_eq!(refused.original, bytes);
    }
}

#[test]
fn an_event_in_the_name_of_another_agent_leaves_no_identity() {
    let refused = refused(&sound_with("agent_id", json!("pc002")));
    assert!(refused.agent_mismatch);
    assert_eq!(refused.identity, None);
    assert_eq!(refused.reason.to_string(), r#"agent_id: the topic says "pc001", the event says "pc002""#);
}

#[test]
fn a_known_field_twice_is_refused() {
    let event = Value::Object(sound()).to_string().replacen('{', r#"{"seq":18,"#, 1);
    let refused = refused(&event);
    assert_eq!(refused.reason, RefusedReason::Duplicate { field: "seq".into() });
    assert_eq!(refused.identity, None);
}

#[test]
fn too_much_is_refused_and_the_identity_is_still_read() {
    let large = sound_with("payload", json!({ "note": "x".repeat(1024 * 1024) }));
    let refused_event = refused(&large);
    assert!(matches!(refused_event.reason, RefusedReason::TooLarge { limit: MAX_EVENT_BYTES, .. }));
    assert_eq!(refused_event.identity, Some(the_identity()));

    let message = format!("[{}]", "1,".repeat(MAX_MESSAGE_BYTES / 2));
    assert!(matches!(refused(&message).reason, RefusedReason::TooLarge { limit: MAX_MESSAGE_BYTES, .. }));
    let many = format!("[{}1]", "1,".repeat(MAX_EVENTS + 5));
    assert!(matches!(refused(&many).reason, RefusedReason::TooMany { limit: MAX_EVENTS, .. }));
}

#[test]
fn deep_nesting_is_refused_without_running_out_of_stack() {
    let nested = |depth: usize| {
        let value = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        sound_without(&["payload"]).replacen('{', &format!(r#"{{"payload":{{"z":{value}}},"#), 1)
    };
    one(&nested(MAX_DEPTH.into())).unwrap();
    let reason = reason(&nested(usize::from(MAX_DEPTH) + 1));
    assert!(reason.starts_with("payload.z: nested deeper than 32"), "{reason}");
    one(&nested(100_000)).unwrap_err();
    assert_eq!(translate("[".repeat(100_000).as_bytes()).len(), 1);
}

#[test]
fn kept_text_can_be_read_by_others_or_is_refused() {
    for value in [r#""\ud800""#, "1e999"] {
        let event = Value::Object(sound()).to_string().replacen('{', &format!(r#"{{"odd":{value},"#), 1);
        assert!(reason(&event).starts_with("odd: "), "{value}");
    }
}

#[test]
fn a_bad_element_does_not_take_its_neighbours() {
    let sound = Value::Object(sound()).to_string();
    let bad = [r#"{"session":}"#, "7", r#"{"seq": 01}"#, r#""text""#, "", "{}", "[]"];
    let elements: Vec<String> = bad.iter().flat_map(|bad| [(*bad).to_owned(), sound.clone()]).collect();
    let message = format!("[ {} ]", elements.join(" , "));
    let results = translate(message.as_bytes());
    assert_eq!(results.len(), elements.len());
    for (result, element) in results.iter().zip(&elements) {
        match result {
            Ok(row) => {
                assert_eq!(element, &sound);
                decode_row(row);
            }
            Err(refused) => assert_eq!(refused.original, element.as_bytes()),
        }
    }
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), bad.len());
}

#[test]
fn a_message_that_does_not_hold_together_is_one_refusal() {
    for message in ["", "  ", "7", "[", "[{}", "[{}}]", "[]]", "null", "\u{feff}{}"] {
        let results = translate(message.as_bytes());
        assert_eq!(results.len(), 1, "{message}");
        assert_eq!(results[0].as_ref().unwrap_err().original, message.as_bytes());
    }
    assert!(translate(b" [ ] ").is_empty());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,8}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn any_event() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
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
        "other",
    ]);
    prop::collection::vec((names, any_json()), 0..4).prop_map(|changes| {
        let mut event = sound();
        for (name, value) in changes {
            event.insert(name.to_owned(), value);
        }
        Value::Object(event)
    })
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_panic(payload: Vec<u8>) {
        for result in translate(&payload) {
            prop_assert!(result.is_err());
        }
        for sample in Sample::ALL {
            translate_sample(sample, &payload);
        }
    }

    #[test]
    fn a_damaged_event_is_judged_without_panic(at in 0_usize..200, byte: u8, cut in 0_usize..400) {
        let mut bytes = format!("[{0},{0}]", Value::Object(sound())).into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(cut.max(1));
        for result in translate(&bytes) {
            match result {
                Ok(row) => { decode_row(&row); }
                Err(refused) => prop_assert!(!refused.original.is_empty() || bytes.contains(&b',')),
            }
        }
    }

    #[test]
    fn every_element_is_accounted_for_in_order(elements in prop::collection::vec(any_event(), 0..6)) {
        let texts: Vec<String> = elements.iter().map(Value::to_string).collect();
        let results = translate(format!("[{}]", texts.join(",")).as_bytes());
        prop_assert_eq!(results.len(), texts.len());
        for (result, text) in results.iter().zip(&texts) {
            match result {
                Ok(row) => {
                    let fields = decode_row(row);
                    prop_assert_eq!(&fields["agent_id"], &apache_avro::types::Value::String("pc001".into()));
                    prop_assert_eq!(one(text).map_err(|refused| refused.reason).unwrap().seq, row.seq);
                }
                Err(refused) => prop_assert_eq!(&refused.original[..], text.as_bytes()),
            }
        }
    }
}

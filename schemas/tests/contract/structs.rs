//! The Rust structs are those of the Avro files.

use schemas::event::{
    AgentStatus, DeviceEvent, FileEvent, HostMetrics, NetworkEvent, ProcessEvent, ProcessSample,
    UserActivity, WindowEvent,
};
use schemas::family::Family;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Value, json};

use crate::support::payload_fields;

/// Hears which fields a struct asks for, and gives none.
struct Listener<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for Listener<'_> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(serde_json::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.extend(fields);
        Err(serde_json::Error::custom("heard"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields<'de, T: Deserialize<'de>>() -> Vec<&'static str> {
    let mut fields = Vec::new();
    assert!(T::deserialize(Listener(&mut fields)).is_err());
    fields
}

fn fields_of(family: Family) -> Vec<&'static str> {
    match family {
        Family::HostMetrics => fields::<HostMetrics>(),
        Family::ProcessSample => fields::<ProcessSample>(),
        Family::ProcessEvent => fields::<ProcessEvent>(),
        Family::UserActivity => fields::<UserActivity>(),
        Family::WindowEvent => fields::<WindowEvent>(),
        Family::FileEvent => fields::<FileEvent>(),
        Family::NetworkEvent => fields::<NetworkEvent>(),
        Family::DeviceEvent => fields::<DeviceEvent>(),
        Family::AgentStatus => fields::<AgentStatus>(),
        Family::CustomEvent => vec!["payload"],
    }
}

/// A value of an Avro type that no narrower Rust type can hold, so that a wrong width shows.
pub(crate) fn widest(kind: &str) -> Value {
    match kind {
        "string" => json!("text \"quoted\" \\ é"),
        "int" => json!(i32::MIN),
        "long" => json!(i64::MAX),
        "double" => json!(-1.5e300),
        "boolean" => json!(true),
        "timestamp-micros" => json!(1_732_147_200_123_456_i64),
        other => panic!("no such type: {other}"),
    }
}

/// A payload with every field of the family.
pub(crate) fn full_payload(family: Family) -> Value {
    payload_fields(family).into_iter().map(|(name, kind)| (name, widest(&kind))).collect()
}

#[test]
fn structs_have_the_fields_of_the_schema_in_its_order() {
    for family in Family::ALL {
        let expected: Vec<_> = payload_fields(family).into_iter().map(|(name, _)| name).collect();
        assert_eq!(fields_of(family), expected, "{family}");
    }
}

#[test]
fn every_field_is_optional_and_as_wide_as_in_the_schema() {
    for family in Family::ALL.into_iter().filter(|family| *family != Family::CustomEvent) {
        let full = full_payload(family);
        let event = |payload: &Value| {
            json!({
                "agent_id": "a", "session": 1, "lane": "bulk", "seq": 0, "event_time": 1, "source": "s", "host": null,
                "user": null, "replayed": false, "event_type": family.event_types()[0], "payload": payload,
            })
        };
        for payload in [&full, &json!({})] {
            let parsed: schemas::event::Event = serde_json::from_value(event(payload)).unwrap();
            assert_eq!(parsed.payload.family(), family);
            assert_eq!(serde_json::to_value(&parsed).unwrap(), event(payload), "{family}");
        }
    }
}

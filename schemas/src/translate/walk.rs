//! Cuts a JSON object into the texts of its fields.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::MAX_UNKNOWN_FIELDS;
use super::refused::RefusedReason;

/// The fields of one object: known ones by their place in a list of names, unknown ones by name.
pub(super) struct Fields<'a, 'n, S: AsRef<str>> {
    names: &'n [S],
    known: Vec<Option<&'a str>>,
    unknown: Vec<(Cow<'a, str>, &'a str)>,
    /// The field that was begun last.
    last: Option<Key<'a>>,
    stopped: Option<RefusedReason>,
}

#[derive(Clone)]
enum Key<'a> {
    Known(usize),
    Unknown(Cow<'a, str>),
}

impl<'a, 'n, S: AsRef<str>> Fields<'a, 'n, S> {
    /// Reads as far as it can: after an error the fields before it are there, and the one next to it is not.
    pub(super) fn read(
        within: &'static str,
        text: &'a str,
        names: &'n [S],
    ) -> (Self, Result<(), RefusedReason>) {
        let mut fields =
            Self { names, known: vec![None; names.len()], unknown: Vec::new(), last: None, stopped: None };
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let end = deserializer
            .deserialize_map(Walk { within, fields: &mut fields })
            .and_then(|()| deserializer.end());
        let result = match (fields.stopped.take(), end) {
            (Some(reason), _) => Err(reason),
            (None, Ok(())) => Ok(()),
            (None, Err(error)) => Err(fields.broken(within, &error)),
        };
        (fields, result)
    }

    fn broken(&mut self, within: &str, error: &serde_json::Error) -> RefusedReason {
        let field = self.last.take().map(|key| match key {
            Key::Known(place) => {
                self.known[place] = None;
                format!("{within}{}", self.names[place].as_ref())
            }
            Key::Unknown(name) => format!("{within}{name}"),
        });
        RefusedReason::NotJson { field, detail: error.to_string() }
    }

    /// Text of a known field; `None` if it is missing or null.
    pub(super) fn get(&self, place: usize) -> Option<&'a str> {
        self.known[place].filter(|raw| *raw != "null")
    }

    /// Text of a known field as it was written, `null` too; `None` if it is missing.
    pub(super) fn written(&self, place: usize) -> Option<&'a str> {
        self.known[place]
    }

    /// Unknown fields, as they came.
    pub(super) fn unknown(&self) -> &[(Cow<'a, str>, &'a str)] {
        &self.unknown
    }

    /// Name of the first field whose name or text has a character.
    pub(super) fn find(&self, wanted: char) -> Option<Cow<'a, str>>
    where
        'n: 'a,
    {
        let mut known = self.names.iter().zip(&self.known);
        let hit = known.find_map(|(name, raw)| raw.filter(|raw| raw.contains(wanted)).map(|_| name));
        if let Some(name) = hit {
            return Some(Cow::Borrowed(name.as_ref()));
        }
        let unknown = self.unknown.iter().find(|(name, raw)| name.contains(wanted) || raw.contains(wanted));
        unknown.map(|(name, _)| name.clone())
    }
}

struct Walk<'f, 'a, 'n, S: AsRef<str>> {
    within: &'static str,
    fields: &'f mut Fields<'a, 'n, S>,
}

impl<'a, S: AsRef<str>> Visitor<'a> for Walk<'_, 'a, '_, S> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let mut next = 0;
        while let Some(key) = map.next_key_seed(KeySeed { names: self.fields.names, next })? {
            self.fields.last = Some(key.clone());
            let raw = map.next_value::<&'a RawValue>()?.get();
            match key {
                Key::Known(place) => {
                    next = place + 1;
                    if self.fields.known[place].replace(raw).is_some() {
                        let field = format!("{}{}", self.within, self.fields.names[place].as_ref());
                        self.fields.known[place] = None;
                        self.fields.stopped = Some(RefusedReason::Duplicate { field });
                        return Err(A::Error::custom("duplicate"));
                    }
                }
                Key::Unknown(name) => {
                    if self.fields.unknown.len() == MAX_UNKNOWN_FIELDS {
                        let limit = MAX_UNKNOWN_FIELDS;
                        self.fields.stopped = Some(RefusedReason::TooMany { what: "unknown fields", limit });
                        return Err(A::Error::custom("too many"));
                    }
                    self.fields.unknown.push((name, raw));
                }
            }
        }
        Ok(())
    }
}

/// Finds a name, beginning after the one found last: senders write fields in the order of the schema.
struct KeySeed<'n, S> {
    names: &'n [S],
    next: usize,
}

impl<S: AsRef<str>> KeySeed<'_, S> {
    fn place(&self, name: &str) -> Option<usize> {
        let (before, after) = self.names.split_at(self.next);
        let is_it = |candidate: &S| candidate.as_ref() == name;
        after.iter().position(is_it).map(|place| place + self.next).or_else(|| before.iter().position(is_it))
    }
}

impl<'a, S: AsRef<str>> DeserializeSeed<'a> for KeySeed<'_, S> {
    type Value = Key<'a>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Key<'a>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a, S: AsRef<str>> Visitor<'a> for KeySeed<'_, S> {
    type Value = Key<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'a str) -> Result<Key<'a>, E> {
        Ok(self.place(name).map_or(Key::Unknown(Cow::Borrowed(name)), Key::Known))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Key<'a>, E> {
        Ok(self.place(name).map_or_else(|| Key::Unknown(Cow::Owned(name.to_owned())), Key::Known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["a", "b", "c"];

    #[test]
    fn fields_are_found_in_any_order_and_kept_as_written() {
        let text = r#" {"c": [1, 2], "z":{"y": 1.0}, "\u0061" : "x", "b":null} "#;
        let (fields, result) = Fields::read("", text, &NAMES);
        result.unwrap();
        assert_eq!(fields.get(0), Some("\"x\""));
        assert_eq!(fields.get(1), None);
        assert_eq!(fields.get(2), Some("[1, 2]"));
        assert_eq!(fields.unknown(), [(Cow::Borrowed("z"), r#"{"y": 1.0}"#)]);
    }

    #[test]
    fn after_a_break_the_fields_before_it_are_there_but_not_the_one_beside_it() {
        let (fields, result) = Fields::read("", r#"{"a":1,"b":17"#, &NAMES);
        assert!(matches!(result, Err(RefusedReason::NotJson { field: Some(name), .. }) if name == "b"));
        assert_eq!((fields.get(0), fields.get(1)), (Some("1"), None));

        let (_, result) = Fields::read("payload.", r#"{"a":NaN}"#, &NAMES);
        assert!(
            matches!(result, Err(RefusedReason::NotJson { field: Some(name), .. }) if name == "payload.a")
        );
        let (_, result) = Fields::read("", r#"{"a":1} x"#, &NAMES);
        assert!(result.is_err());
    }

    #[test]
    fn a_known_field_twice_is_refused_and_unknown_ones_are_counted() {
        let (fields, result) = Fields::read("payload.", r#"{"a":1,"a":1}"#, &NAMES);
        assert_eq!(result, Err(RefusedReason::Duplicate { field: "payload.a".into() }));
        assert_eq!(fields.get(0), None);

        let many = |n: usize| format!("{{{}}}", vec![r#""z":1"#; n].join(","));
        assert_eq!(Fields::read("", &many(MAX_UNKNOWN_FIELDS), &NAMES).1, Ok(()));
        let text = many(MAX_UNKNOWN_FIELDS + 1);
        assert!(matches!(Fields::read("", &text, &NAMES).1, Err(RefusedReason::TooMany { .. })));
    }
}

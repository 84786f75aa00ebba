//! What the encoder needs to know of a family's schema.

use apache_avro::Schema;
use apache_avro::schema::UnionSchema;

use crate::family::Family;

/// The fields with which every family begins, in order. The encoder writes them by hand, the rest by table.
pub(super) const ENVELOPE: [&str; 15] = [
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
    "received_at",
    "sent_at",
    "flags",
    "extra",
];

/// Types of the payload's columns; all of them nullable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Int,
    Long,
    Double,
    Boolean,
    Timestamp,
}

/// The payload's columns of one family.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) family: Family,
    pub(super) names: Vec<String>,
    pub(super) types: Vec<Type>,
}

impl Table {
    /// Compiles the schema of a family.
    ///
    /// # Panics
    /// If the schema is not one of ours; they are compiled in, and a test compiles every one.
    pub(super) fn new(family: Family) -> Self {
        let compiled =
            Schema::parse_str(family.avsc()).ok().and_then(|schema| Self::compile(family, &schema));
        #[expect(clippy::expect_used, reason = "the schemas are compiled in, and a test compiles every one")]
        compiled.expect(
            "a family is a flat record that begins with the envelope and goes on with nullable columns",
        )
    }

    fn compile(family: Family, schema: &Schema) -> Option<Self> {
        let Schema::Record(record) = schema else {
            return None;
        };
        let (envelope, columns) = record.fields.split_at_checked(ENVELOPE.len())?;
        if !envelope.iter().map(|field| field.name.as_str()).eq(ENVELOPE) {
            return None;
        }
        let types = columns.iter().map(|field| Type::of(&field.schema)).collect::<Option<Vec<_>>>()?;
        let names = columns.iter().map(|field| field.name.clone()).collect();
        Some(Self { family, names, types })
    }
}

impl Type {
    fn of(schema: &Schema) -> Option<Self> {
        let Schema::Union(union) = schema else { return None };
        match UnionSchema::variants(union) {
            [Schema::Null, Schema::String] => Some(Self::Text),
            [Schema::Null, Schema::Int] => Some(Self::Int),
            [Schema::Null, Schema::Long] => Some(Self::Long),
            [Schema::Null, Schema::Double] => Some(Self::Double),
            [Schema::Null, Schema::Boolean] => Some(Self::Boolean),
            [Schema::Null, Schema::TimestampMicros] => Some(Self::Timestamp),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_compiles() {
        for family in Family::ALL {
            let table = Table::new(family);
            assert_eq!(table.names.len(), table.types.len());
            assert!(!table.names.is_empty());
        }
    }

    #[test]
    fn a_schema_without_envelope_or_with_a_mandatory_column_is_noticed() {
        let other = Schema::parse_str(crate::record::RecordKind::Clock.avsc()).unwrap();
        assert!(Table::compile(Family::DeviceEvent, &other).is_none());
        let text = Family::DeviceEvent.avsc();
        let mandatory = text.replace(
            r#""name": "bus", "type": ["null", "string"], "default": null"#,
            r#""name": "bus", "type": "string""#,
        );
        assert_ne!(text, mandatory);
        assert!(Table::compile(Family::DeviceEvent, &Schema::parse_str(&mandatory).unwrap()).is_none());
    }
}

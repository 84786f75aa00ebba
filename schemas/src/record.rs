//! Every Avro record that travels through Kafka, and its name in the schema registry.

use crate::family::Family;

/// One kind of Avro record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKind {
    /// An event.
    Family(Family),
    /// A bridge's sign of life, whose append time is the time of stream jobs.
    Clock,
    /// Marker for the seq of an event that went to the dead letters.
    Rejected,
    /// A finding of a rule.
    Alert,
    /// What one machine did in one minute.
    Feature1m,
    /// In five minutes.
    Feature5m,
    /// In one hour.
    Feature1h,
    /// What one user did on one machine in one minute.
    UserFeature1m,
    /// In five minutes.
    UserFeature5m,
    /// In one hour.
    UserFeature1h,
    /// What a person says about an alert.
    Feedback,
    /// A row for a rule over the whole fleet, or how far a source of such rows has come.
    FleetRow,
}

impl RecordKind {
    /// All kinds, families first.
    pub const ALL: [Self; 21] = [
        Self::Family(Family::HostMetrics),
        Self::Family(Family::ProcessSample),
        Self::Family(Family::ProcessEvent),
        Self::Family(Family::UserActivity),
        Self::Family(Family::WindowEvent),
        Self::Family(Family::FileEvent),
        Self::Family(Family::NetworkEvent),
        Self::Family(Family::DeviceEvent),
        Self::Family(Family::AgentStatus),
        Self::Family(Family::CustomEvent),
        Self::Clock,
        Self::Rejected,
        Self::Alert,
        Self::Feature1m,
        Self::Feature5m,
        Self::Feature1h,
        Self::UserFeature1m,
        Self::UserFeature5m,
        Self::UserFeature1h,
        Self::Feedback,
        Self::FleetRow,
    ];

    /// Rows of feature windows by machine, in the order of [`FEATURE_SIZES`](crate::topics::FEATURE_SIZES).
    pub const FEATURES: [Self; 3] = [Self::Feature1m, Self::Feature5m, Self::Feature1h];

    /// Rows of feature windows by machine and user, in the same order.
    pub const USER_FEATURES: [Self; 3] = [Self::UserFeature1m, Self::UserFeature5m, Self::UserFeature1h];

    /// Name in files and tables, e.g. `host_metrics`, `clock`, `feature_1m`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Family(family) => family.name(),
            Self::Clock => "clock",
            Self::Rejected => "rejected",
            Self::Alert => "alert",
            Self::Feature1m => "feature_1m",
            Self::Feature5m => "feature_5m",
            Self::Feature1h => "feature_1h",
            Self::UserFeature1m => "user_feature_1m",
            Self::UserFeature5m => "user_feature_5m",
            Self::UserFeature1h => "user_feature_1h",
            Self::Feedback => "feedback",
            Self::FleetRow => "fleet_row",
        }
    }

    /// Name of the Avro record with its namespace, e.g. `varta.HostMetrics`.
    pub const fn full_name(self) -> &'static str {
        match self {
            Self::Family(Family::HostMetrics) => "varta.HostMetrics",
            Self::Family(Family::ProcessSample) => "varta.ProcessSample",
            Self::Family(Family::ProcessEvent) => "varta.ProcessEvent",
            Self::Family(Family::UserActivity) => "varta.UserActivity",
            Self::Family(Family::WindowEvent) => "varta.WindowEvent",
            Self::Family(Family::FileEvent) => "varta.FileEvent",
            Self::Family(Family::NetworkEvent) => "varta.NetworkEvent",
            Self::Family(Family::DeviceEvent) => "varta.DeviceEvent",
            Self::Family(Family::AgentStatus) => "varta.AgentStatus",
            Self::Family(Family::CustomEvent) => "varta.CustomEvent",
            Self::Clock => "varta.Clock",
            Self::Rejected => "varta.Rejected",
            Self::Alert => "varta.Alert",
            Self::Feature1m => "varta.Feature1m",
            Self::Feature5m => "varta.Feature5m",
            Self::Feature1h => "varta.Feature1h",
            Self::UserFeature1m => "varta.UserFeature1m",
            Self::UserFeature5m => "varta.UserFeature5m",
            Self::UserFeature1h => "varta.UserFeature1h",
            Self::Feedback => "varta.Feedback",
            Self::FleetRow => "varta.FleetRow",
        }
    }

    /// The Avro schema, as JSON text.
    pub const fn avsc(self) -> &'static str {
        match self {
            Self::Family(family) => family.avsc(),
            Self::Clock => include_str!("../avro/clock.avsc"),
            Self::Rejected => include_str!("../avro/rejected.avsc"),
            Self::Alert => include_str!("../avro/alert.avsc"),
            Self::Feature1m => include_str!("../avro/feature_1m.avsc"),
            Self::Feature5m => include_str!("../avro/feature_5m.avsc"),
            Self::Feature1h => include_str!("../avro/feature_1h.avsc"),
            Self::UserFeature1m => include_str!("../avro/user_feature_1m.avsc"),
            Self::UserFeature5m => include_str!("../avro/user_feature_5m.avsc"),
            Self::UserFeature1h => include_str!("../avro/user_feature_1h.avsc"),
            Self::Feedback => include_str!("../avro/feedback.avsc"),
            Self::FleetRow => include_str!("../avro/fleet_row.avsc"),
        }
    }

    /// Subject in the schema registry: the record's full name, whatever topic it travels in.
    pub const fn subject(self) -> &'static str {
        self.full_name()
    }

    /// The kind of a [`RecordKind::full_name`].
    pub fn from_full_name(full_name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.full_name() == full_name)
    }
}

impl From<Family> for RecordKind {
    fn from(family: Family) -> Self {
        Self::Family(family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_with_the_schemas() {
        for kind in RecordKind::ALL {
            let schema: serde_json::Value = serde_json::from_str(kind.avsc()).unwrap();
            let full =
                format!("{}.{}", schema["namespace"].as_str().unwrap(), schema["name"].as_str().unwrap());
            assert_eq!(full, kind.full_name());
            assert_eq!(RecordKind::from_full_name(kind.full_name()), Some(kind));
        }
        assert_eq!(RecordKind::from_full_name("varta.Unknown"), None);
    }

    #[test]
    fn every_family_is_a_record() {
        for family in Family::ALL {
            let kind = RecordKind::ALL[family as usize];
            assert_eq!(kind, RecordKind::from(family));
            assert_eq!(kind.full_name(), format!("varta.{}", family.record()));
        }
    }

    #[test]
    fn features_of_all_sizes_have_the_same_columns() {
        let fields = |kind: RecordKind| {
            let schema: serde_json::Value = serde_json::from_str(kind.avsc()).unwrap();
            schema["fields"].clone()
        };
        for kinds in [RecordKind::FEATURES, RecordKind::USER_FEATURES] {
            for (kind, size) in kinds.into_iter().zip(crate::topics::FEATURE_SIZES) {
                assert!(kind.name().ends_with(&format!("_{size}")), "{}", kind.name());
                assert_eq!(fields(kind), fields(kinds[0]), "{}", kind.name());
            }
        }
    }

    #[test]
    fn each_field_explains_itself_and_each_nullable_field_has_a_default() {
        for kind in RecordKind::ALL {
            let schema: serde_json::Value = serde_json::from_str(kind.avsc()).unwrap();
            for field in schema["fields"].as_array().unwrap() {
                let at = format!("{}.{}", kind.name(), field["name"]);
                assert!(field["doc"].as_str().is_some_and(|doc| doc.ends_with('.')), "{at} has no doc");
                if field["type"].is_array() {
                    assert_eq!(field.get("default"), Some(&serde_json::Value::Null), "{at} has no default");
                }
            }
        }
    }
}

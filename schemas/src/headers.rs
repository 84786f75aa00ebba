//! Kafka headers of dead letters, late rows and clean records. The records `avro/headers/*.avsc` describe them to other readers.

/// Headers of a record on the dead-letter topic, whose value is the original bytes.
pub mod dead_letter {
    /// Which stage gave up, e.g. `bridge`.
    pub const STAGE: &str = "varta.stage";
    /// Why, as a sentence.
    pub const REASON: &str = "varta.reason";
    /// Where it came from: MQTT topic, or `topic-partition-offset`.
    pub const ORIGIN: &str = "varta.origin";
    /// When, in µs as decimal text.
    pub const AT: &str = "varta.at";
    /// All of them.
    pub const ALL: [&str; 4] = [STAGE, REASON, ORIGIN, AT];
}

/// Headers of a record on the clean topic, between the jobs `normalise` and `detect`.
pub mod clean {
    /// The event does not go on; its value is as it was received.
    pub const DROPPED: &str = "varta.dropped";
    /// Of a clock record: when it was appended to raw, in ms as decimal text.
    pub const APPENDED_AT: &str = "varta.appended_at";
    /// All of them.
    pub const ALL: [&str; 2] = [DROPPED, APPENDED_AT];
}

/// Headers of a record on the topic of late rows, whose value is the row as it was normalised.
pub mod late {
    /// Which operator was past the row.
    pub const OPERATOR: &str = "varta.operator";
    /// Start of the window that the row missed, in µs as decimal text.
    pub const WINDOW_START: &str = "varta.window_start";
    /// End of the window that the row missed, exclusive, in µs as decimal text.
    pub const WINDOW_END: &str = "varta.window_end";
    /// Watermark at that moment, in µs as decimal text.
    pub const WATERMARK: &str = "varta.watermark";
    /// All of them.
    pub const ALL: [&str; 4] = [OPERATOR, WINDOW_START, WINDOW_END, WATERMARK];
}

#[cfg(test)]
mod tests {
    fn described(avsc: &str) -> Vec<String> {
        let schema: serde_json::Value = serde_json::from_str(avsc).unwrap();
        let fields = schema["fields"].as_array().unwrap();
        fields.iter().map(|field| format!("varta.{}", field["name"].as_str().unwrap())).collect()
    }

    #[test]
    fn headers_are_those_of_the_schemas() {
        assert_eq!(described(include_str!("../avro/headers/dead_letter.avsc")), super::dead_letter::ALL);
        assert_eq!(described(include_str!("../avro/headers/late.avsc")), super::late::ALL);
        assert_eq!(described(include_str!("../avro/headers/clean.avsc")), super::clean::ALL);
    }
}

//! What a person says about an alert: a verdict that training sets take as label.

use serde::Deserialize;
use thiserror::Error;

use super::datum;

/// Longest note, in bytes.
pub const MAX_NOTE_BYTES: usize = 4096;
/// Longest name of an author, in bytes.
pub const MAX_AUTHOR_BYTES: usize = 128;

/// What an alert turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// What the rule looks for has happened.
    TruePositive,
    /// It has not; the rule is wrong.
    FalsePositive,
    /// It has happened, and was allowed.
    Benign,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::TruePositive, Self::FalsePositive, Self::Benign];

    /// As it is written: `tp`, `fp`, `benign`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TruePositive => "tp",
            Self::FalsePositive => "fp",
            Self::Benign => "benign",
        }
    }

    /// `verdict_id` of OCSF's finding classes.
    pub const fn ocsf_id(self) -> i32 {
        match self {
            Self::FalsePositive => 1,
            Self::TruePositive => 2,
            Self::Benign => 5,
        }
    }

    /// The verdict of a name; `None` for anything else, case matters.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.as_str() == name)
    }
}

/// A verdict of one person about one alert. Made by [`Feedback::new`] and [`Feedback::from_json`] only, so it is
/// sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feedback {
    alert_id: String,
    verdict: Verdict,
    note: Option<String>,
    author: String,
    given_at: i64,
}

/// Why feedback is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FeedbackRefused {
    /// Not the JSON object that is asked for.
    #[error("not feedback: {0}")]
    NotFeedback(String),
    /// The alert's id is none.
    #[error("alert_id: not the id of an alert, which is a UUID")]
    AlertId,
    /// Not one of the verdicts.
    #[error("verdict: expected tp, fp or benign")]
    Verdict,
    /// The author has no name, or one that is too long or has control characters.
    #[error("author: expected 1 to {MAX_AUTHOR_BYTES} bytes without control characters")]
    Author,
    /// The note is too long.
    #[error("note: longer than {MAX_NOTE_BYTES} bytes")]
    Note,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    alert_id: String,
    verdict: String,
    note: Option<String>,
    author: Option<String>,
}

impl Feedback {
    /// Feedback taken in at `given_at`, in µs.
    pub fn new(
        alert_id: &str,
        verdict: Verdict,
        note: Option<String>,
        author: String,
        given_at: i64,
    ) -> Result<Self, FeedbackRefused> {
        if !is_uuid(alert_id) {
            return Err(FeedbackRefused::AlertId);
        }
        if author.trim().is_empty() || author.len() > MAX_AUTHOR_BYTES || author.chars().any(char::is_control)
        {
            return Err(FeedbackRefused::Author);
        }
        if note.as_ref().is_some_and(|note| note.len() > MAX_NOTE_BYTES) {
            return Err(FeedbackRefused::Note);
        }
        Ok(Self { alert_id: alert_id.to_ascii_lowercase(), verdict, note, author, given_at })
    }

    /// Reads `{"alert_id": …, "verdict": "tp" | "fp" | "benign", "note": …, "author": …}`; the last two may be
    /// missing. Nothing else may be there: a mistyped field must not look as if it had been taken.
    pub fn from_json(json: &[u8], default_author: &str, given_at: i64) -> Result<Self, FeedbackRefused> {
        let given: Given =
            serde_json::from_slice(json).map_err(|error| FeedbackRefused::NotFeedback(error.to_string()))?;
        let verdict = Verdict::parse(&given.verdict).ok_or(FeedbackRefused::Verdict)?;
        let author = given.author.unwrap_or_else(|| default_author.to_owned());
        Self::new(&given.alert_id, verdict, given.note, author, given_at)
    }

    /// The alert's `finding_uid`.
    pub fn alert_id(&self) -> &str {
        &self.alert_id
    }

    /// The verdict.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Who gave it.
    pub fn author(&self) -> &str {
        &self.author
    }

    /// Key of the record: alert and author, so that a compacted topic keeps each author's newest word.
    pub fn key(&self) -> String {
        format!("{}/{}", self.alert_id, self.author)
    }

    /// The Avro datum, without prefix.
    pub fn datum(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.note.as_ref().map_or(0, String::len) + 128);
        datum::text(&self.alert_id, &mut out);
        datum::text(self.verdict.as_str(), &mut out);
        datum::long(i64::from(self.verdict.ocsf_id()), &mut out);
        datum::optional_text(self.note.as_deref(), &mut out);
        datum::text(&self.author, &mut out);
        datum::long(self.given_at, &mut out);
        out
    }
}

/// Whether this is a UUID in its usual form.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALERT: &str = "0b8f4f0a-52c1-8d3e-9f00-3c1d2e4f5a6b";

    fn read(json: &str) -> Result<Feedback, FeedbackRefused> {
        Feedback::from_json(json.as_bytes(), "soc", 7)
    }

    #[test]
    fn what_is_said_is_taken_and_the_author_has_a_default() {
        let feedback =
            read(&format!(r#"{{"alert_id": "{}", "verdict": "fp"}}"#, ALERT.to_uppercase())).unwrap();
        assert_eq!((feedback.alert_id(), feedback.author()), (ALERT, "soc"));
        assert_eq!(feedback.key(), format!("{ALERT}/soc"));
        let text = format!(r#"{{"alert_id": "{ALERT}", "verdict": "tp", "note": "seen", "author": "ann"}}"#);
        let feedback = read(&text).unwrap();
        assert_eq!((feedback.verdict(), feedback.author()), (Verdict::TruePositive, "ann"));
    }

    #[test]
    fn each_defect_is_named() {
        let with = |field: &str, value: &str| {
            let mut object = serde_json::json!({"alert_id": ALERT, "verdict": "tp"});
            object[field] = value.into();
            read(&object.to_string()).unwrap_err()
        };
        assert_eq!(with("alert_id", "7"), FeedbackRefused::AlertId);
        assert_eq!(with("alert_id", &ALERT.replace('-', "0")), FeedbackRefused::AlertId);
        assert_eq!(with("verdict", "TP"), FeedbackRefused::Verdict);
        assert_eq!(with("author", " "), FeedbackRefused::Author);
        assert_eq!(with("author", "a\nb"), FeedbackRefused::Author);
        assert_eq!(with("author", &"x".repeat(MAX_AUTHOR_BYTES + 1)), FeedbackRefused::Author);
        assert_eq!(with("note", &"x".repeat(MAX_NOTE_BYTES + 1)), FeedbackRefused::Note);
        assert!(matches!(with("nota", "x"), FeedbackRefused::NotFeedback(why) if why.contains("nota")));
        assert!(matches!(read("[]").unwrap_err(), FeedbackRefused::NotFeedback(_)));
    }

    #[test]
    fn verdicts_are_read_as_they_are_written() {
        for verdict in Verdict::ALL {
            assert_eq!(Verdict::parse(verdict.as_str()), Some(verdict));
        }
    }
}

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::AlertError;

/// A row that is kept because it may become evidence: the text of its JSON object, made once. Most rows that wait are
/// never told, so copying one costs nothing, writing it down is copying its text, and only an alert takes it apart.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Evidence(Arc<RawValue>);

impl Evidence {
    /// Of the fields of a row.
    pub(crate) fn new(row: &Map<String, Value>) -> Result<Self, AlertError> {
        Ok(Self(Arc::from(serde_json::value::to_raw_value(row)?)))
    }

    /// Bytes of its text.
    pub(crate) fn bytes(&self) -> usize {
        self.0.get().len()
    }

    /// The fields.
    ///
    /// # Errors
    /// What was read back from the changelog is no object.
    pub(crate) fn fields(&self) -> Result<Map<String, Value>, AlertError> {
        Ok(serde_json::from_str(self.0.get())?)
    }
}

impl PartialEq for Evidence {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for Evidence {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_written_as_the_object_that_it_is_and_read_back() {
        let Value::Object(row) = json!({"name": "x \"y\"", "pid": 7, "cpu_percent": 61.5}) else {
            unreachable!()
        };
        let kept = vec![Evidence::new(&row).unwrap()];
        let text = serde_json::to_string(&kept).unwrap();
        assert_eq!(text, serde_json::to_string(&[&row]).unwrap());
        let back: Vec<Evidence> = serde_json::from_str(&text).unwrap();
        assert_eq!(back, kept);
        assert_eq!(back[0].fields().unwrap(), row);
        let wrong: Evidence = serde_json::from_str("7").unwrap();
        assert!(wrong.fields().is_err());
    }
}

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{AlertError, rows};

/// A row that is kept because it may become evidence: the text of its JSON object, made once. Most rows that wait are
/// never told, so copying one costs nothing, writing it down is copying its text, and only an alert takes it apart.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Evidence(Arc<RawValue>);

impl Evidence {
    /// Of one row of a batch: what [`rows::evidence`] says of it.
    pub(crate) fn new(batch: &RecordBatch, row: usize) -> Result<Self, AlertError> {
        let text = match rows::evidence_text(batch, row)? {
            Some(text) => RawValue::from_string(text)?,
            None => serde_json::value::to_raw_value(&rows::evidence(batch, row)?)?,
        };
        Ok(Self(Arc::from(text)))
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
    use arrow::array::{
        ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
    };

    use super::*;

    fn batch(name: &str) -> RecordBatch {
        let time = TimestampMicrosecondArray::from(vec![1_700_000_000_123_456]).with_timezone("UTC");
        RecordBatch::try_from_iter([
            ("name", Arc::new(StringArray::from(vec![name])) as ArrayRef),
            ("nothing", Arc::new(StringArray::from(vec![None::<&str>]))),
            ("cpu_percent", Arc::new(Float64Array::from(vec![61.5]))),
            ("not_a_number", Arc::new(Float64Array::from(vec![f64::NAN]))),
            ("pid", Arc::new(Int64Array::from(vec![7]))),
            ("samples", Arc::new(Int32Array::from(vec![-3]))),
            ("mouse", Arc::new(BooleanArray::from(vec![true]))),
            ("event_time", Arc::new(time)),
        ])
        .unwrap()
    }

    #[test]
    fn it_has_the_fields_that_an_alert_of_the_row_has_however_long_they_are() {
        for name in ["x \"y\" \u{1} ж", &"ж".repeat(1_000), &"\u{2}".repeat(5_000), &"x".repeat(1_000_000)]
        {
            let batch = batch(name);
            let kept = Evidence::new(&batch, 0).unwrap();
            assert_eq!(kept.fields().unwrap(), rows::evidence(&batch, 0).unwrap());
            assert!(kept.0.get().len() < 64 * 1024);
        }
    }

    #[test]
    fn it_is_written_as_the_object_that_it_is_and_read_back() {
        let kept = vec![Evidence::new(&batch("x"), 0).unwrap()];
        let text = serde_json::to_string(&kept).unwrap();
        assert_eq!(text, format!("[{}]", kept[0].0.get()));
        let back: Vec<Evidence> = serde_json::from_str(&text).unwrap();
        assert_eq!(back, kept);
        let wrong: Evidence = serde_json::from_str("7").unwrap();
        assert!(wrong.fields().is_err());
    }
}

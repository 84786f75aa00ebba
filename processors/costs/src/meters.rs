//! Sums of the job's own metrics, so that a step's time is what the job measures while it runs whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use parking_lot::Mutex;

/// A number that grows or is set.
#[derive(Default)]
struct Sum(Mutex<f64>);

impl Sum {
    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut sum = self.0.lock();
        *sum = change(*sum);
    }
}

impl CounterFn for Sum {
    fn increment(&self, value: u64) {
        self.change(|sum| sum + value as f64);
    }
    fn absolute(&self, value: u64) {
        self.change(|_| value as f64);
    }
}

impl GaugeFn for Sum {
    fn increment(&self, value: f64) {
        self.change(|sum| sum + value);
    }
    fn decrement(&self, value: f64) {
        self.change(|sum| sum - value);
    }
    fn set(&self, value: f64) {
        self.change(|_| value);
    }
}

impl HistogramFn for Sum {
    fn record(&self, value: f64) {
        self.change(|sum| sum + value);
    }
}

/// Name, and all labels as text.
type Name = (String, String);

/// The recorder; clones share what they have.
#[derive(Clone, Default)]
pub(crate) struct Meters(Arc<Mutex<BTreeMap<Name, Arc<Sum>>>>);

impl Meters {
    /// Makes it the recorder of this process.
    pub(crate) fn install() -> anyhow::Result<Self> {
        let meters = Self::default();
        metrics::set_global_recorder(meters.clone())?;
        Ok(meters)
    }

    /// The sum over all labels in which `label` occurs; with "" over all.
    pub(crate) fn total(&self, name: &str, label: &str) -> f64 {
        let sums = self.0.lock();
        let of_name = sums.iter().filter(|((of, labels), _)| of == name && labels.contains(label));
        of_name.map(|(_, sum)| *sum.0.lock()).sum()
    }

    fn sum(&self, key: &Key) -> Arc<Sum> {
        let labels =
            key.labels().fold(String::new(), |all, label| all + label.key() + "=" + label.value() + ";");
        let name = (key.name().to_owned(), labels);
        Arc::clone(self.0.lock().entry(name).or_default())
    }
}

impl Recorder for Meters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.sum(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.sum(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.sum(key))
    }
}

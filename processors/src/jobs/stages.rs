//! What the steps of the job do: rows, micro-batches and time of each, as metrics.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};

use crate::engine::{Monotonic, Ticker};

/// A step that every micro-batch takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Avro to columns.
    Decode,
    /// Dedup and event time, row by row.
    Scan,
    /// The query of the family.
    Normalise,
    /// Events to Avro, and into the transaction.
    Encode,
    /// Rules on rows, sequences, silences.
    Rules,
    /// Rows into the windows.
    Windows,
    /// Windows that end: results, rules on them, Avro.
    Close,
}

const NAMES: [&str; 7] = ["decode", "scan", "normalise", "encode", "rules", "windows", "close"];

struct Meter {
    rows: Counter,
    batches: Counter,
    seconds: Histogram,
}

/// The meters of one worker's job. Its clock is the engine's; no output depends on it.
pub(super) struct Stages {
    clock: Monotonic,
    meters: [Meter; NAMES.len()],
}

impl Stages {
    pub(super) fn new() -> Self {
        let meter = |operator: &'static str| Meter {
            rows: counter!("varta_processors_operator_rows_total", "operator" => operator),
            batches: counter!("varta_processors_operator_batches_total", "operator" => operator),
            seconds: histogram!("varta_processors_operator_seconds", "operator" => operator),
        };
        Self { clock: Monotonic::start(), meters: NAMES.map(meter) }
    }

    /// A step begins; what comes back is for [`Self::end`].
    pub(super) fn begin(&self) -> Duration {
        self.clock.now()
    }

    /// The step that began then is done with these rows.
    pub(super) fn end(&self, step: Step, rows: usize, began: Duration) {
        let meter = &self.meters[step as usize];
        meter.rows.increment(rows as u64);
        meter.batches.increment(1);
        meter.seconds.record(self.clock.now().saturating_sub(began).as_secs_f64());
    }
}

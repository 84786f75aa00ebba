//! The parts that a process can be made of.

use clap::ValueEnum;

/// One of the sinks, by the name of its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SinkName {
    /// Delta tables of Parquet files.
    Lake,
    /// Time series.
    Influx,
    /// Tables.
    Postgres,
    /// Reports of what the tables hold.
    Reports,
    /// People.
    Notifier,
    /// Alerts on the MQTT bus.
    Mqtt,
}

/// A part of the server that runs until it is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// MQTT in, Kafka out.
    Bridge,
    /// Stream jobs.
    Process,
    /// The job `fleet`, beside the one that is configured.
    Fleet,
    /// One sink.
    Sink(SinkName),
}

impl Part {
    /// Whether it reads or writes the log. The notifier and the reports live on PostgreSQL alone.
    pub(crate) fn needs_log(self) -> bool {
        !matches!(self, Self::Sink(SinkName::Notifier | SinkName::Reports))
    }
}

/// Every part, in the order of the stream.
pub(crate) fn all() -> Vec<Part> {
    let mut parts = vec![Part::Bridge, Part::Process, Part::Fleet];
    parts.extend(sinks(&[]));
    parts
}

/// The sinks named; all where none is named.
pub(crate) fn sinks(names: &[SinkName]) -> Vec<Part> {
    let names = if names.is_empty() { SinkName::value_variants() } else { names };
    names.iter().copied().map(Part::Sink).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_on_postgres_alone_does_not_wait_for_the_log() {
        let without: Vec<Part> = all().into_iter().filter(|part| !part.needs_log()).collect();
        assert_eq!(without, sinks(&[SinkName::Reports, SinkName::Notifier]));
    }
}

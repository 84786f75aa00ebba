//! The metrics of this crate: what each is called and what it counts. README has the same table.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often, how long together, and in buckets.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, after Prometheus's conventions.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Its labels, with commas.
    pub labels: &'static str,
    /// What it says.
    pub help: &'static str,
}

const fn count(name: &'static str, labels: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

const fn level(name: &'static str, labels: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const fn time(name: &'static str, labels: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, labels, help }
}

/// All of them, by what they are about.
pub const METRICS: [Metric; 51] = [
    count("varta_processors_rows_total", "", "rows of the input that are processed and committed"),
    count("varta_processors_events_total", "family", "events that went on after dedup and normalisation"),
    count("varta_processors_duplicates_total", "", "events that were there already"),
    count("varta_processors_late_rows_total", "", "rows whose window had closed"),
    count("varta_processors_lost_total", "", "numbers in agents' sequences that were given up"),
    count("varta_processors_poison_total", "", "records that could not be read"),
    count(
        "varta_processors_dropped_rows_total",
        "family, rule",
        "rows that normalisation left out as insignificant",
    ),
    count(
        "varta_processors_refused_claims_total",
        "",
        "what agents said of numbers and could not be believed",
    ),
    count(
        "varta_processors_operator_rows_total",
        "operator",
        "rows that an operator took (`close`: agents whose windows may end)",
    ),
    count(
        "varta_processors_operator_batches_total",
        "operator",
        "micro-batches, or parts of them, that it took",
    ),
    time("varta_processors_operator_seconds", "operator", "time that each of these took"),
    count("varta_processors_features_total", "size", "windows emitted"),
    level("varta_processors_open_windows", "partition", "windows that are open, of all sizes"),
    level("varta_processors_agents", "partition", "agents known"),
    level("varta_processors_silent_agents", "partition", "those of them that are silent"),
    level("varta_processors_sessions", "partition", "sessions of all agents that may still bring something"),
    level("varta_processors_intervals", "partition", "intervals of numbers above a hole"),
    level("varta_processors_floors", "partition", "agents that were dropped and left a floor"),
    level(
        "varta_processors_watermark_lag_seconds",
        "partition, agent",
        "how far the event time of the foremost and the hindmost agent that speaks is behind the log's clock",
    ),
    count(
        "varta_processors_expired_agents_total",
        "",
        "agents dropped because nobody heard of them for the whole hold",
    ),
    count("varta_processors_dropped_floors_total", "", "floors dropped for lack of room"),
    count(
        "varta_processors_foreign_ids_not_kept_total",
        "",
        "ids of events without a sequence that were too many to be remembered",
    ),
    count("varta_processors_rule_evaluations_total", "rule", "rows that a rule was asked about"),
    count("varta_processors_rule_hits_total", "rule", "rows that its condition held for"),
    count("varta_processors_alerts_total", "rule", "findings sent"),
    count("varta_processors_suppressed_total", "rule", "findings held back by `suppress`"),
    count("varta_processors_rule_sets_taken_total", "", "sets of rules taken over by a partition"),
    count("varta_processors_rule_sets_refused_total", "", "sets of rules that could not be used"),
    count(
        "varta_processors_rule_sets_unreadable_total",
        "",
        "sets in the state that this program cannot read",
    ),
    count(
        "varta_processors_rule_state_dropped_total",
        "of",
        "what rules remembered and had to forget for lack of room: rows or bytes of a key, an agent, a partition",
    ),
    count("varta_processors_fleet_rows_total", "", "rows sent to the job `fleet`"),
    count(
        "varta_processors_fleet_late_rows_total",
        "",
        "rows that came after the windows over the fleet had ended",
    ),
    count(
        "varta_processors_fleet_dropped_rows_total",
        "",
        "rows left out of windows over the fleet because there were too many groups",
    ),
    count(
        "varta_processors_fleet_orphans_total",
        "",
        "windows over the fleet of rules that were withdrawn or changed",
    ),
    level("varta_processors_fleet_open_rows", "partition", "partial rows of open windows over the fleet"),
    level("varta_processors_rules_refused", "", "1 while the folder of rules has problems"),
    level("varta_processors_partitions", "slot", "partitions that a worker has"),
    time("varta_processors_commit_seconds", "", "time that a commit took"),
    time(
        "varta_processors_commit_step_seconds",
        "step",
        "its parts: what ends and its findings (`settle`), writing the state (`state`), the log's own (`log`)",
    ),
    time("varta_processors_transaction_seconds", "", "time from the first row of a transaction to its end"),
    count("varta_processors_aborts_total", "", "transactions taken back"),
    count("varta_processors_log_failures_total", "", "calls of the log that failed"),
    level("varta_processors_state_rows", "operator, partition", "rows of live state"),
    level("varta_processors_state_bytes", "operator, partition", "their size, as it would be written now"),
    level(
        "varta_processors_changelog_bytes",
        "operator, partition",
        "size of all rows in the present generation of the changelog, in the same measure",
    ),
    count("varta_processors_state_written_bytes_total", "", "bytes written to the state topic"),
    count(
        "varta_processors_state_generations_total",
        "operator",
        "times that the whole state was written anew",
    ),
    time("varta_processors_restore_seconds", "", "time that restoring a partition took"),
    time("varta_processors_restore_read_seconds", "", "the part of it in which the state topic was read"),
    count("varta_processors_restored_rows_total", "", "rows of state read while restoring"),
    count(
        "varta_processors_restored_bytes_total",
        "",
        "bytes of the state topic read while restoring, those that were out of date included",
    ),
];

/// Tells the recorder what they mean, and shows those without labels before the first time that they count.
pub fn describe() {
    for Metric { name, kind, labels, help } in METRICS {
        match kind {
            Kind::Counter => describe_counter!(name, help),
            Kind::Gauge => describe_gauge!(name, help),
            Kind::Histogram => describe_histogram!(name, help),
        }
        match kind {
            Kind::Counter if labels.is_empty() => counter!(name).increment(0),
            Kind::Gauge if labels.is_empty() => gauge!(name).set(0.0),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn folder() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    /// Names in quotes in all sources but this one.
    fn used(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                used(&path, names);
            } else if !path.ends_with("metered.rs") {
                let text = fs_err::read_to_string(&path).unwrap();
                let words = text.split('"').filter(|word| word.starts_with("varta_processors_"));
                names.extend(words.map(str::to_owned));
            }
        }
    }

    #[test]
    fn the_table_has_all_metrics_and_no_others() {
        let mut names = BTreeSet::new();
        used(&folder().join("src"), &mut names);
        assert_eq!(names, METRICS.iter().map(|metric| metric.name.to_owned()).collect());
    }

    #[test]
    fn names_follow_the_conventions() {
        for Metric { name, kind, .. } in METRICS {
            assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
            assert!(!name.contains("_ms") && !name.contains("_micros"), "base units: {name}");
        }
    }

    #[test]
    fn the_readme_lists_them() {
        let readme = fs_err::read_to_string(folder().join("../README.md")).unwrap();
        for Metric { name, labels, help, .. } in METRICS {
            let row = format!("| `{name}` | {labels} | {help} |");
            assert!(readme.contains(&row), "README.md has no row\n{row}");
        }
    }
}

//! The Delta lake: one table per family, raw, features, alerts, feedback, late and dead letters.
//!
//! **Exactly once.** A commit adds files *and* a `txn` action per topic-partition with the last offset that the
//! files hold. Before each attempt the sink reads the table's log to its end, drops from memory what the table
//! has already, and then makes exactly the next version or fails. So it does not matter who else writes,
//! who slept, or whether an answer was lost. Where reading begins after a start comes from the same
//! `txn` actions.
//!
//! A file is uploaded whole before it is named in the log; a crash between the two leaves a file that no reader
//! sees and that a vacuum removes. Limitation: on a local folder, object_store stages an upload
//! under `<name>#<number>`; a crash in the middle of one leaves that name behind.

mod config;
mod dates;
mod encoding;
mod files;
mod held;
mod history;
pub mod info;
mod merge;
mod mill;
pub mod optimize;
mod order;
mod probe;
pub mod rebuild;
mod shape;
mod sink;
mod table;
#[cfg(test)]
mod tests;
pub mod verify;
mod writer;

use std::{sync::Arc, time::Duration};

use eventlog::{Log, registry::SchemaRegistry};
use runtime::{health::Health, shutdown::Shutdown};
use schemas::{
    family::Family,
    record::RecordKind,
    topics::{FEATURE_SIZES, Topics},
};

pub use self::{config::LakeConfig, history::Covered};
use self::{shape::Content, sink::LakeSink};
use crate::{
    DeadLetters, SinkError,
    runner::{self, Feed},
};

/// Whether tables can be kept at the configured place: it is there, takes the credentials and creates an object only
/// once. Leaves nothing behind.
///
/// # Errors
/// As when the sink opens it: `Unavailable` or, for a store that is not fit, `Fatal`.
pub async fn check(config: &LakeConfig) -> Result<(), SinkError> {
    probe::try_out(&config.root()).await
}

/// Runs the sink until `shutdown` or a fatal error.
pub async fn run<L: Log>(
    config: LakeConfig,
    log: L,
    registry: Arc<dyn SchemaRegistry>,
    topics: Topics,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), SinkError> {
    if !config.enabled {
        return Ok(());
    }
    let tables = tables(&topics);
    let (plain, decoded): (Vec<_>, Vec<_>) = tables.iter().partition(|(_, _, content)| content.is_plain());
    let names =
        |of: Vec<&(String, Arc<str>, Content)>| of.iter().map(|(_, topic, _)| topic.to_string()).collect();
    let feed = Feed {
        group: config.group.clone(),
        instance: config.instance.clone(),
        decoded: names(decoded),
        plain: names(plain),
        poll_rows: config.poll_rows,
        poll_bytes: config.poll_bytes.bytes() as usize,
        drain: config.drain,
    };
    let letters = DeadLetters::open(&log, &topics, "lake")?;
    runner::run(LakeSink::new(config, tables, letters)?, feed, log, registry, health, shutdown).await
}

/// Every table with its topic. One more kind of record is one more line here.
fn tables(topics: &Topics) -> Vec<(String, Arc<str>, Content)> {
    let mut tables = vec![("raw".to_owned(), topics.raw(), Content::Raw)];
    for family in Family::ALL {
        let content = Content::Kind(RecordKind::Family(family));
        tables.push((family.name().to_owned(), topics.events(family), content));
    }
    for ((size, by_machine), by_user) in
        FEATURE_SIZES.into_iter().zip(RecordKind::FEATURES).zip(RecordKind::USER_FEATURES)
    {
        tables.push((format!("features_{size}"), topics.features(size), Content::Kind(by_machine)));
        tables.push((format!("user_features_{size}"), topics.user_features(size), Content::Kind(by_user)));
    }
    tables.push(("alerts".to_owned(), topics.alerts(), Content::Kind(RecordKind::Alert)));
    tables.push(("feedback".to_owned(), topics.feedback(), Content::Kind(RecordKind::Feedback)));
    tables.push(("late".to_owned(), topics.late(), Content::Late));
    tables.push(("dead_letters".to_owned(), topics.dlq(), Content::DeadLetters));
    tables
}

/// How long an upload may take before it is tried again.
const UPLOAD: Duration = Duration::from_mins(2);

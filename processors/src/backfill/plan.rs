//! What a backfill was begun with, written down so that each later start and each other process does the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eventlog::{Appender, Log, LogError, LogErrorKind, NewRecord, TopicPartition};
use parking_lot::Mutex;
use schemas::topics::Topics;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Backfill;
use super::place::{self, RangeError};
use crate::engine::Stretch;
use crate::rules::{RuleProblem, listed};

/// How long the log may take to take the plan.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a backfill cannot begin.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The live job's outputs would be mixed with those of the backfill.
    #[error("--out-prefix {0:?} is the prefix of the live topics; name another one")]
    LivePrefix(String),
    /// The rules cannot be used.
    #[error("rules: {}", listed(.0))]
    Rules(Vec<RuleProblem>),
    /// No stretch of the input lies between the places.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The log did not answer.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Somebody else writes there.
    #[error("there are topics below {0:?} that no backfill made; name another --out-prefix")]
    Occupied(String),
    /// Another backfill was begun under this prefix.
    #[error(
        "{topic}: a backfill was begun here with {what} {begun}, not {asked}; start it again as it was, or name another --out-prefix"
    )]
    Differs {
        /// Topic of the plan.
        topic: Arc<str>,
        /// Which part differs.
        what: &'static str,
        /// As it was begun.
        begun: String,
        /// As it is asked for now.
        asked: String,
    },
    /// The plan cannot be read.
    #[error("{topic}: the plan cannot be read: {why}; name another --out-prefix")]
    Unreadable {
        /// Topic of the plan.
        topic: Arc<str>,
        /// What is wrong with it.
        why: String,
    },
}

/// A backfill as it was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Topic that is read.
    pub input: String,
    /// Where it begins, as it was asked for.
    pub from: String,
    /// Where it ends, as it was asked for.
    pub to: String,
    /// Hash of the rules.
    pub rule_set: String,
    /// What that came to, by partition.
    pub stretches: BTreeMap<i32, Stretch>,
}

/// What is asked for; the stretches are still to be found.
pub(super) struct Wanted<'a> {
    backfill: &'a Backfill,
    rule_set: &'a str,
}

pub(super) fn wanted<'a>(backfill: &'a Backfill, rule_set: &'a str) -> Wanted<'a> {
    Wanted { backfill, rule_set }
}

/// The plan that holds, and whether it was there before. Of several processes that begin at once the first one's plan
/// holds for all.
pub(super) fn settle<L: Log>(
    log: &L,
    topics: &Topics,
    partitions: i32,
    wanted: &Wanted<'_>,
    name: &str,
    now: i64,
) -> Result<(Plan, bool), PlanError> {
    let spec = topics.backfill();
    let of = TopicPartition::new(Arc::clone(&spec.name), 0);
    // Looked for before the plan is: whoever makes the topics has written it.
    let is_occupied = exists(log, &topics.alerts())? || exists(log, &topics.state("core"))?;
    if exists(log, &spec.name)?
        && let Some(plan) = read(log, &of)?
    {
        compare(&of.topic, &plan, wanted)?;
        return Ok((plan, true));
    }
    if is_occupied {
        return Err(PlanError::Occupied(topics.prefix().to_owned()));
    }
    let Backfill { live, from, to, .. } = wanted.backfill;
    // Nothing is created for a range that cannot be.
    let stretches = place::stretches(log, &live.raw(), from, to)?;
    log.create_topics(std::slice::from_ref(&spec), partitions)?;
    let plan = Plan {
        input: live.raw().to_string(),
        from: from.to_string(),
        to: to.to_string(),
        rule_set: wanted.rule_set.to_owned(),
        stretches,
    };
    write(log, &of, format!("{now}-{name}"), &plan)?;
    let Some(held) = read(log, &of)? else {
        return Err(LogError::unavailable(format!("{of}: the plan that was written is not there")).into());
    };
    compare(&of.topic, &held, wanted)?;
    Ok((held, false))
}

fn exists<L: Log>(log: &L, topic: &str) -> Result<bool, LogError> {
    match log.partitions(topic) {
        Ok(_) => Ok(true),
        Err(LogError { kind: LogErrorKind::UnknownTopic, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn compare(topic: &Arc<str>, plan: &Plan, wanted: &Wanted<'_>) -> Result<(), PlanError> {
    let Backfill { live, from, to, .. } = wanted.backfill;
    let parts = [
        ("input", &plan.input, live.raw().to_string()),
        ("--from", &plan.from, from.to_string()),
        ("--to", &plan.to, to.to_string()),
        ("rules", &plan.rule_set, wanted.rule_set.to_owned()),
    ];
    for (what, begun, asked) in parts {
        if *begun != asked {
            let (topic, begun) = (Arc::clone(topic), begun.clone());
            return Err(PlanError::Differs { topic, what, begun, asked });
        }
    }
    Ok(())
}

/// The first plan; each has a key of its own, so compaction keeps it.
fn read<L: Log>(log: &L, of: &TopicPartition) -> Result<Option<Plan>, PlanError> {
    let (from, end) = log.bounds(of)?;
    let mut first: Option<Bytes> = None;
    log.read_partition(of, from, end, &mut |record| {
        if first.is_none() {
            first = record.value;
        }
        Ok(())
    })?;
    let unreadable = |error: serde_json::Error| PlanError::Unreadable {
        topic: Arc::clone(&of.topic),
        why: error.to_string(),
    };
    first.map(|value| serde_json::from_slice(&value).map_err(unreadable)).transpose()
}

fn write<L: Log>(log: &L, of: &TopicPartition, key: String, plan: &Plan) -> Result<(), PlanError> {
    let unwritable = |error: serde_json::Error| PlanError::Unreadable {
        topic: Arc::clone(&of.topic),
        why: error.to_string(),
    };
    let value = serde_json::to_vec(plan).map_err(unwritable)?;
    let refused = Arc::new(Mutex::new(None));
    let told = Arc::clone(&refused);
    let appender = log.appender(Box::new(move |_, outcome| {
        if let Err(error) = outcome {
            *told.lock() = Some(error);
        }
    }))?;
    let record = NewRecord::keyed(Arc::clone(&of.topic), key, value).to_partition(of.partition);
    if let Err(error) = appender.append(record, 0) {
        return Err(LogError::fatal(format!("{of}: {error}")).into());
    }
    appender.flush(PATIENCE)?;
    let refused = refused.lock().take();
    refused.map_or(Ok(()), |error| Err(error.into()))
}

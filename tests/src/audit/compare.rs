//! The comparison itself: four places, one set.

use std::collections::BTreeSet;
use std::path::Path;

use schemas::family::Family;
use schemas::topics::Topics;

use super::{Counts, Difference, Id, SchemaCache, avro, read_lake, read_topic};
use crate::servers::Servers;

/// One line of the comparison.
#[derive(Debug)]
pub struct Finding {
    /// What was compared with what.
    pub what: String,
    /// Identities in the second place.
    pub identities: usize,
    /// How they differ.
    pub difference: Difference,
}

/// Reads topics and lake and compares them; `made` is what the agents put into their outboxes.
pub async fn compare(
    servers: &Servers,
    topics: &Topics,
    lake: Option<&Path>,
    made: Option<&Counts>,
) -> anyhow::Result<Vec<Finding>> {
    let mut schemas = SchemaCache::new(&servers.registry);
    let raw = counts_of(servers, &topics.raw(), &mut schemas).await?;
    let mut findings = Vec::new();
    let mut find = |what: String, second: &Counts, difference| {
        findings.push(Finding { what, identities: second.len(), difference });
    };
    if let Some(made) = made {
        let arrived = of_known_sessions(&raw, made);
        find("made by the agent = varta.raw".into(), &arrived, Difference::between(made, &arrived, false));
    }
    let mut events = Counts::new();
    let mut by_family = Vec::new();
    for family in Family::ALL {
        let counts = counts_of(servers, &topics.events(family), &mut schemas).await?;
        for (id, count) in &counts {
            *events.entry(id.clone()).or_default() += count;
        }
        by_family.push((family, counts));
    }
    find("varta.raw = union of varta.events.*".into(), &events, Difference::between(&raw, &events, true));
    if let Some(lake) = lake {
        let stored = table(lake, "raw").await?;
        find("varta.raw = lake table raw".into(), &stored, Difference::between(&raw, &stored, false));
        for (family, counts) in &by_family {
            let stored = table(lake, family.name()).await?;
            find(
                format!("varta.events.{} = lake table", family.name()),
                &stored,
                Difference::between(counts, &stored, true),
            );
        }
    }
    Ok(findings)
}

/// What came from the sessions that the outboxes still know; of older ones they keep no numbers, and events of
/// other senders and of the status topic were never in an outbox.
fn of_known_sessions(raw: &Counts, made: &Counts) -> Counts {
    let session = |id: &Id| match id {
        Id::Own { agent_id, session, .. } => Some((agent_id.clone(), *session)),
        Id::Foreign { .. } => None,
    };
    let known: BTreeSet<_> = made.keys().filter_map(session).collect();
    raw.iter()
        .filter(|(id, _)| session(id).is_some_and(|session| known.contains(&session)))
        .map(|(id, count)| (id.clone(), *count))
        .collect()
}

/// A table that no row has reached yet does not exist and is empty.
async fn table(lake: &Path, name: &str) -> anyhow::Result<Counts> {
    let folder = lake.join(name);
    if !folder.join("_delta_log").exists() {
        return Ok(Counts::new());
    }
    read_lake(&folder).await?.counts()
}

async fn counts_of(servers: &Servers, topic: &str, schemas: &mut SchemaCache) -> anyhow::Result<Counts> {
    let kafka = servers.kafka.clone();
    let name = topic.to_owned();
    let records = tokio::task::spawn_blocking(move || read_topic(&kafka, &name)).await??;
    let mut counts = Counts::new();
    for record in records {
        let (kind, fields) = schemas.decode(&record.value).await?;
        if kind.ends_with("Clock") || kind.ends_with("Rejected") {
            continue;
        }
        if let Some(id) = avro::identity(&fields) {
            *counts.entry(id).or_default() += 1;
        }
    }
    Ok(counts)
}

//! Findings of the engine itself, shaped like those of rules.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::alerts::{Activity, Alert, Status};
use crate::event_time;
use crate::rules::{Rule, RuleProblem, RuleSet};

const CLONED: &str = r"
id: agent-cloned
title: Two machines use one agent id
severity: high
description: Two sessions of one agent id are alive at once. A disk image was copied with the agent's identity, or somebody sends in its name.
kind: match
family: agent_status
where: 'false'
message: Two machines use one agent id
";

/// Rules that no query expresses.
pub(super) struct EngineRules {
    set: RuleSet,
    cloned: Arc<Rule>,
}

impl EngineRules {
    pub(super) fn new() -> Result<Self, Vec<RuleProblem>> {
        let set = RuleSet::parse([("engine.yaml", CLONED)], [])?;
        let missing =
            || vec![RuleProblem { file: "engine.yaml".into(), line: 1, what: "agent-cloned".into() }];
        let cloned = set.get("agent-cloned").cloned().ok_or_else(missing)?;
        Ok(Self { set, cloned })
    }

    /// One id, two machines.
    pub(super) fn cloned(&self, found: &event_time::Clone) -> Alert {
        Alert {
            finding_uid: uid(&["clone", &found.agent, &found.older.to_string(), &found.newer.to_string()]),
            rule: Arc::clone(&self.cloned),
            rule_set: Arc::clone(self.set.hash()),
            activity: Activity::Create,
            status: Status::New,
            agent_id: found.agent.to_string(),
            session: found.older,
            lane: found.lane.as_str().to_owned(),
            seq: found.seq,
            event_id: None,
            host: None,
            user: None,
            event_time: found.event_time,
            first_seen: found.event_time,
            last_seen: found.event_time,
            count: 1,
            window: None,
            message: format!(
                "Two machines use the agent id {}: sessions {} and {} are both alive",
                found.agent, found.older, found.newer
            ),
            evidence: Vec::new(),
        }
    }
}

fn uid(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_rules_parse_and_ids_repeat() {
        EngineRules::new().map_err(|problems| format!("{problems:?}")).unwrap();
        assert_eq!(uid(&["a", "b"]), uid(&["a", "b"]));
        assert_ne!(uid(&["a", "b"]), uid(&["ab"]));
    }
}

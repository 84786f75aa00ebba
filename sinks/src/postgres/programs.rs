//! Starts of programs: the specification's table, and who and what was ever seen in them.

use arrow::array::RecordBatch;
use schemas::event::event_type;
use sha2::{Digest, Sha256};

use super::{config::Exclude, copy::Tuple, tables::Tuples};
use crate::{
    SinkError,
    column::{self, cell},
};

/// What starts of programs bring for three tables.
pub(super) struct Started {
    /// `program_starts`
    pub(super) starts: Tuples,
    /// `users`
    pub(super) users: Tuples,
    /// `programs`
    pub(super) programs: Tuples,
}

/// The starts among process events, less those that are excluded.
pub(super) fn stage(batch: &RecordBatch, exclude: &Exclude) -> Result<Started, SinkError> {
    let (kind, agent) = (column::text(batch, "event_type")?, column::text(batch, "agent_id")?);
    let (user, name) = (column::text(batch, "user")?, column::text(batch, "name")?);
    let (path, class) = (column::text(batch, "path")?, column::text(batch, "path_class")?);
    let (session, seq) = (column::long(batch, "session")?, column::long(batch, "seq")?);
    let (lane, event_id) = (column::text(batch, "lane")?, column::text(batch, "event_id")?);
    let time = column::long(batch, "event_time")?;
    let mut started = Started { starts: Vec::new(), users: Vec::new(), programs: Vec::new() };
    for row in 0..batch.num_rows() {
        let (user, name, class) = (cell(user, row), cell(name, row), cell(class, row));
        if kind.value(row) != event_type::PROCESS_STARTED || is_excluded(exclude, name, user, class) {
            continue;
        }
        let id = identity_hash(
            agent.value(row),
            session.value(row),
            lane.value(row),
            seq.value(row),
            cell(event_id, row),
        );
        let at = time.value(row);
        started.starts.push((row, start(id, at, user, name, agent.value(row))));
        // a time that cannot be stored is refused once
        if let Some(Ok(tuple)) = user.map(|user| seen_user(user, at)) {
            started.users.push((row, Ok(tuple)));
        }
        if let Some(Ok(tuple)) = name.map(|name| program(name, cell(path, row), class, at)) {
            started.programs.push((row, Ok(tuple)));
        }
    }
    Ok(started)
}

fn start(
    id: [u8; 16],
    at: i64,
    user: Option<&str>,
    name: Option<&str>,
    agent: &str,
) -> Result<Vec<u8>, String> {
    let mut tuple = Tuple::new(5);
    tuple.uuid(id);
    tuple.time("event_time", at)?;
    for text in [user, name, Some(agent)] {
        tuple.text_or_null(text);
    }
    Ok(tuple.finish())
}

fn seen_user(user: &str, at: i64) -> Result<Vec<u8>, String> {
    let mut tuple = Tuple::new(3);
    tuple.text(user);
    tuple.time("event_time", at)?;
    tuple.time("event_time", at)?;
    Ok(tuple.finish())
}

fn program(name: &str, path: Option<&str>, class: Option<&str>, at: i64) -> Result<Vec<u8>, String> {
    let mut tuple = Tuple::new(6);
    tuple.uuid(hashed(&[name, path.unwrap_or("")], &[i64::from(path.is_some())]));
    for text in [Some(name), path, class] {
        tuple.text_or_null(text);
    }
    tuple.time("event_time", at)?;
    tuple.time("event_time", at)?;
    Ok(tuple.finish())
}

fn is_excluded(exclude: &Exclude, name: Option<&str>, user: Option<&str>, class: Option<&str>) -> bool {
    let listed = |list: &[String], value: Option<&str>| {
        value.is_some_and(|value| list.iter().any(|listed| listed.to_lowercase() == value.to_lowercase()))
    };
    listed(&exclude.names, name) || listed(&exclude.users, user) || listed(&exclude.path_classes, class)
}

/// The id of an event, whoever stores it and however often.
fn identity_hash(agent: &str, session: i64, lane: &str, seq: i64, event_id: Option<&str>) -> [u8; 16] {
    hashed(&[agent, lane, event_id.unwrap_or("")], &[session, seq])
}

/// 128 bits of SHA-256 over texts and numbers, shaped as a UUID of version 8 (RFC 9562).
fn hashed(texts: &[&str], numbers: &[i64]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    for number in numbers {
        hash.update(number.to_be_bytes());
    }
    let digest = hash.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    *uuid::Builder::from_custom_bytes(id).into_uuid().as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn system_programs_are_excluded_only_when_asked() {
        let exclude = Exclude {
            names: vec!["Svchost.EXE".to_owned()],
            users: vec![],
            path_classes: vec!["system".to_owned()],
        };
        assert!(is_excluded(&exclude, Some("svchost.exe"), None, None));
        assert!(is_excluded(&exclude, Some("x"), None, Some("system")));
        assert!(!is_excluded(&exclude, Some("x"), Some("root"), Some("home")));
        assert!(!is_excluded(&Exclude::default(), Some("svchost.exe"), Some("SYSTEM"), Some("system")));
    }

    proptest! {
        #[test]
        fn an_identity_always_has_the_same_id_and_another_has_another(
            agent in ".{0,8}", session: i64, seq in 0..i64::MAX,
        ) {
            let id = identity_hash(&agent, session, "normal", seq, None);
            prop_assert_eq!(id, identity_hash(&agent, session, "normal", seq, None));
            prop_assert_ne!(id, identity_hash(&agent, session, "normal", seq - 1, None));
            prop_assert_ne!(id, identity_hash(&agent, session, "bulk", seq, None));
            prop_assert_ne!(id, identity_hash(&agent, session, "normal", seq, Some("x")));
        }
    }
}

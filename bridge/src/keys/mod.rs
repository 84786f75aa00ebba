//! API keys: what they look like, what each may do, and whether one that is shown is known.
//!
//! A key is `varta_ID_SECRET`: the id finds its row, the secret is 256 random bits. The file keeps the SHA-256 of the
//! whole text and never the text. A slow hash such as argon2 protects what people choose, which can be guessed; 256
//! random bits cannot, and a request must not cost 50 ms and 20 MB before it is known to be anybody's.

mod file;
mod pattern;
mod watch;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use thiserror::Error;

pub use file::{change, read};
pub(crate) use watch::{Keys, Watcher};

use crate::intake::Voice;

/// What every key begins with.
const MARK: &str = "varta_";
/// Bytes of an id; it is written as twice as many hexadecimal digits.
const ID_BYTES: usize = 6;
/// Bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Longest key that is looked at; those that are issued are shorter.
const MAX_KEY_BYTES: usize = 128;

/// What is wrong with a file of keys or with what is asked of it.
#[derive(Debug, Error)]
pub enum KeysError {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The file is not one of keys.
    #[error("{path}: {what}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// Others than the owner may write to it, and so could issue keys.
    #[error("{path}: others may write to it; chmod 600")]
    Exposed {
        /// The file.
        path: String,
    },
    /// No key has this id.
    #[error("no key has the id {0:?}")]
    Unknown(String),
    /// A key must be of use for something.
    #[error("a key needs an agent to speak for, or the right to give feedback")]
    Useless,
    /// What cannot name an agent.
    #[error("{0:?} is neither an agent id nor a pattern of one")]
    Pattern(String),
}

/// One key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRow {
    /// The part of the key by which its row is found; not secret.
    pub id: String,
    /// For people: who has it.
    pub name: String,
    /// SHA-256 of the key, in hexadecimal digits.
    pub sha256: String,
    /// Agents that it speaks for: ids, or patterns in which `*` stands for any text.
    #[serde(default)]
    pub agents: Vec<String>,
    /// Whether it may give feedback about alerts.
    #[serde(default)]
    pub feedback: bool,
    /// When it was issued.
    pub issued_at: DateTime<Utc>,
    /// From when on it is worth nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Since when it is worth nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<DateTime<Utc>>,
}

/// What a new key is to be.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// See [`KeyRow::name`].
    pub name: String,
    /// See [`KeyRow::agents`].
    pub agents: Vec<String>,
    /// See [`KeyRow::feedback`].
    pub feedback: bool,
    /// See [`KeyRow::expires_at`].
    pub expires_at: Option<DateTime<Utc>>,
}

/// All keys of a file, in the order of issue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// The rows.
    #[serde(default, rename = "key")]
    pub keys: Vec<KeyRow>,
}

impl KeyFile {
    /// Makes a key and answers its text, which is nowhere else from then on.
    pub fn issue(&mut self, wanted: Wanted, now: DateTime<Utc>) -> Result<String, KeysError> {
        if wanted.agents.is_empty() && !wanted.feedback {
            return Err(KeysError::Useless);
        }
        if let Some(bad) = wanted.agents.iter().find(|agent| !pattern::is_pattern(agent)) {
            return Err(KeysError::Pattern(bad.clone()));
        }
        let mut id = hex(&random::<ID_BYTES>()?);
        while self.keys.iter().any(|key| key.id == id) {
            id = hex(&random::<ID_BYTES>()?);
        }
        let text = format!("{MARK}{id}_{}", hex(&random::<SECRET_BYTES>()?));
        self.keys.push(KeyRow {
            id,
            name: wanted.name,
            sha256: hex(&digest(&text)),
            agents: wanted.agents,
            feedback: wanted.feedback,
            issued_at: now,
            expires_at: wanted.expires_at,
            revoked_at: None,
        });
        Ok(text)
    }

    /// Makes a key worth nothing from now on. One that was revoked before stays revoked since then.
    pub fn revoke(&mut self, id: &str, now: DateTime<Utc>) -> Result<&KeyRow, KeysError> {
        let found = self.keys.iter_mut().find(|key| key.id == id);
        let key = found.ok_or_else(|| KeysError::Unknown(id.to_owned()))?;
        key.revoked_at.get_or_insert(now);
        Ok(key)
    }
}

/// A key that was shown and is good.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) feedback: bool,
    agents: Vec<String>,
    sha256: [u8; 32],
    expires_at: Option<DateTime<Utc>>,
    is_revoked: bool,
}

impl Key {
    /// Whether it speaks for some agent at all.
    pub(crate) fn has_agents(&self) -> bool {
        !self.agents.is_empty()
    }
}

impl Voice for Key {
    fn may_speak_for(&self, agent_id: &str) -> bool {
        self.agents.iter().any(|pattern| pattern::matches(pattern, agent_id))
    }

    /// The one agent that it is bound to.
    fn default_agent(&self) -> Option<&str> {
        match self.agents.as_slice() {
            [only] if !only.contains('*') => Some(only),
            _ => None,
        }
    }
}

/// Why a key is worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Nobody has ever got it.
    Unknown,
    Revoked,
    Expired,
}

/// The keys that are known, for looking up.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    keys: HashMap<String, Arc<Key>>,
}

impl KeySet {
    /// Fails with what is wrong in the rows.
    pub(crate) fn new(file: KeyFile) -> Result<Self, String> {
        let mut keys = HashMap::with_capacity(file.keys.len());
        for row in file.keys {
            let sha256 = unhex(&row.sha256)
                .ok_or_else(|| format!("key {}: sha256 is not 64 hexadecimal digits", row.id))?;
            if let Some(bad) = row.agents.iter().find(|agent| !pattern::is_pattern(agent)) {
                return Err(format!("key {}: {}", row.id, KeysError::Pattern(bad.clone())));
            }
            let key = Key {
                id: row.id.clone(),
                name: row.name,
                feedback: row.feedback,
                agents: row.agents,
                sha256,
                expires_at: row.expires_at,
                is_revoked: row.revoked_at.is_some(),
            };
            if keys.insert(row.id.clone(), Arc::new(key)).is_some() {
                return Err(format!("key {} is there twice", row.id));
            }
        }
        Ok(Self { keys })
    }

    /// How many keys there are, good or not.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key whose text this is, if it is good at `now`. Only who has the text hears that it was good once.
    pub(crate) fn authenticate(&self, text: &str, now: DateTime<Utc>) -> Result<Arc<Key>, Denied> {
        if text.len() > MAX_KEY_BYTES {
            return Err(Denied::Unknown);
        }
        let id = text.strip_prefix(MARK).and_then(|rest| rest.split_once('_')).map(|(id, _)| id);
        let key = id.and_then(|id| self.keys.get(id)).ok_or(Denied::Unknown)?;
        if !bool::from(digest(text).ct_eq(&key.sha256)) {
            return Err(Denied::Unknown);
        }
        if key.is_revoked {
            return Err(Denied::Revoked);
        }
        if key.expires_at.is_some_and(|at| at <= now) {
            return Err(Denied::Expired);
        }
        Ok(Arc::clone(key))
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn random<const N: usize>() -> Result<[u8; N], KeysError> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;

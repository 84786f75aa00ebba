//! Who this agent is: an id made at installation and the last session, kept in `agent.json`.
//!
//! The session is also in the outbox; it is written here as well so that an agent whose outbox was
//! lost still begins a later one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemas::identity::AgentId;
use serde::{Deserialize, Serialize};

use crate::whole;

const FILE: &str = "agent.json";

/// The agent's identity and where it is kept.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The agent's id.
    pub agent_id: AgentId,
    /// The last session known here.
    pub last_session: Option<i64>,
    path: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    agent_id: String,
    session: Option<i64>,
}

impl Identity {
    /// Reads the identity, or makes one at the first start. A configured id wins over the kept one.
    /// A file that cannot be read is an error, never a reason for a new identity.
    pub fn open(state_dir: &Path, configured: Option<&str>) -> io::Result<Self> {
        let path = state_dir.join(FILE);
        let kept: Option<Kept> = match fs_err::read_to_string(&path) {
            Ok(text) => {
                let broken = |error| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
                };
                Some(serde_json::from_str(&text).map_err(broken)?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let last_session = kept.as_ref().and_then(|kept| kept.session);
        let is_new = kept.is_none();
        let agent_id: AgentId = match (configured, kept) {
            (Some(id), _) => id.into(),
            (None, Some(kept)) => kept.agent_id.into(),
            (None, None) => Arc::from(uuid::Uuid::new_v4().to_string()),
        };
        let identity = Self { agent_id, last_session, path };
        if is_new {
            identity.write()?;
            tracing::info!(agent_id = %identity.agent_id, file = %identity.path.display(), "first start, identity made");
        }
        Ok(identity)
    }

    /// Keeps the session that has begun; on disk when this returns.
    pub fn begin(&mut self, session: i64) -> io::Result<()> {
        self.last_session = Some(session);
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let kept = Kept { agent_id: self.agent_id.to_string(), session: self.last_session };
        let text = serde_json::to_string(&kept).map_err(io::Error::other)?;
        whole::replace(&self.path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Identity::open(folder.path(), None).unwrap();
        assert!(uuid::Uuid::parse_str(&first.agent_id).is_ok());
        first.begin(77).unwrap();
        let second = Identity::open(folder.path(), None).unwrap();
        assert_eq!((second.agent_id, second.last_session), (first.agent_id, Some(77)));
    }

    #[test]
    fn a_configured_id_wins_and_a_broken_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        Identity::open(folder.path(), None).unwrap();
        assert_eq!(&*Identity::open(folder.path(), Some("pc001")).unwrap().agent_id, "pc001");
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        let error = Identity::open(folder.path(), None).unwrap_err();
        assert!(error.to_string().contains(FILE), "{error}");
    }
}

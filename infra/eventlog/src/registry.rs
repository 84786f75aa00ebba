//! Schemas by id, and ids of our schemas.
//!
//! [`HttpRegistry`] speaks the Confluent REST interface itself, over reqwest, rather than through
//! schema_registry_converter: that crate cannot set a subject's compatibility, keeps errors (an outage, too) until
//! told to forget them, and is asynchronous only, while stream workers are plain threads.

mod http;
mod memory;

use std::collections::BTreeMap;
use std::sync::Arc;

use runtime::fate::Fate;
use schemas::record::RecordKind;
use thiserror::Error;

pub use http::{HttpRegistry, RegistryConfig};
pub use memory::MemoryRegistry;

/// A failure of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RegistryError {
    /// It does not answer, or says that it cannot now.
    #[error("schema registry at {url} is not available: {reason}")]
    Unavailable {
        /// Its address.
        url: String,
        /// What was seen.
        reason: String,
    },
    /// It answers, and has no schema with this id: the record that names it is poison.
    #[error("schema {id} is not in the registry")]
    NotFound {
        /// The id asked for.
        id: u32,
    },
    /// The schema does not fit the older versions of its subject.
    #[error("schema of {subject} is incompatible with its older versions: {reason}")]
    Incompatible {
        /// The subject.
        subject: String,
        /// What the registry said.
        reason: String,
    },
    /// It refuses the request itself: credentials, rights, or a schema that is not one.
    #[error("schema registry refuses {request}: {reason}")]
    Refused {
        /// Method and path.
        request: String,
        /// Status and text.
        reason: String,
    },
}

impl RegistryError {
    /// What the caller can do.
    pub fn fate(&self) -> Fate {
        match self {
            Self::Unavailable { .. } => Fate::Transient,
            Self::NotFound { .. } => Fate::Poison,
            Self::Incompatible { .. } | Self::Refused { .. } => Fate::Fatal,
        }
    }
}

/// A schema registry. Calls block the calling thread, which may be one of tokio's.
pub trait SchemaRegistry: Send + Sync {
    /// Registers a schema under a subject and gives its id; the same schema always has the same id. The subject's
    /// compatibility is BACKWARD_TRANSITIVE from then on.
    fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError>;

    /// The text of a schema. Found ones are remembered for ever, missing ones for seconds.
    fn schema(&self, id: u32) -> Result<Arc<str>, RegistryError>;
}

/// The registry's id of the present schema of each record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaIds(BTreeMap<RecordKind, u32>);

impl SchemaIds {
    /// The id of a record's schema.
    pub fn id(&self, kind: impl Into<RecordKind>) -> u32 {
        // Only `register_all` makes values of this type, and it registers every kind.
        self.0.get(&kind.into()).copied().unwrap_or_default()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (RecordKind, u32)> + '_ {
        self.0.iter().map(|(kind, id)| (*kind, *id))
    }
}

/// Registers the schemas of all records, each under its own full name.
pub fn register_all(registry: &dyn SchemaRegistry) -> Result<SchemaIds, RegistryError> {
    let mut ids = BTreeMap::new();
    for kind in RecordKind::ALL {
        ids.insert(kind, registry.register(kind.subject(), kind.avsc())?);
    }
    Ok(SchemaIds(ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_gets_an_id_of_its_own_and_keeps_it() {
        let registry = MemoryRegistry::new();
        let ids = register_all(&registry).unwrap();
        let mut distinct: Vec<u32> = ids.iter().map(|(_, id)| id).collect();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), RecordKind::ALL.len());
        assert!(distinct[0] > 0);
        assert_eq!(register_all(&registry).unwrap(), ids);
        let schema = registry.schema(ids.id(RecordKind::Clock)).unwrap();
        assert_eq!(&*schema, RecordKind::Clock.avsc());
    }
}

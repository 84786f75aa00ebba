//! A registry in memory, for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{RegistryError, SchemaRegistry};

/// A registry in memory. It checks nothing; ids count from 1.
#[derive(Debug, Default)]
pub struct MemoryRegistry {
    schemas: Mutex<Vec<(String, Arc<str>)>>,
    is_down: AtomicBool,
}

impl MemoryRegistry {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// While down, every call fails with `Unavailable`.
    pub fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    fn check_up(&self) -> Result<(), RegistryError> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(RegistryError::Unavailable {
                url: "memory".to_owned(),
                reason: "set down".to_owned(),
            });
        }
        Ok(())
    }
}

impl SchemaRegistry for MemoryRegistry {
    fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        self.check_up()?;
        let mut schemas = self.schemas.lock();
        let known = schemas.iter().position(|(name, text)| name == subject && **text == *schema);
        let index = known.unwrap_or_else(|| {
            schemas.push((subject.to_owned(), Arc::from(schema)));
            schemas.len() - 1
        });
        Ok(index as u32 + 1)
    }

    fn schema(&self, id: u32) -> Result<Arc<str>, RegistryError> {
        self.check_up()?;
        let schemas = self.schemas.lock();
        let found = (id as usize).checked_sub(1).and_then(|index| schemas.get(index));
        found.map(|(_, text)| Arc::clone(text)).ok_or(RegistryError::NotFound { id })
    }
}

//! What each part of the process says about itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// What a component says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "reason")]
pub enum State {
    /// Does its work.
    Ready,
    /// Alive, but waits for what is named, such as a server that does not answer.
    Waiting(String),
    /// Has given up for the reason named.
    Failed(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Waiting(reason) => write!(f, "waiting: {reason}"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// The states of all components of a process; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Health {
    states: Arc<Mutex<BTreeMap<String, State>>>,
}

/// One component's handle for telling its state; clones speak for the same component.
#[derive(Debug, Clone)]
pub struct Component {
    name: Arc<str>,
    health: Health,
}

impl Health {
    /// No components yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a component, which is *waiting: starting* until it says otherwise.
    pub fn component(&self, name: impl Into<String>) -> Component {
        let component = Component { name: Arc::from(name.into()), health: self.clone() };
        component.waiting("starting");
        component
    }

    /// All components by name.
    pub fn snapshot(&self) -> BTreeMap<String, State> {
        self.lock().clone()
    }

    /// Whether every component is ready. A process without components is ready.
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(|state| *state == State::Ready)
    }

    /// Whether no component has failed.
    pub fn is_alive(&self) -> bool {
        !self.lock().values().any(|state| matches!(state, State::Failed(_)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        // A map of plain values is whole whatever the thread that panicked was doing.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Component {
    /// It does its work.
    pub fn ready(&self) {
        self.set(State::Ready);
    }

    /// It is alive but waits for something that a person may want to know.
    pub fn waiting(&self, reason: impl Into<String>) {
        self.set(State::Waiting(reason.into()));
    }

    /// It has given up.
    pub fn failed(&self, reason: impl Into<String>) {
        self.set(State::Failed(reason.into()));
    }

    /// Logs each change once and never a repetition, so callers may repeat themselves in a loop.
    fn set(&self, state: State) {
        let mut states = self.health.lock();
        if states.get(&*self.name) == Some(&state) {
            return;
        }
        let component = &*self.name;
        match &state {
            State::Failed(reason) => tracing::error!(component, %reason, "failed"),
            State::Waiting(reason) => tracing::info!(component, %reason, "waiting"),
            State::Ready => tracing::info!(component, "ready"),
        }
        states.insert(component.to_owned(), state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_all_and_alive_needs_none_failed() {
        let health = Health::new();
        assert!(health.is_ready());
        let kafka = health.component("kafka");
        let store = health.component("store");
        assert!(!health.is_ready() && health.is_alive());
        kafka.ready();
        store.ready();
        assert!(health.is_ready());
        store.waiting("postgres at 127.0.0.1:5432 does not answer");
        assert!(!health.is_ready() && health.is_alive());
        store.failed("gave up");
        assert!(!health.is_alive());
        assert_eq!(health.snapshot()["store"], State::Failed("gave up".into()));
        assert_eq!(
            serde_json::to_string(&health.snapshot()).unwrap(),
            r#"{"kafka":{"state":"ready"},"store":{"state":"failed","reason":"gave up"}}"#
        );
    }
}

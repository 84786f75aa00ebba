//! Addresses and secrets of the real servers, from the environment that `infra/stack/with-stack` sets.

use anyhow::Context as _;

/// Where the servers of this run are.
#[derive(Clone, Debug)]
pub struct Servers {
    /// `host:port` of Kafka.
    pub kafka: String,
    /// Base URL of the schema registry's Confluent-compatible API.
    pub registry: String,
}

impl Servers {
    /// Reads the environment; the error names the variable and the command that sets it.
    pub fn from_environment() -> anyhow::Result<Self> {
        Ok(Self { kafka: variable("VARTA_KAFKA")?, registry: variable("VARTA_REGISTRY")? })
    }
}

/// A variable of the stack's environment.
pub fn variable(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| {
        format!("{name} is not set: this needs real servers; run `make test`, or `infra/stack/with-stack -- COMMAND`")
    })
}

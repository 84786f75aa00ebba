//! The loads: two agents, each of which lives in a partition of another worker, so that both workers have work.

use std::collections::BTreeMap;

use eventlog::partition_of;
use schemas::family::Family;
use tests::audit::{Counts, read_outbox};

use super::plan::Form;
use crate::stage::{AgentOptions, Load, PARTITIONS, Stage};

/// What one agent sends.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// Name of its process.
    pub(super) name: &'static str,
    pub(super) agent: AgentOptions,
    pub(super) load: Load,
}

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Streams(pub(super) Vec<Stream>);

pub(super) const NAMES: [&str; 2] = ["load-1", "load-2"];

impl Streams {
    /// An agent for each half of the partitions.
    pub(super) fn new(form: &Form) -> Self {
        let share = NAMES.len() as u64;
        let load = Load::new(form.instalment / share, form.rate / share, form.step);
        let half = |half: usize| {
            let of_half = |agent: &AgentOptions| {
                let partition = partition_of(agent.agent_id.as_bytes(), PARTITIONS);
                usize::try_from(partition / (PARTITIONS / 2)) == Ok(half)
            };
            std::iter::repeat_with(|| AgentOptions::new(NAMES[half])).find(of_half)
        };
        let stream = |(index, name)| {
            let agent = AgentOptions { outbox_limit: "1 GiB", ..half(index)? };
            Some(Stream { name, agent, load })
        };
        Self(NAMES.into_iter().enumerate().filter_map(stream).collect())
    }

    /// The same agents with what they have sent, at another pace.
    pub(super) fn again(&self, events: &BTreeMap<&'static str, u64>, rate: u64) -> Self {
        let share = self.0.len() as u64;
        let again = |stream: &Stream| {
            let events = events.get(stream.name).copied().unwrap_or(0);
            Stream { load: Load { events, rate: rate / share, ..stream.load }, ..stream.clone() }
        };
        Self(self.0.iter().map(again).collect())
    }

    /// Which stream an agent is.
    pub(super) fn of_agent(&self, agent_id: &str) -> Option<usize> {
        self.0.iter().position(|stream| stream.agent.agent_id == agent_id)
    }

    /// Events in all.
    pub(super) fn events(&self) -> u64 {
        self.0.iter().map(|stream| stream.load.events).sum()
    }

    /// Everything that the agents have put into their outboxes.
    pub(super) fn made(&self, stage: &Stage) -> anyhow::Result<Counts> {
        let mut made = Counts::new();
        for stream in &self.0 {
            made.extend(read_outbox(&stage.outbox(stream.name))?.identities);
        }
        Ok(made)
    }

    /// How many events of each family there must be.
    pub(super) fn by_family(&self) -> BTreeMap<Family, usize> {
        let mut counts = BTreeMap::new();
        for load in self.0.iter().map(|stream| &stream.load) {
            for n in 0..load.events {
                *counts.entry(Family::of_event_type(load.mix.event(n).event_type)).or_default() += 1;
            }
        }
        counts
    }
}

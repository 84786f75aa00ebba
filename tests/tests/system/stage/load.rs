//! The load that anyone can compute again, sent by an agent that can be killed at any moment.

use std::path::PathBuf;

use tests::bench::part::Part;
use tests::load::Mix;

use super::{AgentOptions, Options, Program, Stage, text};

/// The load ends with this code when something is left in its outbox; its next life sends that.
pub(crate) const NOT_CONFIRMED: i32 = 3;

/// How much, how fast, and what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Events in all, over all restarts.
    pub(crate) events: u64,
    /// Events a second.
    pub(crate) rate: u64,
    /// How numbers become events.
    pub(crate) mix: Mix,
}

impl Load {
    /// Event times begin more than a day ago and go on by `step` µs: a short run fills many windows, a long one
    /// does not reach into the future.
    pub(crate) fn new(events: u64, rate: u64, step: i64) -> Self {
        let minute = 60_000_000;
        let base = (runtime::clock::now_us() - 30 * 60 * minute) / minute * minute;
        Self { events, rate, mix: Mix { base, step, suspicious_every: 50, machines: 1 } }
    }
}

/// Starts one process again and again, from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Starter {
    name: String,
    /// What `varta` is asked to do; nothing: it is the load.
    command: Vec<String>,
    config: PathBuf,
    folder: PathBuf,
}

impl Starter {
    /// Starts it. Where it is the load, it begins or goes on, and ends with code 0 when every event is made and
    /// confirmed.
    pub(crate) fn start(&self, load: &Load, environment: &[(&str, String)]) -> anyhow::Result<Part> {
        let config = text(&self.config)?;
        if !self.command.is_empty() {
            let mut arguments = vec!["--config", config];
            arguments.extend(self.command.iter().map(String::as_str));
            return Part::start(&self.name, &Program::Varta.path()?, &arguments, environment, &self.folder);
        }
        let [events, rate, every] =
            [load.events, load.rate, load.mix.suspicious_every].map(|n| n.to_string());
        let [base, step] = [load.mix.base, load.mix.step].map(|number| number.to_string());
        let arguments = [
            ["--config", config],
            ["--events", &events],
            ["--rate", &rate],
            ["--base", &base],
            ["--step", &step],
            ["--suspicious-every", &every],
        ];
        Part::start(&self.name, &Program::Load.path()?, arguments.as_flattened(), environment, &self.folder)
    }
}

impl Stage {
    /// What starts a part of `varta` under this name.
    pub(crate) fn starter(&self, name: &str, command: &[&str], options: &Options) -> anyhow::Result<Starter> {
        Ok(Starter {
            name: name.to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            config: self.write_config(name, options)?,
            folder: self.folder.clone(),
        })
    }

    /// What starts a load under this name as this agent.
    pub(crate) fn load_starter(&self, name: &str, agent: &AgentOptions) -> anyhow::Result<Starter> {
        let config = self.write_agent_config(name, agent)?;
        Ok(Starter { name: name.to_owned(), command: Vec::new(), config, folder: self.folder.clone() })
    }
}

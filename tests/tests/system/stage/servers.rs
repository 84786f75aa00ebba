//! Servers of a scenario's own, started, killed and started again by the stack's script.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::text;

/// The shared broker is never killed and keeps its session however busy the machine is; what a scenario kills is to
/// come back soon.
const BRIEF_SESSION: (&str, &str) = ("VARTA_STACK_BROKER_SESSION_MS", "5000");

/// A folder of servers. Dropping it stops those that run.
pub(crate) struct Stack {
    script: PathBuf,
    folder: PathBuf,
    variables: Vec<(String, String)>,
}

/// Addresses and secrets of a stack.
pub(crate) struct Variables(BTreeMap<String, String>);

impl Variables {
    /// One of them.
    pub(crate) fn get(&self, name: &str) -> anyhow::Result<String> {
        self.0.get(name).cloned().with_context(|| format!("the stack does not tell {name}"))
    }
}

impl Stack {
    /// Nothing is started yet.
    pub(crate) fn plan(folder: &Path, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        fs_err::create_dir_all(folder)?;
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Ok(Self {
            script: tests::servers::variable("VARTA_STACK")?.into(),
            folder: folder.to_owned(),
            variables: std::iter::once(&BRIEF_SESSION).chain(variables).map(owned).collect(),
        })
    }

    /// Starts servers and returns when they answer.
    pub(crate) fn up(&self, servers: &[&str]) -> anyhow::Result<()> {
        let mut arguments = vec!["up", "--dir", text(&self.folder)?];
        arguments.extend(servers);
        self.run(&arguments)
    }

    /// Stops all.
    pub(crate) fn down(&self) -> anyhow::Result<()> {
        self.run(&["down", "--dir", text(&self.folder)?])
    }

    /// SIGKILL.
    pub(crate) fn kill(&self, server: &str) -> anyhow::Result<()> {
        self.run(&["kill", "--dir", text(&self.folder)?, server])
    }

    /// Starts it again, on the same port and what was left of its state.
    pub(crate) fn start(&self, server: &str) -> anyhow::Result<()> {
        self.run(&["start", "--dir", text(&self.folder)?, server])
    }

    /// Stops and starts a server of the stack that all scenarios share.
    pub(crate) fn restart_shared(&self, server: &str) -> anyhow::Result<()> {
        let folder = tests::servers::variable("VARTA_STACK_DIR")?;
        run(&self.script, &[], &["restart", "--dir", &folder, server])
    }

    /// What `stack.json` tells.
    pub(crate) fn variables(&self) -> anyhow::Result<Variables> {
        let json = fs_err::read(self.folder.join("stack.json"))?;
        Ok(Variables(serde_json::from_slice(&json)?))
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        run(&self.script, &self.variables, arguments)
    }
}

fn run(script: &Path, variables: &[(String, String)], arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(script)
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .with_context(|| format!("running {}", script.display()))?;
    ensure!(
        output.status.success(),
        "stack {}: {}\n{}{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

impl Drop for Stack {
    fn drop(&mut self) {
        let _ = self.down();
    }
}

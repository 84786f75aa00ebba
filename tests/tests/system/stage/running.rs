//! The parts that must stay alive while a scenario waits.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tests::bench::part::Part;

use super::{Stage, blocking, until};

/// Longest time that a part may take to drain.
const DRAIN: Duration = Duration::from_mins(2);

/// Parts that run until the scenario stops them.
#[derive(Default)]
pub(crate) struct Running(Mutex<Vec<Part>>);

impl Running {
    fn all_live(&self) -> anyhow::Result<()> {
        let mut parts = self.0.lock().map_err(|_| anyhow::anyhow!("another waiter panicked"))?;
        parts.iter_mut().try_for_each(Part::must_run)
    }
}

impl Stage {
    /// From now on the scenario fails when the part ends by itself.
    pub(crate) fn watch(&self, part: Part) -> anyhow::Result<()> {
        self.running.0.lock().map_err(|_| anyhow::anyhow!("another waiter panicked"))?.push(part);
        Ok(())
    }

    /// Waits for a condition while all watched parts live.
    pub(crate) async fn until(
        &self,
        what: &str,
        within: Duration,
        mut holds: impl AsyncFnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let mut dead = None;
        until(what, within, async || {
            dead = self.running.all_live().err();
            Ok(dead.is_some() || holds().await?)
        })
        .await?;
        dead.map_or(Ok(()), |error| Err(error.context(format!("while waiting: {what}"))))
    }

    /// Asks a watched part to end; it must drain and say that all is well.
    pub(crate) fn stop(&self, name: &str) -> anyhow::Result<()> {
        let mut parts = self.running.0.lock().map_err(|_| anyhow::anyhow!("another waiter panicked"))?;
        let at = parts
            .iter()
            .position(|part| part.name() == name)
            .with_context(|| format!("{name} does not run"))?;
        let code = blocking(|| parts.swap_remove(at).stop(DRAIN))?;
        ensure!(code == 0, "{name} ends with code {code}; see {}/{name}.log", self.folder.display());
        Ok(())
    }
}

//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// Asks until the answer is yes. An error counts as "not yet" and is shown when the deadline has passed.
pub(crate) async fn until(
    what: &str,
    within: Duration,
    mut holds: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_millis(50);
    loop {
        let answer = holds().await;
        match answer {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() > deadline => bail!("{what}: not within {within:?}"),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("{what}: not within {within:?}"));
            }
            Ok(false) | Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Runs something that blocks without holding up the other tasks of the runtime.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

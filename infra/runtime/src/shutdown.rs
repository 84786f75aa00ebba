//! The wish that everything ends, known to all tasks.

use tokio_util::sync::CancellationToken;

/// A wish to stop, shared by all clones. It can be made once and never taken back.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everyone to drain and end. Idempotent.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Whether somebody asked.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Ends when somebody asks; at once when that has happened already. Cancel-safe.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }
}

/// Requests `shutdown` at the first interrupt or termination signal. A second signal ends the process at once
/// with exit code 130: the person who presses Ctrl-C twice has waited long enough.
///
/// Must be called within a tokio runtime.
pub fn on_signals(shutdown: &Shutdown) {
    let requested = shutdown.clone();
    #[allow(clippy::disallowed_methods, reason = "must outlive the supervisor, which is what it stops")]
    tokio::spawn(async move {
        let Some(first) = next_signal().await else { return };
        tracing::info!(signal = first, "shutdown requested, draining");
        requested.request();
        if let Some(second) = next_signal().await {
            tracing::warn!(signal = second, "second signal, ending without draining");
            std::process::exit(130);
        }
    });
}

#[cfg(unix)]
async fn next_signal() -> Option<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) =
        match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
            (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "cannot listen for signals");
                return None;
            }
        };
    tokio::select! {
        _ = interrupt.recv() => Some("SIGINT"),
        _ = terminate.recv() => Some("SIGTERM"),
    }
}

#[cfg(not(unix))]
async fn next_signal() -> Option<&'static str> {
    match tokio::signal::ctrl_c().await {
        Ok(()) => Some("ctrl-c"),
        Err(error) => {
            tracing::error!(%error, "cannot listen for ctrl-c");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_clones_hear_it_also_those_that_listen_late() {
        let shutdown = Shutdown::new();
        let clone = shutdown.clone();
        assert!(!clone.is_requested());
        let waiting = tokio::spawn(async move { clone.wait().await });
        shutdown.request();
        shutdown.request();
        waiting.await.unwrap();
        shutdown.clone().wait().await;
        assert!(shutdown.is_requested());
    }
}

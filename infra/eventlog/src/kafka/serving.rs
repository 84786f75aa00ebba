//! The thread that takes a client's reports and gives them to whoever waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use crate::error::LogError;

/// Between two looks while reports are expected: they come in batches, so nobody waits long for each alone.
const BUSY: Duration = Duration::from_micros(500);
/// While none is expected; errors and log lines come all the same.
const IDLE: Duration = Duration::from_millis(100);

/// How a client stands after it was served.
pub(super) struct Served {
    /// Reports taken so far.
    pub(super) reported: usize,
    /// Whether more must come.
    pub(super) is_expecting: bool,
}

/// Serves a client until it is dropped. rdkafka's own polling thread asks without a pause for the last millisecond
/// of each of its waits, a percent of a core for a client that does nothing.
pub(super) struct Serving {
    thread: Option<JoinHandle<()>>,
    handle: Thread,
    is_over: Arc<AtomicBool>,
}

impl Serving {
    /// `serve` takes what has come, if anything, and tells how it stands.
    pub(super) fn start(name: &str, serve: impl Fn() -> Served + Send + 'static) -> Result<Self, LogError> {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let mut reported = 0;
                while !over.load(Ordering::Acquire) {
                    let now = serve();
                    // where something came there may be more at once
                    if now.reported == reported {
                        if now.is_expecting {
                            std::thread::sleep(BUSY);
                        } else {
                            std::thread::park_timeout(IDLE);
                        }
                    }
                    reported = now.reported;
                }
            })
            .map_err(|error| LogError::fatal(format!("no thread for {name}: {error}")))?;
        Ok(Self { handle: thread.thread().clone(), thread: Some(thread), is_over })
    }

    /// Reports are expected from now on.
    pub(super) fn wake(&self) {
        self.handle.unpark();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

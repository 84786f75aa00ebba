//! One thread for all that takes processor time and memory: rows of the sink's tables become files there, and files one
//! file. Each thread of a pool would keep the memory of the largest piece it ever did, and a pool takes a new one for
//! nearly every piece.

use std::sync::mpsc::{SyncSender, sync_channel};

use tokio::sync::oneshot;

use crate::SinkError;

type Work = Box<dyn FnOnce() + Send>;

/// A thread that does one piece of work after the other. It ends when this is dropped.
pub(super) struct Mill {
    work: SyncSender<Work>,
}

impl Mill {
    /// Starts the thread.
    pub(super) fn start() -> Result<Self, SinkError> {
        let (work, pieces) = sync_channel::<Work>(1);
        let grind = move || pieces.into_iter().for_each(|piece| piece());
        let started = std::thread::Builder::new().name("lake-mill".into()).spawn(grind);
        started.map_err(|error| SinkError::Fatal(format!("cannot start a thread for the lake: {error}")))?;
        Ok(Self { work })
    }

    /// What the work comes to. An error: it panicked, now or before.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, SinkError> {
        let (done, outcome) = oneshot::channel();
        // Nobody waits any more when the caller was dropped.
        let piece: Work = Box::new(move || drop(done.send(work())));
        let panicked = || SinkError::Fatal("making a file of the lake panicked".to_owned());
        self.work.send(piece).map_err(|_| panicked())?;
        outcome.await.map_err(|_| panicked())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_work_is_done_by_one_thread() {
        let mill = Mill::start().unwrap();
        let first = mill.run(|| std::thread::current().id()).await.unwrap();
        for _ in 0..20 {
            assert_eq!(mill.run(|| std::thread::current().id()).await.unwrap(), first);
        }
        assert_ne!(first, std::thread::current().id());
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_no_wait_without_end() {
        let mill = Mill::start().unwrap();
        let work = || assert!(std::hint::black_box(1) > 1, "one is not more than one");
        assert!(mill.run(work).await.unwrap_err().to_string().contains("panicked"));
        assert!(mill.run(|| 1).await.is_err());
    }
}

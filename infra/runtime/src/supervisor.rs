//! Every task has a name, an owner and a deadline for its end.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{Id, JoinError, JoinSet};

use crate::shutdown::Shutdown;

type Cause = Box<dyn Error + Send + Sync>;

/// Owns the tasks and threads of a process. The first that fails asks all to stop; after that, or after any
/// other request of shutdown, what has not ended within the drain time is left behind and reported.
pub struct Supervisor {
    shutdown: Shutdown,
    drain: Duration,
    tasks: JoinSet<Result<(), Cause>>,
    names: HashMap<Id, String>,
}

/// The first failure among the tasks of a process.
#[derive(Debug)]
pub struct Failed {
    /// Name of the task, or of the tasks that did not end in time.
    pub task: String,
    /// What it said.
    pub error: Cause,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.task, self.error)
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl Supervisor {
    /// `drain` is how long tasks may take to end once `shutdown` is requested.
    pub fn new(shutdown: Shutdown, drain: Duration) -> Self {
        Self { shutdown, drain, tasks: JoinSet::new(), names: HashMap::new() }
    }

    /// The wish that this supervisor makes and obeys.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Runs a task. It must end by itself when shutdown is requested. Must be called within a tokio runtime.
    pub fn spawn<E: Into<Cause>>(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(async move { task.await.map_err(Into::into) });
        self.names.insert(handle.id(), name.into());
    }

    /// Runs blocking work on a thread of its own, named so in the operating system too (its first 15 bytes).
    pub fn spawn_thread<E: Into<Cause>>(
        &mut self,
        name: impl Into<String>,
        work: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) {
        let name = name.into();
        let (ended, end) = oneshot::channel::<Result<(), Cause>>();
        let started = std::thread::Builder::new().name(name.clone()).spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(work));
            let outcome = match outcome {
                Ok(outcome) => outcome.map_err(Into::into),
                Err(panic) => Err(format!("panicked: {}", panic_text(panic.as_ref())).into()),
            };
            // Nobody listens any more when the drain time has passed.
            let _ = ended.send(outcome);
        });
        self.spawn(name, async move {
            started.map_err(Cause::from)?;
            end.await.unwrap_or_else(|_| Err("thread vanished without a result".into()))
        });
    }

    /// Ends when all tasks have ended, or when the drain time after a request of shutdown has passed.
    ///
    /// The error is the first failure; a task that panicked or did not drain has failed too.
    pub async fn run_until_done(mut self) -> Result<(), Failed> {
        let mut first = None;
        let shutdown = self.shutdown.clone();
        loop {
            tokio::select! {
                biased;
                ended = self.tasks.join_next_with_id() => match ended {
                    None => return first.map_or(Ok(()), Err),
                    Some(ended) => self.note(ended, &mut first),
                },
                () = shutdown.wait() => break,
            }
        }
        let drained = tokio::time::timeout(self.drain, async {
            while let Some(ended) = self.tasks.join_next_with_id().await {
                self.note(ended, &mut first);
            }
        })
        .await;
        if drained.is_err() {
            let mut left: Vec<String> = self.names.drain().map(|(_, name)| name).collect();
            left.sort();
            let task = left.join(", ");
            tracing::error!(%task, drain = ?self.drain, "did not drain in time");
            self.tasks.abort_all();
            first.get_or_insert(Failed {
                task,
                error: format!("did not drain within {:?}", self.drain).into(),
            });
        }
        first.map_or(Ok(()), Err)
    }

    fn note(&mut self, ended: Result<(Id, Result<(), Cause>), JoinError>, first: &mut Option<Failed>) {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), Err(error.into())),
        };
        let task = self.names.remove(&id).unwrap_or_default();
        match outcome {
            Ok(()) => tracing::debug!(%task, "task ended"),
            Err(error) => {
                tracing::error!(%task, %error, "task failed");
                self.shutdown.request();
                first.get_or_insert(Failed { task, error });
            }
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor(drain: Duration) -> (Supervisor, Shutdown) {
        let shutdown = Shutdown::new();
        (Supervisor::new(shutdown.clone(), drain), shutdown)
    }

    #[tokio::test]
    async fn ends_well_when_all_tasks_end_well() {
        let (mut supervisor, shutdown) = supervisor(Duration::from_secs(5));
        supervisor.spawn("a", async { Ok::<(), String>(()) });
        supervisor.spawn_thread("b", || Ok::<(), String>(()));
        supervisor.run_until_done().await.unwrap();
        assert!(!shutdown.is_requested());
    }

    #[tokio::test]
    async fn one_failure_stops_the_others_and_is_named() {
        let (mut supervisor, shutdown) = supervisor(Duration::from_secs(5));
        let wish = shutdown.clone();
        supervisor.spawn("patient", async move {
            wish.wait().await;
            Ok::<(), String>(())
        });
        supervisor.spawn_thread("broken", || Err("disk on fire".to_owned()));
        let failed = supervisor.run_until_done().await.unwrap_err();
        assert_eq!(failed.to_string(), "broken: disk on fire");
        assert!(shutdown.is_requested());
    }

    #[tokio::test]
    async fn panics_are_failures() {
        let (mut first, _) = supervisor(Duration::from_secs(5));
        first.spawn("task", async {
            assert!(std::hint::black_box(1) > 1, "one is not more than one");
            Ok::<(), String>(())
        });
        let failed = first.run_until_done().await.unwrap_err();
        assert_eq!(failed.task, "task");
        let (mut second, _) = supervisor(Duration::from_secs(5));
        second.spawn_thread("thread", || {
            assert!(std::hint::black_box(1) > 1, "one is not more than one");
            Ok::<(), String>(())
        });
        let failed = second.run_until_done().await.unwrap_err();
        assert_eq!(failed.to_string(), "thread: panicked: one is not more than one");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_drain_is_named() {
        let (mut supervisor, shutdown) = supervisor(Duration::from_secs(3));
        supervisor.spawn("deaf", std::future::pending::<Result<(), String>>());
        shutdown.request();
        let failed = supervisor.run_until_done().await.unwrap_err();
        assert_eq!(failed.to_string(), "deaf: did not drain within 3s");
    }
}

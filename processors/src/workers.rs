//! The worker threads of a job in this process.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use eventlog::Log;
use runtime::health::Health;
use runtime::shutdown::Shutdown;

use crate::engine::{Job, JobError, Monotonic, Worker, WorkerError, WorkerSettings};
use crate::run::{ProcessError, thread_died};

/// Threads, each with a consumer, a transactional producer and a job of its own.
pub(crate) struct Workers {
    threads: Vec<JoinHandle<Result<(), WorkerError>>>,
}

impl Workers {
    /// Plans a job for each worker and starts it. `settings` are those of a slot, `job` names the job in health and
    /// threads.
    pub(crate) async fn start<L: Log, J: Job + 'static>(
        log: &L,
        job: &str,
        count: usize,
        settings: impl Fn(usize) -> WorkerSettings,
        plan: impl Fn() -> Result<J, JobError> + Clone + Send + 'static,
        health: &Health,
        shutdown: &Shutdown,
    ) -> Result<Self, ProcessError> {
        let mut threads = Vec::new();
        for slot in 0..count {
            // Planning runs a small runtime of its own, which must not happen on a thread of this one.
            let planned = tokio::task::spawn_blocking(plan.clone()).await;
            let planned = planned.map_err(thread_died(slot))??;
            let component = health.component(format!("{job}-{slot}"));
            component.waiting("joining the group");
            let ticker = Arc::new(Monotonic::start());
            let worker = Worker::new(log.clone(), planned, settings(slot), ticker, Some(component.clone()));
            let stop = shutdown.clone();
            let spawned = std::thread::Builder::new().name(format!("{job}-{slot}")).spawn(move || {
                let ended = worker.run(&stop);
                if let Err(error) = &ended {
                    component.failed(error.to_string());
                }
                ended
            });
            threads.push(spawned.map_err(|error| ProcessError::Thread { slot, what: error.to_string() })?);
        }
        Ok(Self { threads })
    }

    /// Ends when shutdown is requested. A worker that stops for good requests it, for it takes the others with it.
    pub(crate) async fn until_stopped(&self, shutdown: &Shutdown) {
        let failed = async {
            while !self.threads.iter().any(JoinHandle::is_finished) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = shutdown.wait() => {}
            () = failed => shutdown.request(),
        }
    }

    /// Waits for all of them to commit what they have and leave; answers the first failure.
    pub(crate) async fn join(self) -> Result<(), ProcessError> {
        let mut result = Ok(());
        for (slot, thread) in self.threads.into_iter().enumerate() {
            let ended = match tokio::task::spawn_blocking(move || thread.join()).await {
                Ok(Ok(Ok(()))) => Ok(()),
                Ok(Ok(Err(source))) => Err(ProcessError::Worker { slot, source }),
                _ => Err(ProcessError::Thread { slot, what: "the thread panicked".into() }),
            };
            if result.is_ok() {
                result = ended;
            }
        }
        result
    }
}

//! Starts the workers of a job and waits for them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use eventlog::Log;
use eventlog::registry::{RegistryError, SchemaIds, SchemaRegistry, register_all};
use runtime::backoff::Backoff;
use runtime::fate::Fate;
use runtime::health::Health;
use runtime::shutdown::Shutdown;
use schemas::topics::Topics;
use thiserror::Error;

use crate::config::{JobName, ProcessConfig};
use crate::engine::{JobError, WorkerError, WorkerSettings};
use crate::event_time::{Hold, Lateness};
use crate::jobs::{CoreJob, CoreSetup, FleetJob, NormaliseJob};
use crate::rules::watch::{Folder, watch};
use crate::rules::{Offer, RuleProblem, RuleSet, listed};
use crate::workers::Workers;

/// Why the jobs stopped.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// The rules cannot be used; nothing was started.
    #[error("rules: {}", listed(.0))]
    Rules(Vec<RuleProblem>),
    /// The registry refuses our schemas.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The job cannot be planned.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The topics cannot be looked at.
    #[error(transparent)]
    Log(eventlog::LogError),
    /// A worker stopped for good.
    #[error("worker {slot}: {source}")]
    Worker {
        /// Which.
        slot: usize,
        /// Why.
        source: WorkerError,
    },
    /// A worker thread could not be started, or died.
    #[error("worker {slot}: {what}")]
    Thread {
        /// Which.
        slot: usize,
        /// What happened.
        what: String,
    },
}

pub(crate) fn thread_died(slot: usize) -> impl Fn(tokio::task::JoinError) -> ProcessError {
    move |error| ProcessError::Thread { slot, what: error.to_string() }
}

/// Runs the configured job until shutdown is requested or a worker stops for good; then all workers commit what
/// they have and leave. Waits for the registry as long as it takes. `now` is the wall clock in µs; it tells nothing but
/// which of two sets of rules was loaded later.
pub async fn run<L: Log>(
    config: ProcessConfig,
    log: L,
    registry: Arc<dyn SchemaRegistry>,
    topics: Topics,
    health: Health,
    shutdown: Shutdown,
    now: fn() -> i64,
) -> Result<(), ProcessError> {
    crate::metered::describe();
    // Planning runs a small runtime of its own, which must not happen on a thread of this one.
    let path = config.rules.clone();
    let loaded = tokio::task::spawn_blocking(move || load_rules(path.as_deref()));
    let (set, folder) = loaded.await.map_err(thread_died(0))?.map_err(ProcessError::Rules)?;
    let rules = Offer::new(set, now());
    let Some(ids) = ids(&registry, &health, &shutdown).await? else {
        return Ok(());
    };
    tracing::info!(
        job = %config.job,
        name = %config.name,
        first_worker = %config.worker_id(0),
        workers = config.workers,
        static_membership = config.static_membership,
        "starting workers; no other process may use this name for the job"
    );
    let setup = setup(&config, registry, ids, topics.clone(), rules.clone());
    let of_slot = |slot| settings(&config, &topics, slot);
    let (name, count) = (config.job.as_str(), config.workers);
    let workers = match config.job {
        JobName::Core => {
            let found = partitions(&log, &topics.raw(), &topics, &shutdown).await?;
            let Some((sources, partitions)) = found else { return Ok(()) };
            let plan = move || Ok(CoreJob::new(setup.clone())?.with_fleet(sources, partitions));
            Workers::start(&log, name, count, of_slot, plan, &health, &shutdown).await?
        }
        JobName::Normalise => {
            let plan = move || NormaliseJob::new(setup.clone());
            Workers::start(&log, name, count, of_slot, plan, &health, &shutdown).await?
        }
        JobName::Detect => {
            let found = partitions(&log, &topics.clean(), &topics, &shutdown).await?;
            let Some((sources, partitions)) = found else { return Ok(()) };
            let plan = move || Ok(CoreJob::detect(setup.clone())?.with_fleet(sources, partitions));
            Workers::start(&log, name, count, of_slot, plan, &health, &shutdown).await?
        }
        JobName::Fleet => {
            let plan = move || FleetJob::new(&setup);
            Workers::start(&log, name, count, of_slot, plan, &health, &shutdown).await?
        }
    };
    let watching =
        folder.map(|folder| tokio::spawn(watch(folder, config.rules_interval, rules, now, shutdown.clone())));
    workers.until_stopped(&shutdown).await;
    if let Some(watching) = watching {
        watching.await.map_err(thread_died(0))?;
    }
    workers.join().await
}

/// How many partitions the input has, and how many the topic of rows for rules over the fleet; `None`: asked to stop
/// while the log did not answer.
async fn partitions<L: Log>(
    log: &L,
    input: &Arc<str>,
    topics: &Topics,
    shutdown: &Shutdown,
) -> Result<Option<(i32, i32)>, ProcessError> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let (of, input, fleet) = (log.clone(), Arc::clone(input), topics.fleet());
        let asked = tokio::task::spawn_blocking(move || {
            Ok::<_, eventlog::LogError>((of.partitions(&input)?, of.partitions(&fleet)?))
        });
        match asked.await.map_err(thread_died(0))? {
            Ok(found) => return Ok(Some(found)),
            Err(error) if error.fate() == Fate::Transient => {
                tracing::warn!(%error, "waiting for the log");
            }
            Err(error) => return Err(ProcessError::Log(error)),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_delay()) => {}
            () = shutdown.wait() => return Ok(None),
        }
    }
}

/// The rules of a folder, which can be watched, or those that ship.
pub(crate) fn load_rules(path: Option<&Path>) -> Result<(RuleSet, Option<Folder>), Vec<RuleProblem>> {
    match path {
        Some(path) => {
            let folder = Folder::new(path);
            RuleSet::load(path).map(|set| (set, Some(folder)))
        }
        None => RuleSet::shipped().map(|set| (set, None)),
    }
}

pub(crate) fn setup(
    config: &ProcessConfig,
    registry: Arc<dyn SchemaRegistry>,
    ids: SchemaIds,
    topics: Topics,
    rules: Offer,
) -> CoreSetup {
    let lateness = Lateness(config.lateness.as_micros() as i64);
    let hold = Hold(config.hold.as_micros() as i64);
    CoreSetup { registry, ids, topics, rules, lateness, hold }
}

pub(crate) fn settings(config: &ProcessConfig, topics: &Topics, slot: usize) -> WorkerSettings {
    let id = config.worker_id(slot);
    WorkerSettings {
        group: config.group(),
        instance: config.static_membership.then(|| id.clone()),
        transactional_id: id,
        input: match config.job {
            JobName::Core | JobName::Normalise => topics.raw(),
            JobName::Detect => topics.clean(),
            JobName::Fleet => topics.fleet(),
        },
        state: topics.state(config.job.as_str()),
        commit_interval: config.commit_interval,
        urgent_commit_interval: config.alert_commit_interval,
        behind_commit_interval: config.behind_commit_interval,
        max_commit_rows: config.max_commit_rows,
        max_commit_bytes: config.max_commit_bytes.0 as usize,
        max_batch_rows: config.max_batch_rows,
        linger: config.linger,
        restore_deadline: config.restore_deadline,
        on_state_mismatch: config.on_state_mismatch,
        span: None,
    }
}

pub(crate) async fn ids(
    registry: &Arc<dyn SchemaRegistry>,
    health: &Health,
    shutdown: &Shutdown,
) -> Result<Option<SchemaIds>, ProcessError> {
    let component = health.component("schema registry of the jobs");
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        if shutdown.is_requested() {
            return Ok(None);
        }
        let asked = Arc::clone(registry);
        let registered = tokio::task::spawn_blocking(move || register_all(&*asked)).await;
        match registered {
            Ok(Ok(ids)) => {
                component.ready();
                return Ok(Some(ids));
            }
            Ok(Err(error)) if error.fate() == Fate::Fatal => return Err(error.into()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "waiting for the schema registry");
                component.waiting(error.to_string());
            }
            Err(error) => {
                return Err(ProcessError::Thread { slot: 0, what: error.to_string() });
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_delay()) => {}
            () = shutdown.wait() => {}
        }
    }
}

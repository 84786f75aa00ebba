//! The job `core` once more over old records, into topics of its own.
//!
//! ```text
//! varta.raw, from … to …  ─▶ core ─▶ PREFIX.events.* PREFIX.features.* PREFIX.alerts … PREFIX.state.core
//! ```
//!
//! It is the same job with the same exactly-once engine; group, transactional ids and state are its own, named after the
//! prefix, so it can be killed and started again, and several processes can share it. Time comes in the log, so it
//! gives what the live job gave, as fast as it can.
//!
//! What differs from the live job: state is empty at `--from`. A window that began before has only the rows from there
//! on; a repetition of an older event passes as new; rules do not remember what was before; an agent has no event time
//! until its first row. And it judges everything by the rules of today. To have a stretch as it was, begin a little
//! earlier (an hour, for the longest window) and leave out what comes of that time.

mod place;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use eventlog::Log;
use eventlog::registry::SchemaRegistry;
use runtime::health::Health;
use runtime::shutdown::Shutdown;
use schemas::topics::Topics;

pub use place::{NoPlace, Place, RangeError};
pub use plan::{Plan, PlanError};

use crate::config::{JobName, ProcessConfig};
use crate::engine::{Span, WorkerSettings};
use crate::jobs::{CoreJob, CoreSetup};
use crate::rules::{Offer, RuleSet};
use crate::run::{ProcessError, ids, load_rules, settings, setup};
use crate::workers::Workers;

/// Longest time between two commits: nobody waits for single rows, and each commit has its price.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);

/// What is to be run again, and where to.
#[derive(Clone, Debug)]
pub struct Backfill {
    /// Where the live job's topics are.
    pub live: Topics,
    /// What the names of the topics written begin with.
    pub out_prefix: String,
    /// Where it begins.
    pub from: Place,
    /// Where it ends.
    pub to: Place,
}

impl Backfill {
    /// Names of the topics written.
    pub fn topics(&self) -> Topics {
        Topics::new(self.out_prefix.as_str())
    }
}

/// A backfill whose stretches are settled, ready to run.
pub struct Prepared<L: Log> {
    backfill: Backfill,
    log: L,
    rules: RuleSet,
    span: Arc<Span>,
    is_resumed: bool,
}

/// Settles what is to be read: makes the topics and writes down the plan, or finds the one that was begun. Blocks on the
/// log. `now` is the wall clock in µs; it tells plans apart that two processes write at once.
pub fn prepare<L: Log>(
    log: &L,
    config: &ProcessConfig,
    backfill: Backfill,
    now: i64,
) -> Result<Prepared<L>, PlanError> {
    if backfill.out_prefix == backfill.live.prefix() {
        return Err(PlanError::LivePrefix(backfill.out_prefix));
    }
    let (rules, _) = load_rules(config.rules.as_deref()).map_err(PlanError::Rules)?;
    let input = backfill.live.raw();
    let partitions = log.partitions(&input)?;
    let topics = backfill.topics();
    let wanted = plan::wanted(&backfill, rules.hash());
    let (plan, is_resumed) = plan::settle(log, &topics, partitions, &wanted, &config.name, now)?;
    log.create_topics(&topics.written(), partitions)?;
    let span = Arc::new(Span::new(&plan.stretches));
    Ok(Prepared { backfill, log: log.clone(), rules, span, is_resumed })
}

impl<L: Log> Prepared<L> {
    /// What is to be read, and how much of it is done.
    pub fn span(&self) -> &Arc<Span> {
        &self.span
    }

    /// Whether it was begun before.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Works until all is done and committed, or until shutdown is requested; which of both, the span tells.
    pub async fn run(
        self,
        config: ProcessConfig,
        registry: Arc<dyn SchemaRegistry>,
        health: Health,
        shutdown: Shutdown,
        now: fn() -> i64,
    ) -> Result<(), ProcessError> {
        let Some(ids) = ids(&registry, &health, &shutdown).await? else { return Ok(()) };
        let rules = Offer::new(self.rules, now());
        let setup: CoreSetup = setup(&config, registry, ids, self.backfill.topics(), rules);
        let of_slot = {
            let (config, span, backfill) = (config.clone(), Arc::clone(&self.span), self.backfill);
            move |slot: usize| bounded(&config, &backfill, &span, slot)
        };
        let plan = move || CoreJob::new(setup.clone());
        let workers =
            Workers::start(&self.log, "backfill", config.workers, of_slot, plan, &health, &shutdown);
        let workers = workers.await?;
        let done = async {
            while !self.span.is_done() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = done => shutdown.request(),
            () = workers.until_stopped(&shutdown) => {}
        }
        workers.join().await
    }
}

/// The settings of the live job with names, input and end of its own.
pub(crate) fn bounded(
    config: &ProcessConfig,
    backfill: &Backfill,
    span: &Arc<Span>,
    slot: usize,
) -> WorkerSettings {
    let prefix = format!("{}backfill-{}-", config.prefix, backfill.out_prefix);
    let named = ProcessConfig { prefix, job: JobName::Core, ..config.clone() };
    let interval = config.commit_interval.max(COMMIT_INTERVAL);
    WorkerSettings {
        input: backfill.live.raw(),
        commit_interval: interval,
        urgent_commit_interval: interval,
        span: Some(Arc::clone(span)),
        ..settings(&named, &backfill.topics(), slot)
    }
}

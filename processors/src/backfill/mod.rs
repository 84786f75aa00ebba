//! The jobs `core` and `fleet` once more over old records, into topics of their own.
//!
//! ```text
//! varta.raw, from … to …  ─▶ core ─▶ PREFIX.events.* PREFIX.features.* PREFIX.alerts … PREFIX.state.core
//!                              └▶ PREFIX.fleet, all of it, once core is done ─▶ fleet ─▶ PREFIX.alerts …
//! ```
//!
//! They are the same jobs with the same exactly-once engine; group, transactional ids and state are its own, named after the
//! prefix, so it can be killed and started again, and several processes can share it. Time comes in the log, so it
//! gives what the live job gave, as fast as it can.
//!
//! What differs from the live job: state is empty at `--from`. A window that began before has only the rows from there
//! on; a repetition of an older event passes as new; rules do not remember what was before; an agent has no event time
//! until its first row. And it judges everything by the rules of today. To have a stretch as it was, begin a little
//! earlier (an hour, for the longest window) and leave out what comes of that time.

mod place;
mod plan;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use eventlog::registry::SchemaRegistry;
use eventlog::{Log, LogError};
use runtime::health::Health;
use runtime::shutdown::Shutdown;
use schemas::topics::Topics;

pub use place::{NoPlace, Place, RangeError};
pub use plan::{Plan, PlanError};

use crate::config::{JobName, ProcessConfig};
use crate::engine::{Job, JobError, Span, WorkerSettings};
use crate::jobs::{CoreJob, CoreSetup, FleetJob};
use crate::rules::{Offer, RuleSet};
use crate::run::{ProcessError, ids, load_rules, settings, setup, thread_died};
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
    spans: Arc<Spans>,
    /// Partitions of the topic of rows for rules over the fleet.
    partitions: i32,
    is_resumed: bool,
}

/// What a backfill reads, and how much of it is done.
#[derive(Debug)]
pub struct Spans {
    pub(crate) input: Arc<Span>,
    /// Rows for rules over the fleet; where they end is known once the input is done.
    fleet: OnceLock<Arc<Span>>,
    /// Whether any rule is over the fleet.
    watches_fleet: bool,
}

impl Spans {
    /// The stretch of the live job's input.
    pub fn input(&self) -> &Span {
        &self.input
    }

    /// What is being read now.
    pub fn current(&self) -> &Span {
        self.fleet.get().unwrap_or(&self.input)
    }

    /// Whether everything is committed to its end.
    pub fn is_done(&self) -> bool {
        let fleet_is_done = || self.fleet.get().is_some_and(|span| span.is_done());
        self.input.is_done() && (!self.watches_fleet || fleet_is_done())
    }
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
    let partitions = log.partitions(&topics.fleet())?;
    let spans = Arc::new(Spans {
        input: Arc::new(Span::new(&plan.stretches)),
        fleet: OnceLock::new(),
        watches_fleet: rules.watches_fleet(),
    });
    Ok(Prepared { backfill, log: log.clone(), rules, spans, partitions, is_resumed })
}

impl<L: Log> Prepared<L> {
    /// What is to be read, and how much of it is done.
    pub fn spans(&self) -> &Arc<Spans> {
        &self.spans
    }

    /// Whether it was begun before.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Works until all is done and committed, or until shutdown is requested; which of both, the spans tell.
    pub async fn run(
        self,
        config: ProcessConfig,
        registry: Arc<dyn SchemaRegistry>,
        health: Health,
        shutdown: Shutdown,
        now: fn() -> i64,
    ) -> Result<(), ProcessError> {
        let Some(ids) = ids(&registry, &health, &shutdown).await? else { return Ok(()) };
        let topics = self.backfill.topics();
        let rules = Offer::new(self.rules.clone(), now());
        let setup: CoreSetup = setup(&config, registry, ids, topics.clone(), rules);
        let input = Arc::clone(&self.spans.input);
        let (of_core, sources, partitions) =
            (setup.clone(), input.stretches().count() as i32, self.partitions);
        let plan = move || Ok(CoreJob::new(of_core.clone())?.with_fleet(sources, partitions));
        self.work(JobName::Core, &config, input, plan, &health, &shutdown).await?;
        if self.spans.watches_fleet && self.spans.input.is_done() && !shutdown.is_requested() {
            let span = self.fleet_span(topics.fleet()).await?;
            let plan = move || FleetJob::new(&setup);
            self.work(JobName::Fleet, &config, span, plan, &health, &shutdown).await?;
        }
        Ok(())
    }

    /// All rows for rules over the fleet. Nobody writes any more: what any process of the backfill committed to the end
    /// of its input is there, and what others left uncommitted never will be.
    async fn fleet_span(&self, topic: Arc<str>) -> Result<Arc<Span>, ProcessError> {
        let log = self.log.clone();
        let found = tokio::task::spawn_blocking(move || {
            place::stretches(&log, &topic, &Place::Earliest, &Place::Latest)
        });
        let stretches = found.await.map_err(thread_died(0))?.map_err(|error| match error {
            RangeError::Log(error) => ProcessError::Log(error),
            other => ProcessError::Log(LogError::fatal(other.to_string())),
        })?;
        Ok(Arc::clone(self.spans.fleet.get_or_init(|| Arc::new(Span::new(&stretches)))))
    }

    /// Runs a job until its span is done or shutdown is requested.
    async fn work<J: Job + 'static>(
        &self,
        job: JobName,
        config: &ProcessConfig,
        span: Arc<Span>,
        plan: impl Fn() -> Result<J, JobError> + Clone + Send + 'static,
        health: &Health,
        shutdown: &Shutdown,
    ) -> Result<(), ProcessError> {
        let stop = Shutdown::new();
        let of_slot = |slot: usize| bounded(config, &self.backfill, &span, job, slot);
        let workers =
            Workers::start(&self.log, "backfill", config.workers, of_slot, plan, health, &stop).await?;
        let done = async {
            while !span.is_done() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = done => {}
            () = shutdown.wait() => {}
            () = workers.until_stopped(&stop) => {}
        }
        stop.request();
        workers.join().await
    }
}

/// The settings of the live job with names, input and end of its own.
pub(crate) fn bounded(
    config: &ProcessConfig,
    backfill: &Backfill,
    span: &Arc<Span>,
    job: JobName,
    slot: usize,
) -> WorkerSettings {
    let topics = backfill.topics();
    let prefix = format!("{}backfill-{}-", config.prefix, backfill.out_prefix);
    let named = ProcessConfig { job, prefix, ..config.clone() };
    let interval = config.commit_interval.max(COMMIT_INTERVAL);
    WorkerSettings {
        input: if job == JobName::Core { backfill.live.raw() } else { topics.fleet() },
        commit_interval: interval,
        urgent_commit_interval: interval,
        span: Some(Arc::clone(span)),
        ..settings(&named, &topics, slot)
    }
}

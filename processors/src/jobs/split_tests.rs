//! The jobs `normalise` and `detect` with the clean log between them give what the fused job gives.

use super::*;
use crate::jobs::NormaliseJob;

/// One planned job for all workers of a test.
pub(super) struct Kept<J>(pub(super) Arc<Mutex<J>>);

impl<J> Clone for Kept<J> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<J: Job> Job for Kept<J> {
    type State = J::State;

    fn open(&mut self, partition: i32) -> Result<J::State, JobError> {
        self.0.lock().open(partition)
    }

    fn process(
        &mut self,
        state: &mut J::State,
        records: &[Record],
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        self.0.lock().process(state, records, output)
    }

    fn settle(
        &mut self,
        state: &mut J::State,
        share: Share,
        output: &mut Output<'_>,
    ) -> Result<bool, JobError> {
        self.0.lock().settle(state, share, output)
    }
}

/// A pair of jobs with the same setup as a fused one.
#[derive(Clone)]
struct Pair {
    normalise: Kept<NormaliseJob>,
    detect: Kept<CoreJob>,
}

impl Pair {
    fn new(hold: Hold, rules: RuleSet) -> Self {
        let (registry, ids) = registry();
        let lateness = Lateness(2 * SECOND);
        let rules = Offer::new(rules, 1);
        let setup = CoreSetup { registry, ids, topics: Topics::default(), rules, lateness, hold };
        let normalise = Kept(Arc::new(Mutex::new(NormaliseJob::new(setup.clone()).unwrap())));
        Self { normalise, detect: Kept(Arc::new(Mutex::new(CoreJob::detect(setup).unwrap()))) }
    }
}

pub(super) fn of_job(name: &'static str, input: Arc<str>, run: &Run) -> Box<dyn Fn(usize) -> WorkerSettings> {
    let (batch, commit_ms) = (run.batch, run.commit_ms);
    Box::new(move |slot| WorkerSettings {
        group: name.to_owned(),
        transactional_id: format!("{name}-{slot}"),
        input: Arc::clone(&input),
        state: Topics::default().state(name),
        ..worker_settings(batch, commit_ms)
    })
}

/// Whether a group has committed all that a read_committed reader sees of a topic.
pub(super) fn has_read(log: &MemoryLog, group: &str, topic: &Arc<str>) -> bool {
    let mut ends = BTreeMap::new();
    for record in log.records(topic) {
        ends.insert(record.partition, record.offset + 1);
    }
    ends.into_iter().all(|(partition, end)| {
        let of = eventlog::TopicPartition::new(Arc::clone(topic), partition);
        log.committed_offset(group, &of).is_some_and(|read| read >= end)
    })
}

/// Runs both jobs side by side, each with workers of its own, until both have committed everything.
fn run_split(rows: &Rows, run: &Run, pair: &Pair) -> MemoryLog {
    let topics = Topics::default();
    let log = MemoryLog::new();
    for spec in topics.all() {
        log.create(&spec.name, PARTITIONS);
    }
    let writer = log.handle().appender(Box::new(|_, _| {})).unwrap();
    let Pair { normalise, detect } = pair.clone();
    let (raw, clean) = (topics.raw(), topics.clean());
    let settings = of_job("normalise", Arc::clone(&raw), run);
    let mut first = Fleet::new(log.clone(), run.workers, Box::new(move || normalise.clone()), settings, None);
    let settings = of_job("detect", Arc::clone(&clean), run);
    let mut second = Fleet::new(log.clone(), run.workers, Box::new(move || detect.clone()), settings, None);
    let mut rows = rows.iter();
    let mut chance = Chance::new(run.chaos.unwrap_or(0));
    let mut calm = 0;
    for _ in 0..60_000 {
        first.ticker.advance(10);
        second.ticker.advance(10);
        let burst = if run.chaos.is_some() { 1 + chance.below(20) } else { u64::MAX };
        let left = arrive(&log, &writer, rows.by_ref().take(burst as usize)).unwrap();
        if run.chaos.is_some() && left {
            if chance.one_in(8) {
                first.disturb(&mut chance);
            }
            if chance.one_in(8) {
                second.disturb(&mut chance);
            }
        }
        if !left || chance.one_in(12) {
            first.settle();
            second.settle();
        }
        for slot in 0..run.workers {
            first.step(slot).unwrap();
            // Now and then the second job is behind, and reads what came in between at once.
            if run.chaos.is_none() || !left || chance.one_in(2) {
                second.step(slot).unwrap();
            }
        }
        let is_done = !left && first.is_done() && has_read(&log, "detect", &clean);
        calm = if is_done { calm + 1 } else { 0 };
        // Longer than anybody sleeps: an open transaction would hide what is behind it.
        if calm > 60 {
            return log;
        }
    }
    panic!("the workers did not finish");
}

/// Dead letters name the job that could not read them.
fn as_core(outputs: Outputs) -> Outputs {
    let renamed = |((topic, key, value, headers), count): ((String, Bytes, Bytes, String), usize)| {
        ((topic, key, value, headers.replace("b\"normalise\"", "b\"core\"")), count)
    };
    outputs.into_iter().map(renamed).collect()
}

fn compare_split(rows: &Rows, pair: &Pair, expected: &Outputs, what: &str) {
    for (batch, commit_ms, chaos) in [(4_000, 50, None), (7, 20, None), (40, 30, Some(1)), (40, 30, Some(2))]
    {
        let workers = if chaos.is_some() { 2 } else { 1 };
        let log = run_split(rows, &Run { workers, batch, commit_ms, chaos, restart: false }, pair);
        compare(&as_core(outputs(&log)), expected, &format!("{what}: batches of {batch}, chaos {chaos:?}"));
    }
}

const HELD: Hold = Hold(30 * 24 * 3_600 * SECOND);

#[test]
fn two_jobs_give_what_one_gives() {
    let rows = script(1, registry().1);
    let expected = run(&rows, &CALM);
    tells_of_features(&expected);
    let topics = Topics::default();
    assert!(count(&expected, &topics.alerts()) > 3 && count(&expected, &topics.dlq()) > 3);
    compare_split(&rows, &Pair::new(HELD, RuleSet::shipped().unwrap()), &expected, "the script");
}

#[test]
fn what_rules_remember_is_the_same_in_two_jobs() {
    let rows = rules::eventful(5);
    let set = || rules::set(rules::RULES);
    let fused = job(Offer::new(set(), 1));
    let expected = outputs(&run_jobs(&rows, &CALM, Box::new(move || fused.clone())));
    assert!(count(&expected, &Topics::default().alerts()) > 10);
    compare_split(&rows, &Pair::new(HELD, set()), &expected, "rules");
}

/// Late rows, rows that may be repeats, agents that are dropped.
#[test]
fn an_agent_that_is_dropped_comes_back_the_same_in_two_jobs() {
    let rows = expiry::gone_and_back(registry().1);
    let expected = outputs(&run_jobs(&rows, &CALM, Box::new(expiry::impatient)));
    assert_eq!(count(&expected, &Topics::default().late()), 2);
    compare_split(&rows, &Pair::new(expiry::HOLD, RuleSet::shipped().unwrap()), &expected, "expiry");
}

/// What is clean is all that raw has and can be read, in its order.
#[test]
fn the_clean_log_has_every_record_that_can_be_read() {
    let rows = script(7, registry().1);
    let pair = Pair::new(HELD, RuleSet::shipped().unwrap());
    let log = run_split(&rows, &CALM, &pair);
    let topics = Topics::default();
    let (raw, clean) = (log.records(&topics.raw()), log.records(&topics.clean()));
    let poison = log.records(&topics.dlq()).len();
    assert!(poison > 3);
    assert_eq!(clean.len(), raw.len() - poison);
    let dropped = clean.iter().filter(|record| record.header("varta.dropped").is_some()).count();
    let clocks = clean.iter().filter(|record| record.header("varta.appended_at").is_some()).count();
    let events: usize = Family::ALL.iter().map(|family| log.records(&topics.events(*family)).len()).sum();
    assert!(dropped > 3 && clocks > 300 && events > 100);
    let rejected = clean.len() - dropped - clocks - events;
    assert!((1..30).contains(&rejected), "{rejected}");
}

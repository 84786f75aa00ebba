//! Each kind of window against a plain recomputation over the whole input: random disorder, holes and outages, any cut
//! of the log, restarts from the changelog in the middle.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{
    DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use schemas::identity::Lane;

use super::*;
use crate::engine::operator::StateError;
use crate::engine::pieces::{PIECE_BYTES, small};
use crate::engine::simulation::Chance;
use crate::event_time::{Hold, Lateness, Row, Tracker, Verdict};
use crate::functions::Functions;
use crate::plan::CachedPlan;

const SECOND: i64 = 1_000_000;
const START: i64 = 1_700_000_000 * SECOND;

const SQL: &str = "SELECT agent_id, window_start, count(*) AS n, sum(number) AS total, count(DISTINCT name) AS names, \
    approx_distinct(name) AS about, max(event_time) AS last, quantile(value, 0.5) AS middle, \
    percentile_cont(value, 0.9) AS high, stddev_pop(value) AS spread, min(name) FILTER (WHERE number % 2 = 0) AS least, \
    gauge(value, value > 50, event_time, number)['mean'] AS mean \
    FROM events GROUP BY agent_id, window_start";

/// One event in time order of the log, as the scan sees it.
#[derive(Clone, Debug)]
struct Event {
    agent: usize,
    timed: Timed,
    number: i64,
    value: f64,
    name: Option<&'static str>,
}

#[derive(Clone, Debug)]
enum Step {
    Event(Event),
    /// These agents have just fallen silent.
    Silent(Vec<usize>),
}

/// A log with the decisions of the scan: steps, and the watermarks of all agents after each.
struct Script {
    steps: Vec<Step>,
    watermarks: Vec<Vec<i64>>,
}

/// When it arrives, order of equals, and agent, number and event time; a clock record without them.
type Arrival = (i64, usize, Option<(usize, i64, i64)>);

const AGENTS: usize = 3;
const NAMES: [Option<&str>; 5] = [Some("a"), Some("b"), Some("c"), Some("d"), None];

fn agent(number: usize) -> String {
    format!("agent-{number}")
}

/// Three agents over five minutes: disorder, numbers that never come or come far too late, an agent whose network is
/// gone for a while, and a time in which the bridge itself is away.
fn script(seed: u64) -> Script {
    let mut chance = Chance::new(seed);
    let mut arrivals: Vec<Arrival> = Vec::new();
    let outage = START + (60 + chance.below(60) as i64) * SECOND;
    for agent in 0..AGENTS {
        let mut time = START;
        for seq in 0..120_i64 {
            // Mostly close together, sometimes far apart: sessions need gaps.
            time += if chance.one_in(12) { 20 * SECOND } else { chance.below(4_000) as i64 * 1_000 };
            let mut arrives = time + chance.below(3_000) as i64 * 1_000;
            if agent == 1 && (outage..outage + 90 * SECOND).contains(&time) {
                arrives = outage + 90 * SECOND + seq * 1_000;
            }
            if chance.one_in(15) {
                continue;
            }
            if chance.one_in(25) {
                arrives += 70 * SECOND;
            }
            arrivals.push((arrives, arrivals.len(), Some((agent, seq, time))));
        }
    }
    let end = arrivals.iter().map(|arrival| arrival.0).max().unwrap_or(START) + 200 * SECOND;
    let away = START + (100 + chance.below(60) as i64) * SECOND;
    for at in (START..end).step_by(5_000_000) {
        arrivals.push((at, arrivals.len(), None));
    }
    arrivals.sort_unstable_by_key(|arrival| (arrival.0, arrival.1));
    let mut tracker = Tracker::new(Lateness(2 * SECOND), Hold(i64::MAX)).eager();
    let numbers: Vec<u32> = (0..AGENTS).map(|number| tracker.intern(&agent(number))).collect();
    let mut script = Script { steps: Vec::new(), watermarks: Vec::new() };
    for (at, _, what) in arrivals {
        let step = match what {
            None => {
                let connected = !(away..away + 30 * SECOND).contains(&at);
                let silent = tracker.tick("bridge", at, connected, false);
                let silent: Vec<usize> = silent.into_iter().map(|number| number as usize).collect();
                Step::Silent(silent)
            }
            Some((agent, seq, time)) => {
                let decision = tracker.event(&Row {
                    agent: numbers[agent],
                    session: START,
                    lane: Lane::Normal,
                    seq,
                    event_id: None,
                    event_time: time,
                    received_at: at,
                    replayed: false,
                    hearsay: false,
                    speaks: false,
                });
                assert_ne!(decision.verdict, Verdict::Duplicate);
                Step::Event(Event {
                    agent,
                    timed: Timed { time, watermark: decision.watermark },
                    number: seq,
                    value: chance.below(10_000) as f64 / 7.0 - 300.0,
                    name: NAMES[chance.below(5) as usize],
                })
            }
        };
        script.steps.push(step);
        script.watermarks.push(numbers.iter().map(|number| tracker.agent(*number).watermark).collect());
    }
    script
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("agent_id", DataType::Utf8, false),
        Field::new("event_time", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), false),
        Field::new("number", DataType::Int64, false),
        Field::new("value", DataType::Float64, true),
        Field::new("name", DataType::Utf8, true),
    ]))
}

fn batch(events: &[&Event]) -> RecordBatch {
    let times = events.iter().map(|event| event.timed.time);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(events.iter().map(|event| agent(event.agent)))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("+00:00")),
        Arc::new(Int64Array::from_iter_values(events.iter().map(|event| event.number))),
        Arc::new(Float64Array::from_iter_values(events.iter().map(|event| event.value))),
        Arc::new(events.iter().map(|event| event.name).collect::<StringArray>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// Results by agent and window, as text; deviations are told as far as they do not depend on the order of adding.
type Found = BTreeMap<(String, i64), String>;

fn read(results: &RecordBatch) -> Vec<((String, i64), String)> {
    let column = |name: &str| results.column_by_name(name).unwrap();
    let long = |name: &str, row: usize| column(name).as_primitive::<Int64Type>().value(row);
    let double = |name: &str, row: usize| column(name).as_primitive::<Float64Type>().value(row);
    let time = |name: &str, row: usize| column(name).as_primitive::<TimestampMicrosecondType>().value(row);
    let least = column("least").as_string::<i32>();
    (0..results.num_rows())
        .map(|row| {
            let key = (column("agent_id").as_string::<i32>().value(row).to_owned(), time("window_start", row));
            let about = column("about").as_primitive::<arrow::datatypes::UInt64Type>().value(row);
            let text = format!(
                "n {} total {} names {} about {about} last {} middle {:?} high {:?} spread {:.6} least {:?} mean {:?}",
                long("n", row),
                long("total", row),
                long("names", row),
                time("last", row) - START,
                double("middle", row),
                double("high", row),
                double("spread", row),
                least.is_valid(row).then(|| least.value(row)),
                double("mean", row),
            );
            (key, text)
        })
        .collect()
}

/// Runs the query once over all events of each window: no partial rows, no merging.
fn recompute(plan: &mut CachedPlan, windows: &[(i64, Vec<&Event>)]) -> Found {
    let mut batches = Vec::new();
    for (start, events) in windows {
        let rows = batch(events);
        let mut columns = rows.columns().to_vec();
        columns.push(aggregate::start_column(vec![*start; rows.num_rows()]));
        batches.push(RecordBatch::try_new(Arc::clone(plan.slot().schema()), columns).unwrap());
    }
    if batches.is_empty() {
        return Found::new();
    }
    let all = concat_batches(plan.slot().schema(), &batches).unwrap();
    read(&plan.run(all).unwrap()).into_iter().collect()
}

/// What windows of a kind hold, decided without any of their code.
trait Plain {
    /// Takes the next event; false if it is late.
    fn event(&mut self, event: &Event) -> bool;
    /// Windows of a level that closed up to these watermarks since the last call.
    fn close(&mut self, level: usize, watermarks: &[i64]) -> Vec<(i64, Vec<Event>)>;
    /// Windows of a level that are open, of one agent.
    fn open(&self, level: usize, agent: usize) -> Vec<(i64, Vec<Event>)>;
}

/// Tumbling and sliding windows: all events that were let in, and what was emitted.
struct PlainGrid {
    /// (step between starts, size) by level.
    levels: Vec<(i64, i64)>,
    events: Vec<Event>,
    emitted: BTreeSet<(usize, usize, i64)>,
}

impl PlainGrid {
    fn windows(&self, level: usize) -> BTreeMap<(usize, i64), Vec<Event>> {
        let (step, size) = self.levels[level];
        let mut windows: BTreeMap<(usize, i64), Vec<Event>> = BTreeMap::new();
        for event in &self.events {
            let mut start = event.timed.time.div_euclid(step) * step;
            while start > event.timed.time - size {
                windows.entry((event.agent, start)).or_default().push(event.clone());
                start -= step;
            }
        }
        windows
    }
}

impl Plain for PlainGrid {
    fn event(&mut self, event: &Event) -> bool {
        let (step, _) = self.levels[0];
        let in_time = event.timed.time.div_euclid(step) * step + step > event.timed.watermark;
        if in_time {
            self.events.push(event.clone());
        }
        in_time
    }

    fn close(&mut self, level: usize, watermarks: &[i64]) -> Vec<(i64, Vec<Event>)> {
        let size = self.levels[level].1;
        let ended = self.windows(level).into_iter().filter(|((agent, start), _)| {
            start + size <= watermarks[*agent] && self.emitted.insert((level, *agent, *start))
        });
        ended.map(|((_, start), events)| (start, events)).collect()
    }

    fn open(&self, level: usize, agent: usize) -> Vec<(i64, Vec<Event>)> {
        let of_agent = self
            .windows(level)
            .into_iter()
            .filter(|((of, start), _)| *of == agent && !self.emitted.contains(&(level, *of, *start)));
        of_agent.map(|((_, start), events)| (start, events)).collect()
    }
}

/// Sessions as sets of events, joined by looking at all pairs.
struct PlainSessions {
    gap: i64,
    open: Vec<Vec<Event>>,
    ended: Vec<Vec<Event>>,
}

impl PlainSessions {
    fn last(session: &[Event]) -> i64 {
        session.iter().map(|event| event.timed.time).max().unwrap()
    }

    fn first(session: &[Event]) -> i64 {
        session.iter().map(|event| event.timed.time).min().unwrap()
    }

    fn end(&mut self, agent: usize, watermark: i64) {
        let gap = self.gap;
        let ended =
            |session: &Vec<Event>| session[0].agent == agent && Self::last(session) + gap <= watermark;
        let (ended, open) = std::mem::take(&mut self.open).into_iter().partition(ended);
        self.open = open;
        self.ended.extend::<Vec<_>>(ended);
    }
}

impl Plain for PlainSessions {
    fn event(&mut self, event: &Event) -> bool {
        self.end(event.agent, event.timed.watermark);
        let touches = |session: &Vec<Event>| {
            let near = |other: &Event| (other.timed.time - event.timed.time).abs() < self.gap;
            session[0].agent == event.agent && session.iter().any(near)
        };
        let (mut joined, apart): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.open).into_iter().partition(touches);
        self.open = apart;
        if joined.is_empty() && event.timed.time + self.gap <= event.timed.watermark {
            return false;
        }
        joined.push(vec![event.clone()]);
        self.open.push(joined.concat());
        true
    }

    fn close(&mut self, _: usize, watermarks: &[i64]) -> Vec<(i64, Vec<Event>)> {
        for (agent, watermark) in watermarks.iter().enumerate() {
            self.end(agent, *watermark);
        }
        let ended = std::mem::take(&mut self.ended);
        ended.into_iter().map(|session| (Self::first(&session), session)).collect()
    }

    fn open(&self, _: usize, agent: usize) -> Vec<(i64, Vec<Event>)> {
        let of_agent = self.open.iter().filter(|session| session[0].agent == agent);
        of_agent.map(|session| (Self::first(session), session.clone())).collect()
    }
}

/// Makes empty windows.
type Make = dyn Fn(&Aggregate) -> Box<dyn Windows>;

/// Windows under test with their changelog.
struct Rig {
    windows: Box<dyn Windows>,
    make: Box<Make>,
    log: Vec<RecordBatch>,
    closed_at: Vec<i64>,
}

impl Rig {
    fn closings(&self, watermarks: &[i64]) -> Vec<Closing> {
        let moved = (0..AGENTS).filter(|number| watermarks[*number] > self.closed_at[*number]);
        moved
            .map(|number| Closing {
                agent: Arc::from(agent(number)),
                before: self.closed_at[number],
                watermark: watermarks[number],
            })
            .collect()
    }

    fn close(&mut self, aggregate: &mut Aggregate, watermarks: &[i64]) -> Vec<Closed> {
        let closings = self.closings(watermarks);
        self.closed_at = watermarks.to_vec();
        self.windows.close(aggregate, &closings).unwrap()
    }

    /// A commit, as the changelog makes it: changes, or now and then all of it anew.
    fn commit(&mut self, chance: &mut Chance) {
        if chance.one_in(9) {
            self.log = vec![self.windows.operator().snapshot().unwrap()];
        } else {
            self.log.extend(self.windows.operator().drain_changes().unwrap());
        }
    }

    /// Another worker goes on; chunks of the changelog may be cut anywhere.
    fn restart(&mut self, aggregate: &Aggregate, chance: &mut Chance) {
        self.windows = (self.make)(aggregate);
        let operator = self.windows.operator();
        for rows in &self.log {
            let at = chance.below(rows.num_rows() as u64 + 1) as usize;
            for part in [rows.slice(0, at), rows.slice(at, rows.num_rows() - at)] {
                if part.num_rows() > 0 {
                    operator.restore(&part).unwrap();
                }
            }
        }
        operator.restored().unwrap();
    }
}

fn aggregate() -> Aggregate {
    Aggregate::new(SQL, "events", &schema(), &Functions::new()).unwrap()
}

fn plain_plan(aggregate: &Aggregate) -> CachedPlan {
    CachedPlan::new(SQL, "events", Arc::clone(aggregate.rows()), &Functions::new()).unwrap()
}

/// Levels are compared one by one: what closed, or is open, against the recomputation.
fn compare(
    aggregate: &mut Aggregate,
    plan: &mut CachedPlan,
    found: Vec<Closed>,
    expected: Vec<Vec<(i64, Vec<Event>)>>,
    what: &str,
) -> usize {
    let mut count = 0;
    let mut by_level = vec![Found::new(); expected.len()];
    for Closed { level, rows } in found {
        for (key, text) in read(&aggregate.results(rows).unwrap()) {
            assert!(by_level[level].insert(key.clone(), text).is_none(), "{what}: {key:?} came twice");
        }
    }
    for (level, (found, expected)) in by_level.into_iter().zip(expected).enumerate() {
        let windows: Vec<(i64, Vec<&Event>)> =
            expected.iter().map(|(start, events)| (*start, events.iter().collect())).collect();
        count += windows.len();
        assert_eq!(found, recompute(plan, &windows), "{what}, level {level}");
    }
    count
}

/// What a run came across, so that nothing is compared with nothing.
#[derive(Debug, Default)]
struct Came {
    closed: usize,
    open: usize,
    late: usize,
    restarts: usize,
}

fn run(
    seed: u64,
    levels: usize,
    make: impl Fn(&Aggregate) -> Box<dyn Windows> + 'static,
    mut plain: impl Plain,
    (aggregate, plan): (&mut Aggregate, &mut CachedPlan),
    came: &mut Came,
) {
    let script = script(seed);
    let mut chance = Chance::new(seed ^ 0x77);
    // Some runs commit after almost each row, some almost never.
    let commit = [2, 7, 60, 100_000][chance.below(4) as usize];
    let mut rig = Rig {
        windows: make(aggregate),
        make: Box::new(make),
        log: Vec::new(),
        closed_at: vec![i64::MIN; AGENTS],
    };
    let mut pending: Vec<&Event> = Vec::new();
    let mut flush = |rig: &mut Rig, plain: &mut dyn Plain, pending: &mut Vec<&Event>| {
        let events = std::mem::take(pending);
        let times: Vec<Timed> = events.iter().map(|event| event.timed).collect();
        let late = rig.windows.add(&batch(&events), &times).unwrap();
        let late: Vec<usize> = late.into_iter().map(|late| late.row).collect();
        let expected: Vec<usize> = (0..events.len()).filter(|row| !plain.event(events[*row])).collect();
        assert_eq!(late, expected, "seed {seed}: late rows");
        came.late += late.len();
    };
    for (step, watermarks) in script.steps.iter().zip(&script.watermarks) {
        match step {
            Step::Event(event) => pending.push(event),
            Step::Silent(silent) if silent.is_empty() => {}
            Step::Silent(silent) => {
                flush(&mut rig, &mut plain, &mut pending);
                let closed = rig.close(aggregate, watermarks);
                let expected = (0..levels).map(|level| plain.close(level, watermarks)).collect();
                came.closed += compare(aggregate, plan, closed, expected, &format!("seed {seed}"));
                let agents: Vec<Closing> = silent
                    .iter()
                    .map(|number| Closing {
                        agent: Arc::from(agent(*number)),
                        before: watermarks[*number],
                        watermark: watermarks[*number],
                    })
                    .collect();
                let open = rig.windows.peek(aggregate, &agents).unwrap();
                let of = |level| silent.iter().flat_map(|number| plain.open(level, *number)).collect();
                let expected = (0..levels).map(of).collect();
                came.open += compare(aggregate, plan, open, expected, &format!("seed {seed}, open"));
            }
        }
        // A micro-batch ends anywhere, a commit now and then.
        if chance.one_in(5) {
            flush(&mut rig, &mut plain, &mut pending);
        }
        if chance.one_in(commit) {
            flush(&mut rig, &mut plain, &mut pending);
            let closed = rig.close(aggregate, watermarks);
            let expected = (0..levels).map(|level| plain.close(level, watermarks)).collect();
            came.closed += compare(aggregate, plan, closed, expected, &format!("seed {seed}"));
            rig.commit(&mut chance);
            if chance.one_in(6) {
                rig.restart(aggregate, &mut chance);
                came.restarts += 1;
            }
        }
    }
    flush(&mut rig, &mut plain, &mut pending);
    let end = vec![START + 100_000 * SECOND; AGENTS];
    let closed = rig.close(aggregate, &end);
    let expected = (0..levels).map(|level| plain.close(level, &end)).collect();
    came.closed += compare(aggregate, plan, closed, expected, &format!("seed {seed}, at the end"));
    rig.commit(&mut chance);
    rig.restart(aggregate, &mut chance);
    assert_eq!(rig.windows.operator().live_rows(), 0, "seed {seed}: something stayed");
}

const SEEDS: u64 = 24;

fn is_enough(came: &Came) {
    assert!(came.closed > 500 && came.open > 20 && came.late > 50 && came.restarts > 20, "{came:?}");
}

#[test]
fn tumbling_windows_of_all_sizes_equal_a_recomputation() {
    let mut aggregate = aggregate();
    let mut plan = plain_plan(&aggregate);
    let mut came = Came::default();
    let sizes = [10 * SECOND, 30 * SECOND, 120 * SECOND];
    for seed in 0..SEEDS {
        let levels = sizes.iter().map(|size| (*size, *size)).collect();
        let plain = PlainGrid { levels, events: Vec::new(), emitted: BTreeSet::new() };
        let make = move |aggregate: &Aggregate| -> Box<dyn Windows> {
            Box::new(Tumbling::new("tumbling", &sizes, aggregate))
        };
        run(seed, sizes.len(), make, plain, (&mut aggregate, &mut plan), &mut came);
    }
    is_enough(&came);
}

#[test]
fn sliding_windows_equal_a_recomputation() {
    let mut aggregate = aggregate();
    let mut plan = plain_plan(&aggregate);
    let mut came = Came::default();
    let (slide, size) = (5 * SECOND, 20 * SECOND);
    for seed in 0..SEEDS {
        let plain = PlainGrid { levels: vec![(slide, size)], events: Vec::new(), emitted: BTreeSet::new() };
        let make = move |aggregate: &Aggregate| -> Box<dyn Windows> {
            Box::new(Sliding::new("sliding", slide, size, aggregate))
        };
        run(seed, 1, make, plain, (&mut aggregate, &mut plan), &mut came);
    }
    is_enough(&came);
}

#[test]
fn sessions_equal_a_recomputation() {
    let mut aggregate = aggregate();
    let mut plan = plain_plan(&aggregate);
    let mut came = Came::default();
    let gap = 6 * SECOND;
    for seed in 0..2 * SEEDS {
        let plain = PlainSessions { gap, open: Vec::new(), ended: Vec::new() };
        let make = move |aggregate: &Aggregate| -> Box<dyn Windows> {
            Box::new(Sessions::new("session", gap, aggregate))
        };
        run(seed, 1, make, plain, (&mut aggregate, &mut plan), &mut came);
    }
    is_enough(&came);
}

fn event(agent: usize, time: i64, watermark: i64, number: i64) -> Event {
    Event { agent, timed: Timed { time, watermark }, number, value: 1.0, name: None }
}

fn add(windows: &mut dyn Windows, events: &[Event]) -> usize {
    let events: Vec<&Event> = events.iter().collect();
    let times: Vec<Timed> = events.iter().map(|event| event.timed).collect();
    windows.add(&batch(&events), &times).unwrap().len()
}

fn closing(number: usize, watermark: i64) -> Vec<Closing> {
    vec![Closing { agent: Arc::from(agent(number)), before: i64::MIN, watermark }]
}

fn counts(aggregate: &mut Aggregate, closed: Vec<Closed>) -> Vec<(i64, i64)> {
    let mut counts = Vec::new();
    for Closed { rows, .. } in closed {
        let results = aggregate.results(rows).unwrap();
        let n = results.column_by_name("n").unwrap().as_primitive::<Int64Type>().clone();
        counts.extend(aggregate::starts(&results).iter().copied().zip(n.values().iter().copied()));
    }
    counts
}

#[test]
fn a_late_row_between_two_sessions_joins_them() {
    let mut aggregate = aggregate();
    let mut sessions = Sessions::new("session", 10, &aggregate);
    assert_eq!(add(&mut sessions, &[event(0, 100, 0, 1), event(0, 115, 0, 2)]), 0);
    let open = sessions.peek(&mut aggregate, &closing(0, 90)).unwrap();
    assert_eq!(counts(&mut aggregate, open), [(100, 1), (115, 1)]);
    assert_eq!(add(&mut sessions, &[event(0, 107, 90, 3)]), 0);
    assert!(sessions.close(&mut aggregate, &closing(0, 124)).unwrap().is_empty(), "it lasts until 125");
    let closed = sessions.close(&mut aggregate, &closing(0, 125)).unwrap();
    assert_eq!(counts(&mut aggregate, closed), [(100, 3)]);
    // What touches nothing that is open, and would have closed itself, is late; what is later than it is not.
    assert_eq!(add(&mut sessions, &[event(0, 110, 125, 4), event(0, 116, 125, 5)]), 1);
    let closed = sessions.close(&mut aggregate, &closing(0, 200)).unwrap();
    assert_eq!(counts(&mut aggregate, closed), [(116, 1)]);
}

#[test]
fn a_sliding_window_keeps_each_row_once() {
    let mut aggregate = aggregate();
    let mut sliding = Sliding::new("sliding", 10, 100, &aggregate);
    let events: Vec<Event> = (0..200).map(|number| event(0, 1_000 + number, 0, number)).collect();
    add(&mut sliding, &events);
    assert!(sliding.close(&mut aggregate, &closing(0, 910)).unwrap().is_empty());
    assert_eq!(sliding.live(), 20, "one partial row a pane, though each is in ten windows");
    let closed = sliding.close(&mut aggregate, &closing(0, 1_020)).unwrap();
    assert_eq!(counts(&mut aggregate, closed), [(910, 10), (920, 20)]);
    assert_eq!(sliding.live(), 20, "the first window that begins with a pane has not ended");
}

#[test]
fn closing_costs_what_closes() {
    let mut aggregate = aggregate();
    let mut tumbling = Tumbling::new("tumbling", &[60], &aggregate);
    let (agents, rounds) = (1_500, 4);
    let mut added = 0;
    for round in 0..rounds {
        let events: Vec<Event> = (0..agents).map(|agent| event(agent, 30 + round, 0, round)).collect();
        add(&mut tumbling, &events);
        tumbling.close(&mut aggregate, &[]).unwrap();
        tumbling.operator().drain_changes().unwrap();
        added += agents as u64;
    }
    // The minutes close one agent after the other, as clocks of many machines do.
    for agent in 0..agents {
        let before = tumbling.copied();
        let closed = tumbling.close(&mut aggregate, &closing(agent, 60)).unwrap();
        assert_eq!(closed[0].rows.num_rows(), rounds as usize);
        let tidied = tumbling.copied() - before - rounds as u64;
        assert!(tidied == 0 || agent > 1_000, "nothing else is touched while most of it lives");
        tumbling.operator().drain_changes().unwrap();
    }
    assert!(tumbling.copied() <= 2 * added, "{} for {added} rows", tumbling.copied());
    assert_eq!(tumbling.operator().live_rows(), 0);
}

#[test]
fn many_windows_are_given_in_small_pieces() {
    let mut aggregate = aggregate();
    let mut tumbling = Tumbling::new("tumbling", &[60], &aggregate);
    let agents = 20_000;
    for round in 0..2 {
        let events: Vec<Event> = (0..agents).map(|agent| event(agent, 30 + round, 0, round)).collect();
        add(&mut tumbling, &events);
        tumbling.close(&mut aggregate, &[]).unwrap();
        if round == 0 {
            // What is measured of a part of a batch leaves out some of what its lists hold.
            assert!(small(tumbling.operator().changes(), PIECE_BYTES).len() > 3);
        }
    }
    let pieces = small(tumbling.operator().all(), 0);
    assert!(pieces.len() > 7, "{}", pieces.len());
    let mut restored = Tumbling::new("tumbling", &[60], &aggregate);
    for piece in &pieces {
        restored.operator().restore(piece).unwrap();
    }
    restored.operator().restored().unwrap();
    assert_eq!(restored.operator().live_rows(), tumbling.operator().live_rows());
    for agent in [0, 7, agents - 1] {
        let closed = restored.close(&mut aggregate, &closing(agent, 60)).unwrap();
        assert_eq!(counts(&mut aggregate, closed), [(0, 2)]);
    }
}

#[test]
fn many_commits_in_one_window_leave_few_rows() {
    let mut aggregate = aggregate();
    let mut tumbling = Tumbling::new("tumbling", &[1_000_000], &aggregate);
    for number in 0..500 {
        add(&mut tumbling, &[event(0, number, 0, number), event(1, number, 0, number)]);
        tumbling.close(&mut aggregate, &[]).unwrap();
        tumbling.operator().drain_changes().unwrap();
    }
    assert!(tumbling.operator().live_rows() <= 2 * 17, "{}", tumbling.operator().live_rows());
    assert!(tumbling.copied() < 3_000, "{}", tumbling.copied());
    let closed = tumbling.close(&mut aggregate, &closing(0, 1_000_000)).unwrap();
    assert_eq!(counts(&mut aggregate, closed), [(0, 500)]);
}

#[test]
fn state_is_not_written_while_rows_wait() {
    let aggregate = aggregate();
    let windows: [Box<dyn Windows>; 3] = [
        Box::new(Tumbling::new("tumbling", &[10], &aggregate)),
        Box::new(Sliding::new("sliding", 10, 20, &aggregate)),
        Box::new(Sessions::new("session", 10, &aggregate)),
    ];
    for mut windows in windows {
        add(&mut *windows, &[event(0, 1, 0, 1)]);
        assert!(matches!(windows.operator().drain_changes(), Err(StateError::Malformed { .. })));
        assert!(matches!(windows.operator().snapshot(), Err(StateError::Malformed { .. })));
    }
}

#[test]
fn another_query_or_size_is_another_definition() {
    let one = aggregate();
    let sql = SQL.replace("0.9", "0.8");
    let other = Aggregate::new(&sql, "events", &schema(), &Functions::new()).unwrap();
    let hash = |aggregate: &Aggregate, sizes: &[i64]| {
        Tumbling::new("tumbling", sizes, aggregate).operator().definition_hash()
    };
    assert_eq!(hash(&one, &[10]), hash(&aggregate(), &[10]));
    assert_ne!(hash(&one, &[10]), hash(&other, &[10]));
    assert_ne!(hash(&one, &[10]), hash(&one, &[20]));
}

//! Session windows: as long as an agent's rows come closer to each other than a gap.
//!
//! ```text
//! rows     ·  ··   ·            ·  ·            gap ├────┤
//! session  [first … last + gap) [first … last + gap)
//! and then       a late row: ·                  falls between and joins both
//! ```
//!
//! A session is known before its rows are aggregated: [`add`](Windows::add) decides row by row, in offset order, which
//! session a row belongs to, for a row may be let in only because it touches a session that is still open, and what has
//! closed takes nothing more. Sessions have numbers, which stand in [`WINDOW_START`](super::WINDOW_START) while rows are
//! kept; joining two is a note that one number means the other. A partial row bears the times of its first and last row,
//! so what is restored is joined again by the same rule.

use std::sync::Arc;

use ahash::AHashMap;
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef};
use arrow::error::ArrowError;

use super::aggregate::{Aggregate, starts, with_starts};
use super::partials::Place;
use super::store::Store;
use super::{Closed, Closing, Late, Timed, Windows, in_time};
use crate::engine::operator::{Operator, StateError};
use crate::engine::pieces::{PIECE_ROWS, Pieces, one};
use crate::plan::PlanError;

/// Columns after a partial row: times of its first and its last row.
const SPAN: [&str; 2] = ["session_first", "session_last"];

/// One session that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    first: i64,
    last: i64,
    /// All of these numbers mean this session; rows bear any of them.
    numbers: Vec<i64>,
}

impl Session {
    fn join(&mut self, other: Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.numbers.extend(other.numbers);
    }
}

/// Sessions of one agent by time; they lie at least a gap apart.
type Open = Vec<Session>;

/// Session windows.
#[derive(Debug)]
pub struct Sessions {
    gap: i64,
    open: AHashMap<Arc<str>, Open>,
    /// Ended by a watermark that was seen with a row, to be taken out when windows are closed.
    ended: AHashMap<Arc<str>, Vec<Session>>,
    /// Rows with the numbers of their sessions and their times.
    waiting: Vec<(RecordBatch, Vec<(i64, i64)>)>,
    /// Sessions joined to others since rows waited: the number that they gave to rows, and what it means now.
    joined: AHashMap<i64, i64>,
    next: i64,
    store: Store,
}

impl Sessions {
    /// Sessions of rows that are less than `gap` µs apart. `name` is that of the operator.
    ///
    /// A session's row has its first event time as start. Its end, the last event time plus the gap, is for the query
    /// to tell, for example `max(event_time)`.
    pub fn new(name: &'static str, gap: i64, aggregate: &Aggregate) -> Self {
        debug_assert!(gap > 0);
        let span = SPAN.map(|name| Field::new(name, DataType::Int64, true));
        let store = Store::new(name, "session 1", &[gap], 1, aggregate, &span);
        Self {
            gap,
            open: AHashMap::new(),
            ended: AHashMap::new(),
            waiting: Vec::new(),
            joined: AHashMap::new(),
            next: 0,
            store,
        }
    }

    /// The number of the session that takes a row, or `None` if it has closed.
    fn admit(&mut self, agent: &str, timed: Timed) -> Option<i64> {
        let gap = self.gap;
        if !self.open.contains_key(agent) {
            self.open.insert(Arc::from(agent), Vec::with_capacity(1));
        }
        let open = self.open.get_mut(agent)?;
        let ended = open.partition_point(|session| session.last.saturating_add(gap) <= timed.watermark);
        if ended > 0 {
            let sessions = open.drain(..ended);
            match self.ended.get_mut(agent) {
                Some(known) => known.extend(sessions),
                None => drop(self.ended.insert(Arc::from(agent), sessions.collect())),
            }
        }
        let from = open.partition_point(|session| session.last.saturating_add(gap) <= timed.time);
        let touched =
            open[from..].iter().take_while(|session| session.first < timed.time.saturating_add(gap));
        let count = touched.count();
        if count == 0 {
            if timed.time.saturating_add(gap) <= timed.watermark {
                return None;
            }
            let made = Session { first: timed.time, last: timed.time, numbers: vec![self.next] };
            self.next += 1;
            open.insert(from, made);
            return Some(self.next - 1);
        }
        let others: Vec<Session> = open.drain(from + 1..from + count).collect();
        let session = &mut open[from];
        for other in others {
            self.joined.insert(other.numbers[0], session.numbers[0]);
            session.join(other);
        }
        session.first = session.first.min(timed.time);
        session.last = session.last.max(timed.time);
        Some(session.numbers[0])
    }

    /// What a number that was given to a row means now.
    fn meaning(&self, mut number: i64) -> i64 {
        while let Some(other) = self.joined.get(&number) {
            number = *other;
        }
        number
    }

    /// Makes what waited partial rows.
    fn settle(&mut self, aggregate: &mut Aggregate) -> Result<(), PlanError> {
        let mut spans: AHashMap<i64, (i64, i64)> = AHashMap::new();
        for (rows, of) in std::mem::take(&mut self.waiting) {
            let mut numbers = Vec::with_capacity(of.len());
            for (number, time) in of {
                let number = self.meaning(number);
                let span = spans.entry(number).or_insert((time, time));
                *span = (span.0.min(time), span.1.max(time));
                numbers.push(number);
            }
            self.store.wait(&rows, numbers, &[])?;
        }
        self.joined.clear();
        let Some(partial) = self.store.settle(aggregate, |aggregate, rows| reduce(aggregate, &rows))? else {
            return Ok(());
        };
        let rows = with_spans(&partial, &spans, self.store.state())?;
        self.store.level(0).insert(rows, true);
        Ok(())
    }

    /// What is written must be all there is.
    fn is_settled(&self) -> Result<(), StateError> {
        if self.waiting.is_empty() && self.ended.is_empty() {
            return Ok(());
        }
        Err(self.store.malformed(&"windows were not closed before the commit"))
    }

    /// Takes a session's rows out of the store.
    fn take(&mut self, agent: &Arc<str>, session: &Session, places: &mut Vec<Place>) {
        for number in &session.numbers {
            if let Some(window) = self.store.level(0).take_one(agent, *number) {
                self.store.forget(0, agent, *number, &window.places);
                places.extend(window.places);
            }
        }
    }

    /// Rows of sessions as partial rows of windows that begin with their first row.
    fn rows(
        &mut self,
        aggregate: &Aggregate,
        places: &[Place],
        begins: Vec<i64>,
    ) -> Result<Vec<Closed>, PlanError> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let rows = without_spans(&self.store.level(0).gather(places)?, aggregate)?;
        Ok(vec![Closed { level: 0, rows: with_starts(&rows, begins)? }])
    }

    /// Sessions of restored rows: what is less than a gap apart is one.
    fn rebuild(&mut self) -> Result<(), PlanError> {
        let places = self.store.level(0).places()?;
        let mut known: AHashMap<Arc<str>, Vec<Session>> = AHashMap::new();
        for some in places.chunks(PIECE_ROWS) {
            let rows = self.store.level(0).gather(some)?;
            let agents = rows.column(0).as_string::<i32>();
            let [firsts, lasts] = spans(&rows);
            for (row, number) in starts(&rows).iter().enumerate() {
                self.next = self.next.max(number.saturating_add(1));
                let (first, last) = (firsts.value(row), lasts.value(row));
                let session = Session { first, last, numbers: vec![*number] };
                match known.get_mut(agents.value(row)) {
                    Some(sessions) => sessions.push(session),
                    None => drop(known.insert(Arc::from(agents.value(row)), vec![session])),
                }
            }
        }
        for (agent, mut sessions) in known {
            sessions.sort_unstable_by_key(|session| (session.first, session.last));
            let mut open: Open = Vec::new();
            for session in sessions {
                match open.last_mut() {
                    Some(before) if session.first < before.last.saturating_add(self.gap) => {
                        before.join(session);
                    }
                    _ => open.push(session),
                }
            }
            for session in &mut open {
                session.numbers.sort_unstable();
                session.numbers.dedup();
            }
            self.open.insert(agent, open);
        }
        Ok(())
    }
}

/// The two columns after a partial row.
fn spans(rows: &RecordBatch) -> [&Int64Array; 2] {
    let column = |back: usize| rows.column(rows.num_columns() - back).as_primitive::<Int64Type>();
    [column(2), column(1)]
}

fn without_spans(rows: &RecordBatch, aggregate: &Aggregate) -> Result<RecordBatch, PlanError> {
    let columns = rows.columns()[..aggregate.state().fields().len()].to_vec();
    Ok(RecordBatch::try_new(Arc::clone(aggregate.state()), columns)?)
}

fn with_spans(
    partial: &RecordBatch,
    spans: &AHashMap<i64, (i64, i64)>,
    state: &SchemaRef,
) -> Result<RecordBatch, PlanError> {
    let of = |number: &i64| spans.get(number).copied().unwrap_or_default();
    let firsts: Int64Array = starts(partial).iter().map(|number| Some(of(number).0)).collect();
    let lasts: Int64Array = starts(partial).iter().map(|number| Some(of(number).1)).collect();
    let mut columns = partial.columns().to_vec();
    columns.extend([Arc::new(firsts) as ArrayRef, Arc::new(lasts)]);
    Ok(RecordBatch::try_new(Arc::clone(state), columns)?)
}

/// Reduces rows that bear spans.
fn reduce(aggregate: &mut Aggregate, rows: &RecordBatch) -> Result<RecordBatch, PlanError> {
    let mut whole: AHashMap<i64, (i64, i64)> = AHashMap::new();
    let [firsts, lasts] = spans(rows);
    for (row, number) in starts(rows).iter().enumerate() {
        let (first, last) = (firsts.value(row), lasts.value(row));
        let span = whole.entry(*number).or_insert((first, last));
        *span = (span.0.min(first), span.1.max(last));
    }
    let reduced = aggregate.reduce(without_spans(rows, aggregate)?)?;
    with_spans(&reduced, &whole, &rows.schema())
}

impl Windows for Sessions {
    fn operator(&mut self) -> &mut dyn Operator {
        self
    }

    fn add(&mut self, rows: &RecordBatch, times: &[Timed]) -> Result<Vec<Late>, PlanError> {
        let (at, _) = rows
            .schema_ref()
            .column_with_name("agent_id")
            .ok_or_else(|| ArrowError::SchemaError("the rows have no column agent_id".to_owned()))?;
        let agents = rows.column(at).as_string::<i32>();
        let mut late = Vec::new();
        let mut of = Vec::with_capacity(times.len());
        for (row, timed) in times.iter().enumerate() {
            let number = self.admit(agents.value(row), *timed);
            if number.is_none() {
                late.push(Late { row, start: timed.time, end: timed.time.saturating_add(self.gap) });
            }
            of.push((number.unwrap_or_default(), timed.time));
        }
        self.waiting.push(in_time(rows, of, &late)?);
        Ok(late)
    }

    fn close(&mut self, aggregate: &mut Aggregate, closings: &[Closing]) -> Result<Vec<Closed>, PlanError> {
        self.settle(aggregate)?;
        let mut ended = std::mem::take(&mut self.ended);
        for closing in closings {
            let Some(open) = self.open.get_mut(&closing.agent) else { continue };
            let end = |session: &Session| session.last.saturating_add(self.gap);
            let count = open.partition_point(|session| end(session) <= closing.watermark);
            if count > 0 {
                ended.entry(Arc::clone(&closing.agent)).or_default().extend(open.drain(..count));
            }
            if open.is_empty() {
                self.open.remove(&closing.agent);
            }
        }
        let mut places = Vec::new();
        let mut begins = Vec::new();
        for (agent, sessions) in ended {
            for session in sessions {
                self.take(&agent, &session, &mut places);
                begins.resize(places.len(), session.first);
            }
        }
        let closed = self.rows(aggregate, &places, begins)?;
        self.store.level(0).release(&places);
        Ok(closed)
    }

    fn peek(&mut self, aggregate: &mut Aggregate, agents: &[Closing]) -> Result<Vec<Closed>, PlanError> {
        self.settle(aggregate)?;
        let mut places = Vec::new();
        let mut begins = Vec::new();
        for agent in agents {
            let windows = self.store.level(0).windows(&agent.agent);
            for session in self.open.get(&agent.agent).into_iter().flatten() {
                for number in &session.numbers {
                    let found = windows.binary_search_by_key(number, |window| window.start);
                    if let Ok(at) = found {
                        places.extend_from_slice(&windows[at].places);
                    }
                }
                begins.resize(places.len(), session.first);
            }
        }
        self.rows(aggregate, &places, begins)
    }
}

impl Operator for Sessions {
    fn name(&self) -> &'static str {
        self.store.name()
    }

    fn definition_hash(&self) -> u64 {
        self.store.definition_hash()
    }

    fn state_schema(&self) -> SchemaRef {
        self.store.state_schema()
    }

    fn restore(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        self.store.restore(rows)
    }

    fn restored(&mut self) -> Result<(), StateError> {
        self.rebuild().map_err(|error| self.store.malformed(&error))
    }

    fn changes(&mut self) -> Pieces<'_> {
        match self.is_settled() {
            Ok(()) => self.store.changes(),
            Err(error) => one(Err(error)),
        }
    }

    fn all(&mut self) -> Pieces<'_> {
        match self.is_settled() {
            Ok(()) => self.store.all(),
            Err(error) => one(Err(error)),
        }
    }

    fn live_rows(&self) -> usize {
        self.store.live_rows()
    }
}

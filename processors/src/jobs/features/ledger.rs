//! What is known of each open window beside its measurements: how much of it was observed, what was late or lost, and
//! how often it was emitted.
//!
//! An entry is made by the first event of an agent in a window, of whatever family, and goes when the window closes; so
//! it decides which windows have a row. Longer windows are summed up from closed shorter ones, as their measurements
//! are.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::AHashMap;
use arrow::array::{Array, Int32Array, Int64Array, RecordBatch, StringArray, UInt8Array};
use arrow::datatypes::{DataType, Field, SchemaRef};

use super::{LEVELS, MINUTE, SIZES};
use crate::engine::operator::{
    Op, Operator, StateError, arrow_error, column, definition_hash, ops, schema_text, state_schema,
};
use crate::engine::pieces::{Pieces, pieces};
use crate::windows::Closing;

const NAME: &str = "features.ledger";
const SECOND: i64 = 1_000_000;
const SECONDS: i64 = MINUTE / SECOND;
/// More of a host name is not kept, in bytes.
const HOST: usize = 256;
/// Bytes of a row in the changelog, without its texts.
const ROW: usize = 64;

/// One window of one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) start: i64,
    /// Events in time.
    pub(super) events: i64,
    /// Events that came too late for an earlier window while the agent's time stood in this one.
    pub(super) late: i64,
    /// Numbers given up while the agent's time stood in this window.
    pub(super) lost: i64,
    /// Longest reporting interval told, µs; 0 if none was.
    interval: i64,
    /// Seconds of a minute, minutes of a longer window, in which an event happened.
    heard: u64,
    /// Intervals of the minutes in which an event happened, for longer windows.
    received: i64,
    pub(super) host: Option<Arc<str>>,
    /// Revision of the next emission.
    pub(super) revision: i32,
    /// Changed since it was written.
    dirty: bool,
    /// In the changelog.
    logged: bool,
}

impl Entry {
    fn at(start: i64) -> Self {
        Self { start, ..Self::default() }
    }

    /// What it takes in the changelog.
    fn bytes(&self, agent: &str) -> usize {
        ROW + agent.len() + self.host.as_ref().map_or(0, |host| host.len())
    }

    /// Adds a run of events.
    fn note(&mut self, run: &Run<'_>) {
        self.events += run.events;
        self.late += run.late;
        self.lost += run.lost;
        self.interval = self.interval.max(run.interval);
        self.heard |= run.seconds;
        if let Some(host) = run.host {
            self.name(host);
        }
    }

    /// Which of several names is kept must not depend on which came first.
    fn name(&mut self, host: &str) {
        let host = &host[..host.floor_char_boundary(HOST)];
        if self.host.as_deref().is_none_or(|known| known < host) {
            self.host = Some(Arc::from(host));
        }
    }

    /// Adds a shorter window, which is of level `level`.
    fn add(&mut self, shorter: &Self, level: usize) {
        self.events += shorter.events;
        self.late += shorter.late;
        self.lost += shorter.lost;
        self.interval = self.interval.max(shorter.interval);
        let minute = (shorter.start - self.start) / MINUTE;
        if level == 0 {
            self.heard |= u64::from(shorter.heard != 0) << minute;
            self.received += slots(shorter.heard, SECONDS, seconds(shorter.interval).min(SECONDS));
        } else {
            self.heard |= shorter.heard << minute;
            self.received += shorter.received;
        }
        if let Some(host) = &shorter.host {
            self.name(host);
        }
    }

    /// How often the agent should have been heard in a window of `level`, and in how many of these intervals it was.
    pub(super) fn reports(&self, level: usize) -> Option<(f64, i64)> {
        let every = seconds(self.interval);
        if every == 0 {
            return None;
        }
        let minutes = SIZES[level] / MINUTE;
        if every <= SECONDS {
            let expected = (SECONDS + every - 1) / every * minutes;
            let received = if level == 0 { slots(self.heard, SECONDS, every) } else { self.received };
            return Some((expected as f64, received));
        }
        // Longer than a minute: whole minutes.
        let every = (every + SECONDS - 1) / SECONDS;
        let received =
            if level == 0 { i64::from(self.heard != 0) } else { slots(self.heard, minutes, every) };
        Some((minutes as f64 / every as f64, received))
    }
}

/// A reporting interval in whole seconds, rounded up.
fn seconds(interval: i64) -> i64 {
    interval.saturating_add(SECOND - 1) / SECOND
}

/// In how many of the intervals of `every` units, of which `units` make the whole, a bit is set.
fn slots(heard: u64, units: i64, every: i64) -> i64 {
    if every <= 0 {
        return 0;
    }
    let slot = if every >= 64 { u64::MAX } else { (1_u64 << every) - 1 };
    let starts = (0..units.min(64)).step_by(every as usize);
    starts.map(|start| i64::from(heard & (slot << start) != 0)).sum()
}

/// Neighbouring events of one agent and minute.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run<'a> {
    pub(super) events: i64,
    pub(super) late: i64,
    pub(super) lost: i64,
    pub(super) interval: i64,
    /// Bits of the seconds of the minute.
    pub(super) seconds: u64,
    pub(super) host: Option<&'a str>,
}

/// A window that is emitted.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) agent: Arc<str>,
    pub(super) entry: Entry,
}

/// Windows of one agent by level, each by start; an outbox may drain from either end.
type Open = [VecDeque<Entry>; LEVELS];

/// The entries of all open windows.
#[derive(Debug)]
pub(super) struct Ledger {
    agents: AHashMap<Arc<str>, Open>,
    /// Changed since the last commit: may no longer be there.
    changed: Vec<(usize, Arc<str>, i64)>,
    /// Written once and gone.
    gone: Vec<(usize, Arc<str>, i64)>,
    live: usize,
    schema: SchemaRef,
}

impl Default for Ledger {
    fn default() -> Self {
        let long = |name| Field::new(name, DataType::Int64, false);
        let schema = state_schema([
            Field::new("level", DataType::UInt8, false),
            Field::new("agent_id", DataType::Utf8, false),
            long("start"),
            long("events"),
            long("late"),
            long("lost"),
            long("interval"),
            long("heard"),
            long("received"),
            Field::new("revision", DataType::Int32, false),
            Field::new("host", DataType::Utf8, true),
        ]);
        Self { agents: AHashMap::new(), changed: Vec::new(), gone: Vec::new(), live: 0, schema }
    }
}

impl Ledger {
    /// Notes a run of events of an agent in the minute that begins at `start`.
    pub(super) fn note(&mut self, agent: &Arc<str>, start: i64, run: &Run<'_>) {
        self.entry(0, agent, start).note(run);
    }

    /// The entry of a window, made if it is new; it is written with the next commit.
    fn entry(&mut self, level: usize, agent: &Arc<str>, start: i64) -> &mut Entry {
        let open = self.agents.entry(Arc::clone(agent)).or_default();
        let entries = &mut open[level];
        let at = entries.partition_point(|entry| entry.start < start);
        if entries.get(at).is_none_or(|entry| entry.start != start) {
            entries.insert(at, Entry::at(start));
            self.live += 1;
        }
        let entry = &mut entries[at];
        if !entry.dirty {
            entry.dirty = true;
            self.changed.push((level, Arc::clone(agent), start));
        }
        entry
    }

    /// Whether [`Self::close`] would take out a window of this agent.
    pub(super) fn has_ended(&self, agent: &str, watermark: i64) -> bool {
        let ended = |(entries, size): (&VecDeque<Entry>, i64)| {
            entries.front().is_some_and(|first| first.start.saturating_add(size) <= watermark)
        };
        self.agents.get(agent).is_some_and(|open| open.iter().zip(SIZES).any(ended))
    }

    /// Takes out the windows that ended, by level, sorted by agent and start.
    pub(super) fn close(&mut self, closings: &[Closing]) -> [Vec<Standing>; LEVELS] {
        let mut closed: [Vec<Standing>; LEVELS] = Default::default();
        for Closing { agent, watermark, .. } in closings {
            for level in 0..LEVELS {
                let end = watermark.div_euclid(SIZES[level]).saturating_mul(SIZES[level]);
                let Some(open) = self.agents.get_mut(agent) else { break };
                let count = open[level].partition_point(|entry| entry.start < end);
                let ended: Vec<Entry> = open[level].drain(..count).collect();
                for entry in ended {
                    self.live -= 1;
                    if entry.logged {
                        self.gone.push((level, Arc::clone(agent), entry.start));
                    }
                    if level + 1 < LEVELS {
                        let start = longer(entry.start, level + 1);
                        self.entry(level + 1, agent, start).add(&entry, level);
                    }
                    closed[level].push(Standing { agent: Arc::clone(agent), entry });
                }
            }
            if self.agents.get(agent).is_some_and(|open| open.iter().all(VecDeque::is_empty)) {
                self.agents.remove(agent);
            }
        }
        for standings in &mut closed {
            sort(standings);
        }
        closed
    }

    /// The open windows of some agents as they stand, by level, sorted by agent and start; the next emission of each
    /// has a higher revision.
    pub(super) fn peek(&mut self, agents: &[Closing]) -> [Vec<Standing>; LEVELS] {
        let mut standing: [Vec<Standing>; LEVELS] = Default::default();
        for Closing { agent, .. } in agents {
            let mut shorter: Vec<Entry> = Vec::new();
            for level in 0..LEVELS {
                let mut starts: Vec<i64> = self
                    .agents
                    .get(agent)
                    .into_iter()
                    .flat_map(|open| &open[level])
                    .map(|entry| entry.start)
                    .collect();
                if level > 0 {
                    starts.extend(shorter.iter().map(|entry| longer(entry.start, level)));
                    starts.sort_unstable();
                    starts.dedup();
                }
                let mut own = Vec::with_capacity(starts.len());
                for start in starts {
                    let entry = self.entry(level, agent, start);
                    let mut whole = entry.clone();
                    entry.revision += 1;
                    for part in shorter.iter().filter(|part| longer(part.start, level) == start) {
                        whole.add(part, level - 1);
                    }
                    own.push(whole);
                }
                standing[level]
                    .extend(own.iter().cloned().map(|entry| Standing { agent: Arc::clone(agent), entry }));
                shorter = own;
            }
        }
        for standings in &mut standing {
            sort(standings);
        }
        standing
    }

    fn batch(&self, rows: &[(usize, Arc<str>, Option<Entry>, i64)]) -> Result<RecordBatch, StateError> {
        let op = |entry: &Option<Entry>| if entry.is_some() { Op::Put as u8 } else { Op::Delete as u8 };
        let long = |of: fn(&Entry) -> i64| {
            let values = rows.iter().map(|row| Some(row.2.as_ref().map_or(0, of)));
            Arc::new(values.collect::<Int64Array>())
        };
        let revisions = rows.iter().map(|row| Some(row.2.as_ref().map_or(0, |entry| entry.revision)));
        let hosts = rows.iter().map(|row| row.2.as_ref().and_then(|entry| entry.host.as_deref()));
        RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![
                Arc::new(rows.iter().map(|row| Some(op(&row.2))).collect::<UInt8Array>()),
                Arc::new(rows.iter().map(|row| Some(row.0 as u8)).collect::<UInt8Array>()),
                Arc::new(rows.iter().map(|row| Some(&*row.1)).collect::<StringArray>()),
                Arc::new(rows.iter().map(|row| Some(row.3)).collect::<Int64Array>()),
                long(|entry| entry.events),
                long(|entry| entry.late),
                long(|entry| entry.lost),
                long(|entry| entry.interval),
                long(|entry| entry.heard as i64),
                long(|entry| entry.received),
                Arc::new(revisions.collect::<Int32Array>()),
                Arc::new(hosts.collect::<StringArray>()),
            ],
        )
        .map_err(arrow_error(NAME))
    }
}

/// Start of the window of `level` that holds what begins at `start`.
fn longer(start: i64, level: usize) -> i64 {
    start.div_euclid(SIZES[level]).saturating_mul(SIZES[level])
}

fn sort(standings: &mut [Standing]) {
    standings.sort_unstable_by(|a, b| (&a.agent, a.entry.start).cmp(&(&b.agent, b.entry.start)));
}

impl Operator for Ledger {
    fn name(&self) -> &'static str {
        NAME
    }

    fn definition_hash(&self) -> u64 {
        definition_hash(&[NAME, "1", &format!("{SIZES:?}"), &schema_text(&self.schema)])
    }

    fn state_schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn restore(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        let levels = column::<UInt8Array>(NAME, rows, 1)?;
        let agents = column::<StringArray>(NAME, rows, 2)?;
        let long = |at: usize| column::<Int64Array>(NAME, rows, at);
        let (starts, events, late, lost) = (long(3)?, long(4)?, long(5)?, long(6)?);
        let (intervals, heard, received) = (long(7)?, long(8)?, long(9)?);
        let revisions = column::<Int32Array>(NAME, rows, 10)?;
        let hosts = column::<StringArray>(NAME, rows, 11)?;
        for (row, op) in ops(NAME, rows)?.values().iter().enumerate() {
            let (level, start) = (usize::from(levels.value(row)), starts.value(row));
            if level >= LEVELS {
                return Err(StateError::Malformed {
                    operator: NAME,
                    what: format!("there is no level {level}"),
                });
            }
            let agent: Arc<str> = Arc::from(agents.value(row));
            if Op::of(*op) == Some(Op::Delete) {
                if let Some(open) = self.agents.get_mut(&agent)
                    && let Ok(at) = open[level].binary_search_by_key(&start, |entry| entry.start)
                {
                    open[level].remove(at);
                    self.live -= 1;
                }
                continue;
            }
            *self.entry(level, &agent, start) = Entry {
                start,
                events: events.value(row),
                late: late.value(row),
                lost: lost.value(row),
                interval: intervals.value(row),
                heard: heard.value(row) as u64,
                received: received.value(row),
                host: hosts.is_valid(row).then(|| Arc::from(hosts.value(row))),
                revision: revisions.value(row),
                dirty: false,
                logged: true,
            };
        }
        self.changed.clear();
        Ok(())
    }

    fn changes(&mut self) -> Pieces<'_> {
        let gone = std::mem::take(&mut self.gone).into_iter().map(|of| (of, true));
        let changed = std::mem::take(&mut self.changed).into_iter().map(|of| (of, false));
        pieces(gone.chain(changed), |piece| {
            let mut rows = Vec::new();
            while let Some(((level, agent, start), is_gone)) = piece.next() {
                if is_gone {
                    piece.took(ROW + agent.len());
                    rows.push((level, agent, None, start));
                    continue;
                }
                let found = self.agents.get_mut(&agent).and_then(|open| {
                    let at = open[level].binary_search_by_key(&start, |entry| entry.start).ok()?;
                    Some(&mut open[level][at])
                });
                // An entry made anew is noted twice; once is enough.
                if let Some(entry) = found.filter(|entry| entry.dirty) {
                    (entry.dirty, entry.logged) = (false, true);
                    piece.took(entry.bytes(&agent));
                    rows.push((level, agent, Some(entry.clone()), start));
                }
            }
            self.batch(&rows)
        })
    }

    fn all(&mut self) -> Pieces<'_> {
        self.gone.clear();
        self.changed.clear();
        for entry in self.agents.values_mut().flatten().flatten() {
            (entry.dirty, entry.logged) = (false, true);
        }
        let kept = &*self;
        let of_agent = |(agent, open): (&'_ Arc<str>, &'_ Open)| {
            let agent = Arc::clone(agent);
            let entries = open.iter().enumerate();
            let entries: Vec<_> = entries
                .flat_map(|(level, entries)| entries.iter().map(move |entry| (level, entry.clone())))
                .collect();
            entries.into_iter().map(move |(level, entry)| (level, Arc::clone(&agent), entry))
        };
        pieces(kept.agents.iter().flat_map(of_agent), |piece| {
            let mut rows = Vec::new();
            while let Some((level, agent, entry)) = piece.next() {
                piece.took(entry.bytes(&agent));
                let start = entry.start;
                rows.push((level, agent, Some(entry), start));
            }
            kept.batch(&rows)
        })
    }

    fn live_rows(&self) -> usize {
        self.live
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::pieces::small;

    fn closing(agent: &str, watermark: i64) -> Closing {
        Closing { agent: Arc::from(agent), before: i64::MIN, watermark }
    }

    fn heard(seconds: &[i64], interval: i64) -> Run<'static> {
        let bits = seconds.iter().fold(0, |bits, second| bits | 1 << second);
        Run { events: seconds.len() as i64, seconds: bits, interval, ..Run::default() }
    }

    #[test]
    fn coverage_is_the_share_of_reporting_intervals_in_which_something_came() {
        let mut ledger = Ledger::default();
        let agent: Arc<str> = Arc::from("a");
        ledger.note(&agent, 0, &heard(&[0, 1, 9, 10, 59], 10 * SECOND));
        ledger.note(&agent, 2 * MINUTE, &heard(&[30], 0));
        let closed = ledger.close(&[closing("a", 5 * MINUTE)]);
        let minutes: Vec<_> = closed[0].iter().map(|standing| standing.entry.reports(0)).collect();
        assert_eq!(minutes, [Some((6.0, 3)), None], "an agent that told no interval is not measured by one");
        assert_eq!(closed[1][0].entry.reports(1), Some((30.0, 3)));
        assert!(closed[2].is_empty(), "the hour is open");
        assert_eq!(ledger.close(&[closing("a", 60 * MINUTE)])[2][0].entry.reports(2), Some((360.0, 3)));
        assert_eq!(ledger.live_rows(), 0);
    }

    #[test]
    fn an_interval_longer_than_a_minute_counts_in_minutes() {
        let mut ledger = Ledger::default();
        let agent: Arc<str> = Arc::from("a");
        for minute in [0, 1, 7, 31] {
            ledger.note(&agent, minute * MINUTE, &heard(&[5], 300 * SECOND));
        }
        let closed = ledger.close(&[closing("a", 60 * MINUTE)]);
        assert_eq!(closed[0][0].entry.reports(0), Some((0.2, 1)));
        assert_eq!(closed[1][0].entry.reports(1), Some((1.0, 1)));
        assert_eq!(closed[2][0].entry.reports(2), Some((12.0, 3)));
    }

    #[test]
    fn each_emission_of_a_window_has_the_next_revision_by_size() {
        let mut ledger = Ledger::default();
        let agent: Arc<str> = Arc::from("a");
        let revisions = |of: &[Vec<Standing>; LEVELS]| {
            of.clone().map(|level| level.iter().map(|standing| standing.entry.revision).collect::<Vec<_>>())
        };
        ledger.note(&agent, 0, &heard(&[1], SECOND));
        assert_eq!(revisions(&ledger.peek(&[closing("a", 30 * SECOND)])), [vec![0], vec![0], vec![0]]);
        ledger.note(&agent, MINUTE, &heard(&[1], SECOND));
        assert_eq!(revisions(&ledger.close(&[closing("a", MINUTE)])), [vec![1], vec![], vec![]]);
        let open = ledger.peek(&[closing("a", MINUTE)]);
        assert_eq!(revisions(&open), [vec![0], vec![1], vec![1]]);
        assert_eq!(open[1][0].entry.events, 2, "the closed minute and the open one");
        assert_eq!(revisions(&ledger.close(&[closing("a", 60 * MINUTE)])), [vec![1], vec![2], vec![2]]);
    }

    #[test]
    fn many_windows_are_given_in_small_pieces() {
        let mut ledger = Ledger::default();
        for agent in 0..10_000 {
            let host = "h".repeat(agent % 256);
            let run = Run { host: Some(&host), ..heard(&[0], SECOND) };
            ledger.note(&Arc::from(format!("agent-{agent}")), 0, &run);
        }
        let changes = small(ledger.changes(), 0);
        let all = small(ledger.all(), 0);
        for pieces in [changes, all] {
            assert!(pieces.len() > 5, "{}", pieces.len());
            let mut restored = Ledger::default();
            for piece in &pieces {
                restored.restore(piece).unwrap();
            }
            assert_eq!(restored.live_rows(), 10_000);
            assert_eq!(restored.agents["agent-255"][0][0].host.as_ref().unwrap().len(), 255);
        }
    }

    #[test]
    fn a_host_name_without_end_is_cut() {
        let mut ledger = Ledger::default();
        let long = format!("x{}", "ж".repeat(100_000));
        ledger.note(&Arc::from("a"), 0, &Run { host: Some(&long), ..heard(&[0], 0) });
        let closed = ledger.close(&[closing("a", MINUTE)]);
        assert_eq!(closed[0][0].entry.host.as_deref(), Some(&long[..255]));
    }

    #[test]
    fn a_restored_ledger_goes_on_as_the_one_that_was_written() {
        let mut ledger = Ledger::default();
        let agent: Arc<str> = Arc::from("a");
        let mut batches = Vec::new();
        for minute in 0..7 {
            let run = Run { late: minute, host: Some("pc"), ..heard(&[minute], 20 * SECOND) };
            ledger.note(&agent, minute * MINUTE, &run);
            ledger.close(&[closing("a", (minute - 1).max(0) * MINUTE)]);
            batches.extend(ledger.drain_changes().unwrap());
        }
        ledger.peek(&[closing("a", 5 * MINUTE)]);
        batches.extend(ledger.drain_changes().unwrap());
        assert!(ledger.drain_changes().unwrap().is_none());
        let mut restored = Ledger::default();
        for batch in &batches {
            restored.restore(batch).unwrap();
        }
        assert_eq!(restored.live_rows(), ledger.live_rows());
        assert!(restored.drain_changes().unwrap().is_none());
        let mut again = Ledger::default();
        again.restore(&ledger.snapshot().unwrap()).unwrap();
        let ends = |ledger: &mut Ledger| format!("{:?}", ledger.close(&[closing("a", 60 * MINUTE)]));
        let expected = ends(&mut ledger);
        assert_eq!(ends(&mut restored), expected);
        assert_eq!(ends(&mut again), expected);
    }
}

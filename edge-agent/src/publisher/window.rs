//! Decides what to send next, what still waits for its confirmation and what to send again.
//! Pure: no clock, no network, no outbox; time is a duration since some start.
//!
//! ```text
//! outbox lane   ├── confirmed, gone ──┤── spans: sent, unconfirmed ──┤── fresh ──▶ tail
//!                                                                    after
//! ```
//!
//! A *span* is a run of seqs of one lane and session that went out in one message. Fresh rows go
//! out in order; spans whose deadline passed go out again, also in order, before fresh rows of
//! their lane. The broker's acknowledgement only frees room on the wire: a span ends when the
//! bridge names it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use schemas::identity::Lane;

use crate::outbox::{LANES, LaneRange, Place, lane_index};

/// Bounds of what may be under way.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Rows sent and not confirmed, over all lanes.
    pub rows: u64,
    /// Messages that the broker has not acknowledged.
    pub messages: usize,
    /// Bytes of those messages.
    pub bytes: usize,
    /// Rows in one array.
    pub array_rows: usize,
    /// A lane with at least this many unsent rows is sent as arrays.
    pub array_above: u64,
    /// Time for the first confirmation.
    pub confirm_within: Duration,
    /// The same after many attempts.
    pub confirm_within_max: Duration,
    /// How long each lane gathers rows before it sends, in the order of [`LANES`].
    pub gather: [Duration; 3],
}

/// What to send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Rows never sent in this run.
    Fresh {
        /// From this lane.
        lane: Lane,
        /// After this place.
        after: Place,
        /// Up to this place.
        up_to: Place,
        /// At most so many.
        max_rows: usize,
        /// In one array rather than one message each.
        array: bool,
    },
    /// Rows sent before and not confirmed in time.
    Again {
        /// The rows; those that are no longer stored need no sending.
        range: LaneRange,
        /// How often they were sent.
        attempt: u32,
    },
}

/// Number of a message, unique within the run.
pub type MessageId = u64;

#[derive(Debug, Clone, Copy)]
struct Span {
    to: i64,
    due: Duration,
    attempt: u32,
    message: MessageId,
}

#[derive(Debug)]
struct LaneState {
    spans: BTreeMap<Place, Span>,
    due: BTreeSet<(Duration, Place)>,
    after: Place,
    tail: Place,
    /// Set while fresh rows gather.
    ready_at: Option<Duration>,
}

/// The state machine; see the module's description.
#[derive(Debug)]
pub struct Window {
    limits: Limits,
    session: i64,
    lanes: [LaneState; 3],
    messages: HashMap<MessageId, usize>,
    message_bytes: usize,
    next_message: MessageId,
    open_rows: u64,
    backed_off: bool,
}

impl Window {
    /// Nothing sent yet; `last_seq` are the tails of the current session (-1 for none).
    pub fn new(limits: Limits, session: i64, last_seq: [i64; 3]) -> Self {
        let lane = |index: usize| LaneState {
            spans: BTreeMap::new(),
            due: BTreeSet::new(),
            after: Place::START,
            tail: Place { session, seq: last_seq[index] },
            ready_at: None,
        };
        Self {
            limits,
            session,
            lanes: [lane(0), lane(1), lane(2)],
            messages: HashMap::new(),
            message_bytes: 0,
            next_message: 0,
            open_rows: 0,
            backed_off: false,
        }
    }

    /// The outbox holds rows of the current session up to these seqs.
    pub fn stored(&mut self, last_seq: [i64; 3], now: Duration) {
        for (index, seq) in last_seq.into_iter().enumerate() {
            let lane = &mut self.lanes[index];
            let tail = Place { session: self.session, seq };
            if tail > lane.tail {
                if lane.after >= lane.tail {
                    lane.ready_at = Some(now + self.limits.gather[index]);
                }
                lane.tail = tail;
            }
        }
    }

    /// What to send now, if anything may be sent.
    pub fn next(&mut self, now: Duration) -> Option<Ask> {
        if self.messages.len() >= self.limits.messages || self.message_bytes >= self.limits.bytes {
            return None;
        }
        (0..LANES.len()).find_map(|index| self.overdue(index, now).or_else(|| self.fresh(index, now)))
    }

    fn overdue(&mut self, index: usize, now: Duration) -> Option<Ask> {
        loop {
            let &(due, place) = self.lanes[index].due.first().filter(|(due, _)| *due <= now)?;
            let wait = self.limits.confirm_within;
            let lane = &mut self.lanes[index];
            let Some(span) = lane.spans.get_mut(&place) else {
                lane.due.remove(&(due, place));
                continue;
            };
            if self.messages.contains_key(&span.message) {
                // Still on its way to the broker: a second copy would only queue behind it.
                lane.due.remove(&(due, place));
                span.due = now + wait;
                lane.due.insert((span.due, place));
                continue;
            }
            let range =
                LaneRange { lane: LANES[index], session: place.session, from: place.seq, to: span.to };
            return Some(Ask::Again { range, attempt: span.attempt });
        }
    }

    fn fresh(&self, index: usize, now: Duration) -> Option<Ask> {
        let lane = &self.lanes[index];
        let room = self.limits.rows.saturating_sub(self.open_rows);
        if lane.after >= lane.tail || room == 0 || lane.ready_at.is_some_and(|ready| ready > now) {
            return None;
        }
        let unsent = if lane.after.session == lane.tail.session {
            lane.tail.seq.abs_diff(lane.after.seq)
        } else {
            u64::MAX
        };
        // Rows of earlier sessions are a backlog by definition.
        let array = index == lane_index(Lane::Bulk) || unsent >= self.limits.array_above;
        let most = if array { self.limits.array_rows } else { self.limits.messages - self.messages.len() };
        Some(Ask::Fresh {
            lane: LANES[index],
            after: lane.after,
            up_to: lane.tail,
            max_rows: most.min(usize::try_from(room).unwrap_or(usize::MAX)),
            array,
        })
    }

    /// Nothing was left to read up to `up_to`.
    pub fn exhausted(&mut self, lane: Lane, up_to: Place) {
        let lane = &mut self.lanes[lane_index(lane)];
        lane.after = lane.after.max(up_to);
    }

    /// Fresh rows went out as one message.
    pub fn sent(&mut self, range: LaneRange, bytes: usize, now: Duration) -> MessageId {
        let to = Place { session: range.session, seq: range.to };
        let lane = &mut self.lanes[lane_index(range.lane)];
        debug_assert!(to > lane.after, "fresh rows go out in order");
        lane.after = to;
        self.insert(range, bytes, 0, now)
    }

    /// The part `range` of the overdue span `asked` went out again; rows of `asked` before it are
    /// gone from the outbox, rows after it follow.
    pub fn sent_again(
        &mut self,
        asked: LaneRange,
        range: LaneRange,
        bytes: usize,
        now: Duration,
    ) -> MessageId {
        let attempt = self.forget(asked).map_or(0, |span| span.attempt);
        if range.to < asked.to {
            let rest = LaneRange { from: range.to + 1, ..asked };
            self.put(rest, Span { to: rest.to, due: now, attempt, message: MessageId::MAX });
        }
        self.backed_off = true;
        self.insert(range, bytes, attempt + 1, now)
    }

    /// None of the rows of an overdue span are stored any longer.
    pub fn gone(&mut self, asked: LaneRange) {
        self.forget(asked);
    }

    fn insert(&mut self, range: LaneRange, bytes: usize, attempt: u32, now: Duration) -> MessageId {
        let message = self.next_message;
        self.next_message += 1;
        self.messages.insert(message, bytes);
        self.message_bytes += bytes;
        let wait = self.limits.confirm_within.saturating_mul(1 << attempt.min(16));
        let due = now + wait.min(self.limits.confirm_within_max.max(self.limits.confirm_within));
        self.put(range, Span { to: range.to, due, attempt, message });
        message
    }

    fn put(&mut self, range: LaneRange, span: Span) {
        let place = Place { session: range.session, seq: range.from };
        let lane = &mut self.lanes[lane_index(range.lane)];
        lane.due.insert((span.due, place));
        lane.spans.insert(place, span);
        self.open_rows += (range.to - range.from + 1) as u64;
    }

    fn forget(&mut self, range: LaneRange) -> Option<Span> {
        let place = Place { session: range.session, seq: range.from };
        let lane = &mut self.lanes[lane_index(range.lane)];
        let span = lane.spans.remove(&place)?;
        lane.due.remove(&(span.due, place));
        self.open_rows -= (span.to - place.seq + 1) as u64;
        Some(span)
    }

    /// The broker has the message, or refused it: either way it is off the wire.
    pub fn acknowledged(&mut self, message: MessageId) {
        if let Some(bytes) = self.messages.remove(&message) {
            self.message_bytes -= bytes;
        }
    }

    /// The connection is gone: what the broker had not acknowledged goes again at once, the rest
    /// keeps its deadline.
    pub fn disconnected(&mut self, now: Duration) {
        for lane in &mut self.lanes {
            for (place, span) in &mut lane.spans {
                if self.messages.contains_key(&span.message) {
                    lane.due.remove(&(span.due, *place));
                    span.due = now;
                    lane.due.insert((now, *place));
                }
            }
        }
        self.messages.clear();
        self.message_bytes = 0;
    }

    /// A range that the bridge confirmed, cut to what it can know of: rows that were sent. `None`
    /// if nothing of it is plausible.
    pub fn confirmed(&mut self, range: LaneRange, now: Duration) -> Option<LaneRange> {
        if range.lane == Lane::Foreign {
            return None;
        }
        let index = lane_index(range.lane);
        let after = self.lanes[index].after;
        let to = match range.session {
            later if later > self.session => return None,
            current if current == self.session && after.session == current => range.to.min(after.seq),
            current if current == self.session => return None,
            _ => range.to,
        };
        let range = LaneRange { from: range.from.max(0), to, ..range };
        if range.from > range.to {
            return None;
        }
        self.cut(index, range);
        if self.backed_off {
            self.hurry(now);
        }
        Some(range)
    }

    fn cut(&mut self, index: usize, range: LaneRange) {
        let session = range.session;
        let lane = &self.lanes[index];
        let first = Place { session, seq: i64::MIN };
        let last = Place { session, seq: range.to };
        let touched: Vec<(i64, Span)> = lane
            .spans
            .range(first..=last)
            .rev()
            .take_while(|(_, span)| span.to >= range.from)
            .map(|(place, span)| (place.seq, *span))
            .collect();
        for (from, span) in touched {
            let whole = LaneRange { from, to: span.to, ..range };
            self.forget(whole);
            if from < range.from {
                self.put(LaneRange { to: range.from - 1, ..whole }, Span { to: range.from - 1, ..span });
            }
            if span.to > range.to {
                self.put(LaneRange { from: range.to + 1, ..whole }, span);
            }
        }
    }

    /// The bridge is back: nobody waits longer than for a first confirmation.
    fn hurry(&mut self, now: Duration) {
        let latest = now + self.limits.confirm_within;
        for lane in &mut self.lanes {
            for (place, span) in &mut lane.spans {
                if span.due > latest {
                    lane.due.remove(&(span.due, *place));
                    span.due = latest;
                    lane.due.insert((latest, *place));
                }
            }
        }
        self.backed_off = false;
    }

    /// When after `now` [`Window::next`] may have something without any other call in between. What
    /// was due at `now` and did not come waits for an acknowledgement or a confirmation instead.
    pub fn next_wake(&self, now: Duration) -> Option<Duration> {
        let mut wakes: Vec<Duration> = Vec::with_capacity(6);
        for lane in &self.lanes {
            wakes.extend(lane.due.first().map(|(due, _)| *due));
            if lane.after < lane.tail {
                wakes.extend(lane.ready_at);
            }
        }
        wakes.into_iter().filter(|wake| *wake > now).min()
    }

    /// Rows sent and not confirmed.
    pub fn open_rows(&self) -> u64 {
        self.open_rows
    }

    /// True when everything stored was sent and confirmed.
    pub fn is_settled(&self) -> bool {
        self.open_rows == 0 && self.lanes.iter().all(|lane| lane.after >= lane.tail)
    }

    /// Ends the gathering of rows: the agent stops and sends what it has.
    pub fn gather_no_longer(&mut self) {
        self.limits.gather = [Duration::ZERO; 3];
        for lane in &mut self.lanes {
            lane.ready_at = None;
        }
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;

//! How often a channel may speak. Pure: the time is given, what is remembered is a value.
//!
//! Two bounds hold together. *Limits* are the service's: a shortest interval and a number in any minute; nothing is ever
//! sent beyond them, repeats included. *Comfort* is the reader's: a bucket of `burst` messages that gets one back each
//! `digest_every`. So what is rare is told at once, and of a flood there are a few messages and then one digest after
//! the other:
//!
//! ```text
//!  items    x     x x    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
//!  messages |     | |    |||||        D        D        D        D = digest of all since
//! ```
//!
//! All processes share one [`Paced`] for each channel: it lies in PostgreSQL and is read and written under a lock, by the
//! database's clock.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

/// Messages of a minute are counted over this: what leaves evenly may arrive a little closer together.
const MINUTE: i64 = 61_000_000;

/// What a service takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Shortest time between two messages.
    pub(super) interval: Duration,
    /// Messages in any minute at most.
    pub(super) per_minute: u32,
}

/// The bounds of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// The service's.
    pub(super) limits: Limits,
    /// Messages that may go one after the other; at least 1.
    pub(super) burst: u32,
    /// Time after which one more may go.
    pub(super) digest_every: Duration,
}

/// What must be remembered of a channel. Times in µs since 1970-01-01 UTC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Paced {
    /// Attempts of the last minute, oldest first.
    sent: VecDeque<i64>,
    /// When the bucket is full again.
    full_at: i64,
    /// Until when the service wants to be left alone.
    blocked_until: i64,
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

impl Pace {
    /// When the next attempt may be made at a message that exists already.
    pub(super) fn next_repeat(&self, paced: &Paced) -> i64 {
        let after_last = paced.sent.back().map_or(i64::MIN, |last| last + micros(self.limits.interval));
        let per_minute = self.limits.per_minute.max(1) as usize;
        let full = paced.sent.len().checked_sub(per_minute).map(|index| paced.sent[index] + MINUTE);
        after_last.max(full.unwrap_or(i64::MIN)).max(paced.blocked_until)
    }

    /// When the next new message may be made.
    pub(super) fn next_new(&self, paced: &Paced) -> i64 {
        let bucket = micros(self.digest_every).saturating_mul(i64::from(self.burst.max(1)) - 1);
        self.next_repeat(paced).max(paced.full_at.saturating_sub(bucket))
    }

    /// An attempt at a message that exists is made now.
    pub(super) fn repeats(&self, paced: &mut Paced, now: i64) {
        paced.sent.push_back(now);
        let kept = self.limits.per_minute.max(1) as usize;
        while paced.sent.len() > kept {
            paced.sent.pop_front();
        }
    }

    /// The attempt that was begun last has ended now. It counts from here: when within it the service had the message
    /// is not known.
    pub(super) fn spoke(&self, paced: &mut Paced, now: i64) {
        match paced.sent.back_mut() {
            Some(last) => *last = (*last).max(now),
            None => self.repeats(paced, now),
        }
    }

    /// A new message is made now.
    pub(super) fn speaks(&self, paced: &mut Paced, now: i64) {
        self.repeats(paced, now);
        paced.full_at = paced.full_at.max(now).saturating_add(micros(self.digest_every));
    }
}

impl Paced {
    /// Nothing that was done lies ahead, and nothing is waited for longer than it ever may be: after the clock has
    /// stepped back the channel would be silent until it has caught up. Whether there was anything to mend.
    pub(super) fn mend(&mut self, pace: &Pace, longest_block: Duration, now: i64) -> bool {
        let before = self.clone();
        for sent in &mut self.sent {
            *sent = (*sent).min(now);
        }
        let bucket = micros(pace.digest_every).saturating_mul(i64::from(pace.burst.max(1)));
        self.full_at = self.full_at.min(now.saturating_add(bucket));
        self.blocked_until = self.blocked_until.min(now.saturating_add(micros(longest_block)));
        *self != before
    }

    /// The service is left alone until then.
    pub(super) fn block(&mut self, until: i64) {
        self.blocked_until = self.blocked_until.max(until);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn telegram() -> Pace {
        Pace {
            limits: Limits { interval: Duration::from_secs(1), per_minute: 20 },
            burst: 3,
            digest_every: Duration::from_secs(30),
        }
    }

    #[test]
    fn what_is_rare_goes_at_once_and_a_flood_in_steps() {
        let (pace, mut paced) = (telegram(), Paced::default());
        let mut at = Vec::new();
        let mut now = 100 * SECOND;
        for _ in 0..6 {
            now = now.max(pace.next_new(&paced));
            pace.speaks(&mut paced, now);
            at.push(now / SECOND - 100);
        }
        assert_eq!(at, [0, 1, 2, 30, 60, 90]);
        // The bucket fills again in silence.
        now += 1000 * SECOND;
        for expected in [0, 1, 2] {
            let next = now.max(pace.next_new(&paced));
            assert_eq!(next, now + expected * SECOND);
            pace.speaks(&mut paced, next);
        }
    }

    #[test]
    fn a_service_that_asks_for_peace_gets_it() {
        let (pace, mut paced) = (telegram(), Paced::default());
        pace.speaks(&mut paced, 0);
        paced.block(500 * SECOND);
        paced.block(400 * SECOND);
        assert_eq!((pace.next_repeat(&paced), pace.next_new(&paced)), (500 * SECOND, 500 * SECOND));
    }

    #[test]
    fn a_clock_that_steps_back_silences_nobody() {
        let (pace, hour) = (telegram(), Duration::from_hours(1));
        let mut paced = Paced::default();
        let later = 1000 * 3600 * SECOND;
        for n in 0..3 {
            pace.speaks(&mut paced, later + n * SECOND);
        }
        paced.block(later + 1800 * SECOND);
        assert!(!paced.clone().mend(&pace, hour, later + 2 * SECOND), "all of it is as it should be");
        let now = 10 * SECOND;
        assert!(paced.mend(&pace, hour, now));
        assert!(!paced.mend(&pace, hour, now), "once");
        let longest = now + 3600 * SECOND;
        assert!(pace.next_repeat(&paced) <= longest && pace.next_new(&paced) <= longest);
        let mut unblocked = Paced { blocked_until: 0, ..paced };
        assert!(!unblocked.mend(&pace, hour, now));
        assert!(pace.next_repeat(&unblocked) <= now + MINUTE);
        assert!(pace.next_new(&unblocked) <= now + 90 * SECOND);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_survives_being_stored() {
        let (pace, mut paced) = (telegram(), Paced::default());
        for now in 0..1000 {
            pace.repeats(&mut paced, now * SECOND);
        }
        assert_eq!(paced.sent.len(), 20);
        let stored = serde_json::to_string(&paced).unwrap();
        assert_eq!(serde_json::from_str::<Paced>(&stored).unwrap(), paced);
        assert_eq!(serde_json::from_str::<Paced>("{}").unwrap(), Paced::default());
    }

    proptest! {
        /// However new messages and repeats follow each other, and whoever asks when, the limits hold.
        #[test]
        fn limits_hold_in_any_order(steps in prop::collection::vec((0..3_000_000i64, any::<bool>()), 1..200)) {
            let (pace, mut paced) = (telegram(), Paced::default());
            let (mut now, mut sent) = (0, Vec::<i64>::new());
            for (wait, is_new) in steps {
                now += wait;
                // A clock that goes on has left nothing to mend.
                prop_assert!(!paced.mend(&pace, Duration::from_hours(1), now));
                let next = if is_new { pace.next_new(&paced) } else { pace.next_repeat(&paced) };
                now = now.max(next);
                if is_new { pace.speaks(&mut paced, now) } else { pace.repeats(&mut paced, now) }
                // It takes a while, and arrives at any time within.
                let arrives = now + wait / 7;
                now += wait / 3;
                pace.spoke(&mut paced, now);
                sent.push(arrives);
            }
            for (index, at) in sent.iter().enumerate() {
                if index > 0 {
                    prop_assert!(at - sent[index - 1] >= SECOND);
                }
                let in_minute = sent.iter().filter(|other| **other > at - 60 * SECOND && *other <= at).count();
                prop_assert!(in_minute <= 20, "{in_minute} within a minute");
            }
        }
    }
}

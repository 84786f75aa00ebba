//! Holding back repetitions: after an alert its like are counted for a while, and the next alert carries the count.
//!
//! ```text
//!  event time   ■───────for──────▶│  ·  ■───────for──────▶        ■ told, with the · of the period before it
//!               told · · ·           told (1 + 3)
//! ```
//!
//! Time is event time, and rows may be out of order: a finding belongs to a period that began up to `for` before or
//! after it. An agent that drains an outbox is at two times at once, so a key has a few periods.

use serde::{Deserialize, Serialize};

use super::keyed::{Key, Keyed, Remembered};
use super::rule::Rule;
use crate::engine::operator::Operator;

/// More periods of one key are not kept: the earliest goes.
const MOST_PERIODS: usize = 4;
/// More keys of one agent and rule are not kept: the one whose last period began first goes.
const MOST_KEYS: usize = 256;
/// What was held back waits so long for an alert that carries it, µs.
const CARRIED: i64 = 24 * 3_600 * 1_000_000;

/// A time in which repetitions are held back. All times are in µs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Period {
    /// Event time of the alert that began it.
    began: i64,
    /// How many findings were held back in it, and event times of the first and the last.
    held: i64,
    first: i64,
    last: i64,
}

impl Remembered for Vec<Period> {
    fn bytes(&self) -> usize {
        self.len() * size_of::<Period>()
    }
}

/// What an alert stands for beside itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Carried {
    /// Findings held back since the alert before.
    pub(crate) count: i64,
    /// Event time of the first of them.
    pub(crate) first_seen: Option<i64>,
}

/// A finding that asks whether it is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asks<'a> {
    pub(super) agent: &'a str,
    /// Values of the columns of `by`.
    pub(super) by: &'a str,
    /// When it happened, µs.
    pub(super) time: i64,
    /// Nothing earlier is expected, µs; must depend on the order of the log alone.
    pub(super) watermark: i64,
    /// Whether it counts if it is held back; a condition that goes on counted when it began.
    pub(super) counts: bool,
}

/// The periods of one partition.
#[derive(Debug)]
pub(super) struct Suppressions {
    rows: Keyed<Vec<Period>>,
}

impl Default for Suppressions {
    fn default() -> Self {
        Self { rows: Keyed::new("suppressions") }
    }
}

impl Suppressions {
    /// Its keyed state.
    pub(super) fn operator(&mut self) -> &mut dyn Operator {
        &mut self.rows
    }

    /// Whether a finding is told, and what its alert carries; `None`: it is held back.
    pub(super) fn admit(&mut self, rule: &Rule, asks: Asks<'_>) -> Option<Carried> {
        let Some(suppress) = &rule.suppress else {
            return Some(Carried::default());
        };
        let length = suppress.period.as_micros() as i64;
        let key = Key::new(&rule.id, asks.by);
        let known = self.rows.get(asks.agent, &key);
        let is_new = known.is_none();
        let mut periods: Vec<Period> = known.cloned().unwrap_or_default();
        periods.retain(|period| !is_over(period, length, asks.watermark));
        let covers = |period: &&mut Period| asks.time.abs_diff(period.began) < length as u64;
        if let Some(period) = periods.iter_mut().find(covers) {
            if asks.counts {
                period.held += 1;
                period.first = period.first.min(asks.time);
                period.last = period.last.max(asks.time);
                metrics::counter!("varta_processors_suppressed_total", "rule" => rule.id.clone())
                    .increment(1);
                self.rows.put(asks.agent, key, periods);
            }
            return None;
        }
        let mut carried = Carried::default();
        let before = periods.iter_mut().filter(|period| period.began < asks.time);
        if let Some(before) = before.max_by_key(|period| period.began)
            && before.held > 0
        {
            // a condition that goes on was counted itself when it began
            let others = before.held - i64::from(!asks.counts);
            carried = Carried { count: others, first_seen: Some(before.first) };
            before.held = 0;
        }
        let (first, last) = (i64::MAX, i64::MIN);
        periods.push(Period { began: asks.time, held: 0, first, last });
        if periods.len() > MOST_PERIODS {
            periods.sort_by_key(|period| period.began);
            periods.remove(0);
            self.rows.has_dropped();
        }
        let age = |periods: &Vec<Period>| {
            let is_over = periods.iter().all(|period| is_over(period, length, asks.watermark));
            (periods.iter().map(|period| period.began).max(), is_over)
        };
        // For whose key there is no room, every finding is told.
        if !is_new || self.rows.has_room(asks.agent, &key.rule, MOST_KEYS, age) {
            self.rows.put(asks.agent, key, periods);
        }
        Some(carried)
    }

    /// Forgets what is over by the watermark of each agent, µs; called at fixed places of the log.
    pub(super) fn sweep(
        &mut self,
        watermark_of: impl Fn(&str) -> i64,
        length_of: impl Fn(&str) -> Option<i64>,
    ) {
        self.rows.remove_where(|agent, key, periods| {
            let watermark = watermark_of(agent);
            length_of(&key.rule)
                .is_none_or(|length| periods.iter().all(|period| is_over(period, length, watermark)))
        });
    }

    /// Forgets everything of rules that are gone.
    pub(super) fn forget(&mut self, is_gone: &dyn Fn(&str) -> bool) {
        self.rows.remove_where(|_, key, _| is_gone(&key.rule));
    }
}

fn is_over(period: &Period, length: i64, watermark: i64) -> bool {
    let end = period.began.saturating_add(length);
    let end = if period.held > 0 { end.saturating_add(CARRIED) } else { end };
    end <= watermark
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::RuleSet;

    fn rule() -> std::sync::Arc<Rule> {
        let text = "id: r\ntitle: R\nseverity: low\ndescription: D\nkind: match\nfamily: process_event\n\
                    where: 'true'\nsuppress: { by: [name], for: 10s }\nmessage: m\n";
        RuleSet::parse([("r.yaml", text)], []).unwrap().rules()[0].clone()
    }

    const SECOND: i64 = 1_000_000;

    fn ask(state: &mut Suppressions, by: &str, second: i64, watermark: i64) -> Option<i64> {
        let (time, watermark) = (second * SECOND, watermark.saturating_mul(SECOND));
        let asks = Asks { agent: "a", by, time, watermark, counts: true };
        state.admit(&rule(), asks).map(|carried| carried.count)
    }

    #[test]
    fn repetitions_are_counted_and_carried_by_the_next_alert() {
        let mut state = Suppressions::default();
        let seconds = [0, 1, 9, 10, 12, 30];
        let told: Vec<_> =
            seconds.into_iter().map(|second| ask(&mut state, "x", second, second - 2)).collect();
        assert_eq!(told, [Some(0), None, None, Some(2), None, Some(1)]);
        assert_eq!(ask(&mut state, "y", 30, 28), Some(0), "another key");
    }

    #[test]
    fn an_outbox_that_drains_beside_the_present_has_periods_of_its_own() {
        let mut state = Suppressions::default();
        let seconds = [1_000, 100, 1_001, 101, 1_002, 109, 110, 1_009];
        let told: Vec<_> = seconds.into_iter().map(|second| ask(&mut state, "x", second, 0)).collect();
        assert_eq!(told, [Some(0), Some(0), None, None, None, None, Some(2), None]);
    }

    #[test]
    fn what_is_earlier_by_less_than_the_period_is_a_repetition_too() {
        let mut state = Suppressions::default();
        assert_eq!(ask(&mut state, "x", 100, 0), Some(0));
        assert_eq!(ask(&mut state, "x", 91, 0), None);
        assert_eq!(ask(&mut state, "x", 90, 0), Some(0));
    }

    #[test]
    fn a_condition_that_goes_on_is_not_counted_again() {
        let mut state = Suppressions::default();
        assert_eq!(ask(&mut state, "x", 0, -2), Some(0));
        let asks = Asks { agent: "a", by: "x", time: SECOND, watermark: 0, counts: false };
        assert_eq!(state.admit(&rule(), asks), None);
        assert_eq!(ask(&mut state, "x", 20, 18), Some(0));
    }

    #[test]
    fn keys_and_periods_are_capped() {
        let mut state = Suppressions::default();
        for number in 0..MOST_KEYS as i64 + 10 {
            assert_eq!(ask(&mut state, &number.to_string(), number, i64::MIN), Some(0));
        }
        assert_eq!(state.rows.len(), MOST_KEYS);
        assert_eq!(ask(&mut state, "0", 1, i64::MIN), Some(0), "forgotten, so told again: nothing is lost");
        for second in 0..20 {
            ask(&mut state, "0", second * 100, i64::MIN);
        }
        let periods = state.rows.get("a", &Key::new("r", "0")).unwrap();
        assert_eq!(periods.len(), MOST_PERIODS);
        assert!(periods.iter().all(|period| period.began >= 1_600 * SECOND));
    }

    #[test]
    fn it_survives_a_restore() {
        let mut state = Suppressions::default();
        ask(&mut state, "x", 0, -2);
        ask(&mut state, "x", 1, 0);
        let rows = state.operator().drain_changes().unwrap().unwrap();
        let mut restored = Suppressions::default();
        restored.operator().restore(&rows).unwrap();
        assert_eq!(ask(&mut restored, "x", 2, 0), None);
        assert_eq!(ask(&mut restored, "x", 10, 0), Some(2));
    }
}

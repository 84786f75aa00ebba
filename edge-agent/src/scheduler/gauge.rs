//! Decides which of the repeated measurements are worth an event.
//!
//! ```text
//! value   ────╮ high  ╭──        ● sent: first, outside the dead-band, heartbeat
//!             ╰───────╯ clear    ◆ sent at once as critical: crossed `high`, fell below `clear`
//! ```
//!
//! Between `clear` and `high` nothing crosses: the distance keeps a value that trembles about a
//! bound from ringing all the time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use runtime::config::{Check, Problems, key};
use serde::Deserialize;

/// Which value a heartbeat carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregate {
    /// The one just measured.
    #[default]
    Last,
    /// The mean of all since the last event.
    Mean,
}

/// How one event type is thinned out.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaugeRule {
    /// A value that differs by no more than this from the last one sent is skipped; 0 skips equal
    /// values only, a negative number skips nothing.
    pub dead_band: f64,
    /// Longest time without an event of a series.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Which value the heartbeat carries.
    pub aggregate: Aggregate,
    /// At or above this the event is critical, once.
    pub high: Option<f64>,
    /// Below this the alarm is over; as high as `high` if absent.
    pub clear: Option<f64>,
}

impl Default for GaugeRule {
    fn default() -> Self {
        Self {
            dead_band: 0.0,
            heartbeat: Duration::from_mins(1),
            aggregate: Aggregate::Last,
            high: None,
            clear: None,
        }
    }
}

impl Check for GaugeRule {
    fn check(&self, at: &str, problems: &mut Problems) {
        let finite = [Some(self.dead_band), self.high, self.clear];
        if finite.into_iter().flatten().any(|value| !value.is_finite()) {
            problems.add(at, "holds a number that is not finite", None);
        }
        if self.heartbeat.is_zero() {
            problems.add(key(at, "heartbeat"), "is zero", None);
        }
        match (self.high, self.clear) {
            (None, Some(_)) => problems.add(key(at, "clear"), "makes no sense without high", None),
            (Some(high), Some(clear)) if clear > high => {
                problems.add(key(at, "clear"), format!("{clear} is above high, {high}"), None);
            }
            _ => {}
        }
    }
}

/// What becomes of one measurement.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    Skip,
    Send(Reading),
    /// A bound was crossed; the text says which.
    Alarm(Reading, String),
}

/// The measurement to send and what it stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reading {
    pub(super) value: f64,
    /// Measurements since the last event, this one included.
    pub(super) samples: i32,
    /// Time since the last event.
    pub(super) interval_s: Option<f64>,
}

#[derive(Debug, Default)]
struct Series {
    sent: Option<(f64, i64)>,
    sum: f64,
    samples: i32,
    alarmed: bool,
}

/// Series beyond this are not remembered: each of their values is sent.
const MAX_SERIES: usize = 4096;

/// Memory of all series.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    series: HashMap<(Cow<'static, str>, Cow<'static, str>), Series>,
}

impl Gauges {
    /// `series` is the event type and the series within it; `now` is event time.
    pub(super) fn judge(
        &mut self,
        rule: &GaugeRule,
        series: (Cow<'static, str>, Cow<'static, str>),
        value: f64,
        now: i64,
    ) -> Verdict {
        if self.series.len() >= MAX_SERIES && !self.series.contains_key(&series) {
            return Verdict::Send(Reading { value, samples: 1, interval_s: None });
        }
        let state = self.series.entry(series).or_default();
        state.samples += 1;
        state.sum += value;

        let crossed = state.cross(rule, value);
        let heartbeat = i64::try_from(rule.heartbeat.as_micros()).unwrap_or(i64::MAX);
        let (beyond, due) = match state.sent {
            None => (true, false),
            Some((sent, at)) => ((value - sent).abs() > rule.dead_band, now - at >= heartbeat),
        };
        if crossed.is_none() && !beyond && !due {
            return Verdict::Skip;
        }
        let is_mean = rule.aggregate == Aggregate::Mean && crossed.is_none() && !beyond;
        let told = if is_mean { state.sum / f64::from(state.samples) } else { value };
        // Whole milliseconds: the rest is chance, and would cost more in the lake than the value itself.
        let interval_s = state.sent.map(|(_, at)| ((now - at) as f64 / 1e3).round() / 1e3);
        let reading = Reading { value: told, samples: state.samples, interval_s };
        state.sent = Some((told, now));
        state.samples = 0;
        state.sum = 0.0;
        match crossed {
            Some(text) => Verdict::Alarm(reading, text),
            None => Verdict::Send(reading),
        }
    }
}

impl Series {
    fn cross(&mut self, rule: &GaugeRule, value: f64) -> Option<String> {
        let high = rule.high?;
        let clear = rule.clear.unwrap_or(high);
        if !self.alarmed && value >= high {
            self.alarmed = true;
            return Some(format!("reached {high}"));
        }
        if self.alarmed && value < clear {
            self.alarmed = false;
            return Some(format!("fell below {clear}"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    fn run(rule: GaugeRule, values: &[(i64, f64)]) -> Vec<Verdict> {
        let mut gauges = Gauges::default();
        let judge =
            |(at, value): &(i64, f64)| gauges.judge(&rule, ("cpu_usage".into(), "".into()), *value, at * S);
        values.iter().map(judge).collect()
    }

    fn sent(value: f64, samples: i32, interval_s: Option<f64>) -> Reading {
        Reading { value, samples, interval_s }
    }

    #[test]
    fn a_value_within_its_band_is_skipped_until_the_heartbeat() {
        let rule = GaugeRule { dead_band: 5.0, heartbeat: Duration::from_secs(10), ..GaugeRule::default() };
        let verdicts = run(rule, &[(0, 20.0), (1, 24.0), (2, 15.0), (3, 26.0), (4, 27.0), (13, 28.0)]);
        assert_eq!(
            verdicts,
            [
                Verdict::Send(sent(20.0, 1, None)),
                Verdict::Skip,
                Verdict::Skip,
                Verdict::Send(sent(26.0, 3, Some(3.0))),
                Verdict::Skip,
                Verdict::Send(sent(28.0, 2, Some(10.0))),
            ]
        );
    }

    #[test]
    fn a_slow_drift_is_told_when_it_adds_up() {
        let rule = GaugeRule { dead_band: 5.0, heartbeat: Duration::from_hours(1), ..GaugeRule::default() };
        let values: Vec<(i64, f64)> = (0..20).map(|n| (n, n as f64)).collect();
        let told = run(rule, &values).into_iter().filter(|verdict| *verdict != Verdict::Skip).count();
        assert_eq!(told, 4, "0, 6, 12, 18");
    }

    #[test]
    fn the_heartbeat_carries_the_mean_if_asked() {
        let rule = GaugeRule {
            dead_band: 5.0,
            heartbeat: Duration::from_secs(4),
            aggregate: Aggregate::Mean,
            ..GaugeRule::default()
        };
        let verdicts = run(rule, &[(0, 10.0), (1, 12.0), (2, 14.0), (4, 13.0)]);
        assert_eq!(verdicts[3], Verdict::Send(sent(13.0, 3, Some(4.0))));
        assert_eq!(run(rule, &[(0, 10.0), (1, 12.0), (2, 90.0)])[2], Verdict::Send(sent(90.0, 2, Some(2.0))));
    }

    #[test]
    fn crossings_ring_once_each_way() {
        let rule = GaugeRule {
            dead_band: 100.0,
            heartbeat: Duration::from_hours(1),
            high: Some(90.0),
            clear: Some(80.0),
            ..GaugeRule::default()
        };
        let values = [(0, 10.0), (1, 91.0), (2, 89.0), (3, 92.0), (4, 79.0), (5, 85.0), (6, 90.0)];
        let rings: Vec<Option<String>> = run(rule, &values)
            .into_iter()
            .map(|verdict| if let Verdict::Alarm(_, text) = verdict { Some(text) } else { None })
            .collect();
        let up = Some("reached 90".to_owned());
        let down = Some("fell below 80".to_owned());
        assert_eq!(rings, [None, up.clone(), None, None, down, None, up]);
    }

    #[test]
    fn series_are_judged_apart_and_their_number_is_bounded() {
        let mut gauges = Gauges::default();
        let rule = GaugeRule { dead_band: 5.0, ..GaugeRule::default() };
        for n in 0..MAX_SERIES + 10 {
            let verdict = gauges.judge(&rule, ("net_usage".into(), format!("if{n}").into()), 1.0, 0);
            assert!(matches!(verdict, Verdict::Send(_)), "{n}");
        }
        assert_eq!(gauges.series.len(), MAX_SERIES);
        assert_eq!(gauges.judge(&rule, ("net_usage".into(), "if0".into()), 1.0, 1), Verdict::Skip);
    }
}

//! Who is killed, where and how often.

use std::fmt;
use std::time::Duration;

use anyhow::Context as _;

use super::streams::NAMES;
use crate::stage::is_slow_profile;

/// How one life of a process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// At the n-th pass of a named place.
    At(&'static str, u64),
    /// After a time.
    After(Duration),
    /// Suspended for longer than it is waited for, so that others take its place; it wakes, finds that out, and dies
    /// some time later.
    Asleep,
}

/// When a process that is to sleep falls asleep, wakes and dies, after its start.
pub(super) const SLEEP: [Duration; 3] =
    [Duration::from_secs(3), Duration::from_secs(18), Duration::from_secs(25)];

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(name, count) => write!(f, "{name}={count}"),
            Self::After(time) => write!(f, "after {time:?}"),
            Self::Asleep => write!(f, "asleep for {:?}, later", SLEEP[1].saturating_sub(SLEEP[0])),
        }
    }
}

/// One process of the system.
#[derive(Clone, Debug)]
pub(super) struct Role {
    /// Its name, also of its log.
    pub(super) name: &'static str,
    /// What `varta` is asked to do; nothing: it is the load.
    pub(super) command: &'static [&'static str],
    /// Its deaths, in order.
    pub(super) deaths: Vec<Death>,
}

impl Role {
    /// Whether it is one of the bridges.
    pub(super) fn is_bridge(&self) -> bool {
        self.command == ["bridge"]
    }
}

/// The size of the test.
#[derive(Clone, Debug)]
pub(super) struct Form {
    /// Whether servers are disturbed as well.
    pub(super) long: bool,
    /// Events a second while processes are killed.
    pub(super) rate: u64,
    /// Events a second of the run that nobody disturbs.
    pub(super) calm_rate: u64,
    /// Event time between two events, µs.
    pub(super) step: i64,
    /// The load goes on by so many events until the last kill is done.
    pub(super) instalment: u64,
    /// Messages that the broker keeps for an absent bridge, in the long form.
    pub(super) broker_queue: u64,
    pub(super) roles: Vec<Role>,
}

/// A place to die, and how often it is passed before; for the short form.
type Places = &'static [(&'static str, u64)];

const FIRST_AGENT: Places =
    &[("agent.outbox.after_commit", 40), ("agent.confirm.before_delete", 8), ("agent.publish.before", 60)];
const SECOND_AGENT: Places =
    &[("agent.publish.after", 90), ("agent.outbox.before_commit", 70), ("agent.confirm.after_delete", 12)];
const FIRST_BRIDGE: Places = &[("bridge.after_kafka", 100), ("bridge.after_confirm", 6)];
const SECOND_BRIDGE: Places = &[("bridge.before_produce", 150), ("bridge.after_puback", 80)];
const FIRST_WORKER: Places = &[
    ("worker.in_commit", 15),
    ("worker.after_commit", 20),
    ("worker.before_commit", 25),
    ("worker.after_poll", 40),
];
const SECOND_WORKER: Places = &[
    ("worker.after_restore", 1),
    ("worker.before_commit", 18),
    ("worker.in_commit", 12),
    ("worker.after_commit", 9),
];
const LAKE: Places = &[("lake.after_files", 4), ("lake.after_commit", 6), ("lake.before_commit", 5)];
const INFLUX: Places = &[("influx.after_write", 3), ("influx.before_write", 4), ("influx.after_offsets", 3)];
const POSTGRES: Places = &[("postgres.before_commit", 4), ("postgres.after_commit", 5)];

const ROLES: [(&str, &[&str], Places); 9] = [
    (NAMES[0], &[], FIRST_AGENT),
    (NAMES[1], &[], SECOND_AGENT),
    ("bridge-1", &["bridge"], FIRST_BRIDGE),
    ("bridge-2", &["bridge"], SECOND_BRIDGE),
    ("worker-1", &["process"], FIRST_WORKER),
    ("worker-2", &["process"], SECOND_WORKER),
    ("lake", &["sink", "lake"], LAKE),
    ("influx", &["sink", "influx"], INFLUX),
    ("postgres", &["sink", "postgres"], POSTGRES),
];

impl Form {
    /// Short, or as long as `VARTA_CRASH_KILLS` asks for.
    pub(super) fn from_environment() -> anyhow::Result<Self> {
        let asked = std::env::var("VARTA_CRASH_KILLS").ok();
        let kills = asked
            .as_ref()
            .map(|kills| kills.parse::<usize>().context("VARTA_CRASH_KILLS is a number"))
            .transpose()?;
        let roles = ROLES.map(|(name, command, places)| Role {
            name,
            command,
            deaths: deaths(places, kills, command),
        });
        let slow = is_slow_profile();
        // the loads die, too: 10,000 a second are left of it
        let rate = if slow { 600 } else { 12_500 };
        Ok(Self {
            long: kills.is_some(),
            rate,
            calm_rate: 2 * rate,
            // about a second of load is a minute of event time: many windows close, and some stay busy
            step: 60_000_000 / (rate / NAMES.len() as u64) as i64,
            instalment: 12 * rate,
            broker_queue: 1_000,
            roles: roles.to_vec(),
        })
    }
}

/// Short: two named places and a moment of no meaning. Long: all of them in turn, ever later, each third death at random,
/// the first of these after a sleep.
fn deaths(places: Places, kills: Option<usize>, command: &[&str]) -> Vec<Death> {
    let at = |index: usize, factor: u64| {
        let (name, count) = places[index % places.len()];
        Death::At(name, if name == "worker.after_restore" { count } else { count * factor })
    };
    match kills {
        None => vec![at(0, 1), at(1, 1), Death::After(Duration::from_millis(2_300))],
        Some(kills) => (0..kills)
            .map(|index| match index % 3 {
                2 if index == 2 && !command.is_empty() => Death::Asleep,
                2 => Death::After(Duration::from_millis(1_500 + 701 * (index as u64 * 7 % 11))),
                _ => at(index - index / 3, 1 + index as u64 % 4),
            })
            .collect(),
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kills: usize = self.roles.iter().map(|role| role.deaths.len()).sum();
        write!(
            f,
            "{} form, {} events/s, {kills} kills planned",
            if self.long { "long" } else { "short" },
            self.rate
        )?;
        if is_slow_profile() {
            write!(f, " (programs without optimisation do not reach 10,000 events/s: that is `make soak`)")?;
        }
        Ok(())
    }
}

//! What is measured with, and the job that is measured.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eventlog::registry::{MemoryRegistry, register_all};
use processors::event_time::{Hold, Lateness};
use processors::jobs::CoreSetup;
use processors::rules::{Offer, RuleSet};
use schemas::topics::Topics;

pub(crate) const SECOND: i64 = 1_000_000;

/// A line of the table.
pub(crate) fn show(what: &str, measured: f64, unit: &str) {
    let digits = if measured < 100.0 { 2 } else { 0 };
    println!("{what:<72} {measured:>12.digits$}  {unit}");
}

/// The job with these rules, and with a registry of its own.
pub(crate) fn setup(rules: RuleSet) -> anyhow::Result<CoreSetup> {
    let registry = Arc::new(MemoryRegistry::new());
    let ids = register_all(&*registry)?;
    Ok(CoreSetup {
        registry,
        ids,
        topics: Topics::default(),
        rules: Offer::new(rules, 1),
        lateness: Lateness(2 * SECOND),
        hold: Hold(30 * 86_400 * SECOND),
    })
}

/// The rules that ship.
pub(crate) fn shipped() -> anyhow::Result<RuleSet> {
    RuleSet::shipped().map_err(|problems| anyhow::anyhow!("{problems:?}"))
}

/// So many in this time, a second.
pub(crate) fn rate(number: f64, time: Duration) -> f64 {
    number / time.as_secs_f64().max(1e-9)
}

/// Memory that is resident, bytes; Linux only.
pub(crate) fn resident() -> usize {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().map_or(0, |kib| kib * 1024)
}

/// CPU time of this thread; Linux only, elsewhere the wall clock has to do.
pub(crate) fn thread_time() -> Duration {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let text = fs_err::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    nanos.map_or_else(|| BEGAN.get_or_init(Instant::now).elapsed(), Duration::from_nanos)
}

/// CPU time of this process, user and system, of all its threads.
pub(crate) fn process_time() -> anyhow::Result<Duration> {
    let stat = fs_err::read_to_string("/proc/self/stat")?;
    // the command's name is in brackets and may hold spaces
    let fields: Vec<&str> =
        stat.rsplit_once(')').context("stat without name")?.1.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

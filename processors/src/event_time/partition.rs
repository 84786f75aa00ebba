//! How far a whole partition has come: for windows that are not kept by agent.

use super::tracker::{SECOND, Tracker};

/// Who is further behind the log's clock than this is not waited for.
const BEHIND: i64 = 300 * SECOND;
/// A partition is never further than this before the log's clock, whoever is in it: what an agent that has just appeared
/// brings is under way for a while.
const UNDER_WAY: i64 = 30 * SECOND;

impl Tracker {
    /// The least watermark (µs) of the agents that are neither silent nor more than five minutes behind the log's clock,
    /// and at least half a minute behind that clock. A partition without such agents holds nobody back. What others
    /// bring is late where it counts, by design; it may go back, so whoever uses it keeps the greatest.
    ///
    /// It looks at every agent: for now and then, not for each row.
    pub fn partition_watermark(&self) -> i64 {
        let now = self.clock.now();
        let counts = |watermark: &i64| *watermark > now.saturating_sub(BEHIND);
        let agents = self.agents.iter().filter(|(_, agent)| !agent.silent);
        let least = agents.map(|(_, agent)| agent.watermark).filter(counts).min();
        least.unwrap_or(i64::MAX).min(now.saturating_sub(UNDER_WAY))
    }
}

//! Counts of what a partition remembers, for its metrics.

use super::tracker::Tracker;

/// How much is remembered, and how far behind the log's clock the agents are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Agents known.
    pub agents: usize,
    /// Those of them that are silent.
    pub silent: usize,
    /// Sessions of all agents.
    pub sessions: usize,
    /// Intervals of numbers above a hole, over all lanes.
    pub intervals: usize,
    /// Floors of agents that were dropped.
    pub floors: usize,
    /// How far (µs) the watermarks of the foremost and of the hindmost agent are behind the log's clock, of those that
    /// have one and are not silent. Negative: ahead of it.
    pub lag: Option<(i64, i64)>,
}

impl Tracker {
    /// Counts. It looks at every agent: for now and then, not for each row.
    pub fn census(&self) -> Census {
        let mut census = Census { floors: self.agents.floors(), ..Census::default() };
        for (_, agent) in self.agents.iter() {
            census.agents += 1;
            census.silent += usize::from(agent.silent);
            census.sessions += agent.sessions.len();
            let lanes = agent.sessions.iter().flat_map(|session| &session.lanes).flatten();
            census.intervals += lanes.map(|lane| lane.intervals()).sum::<usize>();
            if !agent.silent && agent.watermark > i64::MIN {
                let lag = self.clock.now().saturating_sub(agent.watermark);
                let (least, most) = census.lag.unwrap_or((lag, lag));
                census.lag = Some((least.min(lag), most.max(lag)));
            }
        }
        census
    }
}

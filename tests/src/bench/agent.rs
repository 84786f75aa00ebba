//! What the agent costs the machine that it watches.

use std::time::{Duration, Instant};

use super::part::Part;

/// Footprint over a time.
#[derive(Debug)]
pub struct Footprint {
    /// Measured for so long.
    pub time: Duration,
    /// CPU-seconds in that time.
    pub cpu: Duration,
    /// Resident memory at the end, bytes.
    pub rss: u64,
    /// Largest resident memory, bytes.
    pub peak_rss: u64,
}

/// Watches a running agent; the start-up before the call is not counted.
pub fn measure(agent: &mut Part, time: Duration) -> anyhow::Result<Footprint> {
    let (started, before) = (Instant::now(), agent.cpu()?);
    while started.elapsed() < time {
        agent.must_run()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    let (rss, peak_rss) = agent.rss()?;
    Ok(Footprint { time: started.elapsed(), cpu: agent.cpu()?.saturating_sub(before), rss, peak_rss })
}

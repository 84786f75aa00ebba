//! What an agent made: its outbox numbers every event from 0, and keeps the last number of each lane for each session.

use std::path::Path;

use anyhow::Context as _;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use super::{Counts, Id};

/// Lanes as the outbox numbers them.
const LANES: [&str; 3] = ["critical", "normal", "bulk"];

/// What an outbox says.
#[derive(Debug, Default)]
pub struct Made {
    /// Every event that was given an identity, less those that were shed.
    pub identities: Counts,
    /// Rows that are still in the outbox.
    pub unsent: usize,
    /// Rows of lanes normal and bulk among them: the agent itself writes to the critical one at any time.
    pub unsent_data: usize,
    /// How far the synthetic load has got, where there is one.
    pub cursor: Option<u64>,
}

/// Reads the outbox of an agent that is not running, or is; nothing is changed.
pub fn read_outbox(path: &Path) -> anyhow::Result<Made> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .with_context(|| format!("opening {}", path.display()))?;
    let agent_id: String =
        connection.query_row("SELECT value FROM fact WHERE name = 'agent_id'", [], |row| row.get(0))?;
    let unsent: i64 = connection.query_row("SELECT count(*) FROM event", [], |row| row.get(0))?;
    let data: i64 =
        connection.query_row("SELECT count(*) FROM event WHERE lane > 0", [], |row| row.get(0))?;
    let cursor: Option<i64> = connection
        .query_row("SELECT value FROM cursor WHERE monitor = 'synthetic'", [], |row| row.get(0))
        .optional()?;
    let mut made = Made {
        unsent: usize::try_from(unsent)?,
        unsent_data: usize::try_from(data)?,
        cursor: cursor.and_then(|cursor| u64::try_from(cursor).ok()),
        ..Made::default()
    };
    let mut tails = connection.prepare("SELECT session, lane, seq FROM tail")?;
    let rows = tails
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))?;
    for row in rows {
        let (session, lane, last) = row?;
        let lane = *usize::try_from(lane)
            .ok()
            .and_then(|lane| LANES.get(lane))
            .with_context(|| format!("lane {lane} in {}", path.display()))?;
        for seq in 0..=last {
            let id = Id::Own { agent_id: agent_id.clone(), session, lane: lane.to_owned(), seq };
            made.identities.insert(id, 1);
        }
    }
    Ok(made)
}

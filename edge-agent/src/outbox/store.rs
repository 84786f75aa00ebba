//! The SQLite file behind the outbox: statements and counters, no threads and no policy.
//!
//! The counters in memory mirror what is committed; a failed transaction puts them back.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::OutboxError;
use super::row::{LANES, LaneRange, NewRow, Place, ROW_OVERHEAD, ReadRequest, Row, lane_index};

/// Counts per lane and in all, as of the last statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) last_seq: [i64; 3],
    pub(super) rows: [u64; 3],
    pub(super) bytes: [u64; 3],
}

impl Counters {
    pub(super) fn all_bytes(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

/// What the session before this one left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Previous {
    /// The session, if there was one.
    pub session: Option<i64>,
    /// Last seq of each lane it used.
    pub tails: Vec<(schemas::identity::Lane, i64)>,
}

/// A run of rows that a full outbox gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shed {
    pub(super) range: LaneRange,
    pub(super) rows: u64,
}

pub(super) struct Store {
    db: Connection,
    pub(super) session: i64,
    pub(super) counters: Counters,
    before: Counters,
}

const NO_LANES: Counters = Counters { last_seq: [-1; 3], rows: [0; 3], bytes: [0; 3] };

impl Store {
    /// Opens or creates the file. Held exclusively: a second agent on the same file is refused.
    pub(super) fn open(path: &Path) -> Result<Self, OutboxError> {
        let db = Connection::open(path)?;
        db.busy_timeout(Duration::from_secs(2))?;
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.pragma_update(None, "cache_size", -1024)?;
        db.pragma_update(None, "temp_store", "MEMORY")?;
        db.pragma_update(None, "journal_size_limit", 8 << 20)?;
        db.set_prepared_statement_cache_capacity(24);
        db.execute_batch(include_str!("layout.sql"))?;
        let mut store = Self { db, session: 0, counters: NO_LANES, before: NO_LANES };
        store.count()?;
        Ok(store)
    }

    fn count(&mut self) -> Result<(), OutboxError> {
        let mut query =
            self.db.prepare("SELECT lane, COUNT(*), SUM(LENGTH(body)) FROM event GROUP BY lane")?;
        let mut found = query.query([])?;
        while let Some(row) = found.next()? {
            let lane: usize = row.get::<_, i64>(0)?.try_into().unwrap_or(0);
            let (rows, bytes): (i64, i64) = (row.get(1)?, row.get(2)?);
            if let (Some(to_rows), Some(to_bytes)) =
                (self.counters.rows.get_mut(lane), self.counters.bytes.get_mut(lane))
            {
                *to_rows = rows as u64;
                *to_bytes = bytes as u64 + rows as u64 * ROW_OVERHEAD;
            }
        }
        Ok(())
    }

    /// Text kept under a name, e.g. whose outbox this is.
    pub(super) fn fact(&self, name: &str) -> Result<Option<String>, OutboxError> {
        let mut query = self.db.prepare("SELECT value FROM fact WHERE name = ?1")?;
        Ok(query.query_row([name], |row| row.get(0)).optional()?)
    }

    pub(super) fn set_fact(&self, name: &str, value: &str) -> Result<(), OutboxError> {
        self.db.execute("INSERT OR REPLACE INTO fact VALUES (?1, ?2)", params![name, value])?;
        Ok(())
    }

    pub(super) fn begin(&mut self, synced: bool) -> Result<(), OutboxError> {
        self.before = self.counters;
        let level = if synced { "PRAGMA synchronous=FULL" } else { "PRAGMA synchronous=NORMAL" };
        self.db.execute_batch(level)?;
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        Ok(())
    }

    pub(super) fn commit(&mut self) -> Result<(), OutboxError> {
        let mut tail =
            self.db.prepare_cached("INSERT OR REPLACE INTO tail (session, lane, seq) VALUES (?1, ?2, ?3)")?;
        for (lane, (now, before)) in self.counters.last_seq.iter().zip(self.before.last_seq).enumerate() {
            if *now != before {
                tail.execute(params![self.session, lane as i64, now])?;
            }
        }
        drop(tail);
        runtime::failpoint::hit("agent.outbox.before_commit");
        self.db.execute_batch("COMMIT")?;
        runtime::failpoint::hit("agent.outbox.after_commit");
        Ok(())
    }

    pub(super) fn roll_back(&mut self) {
        self.counters = self.before;
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "cannot roll back in the outbox");
        }
    }

    /// Starts a session later than all before it; inside a transaction.
    pub(super) fn start_session(&mut self, now: i64, floor: Option<i64>) -> Result<Previous, OutboxError> {
        let stored: Option<i64> = self
            .db
            .query_row("SELECT MAX(s) FROM (SELECT MAX(session) AS s FROM tail UNION ALL SELECT MAX(session) FROM event)", [], |row| row.get(0))?;
        let newest = stored.max(floor);
        let mut previous = Previous { session: newest, tails: Vec::new() };
        if let Some(session) = newest {
            let mut query = self.db.prepare("SELECT lane, seq FROM tail WHERE session = ?1 ORDER BY lane")?;
            let mut found = query.query([session])?;
            while let Some(row) = found.next()? {
                let lane = usize::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
                if let Some(lane) = LANES.get(lane) {
                    previous.tails.push((*lane, row.get(1)?));
                }
            }
        }
        self.session = newest.map_or(now, |newest| now.max(newest.saturating_add(1)));
        self.db.execute("DELETE FROM tail WHERE session < ?1", [self.session])?;
        self.counters.last_seq = [-1; 3];
        self.before.last_seq = [-1; 3];
        Ok(previous)
    }

    /// Numbers and stores one row; returns its seq.
    pub(super) fn append(&mut self, new: &NewRow) -> Result<i64, OutboxError> {
        let seq = self.skip(new.lane);
        let mut insert = self.db.prepare_cached(
            "INSERT INTO event (lane, session, seq, event_time, event_type, guard, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        insert.execute(params![
            new.lane as i64,
            self.session,
            seq,
            new.event_time,
            new.event_type,
            new.guard,
            new.body
        ])?;
        self.counters.rows[new.lane] += 1;
        self.counters.bytes[new.lane] += new.cost();
        Ok(seq)
    }

    /// Gives out a seq without a row: the caller explains the hole.
    pub(super) fn skip(&mut self, lane: usize) -> i64 {
        self.counters.last_seq[lane] += 1;
        self.counters.last_seq[lane]
    }

    /// Removes a range of rows; what is not there is no error. Returns how many went.
    pub(super) fn remove(&mut self, range: &LaneRange) -> Result<u64, OutboxError> {
        let lane = lane_index(range.lane);
        let mut delete = self.db.prepare_cached(
            "DELETE FROM event WHERE lane = ?1 AND session = ?2 AND seq BETWEEN ?3 AND ?4 RETURNING LENGTH(body)",
        )?;
        let mut gone = delete.query(params![lane as i64, range.session, range.from, range.to])?;
        let mut rows = 0;
        while let Some(row) = gone.next()? {
            rows += 1;
            self.counters.rows[lane] -= 1;
            self.counters.bytes[lane] -= row.get::<_, i64>(0)? as u64 + ROW_OVERHEAD;
        }
        Ok(rows)
    }

    /// Gives up the oldest rows of a lane until `excess` bytes are free; returns what went, as runs
    /// between which a row stays. Seqs within a run that have no row were confirmed before.
    pub(super) fn shed(&mut self, lane: usize, excess: u64) -> Result<Vec<Shed>, OutboxError> {
        let mut runs: Vec<Shed> = Vec::new();
        let mut freed = 0;
        let mut stays = false;
        let mut query = self.db.prepare_cached(
            "SELECT session, seq, guard, LENGTH(body) FROM event WHERE lane = ?1 ORDER BY session, seq",
        )?;
        let mut found = query.query([lane as i64])?;
        while freed < excess
            && let Some(row) = found.next()?
        {
            let (session, seq): (i64, i64) = (row.get(0)?, row.get(1)?);
            if row.get::<_, bool>(2)? {
                stays = true;
                continue;
            }
            freed += row.get::<_, i64>(3)? as u64 + ROW_OVERHEAD;
            match runs.last_mut() {
                Some(run) if run.range.session == session && !stays => {
                    run.range.to = seq;
                    run.rows += 1;
                }
                _ => runs.push(Shed {
                    range: LaneRange { lane: LANES[lane], session, from: seq, to: seq },
                    rows: 1,
                }),
            }
            stays = false;
        }
        drop(found);
        drop(query);
        for run in &runs {
            self.remove(&run.range)?;
        }
        Ok(runs)
    }

    /// Rows in order; the first comes whatever its size.
    pub(super) fn read(&self, wanted: &ReadRequest) -> Result<Vec<Row>, OutboxError> {
        let mut query = self.db.prepare_cached(
            "SELECT session, seq, event_time, event_type, body FROM event \
             WHERE lane = ?1 AND (session, seq) > (?2, ?3) AND (session, seq) <= (?4, ?5) \
             ORDER BY session, seq LIMIT ?6",
        )?;
        let mut found = query.query(params![
            lane_index(wanted.lane) as i64,
            wanted.after.session,
            wanted.after.seq,
            wanted.up_to.session,
            wanted.up_to.seq,
            i64::try_from(wanted.max_rows).unwrap_or(i64::MAX),
        ])?;
        let mut rows = Vec::new();
        let mut bytes = 0;
        while let Some(row) = found.next()? {
            let body = Bytes::copy_from_slice(row.get_ref(4)?.as_blob().map_err(rusqlite::Error::from)?);
            bytes += body.len();
            if bytes > wanted.max_bytes && !rows.is_empty() {
                break;
            }
            rows.push(Row {
                place: Place { session: row.get(0)?, seq: row.get(1)? },
                event_time: row.get(2)?,
                event_type: row.get(3)?,
                body,
            });
        }
        Ok(rows)
    }

    /// Least event time among the first rows of the lanes.
    pub(super) fn oldest(&self) -> Result<Option<i64>, OutboxError> {
        let mut query = self
            .db
            .prepare_cached("SELECT event_time FROM event WHERE lane = ?1 ORDER BY session, seq LIMIT 1")?;
        let mut oldest: Option<i64> = None;
        for lane in 0..LANES.len() {
            if self.counters.rows[lane] == 0 {
                continue;
            }
            if let Some(time) = query.query_row([lane as i64], |row| row.get::<_, i64>(0)).optional()? {
                oldest = Some(oldest.map_or(time, |oldest| oldest.min(time)));
            }
        }
        Ok(oldest)
    }

    pub(super) fn cursors(&self) -> Result<Vec<(String, i64)>, OutboxError> {
        let mut query = self.db.prepare("SELECT monitor, value FROM cursor")?;
        let found = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    pub(super) fn set_cursor(&self, monitor: &str, value: i64) -> Result<(), OutboxError> {
        let mut insert = self.db.prepare_cached("INSERT OR REPLACE INTO cursor VALUES (?1, ?2)")?;
        insert.execute(params![monitor, value])?;
        Ok(())
    }
}

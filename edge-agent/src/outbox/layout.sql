-- One B-tree: reading a lane in order and deleting a confirmed range both walk neighbours.
CREATE TABLE IF NOT EXISTS event (
    lane       INTEGER NOT NULL,   -- 0 critical, 1 normal, 2 bulk
    session    INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    event_time INTEGER NOT NULL,   -- µs
    event_type TEXT    NOT NULL,
    guard      INTEGER NOT NULL,   -- 1: explains a hole itself, never shed
    body       BLOB    NOT NULL,   -- JSON members after the identity, closing brace included
    PRIMARY KEY (lane, session, seq)
) WITHOUT ROWID;

-- The last seq given out, in the transaction that gave it out.
CREATE TABLE IF NOT EXISTS tail (
    session INTEGER NOT NULL,
    lane    INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    PRIMARY KEY (session, lane)
) WITHOUT ROWID;

-- How far each monitor has got, saved with the rows that it produced.
CREATE TABLE IF NOT EXISTS cursor (
    monitor TEXT PRIMARY KEY,
    value   INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS fact (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- The ledger of one host. Everything that is evidence is append-only; the rest can be made again from it.

-- Records, in the order of their leaves. One row holds up to 256 of them and never crosses a multiple of 256:
-- for each, its length in two bytes, big-endian, and its exact bytes (the form of a C2SP entry bundle).
CREATE TABLE events (
    first  INTEGER PRIMARY KEY,              -- index of the first leaf
    count  INTEGER NOT NULL CHECK (count BETWEEN 1 AND 256),
    min_ms INTEGER NOT NULL,                 -- the earliest and latest time of a record here, Unix milliseconds
    max_ms INTEGER NOT NULL,
    data   BLOB NOT NULL
) STRICT;

-- Full tiles of 256 hashes (c2sp.org/tlog-tiles, height 8).
CREATE TABLE tiles (
    level INTEGER NOT NULL,
    n     INTEGER NOT NULL,
    data  BLOB NOT NULL CHECK (length(data) = 8192),
    PRIMARY KEY (level, n)
) STRICT;

-- Signed checkpoints (c2sp.org/tlog-checkpoint).
CREATE TABLE checkpoints (
    size INTEGER PRIMARY KEY,
    note TEXT NOT NULL
) STRICT;

-- Signed heads of the host's chain.
CREATE TABLE host_heads (
    sequence  INTEGER PRIMARY KEY,
    leaf      BLOB NOT NULL CHECK (length(leaf) = 32),
    signature BLOB NOT NULL
) STRICT;

-- Where the ledger stands: one row. next_sequence and prev are the cursor in the host's journal.
CREATE TABLE log (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    origin        TEXT NOT NULL,
    size          INTEGER NOT NULL,
    root          BLOB NOT NULL CHECK (length(root) = 32),
    next_sequence INTEGER NOT NULL,
    prev          BLOB NOT NULL CHECK (length(prev) = 32),
    checkpoints   INTEGER NOT NULL,          -- how many rows the tables of these names have
    heads         INTEGER NOT NULL
) STRICT;

-- The hashes of each level that fill no tile yet.
CREATE TABLE edges (
    level INTEGER PRIMARY KEY,
    data  BLOB NOT NULL
) STRICT;

-- What was charged to each budget window, nano-USD.
CREATE TABLE totals (
    budget TEXT NOT NULL,
    scope  TEXT NOT NULL,
    "window" TEXT NOT NULL,
    nano   INTEGER NOT NULL,
    PRIMARY KEY (budget, scope, "window")
) STRICT, WITHOUT ROWID;

-- Paid calls whose outcome is not recorded: the leaf of their intent.
CREATE TABLE open_intents (
    call TEXT PRIMARY KEY,
    leaf INTEGER NOT NULL,
    intent TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Spend by agent, provider, model and day (UTC).
CREATE TABLE spend (
    agent          TEXT NOT NULL,
    provider       TEXT NOT NULL,
    model          TEXT NOT NULL,
    day            TEXT NOT NULL,
    calls          INTEGER NOT NULL,
    nano           INTEGER NOT NULL,
    input          INTEGER NOT NULL,
    cache_read     INTEGER NOT NULL,
    cache_write_5m INTEGER NOT NULL,
    cache_write_1h INTEGER NOT NULL,
    output         INTEGER NOT NULL,
    reasoning      INTEGER NOT NULL,
    web_searches   INTEGER NOT NULL,
    charged_max    INTEGER NOT NULL,
    PRIMARY KEY (agent, provider, model, day)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER events_keep_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER events_keep_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER tiles_keep_update BEFORE UPDATE ON tiles BEGIN SELECT RAISE(ABORT, 'tiles are append-only'); END;
CREATE TRIGGER tiles_keep_delete BEFORE DELETE ON tiles BEGIN SELECT RAISE(ABORT, 'tiles are append-only'); END;
CREATE TRIGGER checkpoints_keep_update BEFORE UPDATE ON checkpoints BEGIN SELECT RAISE(ABORT, 'checkpoints are append-only'); END;
CREATE TRIGGER checkpoints_keep_delete BEFORE DELETE ON checkpoints BEGIN SELECT RAISE(ABORT, 'checkpoints are append-only'); END;
CREATE TRIGGER host_heads_keep_update BEFORE UPDATE ON host_heads BEGIN SELECT RAISE(ABORT, 'heads are append-only'); END;
CREATE TRIGGER host_heads_keep_delete BEFORE DELETE ON host_heads BEGIN SELECT RAISE(ABORT, 'heads are append-only'); END;

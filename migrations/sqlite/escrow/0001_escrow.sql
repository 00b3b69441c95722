-- Budgets that the instances of one host share, in a file. As postgres/0003_escrow.sql, which says what the columns mean; limits
-- are in each instance's configuration. At all times sum(granted + lost) of a window's shares = its allotted <= limit.

-- One row.
CREATE TABLE escrow_file (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    place      TEXT    NOT NULL,   -- which file this was: a copy that was put in its place is another
    started_ms INTEGER NOT NULL,   -- since when it is this one
    serial     INTEGER NOT NULL,   -- messages taken: one that goes down shows that an older copy was written over it
    accepted   INTEGER NOT NULL    -- up to which incident an operator has looked
) STRICT;

CREATE TABLE escrow_holders (
    holder   TEXT    PRIMARY KEY,
    host     TEXT    NOT NULL,
    epoch    INTEGER NOT NULL,
    step     INTEGER NOT NULL,
    lot      INTEGER NOT NULL,
    place    TEXT    NOT NULL,
    until_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE escrow_windows (
    budget        TEXT    NOT NULL,
    scope         TEXT    NOT NULL,
    "window"      TEXT    NOT NULL,
    ends          INTEGER,
    allotted      INTEGER NOT NULL CHECK (allotted >= 0),
    spent         INTEGER NOT NULL CHECK (spent >= 0),
    hungry_holder TEXT,
    hungry_ms     INTEGER,
    PRIMARY KEY (budget, scope, "window")
) STRICT;

CREATE TABLE escrow_shares (
    holder   TEXT    NOT NULL REFERENCES escrow_holders,
    budget   TEXT    NOT NULL,
    scope    TEXT    NOT NULL,
    "window" TEXT    NOT NULL,
    granted  INTEGER NOT NULL CHECK (granted >= 0),
    settled  INTEGER NOT NULL CHECK (settled >= 0),
    credited INTEGER NOT NULL CHECK (credited >= 0),
    lost     INTEGER NOT NULL CHECK (lost >= 0),
    PRIMARY KEY (holder, budget, scope, "window"),
    FOREIGN KEY (budget, scope, "window") REFERENCES escrow_windows
) STRICT;

CREATE TABLE escrow_incidents (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    holder TEXT    NOT NULL,
    halts  INTEGER NOT NULL,
    what   TEXT    NOT NULL,
    at_ms  INTEGER NOT NULL
) STRICT;

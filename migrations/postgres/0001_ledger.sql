-- The ledgers of many hosts: one log for each partition of the topic. Everything that is evidence is append-only; the rest
-- can be made again from it.

-- Hosts whose chains are taken. Written by an administrator; a later enrolment of a host has the next number.
CREATE TABLE hosts (
    host        text   NOT NULL,
    enrolment   int    NOT NULL CHECK (enrolment > 0),
    verifier    text   NOT NULL,              -- name+id+key, C2SP signed-note form
    enrolled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (host, enrolment)
);
-- Hosts that are taken no longer.
CREATE TABLE retired (
    host       text   NOT NULL,
    enrolment  int    NOT NULL,
    retired_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (host, enrolment),
    FOREIGN KEY (host, enrolment) REFERENCES hosts
);

-- Where each log stands. `fence` is raised by whoever takes a log over: the writer before it then commits nothing more.
CREATE TABLE logs (
    log         int    PRIMARY KEY,
    origin      text   NOT NULL UNIQUE,
    size        bigint NOT NULL CHECK (size >= 0),
    root        bytea  NOT NULL CHECK (octet_length(root) = 32),
    edges       bytea[] NOT NULL,             -- the hashes of each level that fill no tile yet
    fence       bigint NOT NULL,
    topic       text   NOT NULL,
    part        int    NOT NULL,
    next_offset bigint NOT NULL,              -- the message of the partition that comes next
    checkpoints bigint NOT NULL,              -- how many rows the tables of these names have for this log
    runs        bigint NOT NULL,
    UNIQUE (topic, part)
);

-- Records, in the order of their leaves. One row holds up to 256 of them and never crosses a multiple of 256: for each,
-- its length in two bytes, big-endian, and its exact bytes (the form of a C2SP entry bundle). Partitions of 2^24 leaves.
CREATE TABLE events (
    log    int    NOT NULL,
    first  bigint NOT NULL,                   -- index of the first leaf
    count  int    NOT NULL CHECK (count BETWEEN 1 AND 256),
    min_ms bigint NOT NULL,                   -- the earliest and latest time of a record here, Unix milliseconds
    max_ms bigint NOT NULL,
    data   bytea  NOT NULL,
    PRIMARY KEY (log, first)
) PARTITION BY RANGE (first);

-- Full tiles of 256 hashes (c2sp.org/tlog-tiles, height 8).
CREATE TABLE tiles (
    log   int      NOT NULL,
    level smallint NOT NULL,
    n     bigint   NOT NULL,
    data  bytea    NOT NULL CHECK (octet_length(data) = 8192),
    PRIMARY KEY (log, level, n)
);
ALTER TABLE tiles ALTER COLUMN data SET STORAGE EXTERNAL;

-- Signed checkpoints (c2sp.org/tlog-checkpoint). A second one of the same size is an error, not a fork.
CREATE TABLE checkpoints (
    log  int    NOT NULL,
    size bigint NOT NULL,
    note text   NOT NULL,
    PRIMARY KEY (log, size)
);

-- What each host signed: the head of its chain at the last of some records that stand together in the log.
CREATE TABLE runs (
    log          int    NOT NULL,
    leaf         bigint NOT NULL,             -- index of the first record's leaf
    host         text   NOT NULL,
    enrolment    int    NOT NULL,
    first        bigint NOT NULL,             -- sequence numbers of the first record here and of the last one
    last         bigint NOT NULL,
    head_sequence bigint NOT NULL,            -- of the record that was signed: the last of the message
    head         bytea  NOT NULL CHECK (octet_length(head) = 32),
    signature    bytea  NOT NULL,
    kafka_offset bigint NOT NULL,
    PRIMARY KEY (log, leaf)
);
CREATE INDEX runs_chain ON runs (log, host, last);

-- Messages of the topic that are no records: what they are, where they came from. They are in the dead-letter topic.
CREATE TABLE incidents (
    log          int    NOT NULL,
    kafka_offset bigint NOT NULL,
    code         text   NOT NULL,
    host         text   NOT NULL,
    what         text   NOT NULL,
    PRIMARY KEY (log, kafka_offset)
);

-- Where each host's chain stands.
CREATE TABLE chains (
    log       int    NOT NULL,
    host      text   NOT NULL,
    state     jsonb  NOT NULL,
    last_ms   bigint NOT NULL,                -- time of the host's latest record, Unix milliseconds
    PRIMARY KEY (log, host)
);

-- Paid calls whose outcome is not recorded: the leaf of their intent.
CREATE TABLE open_intents (
    log    int    NOT NULL,
    host   text   NOT NULL,
    call   text   NOT NULL,
    leaf   bigint NOT NULL,
    intent text   NOT NULL,
    PRIMARY KEY (log, host, call)
);

-- What each commit charged, by minute (UTC): what the view in Redis is made from. `upto` is the log's size after it.
CREATE TABLE charges (
    log            int    NOT NULL,
    upto           bigint NOT NULL,
    host           text   NOT NULL,
    agent          text   NOT NULL,
    provider       text   NOT NULL,
    model          text   NOT NULL,
    minute         text   NOT NULL,           -- 2026-11-24T10:05
    calls          bigint NOT NULL,
    nano           bigint NOT NULL,
    input          bigint NOT NULL,
    cache_read     bigint NOT NULL,
    cache_write_5m bigint NOT NULL,
    cache_write_1h bigint NOT NULL,
    output         bigint NOT NULL,
    reasoning      bigint NOT NULL,
    web_searches   bigint NOT NULL,
    charged_max    bigint NOT NULL,
    PRIMARY KEY (log, upto, host, agent, provider, model, minute)
);

-- What was charged to each budget window of each host, nano-USD.
CREATE TABLE totals (
    log    int    NOT NULL,
    host   text   NOT NULL,
    budget text   NOT NULL,
    scope  text   NOT NULL,
    "window" text NOT NULL,
    nano   bigint NOT NULL,
    PRIMARY KEY (log, host, budget, scope, "window")
);

-- Evidence is not changed by mistake, whoever is connected.
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;
DO $$
DECLARE
    kept text;
BEGIN
    FOREACH kept IN ARRAY ARRAY['hosts', 'retired', 'events', 'tiles', 'checkpoints', 'runs', 'incidents', 'charges'] LOOP
        EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION keep()', kept || '_keep', kept);
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION keep()', kept || '_stay', kept);
    END LOOP;
END $$;

-- The partition of events that leaf `leaf` is in. Made by whoever gets there first, with the owner's rights.
CREATE FUNCTION make_partition(leaf bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    n bigint := leaf >> 24;
    name text := 'events_' || n;
BEGIN
    IF to_regclass(name) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('caracal events'));
    IF to_regclass(name) IS NULL THEN
        EXECUTE format('CREATE TABLE %I PARTITION OF events FOR VALUES FROM (%s) TO (%s)', name, n << 24, (n + 1) << 24);
        -- No compression: a commit has no time for it.
        EXECUTE format('ALTER TABLE %I ALTER COLUMN data SET STORAGE EXTERNAL', name);
        -- Row triggers are inherited, this one is not.
        EXECUTE format('CREATE TRIGGER events_stay BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION keep()', name);
    END IF;
END $$;
SELECT make_partition(0);

-- Who may do what. The ledger's workers add evidence and move their own state; readers read.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'caracal_ledger') THEN
        CREATE ROLE caracal_ledger NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'caracal_reader') THEN
        CREATE ROLE caracal_reader NOLOGIN;
    END IF;
END $$;
REVOKE ALL ON FUNCTION make_partition(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_partition(bigint) TO caracal_ledger;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO caracal_reader, caracal_ledger;
GRANT INSERT ON logs, events, tiles, checkpoints, runs, incidents, chains, open_intents, charges, totals TO caracal_ledger;
GRANT UPDATE ON logs, chains, open_intents, totals TO caracal_ledger;
GRANT DELETE ON open_intents TO caracal_ledger;

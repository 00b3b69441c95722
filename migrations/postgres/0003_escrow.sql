-- Budgets that many hosts share: their limits, and which host has how much of each window. Amounts are nano-USD and totals of
-- a window. At all times sum(granted + lost) of a window's shares = its allotted <= limit.

-- What may be spent in one window of a budget. `caracald setup postgres` adds a row where the configuration says otherwise.
CREATE TABLE escrow_limits (
    budget  text   NOT NULL,
    version int    NOT NULL CHECK (version > 0),
    nano    bigint NOT NULL CHECK (nano >= 0),
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (budget, version)
);

-- Who has slices: one row for each state directory.
CREATE TABLE escrow_holders (
    holder   text   PRIMARY KEY,
    host     text   NOT NULL,                 -- for people
    epoch    bigint NOT NULL,                 -- raised by whoever takes the slices up: the one before it is fenced
    step     bigint NOT NULL,                 -- the last message that was taken
    lot      bigint NOT NULL,                 -- by which an opening that was heard already is known
    place    text   NOT NULL,                 -- machine, boot and directory
    until_ms bigint NOT NULL                  -- the lease, Unix milliseconds of this server's clock
);

-- One row for each window of a budget; it is locked by whoever changes a share of it.
CREATE TABLE escrow_windows (
    budget        text   NOT NULL,
    scope         text   NOT NULL,
    "window"      text   NOT NULL,
    ends          bigint,                     -- Unix nanoseconds; NULL: never
    allotted      bigint NOT NULL CHECK (allotted >= 0),
    spent         bigint NOT NULL CHECK (spent >= 0),
    hungry_holder text,                       -- who could not be served last, and when
    hungry_ms     bigint,
    PRIMARY KEY (budget, scope, "window")
);

-- What each holder has of each window.
CREATE TABLE escrow_shares (
    holder   text   NOT NULL REFERENCES escrow_holders,
    budget   text   NOT NULL,
    scope    text   NOT NULL,
    "window" text   NOT NULL,
    granted  bigint NOT NULL CHECK (granted >= 0),   -- all that it may spend
    settled  bigint NOT NULL CHECK (settled >= 0),   -- what it said is spent
    credited bigint NOT NULL CHECK (credited >= 0),  -- what it said corrections took off; both together only grow
    lost     bigint NOT NULL CHECK (lost >= 0),      -- what it had and knows nothing of any more: spent, for all that anybody can say
    PRIMARY KEY (holder, budget, scope, "window"),
    FOREIGN KEY (budget, scope, "window") REFERENCES escrow_windows
);

-- What went wrong. While one that halts was not accepted, nobody spends from a shared budget.
CREATE TABLE escrow_incidents (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    holder text   NOT NULL,
    halts  boolean NOT NULL,
    what   text   NOT NULL,
    at     timestamptz NOT NULL DEFAULT now()
);
-- Up to which incident an operator has looked, and on which server that was: one that was restored or promoted is another.
CREATE TABLE escrow_accepted (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    upto     bigint NOT NULL,
    system   text   NOT NULL,
    timeline text   NOT NULL,
    who      text   NOT NULL DEFAULT session_user,
    at       timestamptz NOT NULL DEFAULT now()
);

DO $$
DECLARE
    kept text;
BEGIN
    FOREACH kept IN ARRAY ARRAY['escrow_limits', 'escrow_incidents', 'escrow_accepted'] LOOP
        EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION keep()', kept || '_keep', kept);
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION keep()', kept || '_stay', kept);
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'caracal_host') THEN
        CREATE ROLE caracal_host NOLOGIN;
    END IF;
END $$;
-- A host moves its own state and tells of incidents. It raises no limit and accepts nothing.
GRANT SELECT ON escrow_limits, escrow_holders, escrow_windows, escrow_shares, escrow_incidents, escrow_accepted
    TO caracal_host, caracal_reader;
GRANT INSERT ON escrow_holders, escrow_windows, escrow_shares, escrow_incidents TO caracal_host;
GRANT UPDATE ON escrow_holders, escrow_windows, escrow_shares TO caracal_host;
GRANT DELETE ON escrow_windows, escrow_shares TO caracal_host;

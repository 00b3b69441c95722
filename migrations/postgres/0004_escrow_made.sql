-- What no dump carries, beside what was accepted: a database that was filled from one is not the one that an operator looked at,
-- though server and timeline are the same.
ALTER TABLE escrow_accepted
    ADD COLUMN made   bigint,  -- the transaction that wrote this row: it stays the row's xmin, and a copy of the row has another
    ADD COLUMN tables text;    -- the tables' own numbers: one that was made anew has another
-- Nobody has looked at anything new.
INSERT INTO escrow_accepted (upto, system, timeline, made, tables)
    SELECT upto, system, timeline, txid_current(),
        concat_ws(' ', 'escrow_holders'::regclass::oid, 'escrow_windows'::regclass::oid, 'escrow_shares'::regclass::oid)
    FROM escrow_accepted ORDER BY id DESC LIMIT 1;

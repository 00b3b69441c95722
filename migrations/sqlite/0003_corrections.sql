-- What corrections took off, and bytes, beside what was there: sums that only grow.
ALTER TABLE totals ADD COLUMN credited INTEGER NOT NULL DEFAULT 0;
ALTER TABLE spend ADD COLUMN credited INTEGER NOT NULL DEFAULT 0;
ALTER TABLE spend ADD COLUMN sent INTEGER NOT NULL DEFAULT 0;
ALTER TABLE spend ADD COLUMN received INTEGER NOT NULL DEFAULT 0;

-- Corrections of charges: no charge goes below nothing.
CREATE TABLE corrections (
    leaf     INTEGER PRIMARY KEY,             -- of the correction's record
    call     TEXT NOT NULL,
    nano     INTEGER NOT NULL,                -- what it adds to the charge
    sequence INTEGER NOT NULL                 -- of the outcome that charged the call
) STRICT;
CREATE INDEX corrections_call ON corrections (call);

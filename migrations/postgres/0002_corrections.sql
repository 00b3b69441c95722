-- What corrections took off, and bytes, beside what was there: sums that only grow.
ALTER TABLE totals ADD COLUMN credited bigint NOT NULL DEFAULT 0;
ALTER TABLE charges ADD COLUMN credited bigint NOT NULL DEFAULT 0;
ALTER TABLE charges ADD COLUMN sent bigint NOT NULL DEFAULT 0;
ALTER TABLE charges ADD COLUMN received bigint NOT NULL DEFAULT 0;

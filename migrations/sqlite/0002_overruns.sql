-- Bills above their holds: the price book's entry that cannot be right, by its hash. It is refused until it changes.
CREATE TABLE overruns (
    provider TEXT NOT NULL,
    model    TEXT NOT NULL,
    entry    TEXT NOT NULL,
    PRIMARY KEY (provider, model, entry)
) STRICT, WITHOUT ROWID;

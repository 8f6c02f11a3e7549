-- Where sandboxes were ever made, so that a change of runtime still finds what was left there.
CREATE TABLE endpoints (
    endpoint   TEXT PRIMARY KEY,
    first_used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What was found changed from outside, and what became of it.
CREATE TABLE drift (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    what   TEXT NOT NULL,
    text   TEXT NOT NULL,
    mended INTEGER NOT NULL CHECK (mended IN (0, 1))
) STRICT;

-- Groups that the operator holds until they are let go.
CREATE TABLE holds (
    group_name TEXT PRIMARY KEY,
    since      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

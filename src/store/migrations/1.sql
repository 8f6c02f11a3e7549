-- Times are milliseconds since 1970. `grp` is a group: `group` is a word of SQL.

CREATE TABLE generations (
    number   INTEGER PRIMARY KEY,
    parent   INTEGER,
    at       INTEGER NOT NULL,
    digest   TEXT NOT NULL,
    manifest TEXT NOT NULL,
    specs    TEXT NOT NULL,
    plan     TEXT NOT NULL,
    approved TEXT NOT NULL,
    tool     TEXT NOT NULL,
    outcome  TEXT NOT NULL CHECK (outcome IN ('applied', 'partial'))
) STRICT;

CREATE TABLE turns (
    id            TEXT PRIMARY KEY,
    grp           TEXT NOT NULL,
    state         TEXT NOT NULL
                  CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    channel       TEXT NOT NULL,
    chat          TEXT NOT NULL,
    created_at    INTEGER NOT NULL,
    started_at    INTEGER,
    ended_at      INTEGER,
    attempts      INTEGER NOT NULL DEFAULT 0,
    failure       TEXT,
    journal_bytes INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- At most one turn of a group is under way.
CREATE UNIQUE INDEX turns_open ON turns (grp) WHERE state IN ('queued', 'running');

CREATE TABLE messages (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    channel     TEXT NOT NULL,
    chat        TEXT NOT NULL,
    message_id  TEXT NOT NULL,
    grp         TEXT NOT NULL,
    sender      TEXT NOT NULL,
    text        TEXT NOT NULL,
    sent_at     INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    wakes       INTEGER NOT NULL CHECK (wakes IN (0, 1)),
    turn        TEXT REFERENCES turns (id),
    UNIQUE (channel, chat, message_id)
) STRICT;

CREATE INDEX messages_waiting ON messages (grp, wakes) WHERE turn IS NULL;
CREATE INDEX messages_turn ON messages (turn);

CREATE TABLE turn_rounds (
    turn    TEXT NOT NULL REFERENCES turns (id),
    round   INTEGER NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (turn, round)
) STRICT;

CREATE TABLE turn_calls (
    turn      TEXT NOT NULL,
    round     INTEGER NOT NULL,
    idx       INTEGER NOT NULL,
    tool      TEXT NOT NULL,
    arguments TEXT NOT NULL,
    state     TEXT NOT NULL CHECK (state IN ('begun', 'ended')),
    result    TEXT,
    began_at  INTEGER NOT NULL,
    ended_at  INTEGER,
    PRIMARY KEY (turn, round, idx),
    FOREIGN KEY (turn, round) REFERENCES turn_rounds (turn, round),
    CHECK ((state = 'ended') = (result IS NOT NULL))
) STRICT;

CREATE TABLE outbox (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    turn          TEXT REFERENCES turns (id),
    kind          TEXT NOT NULL CHECK (kind IN ('reply', 'notice', 'message')),
    channel       TEXT NOT NULL,
    chat          TEXT NOT NULL,
    text          TEXT NOT NULL,
    state         TEXT NOT NULL
                  CHECK (state IN ('pending', 'sending', 'delivered', 'uncertain', 'failed')),
    attempts      INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,
    failure       TEXT,
    created_at    INTEGER NOT NULL,
    delivered_at  INTEGER
) STRICT;

-- Exactly one reply is stored for a turn, and at most one notice that it failed.
CREATE UNIQUE INDEX outbox_reply ON outbox (turn) WHERE kind = 'reply';
CREATE UNIQUE INDEX outbox_notice ON outbox (turn) WHERE kind = 'notice';
CREATE INDEX outbox_turn ON outbox (turn);
CREATE INDEX outbox_open ON outbox (channel) WHERE state IN ('pending', 'sending', 'uncertain');
CREATE INDEX outbox_failed ON outbox (id) WHERE state = 'failed';

CREATE TABLE usage (
    id                INTEGER PRIMARY KEY,
    turn              TEXT REFERENCES turns (id),
    grp               TEXT NOT NULL,
    model             TEXT NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    duration_ms       INTEGER NOT NULL,
    outcome           TEXT NOT NULL CHECK (outcome IN ('answered', 'failed', 'cancelled')),
    at                INTEGER NOT NULL
) STRICT;

CREATE INDEX usage_turn ON usage (turn);

CREATE TABLE sandboxes (
    grp         TEXT NOT NULL,
    incarnation TEXT PRIMARY KEY,
    pid         INTEGER NOT NULL,
    start_time  INTEGER NOT NULL,
    boot_id     TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX sandboxes_open ON sandboxes (started_at) WHERE ended_at IS NULL;
CREATE INDEX sandboxes_ended ON sandboxes (ended_at) WHERE ended_at IS NOT NULL;

-- What agents asked for, by identifier, and what came of it: a post, or none where there were too many.
CREATE TABLE requests (
    grp TEXT NOT NULL,
    id TEXT NOT NULL,
    turn TEXT NOT NULL,
    at INTEGER NOT NULL,
    post INTEGER,
    PRIMARY KEY (grp, id)
) WITHOUT ROWID;

CREATE INDEX requests_of_turn ON requests (turn, grp, post);
CREATE INDEX requests_by_age ON requests (grp, at, post);

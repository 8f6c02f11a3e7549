-- Who wrote a message and in which thread of its chat, and what came with it.
ALTER TABLE messages ADD COLUMN thread TEXT;
ALTER TABLE messages ADD COLUMN sender_id TEXT;
ALTER TABLE messages ADD COLUMN details TEXT;

CREATE INDEX messages_conversation ON messages (grp, channel, chat, thread, sender_id, wakes)
    WHERE turn IS NULL;

-- Where a turn comes from, where its reply goes, and in which session it runs.
ALTER TABLE turns ADD COLUMN source TEXT NOT NULL DEFAULT 'message'
    CHECK (source IN ('message', 'schedule', 'request', 'delegate'));
ALTER TABLE turns ADD COLUMN destination TEXT NOT NULL DEFAULT 'chat'
    CHECK (destination IN ('chat', 'nobody', 'turn'));
ALTER TABLE turns ADD COLUMN thread TEXT;
ALTER TABLE turns ADD COLUMN recipient TEXT;
ALTER TABLE turns ADD COLUMN asking_turn TEXT;
ALTER TABLE turns ADD COLUMN session TEXT;

-- Whom a post answers, when it is tried next, and what its service calls it.
ALTER TABLE outbox ADD COLUMN thread TEXT;
ALTER TABLE outbox ADD COLUMN recipient TEXT;
ALTER TABLE outbox ADD COLUMN next_attempt INTEGER;
ALTER TABLE outbox ADD COLUMN service_id TEXT;

DROP INDEX outbox_open;
-- Of what is open, the first of each thread is found without its text.
CREATE INDEX outbox_open ON outbox (channel, chat, thread, id, recipient, state, next_attempt)
    WHERE state IN ('pending', 'sending', 'uncertain');
CREATE INDEX outbox_sent ON outbox (channel, chat, id) WHERE state = 'delivered';
CREATE INDEX outbox_sending ON outbox (id) WHERE state = 'sending';

-- Programs read the posts of a chat, whatever became of their sending.
DROP INDEX outbox_sent;
CREATE INDEX outbox_chat ON outbox (channel, chat, id);

//! Messages as channels deliver them: each stored once, before anything acts on it.

use rusqlite::{Connection, OptionalExtension as _, Row, named_params};
use serde_json::Value;

use super::conversation::Conversation;
use super::error::{CommandError, StoreError, check_size};
use super::open::{Reader, Store};
use super::rows;
use super::state::MessageSeq;
use crate::clock::Timestamp;
use crate::name::{ChannelName, ChatId, GroupName, MessageId, SenderId, ThreadId, TurnId};

/// Longest text of a message, in bytes.
pub const MESSAGE_TEXT_MAX: usize = 64 << 10;

/// Longest name of a sender, in bytes.
pub const SENDER_LENGTH_MAX: usize = 1 << 10;

/// The most that is kept of what came with a message, in bytes.
pub const MESSAGE_DETAILS_MAX: usize = 64 << 10;

/// Messages of a turn that did not wake the agent: the newest ones are its context.
pub const TURN_CONTEXT_MAX: u32 = 1_000;

/// Waiting messages that are returned at a time.
pub const WAITING_MAX: u32 = 1_000;

/// A message as a channel hands it over.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming {
    /// The channel it came through.
    pub channel: ChannelName,
    /// The chat it was written in.
    pub chat: ChatId,
    /// The thread within that chat, where it has some.
    pub thread: Option<ThreadId>,
    /// What the channel calls it; unique within channel and chat.
    pub message_id: MessageId,
    /// The group it is routed to.
    pub group: GroupName,
    /// Who wrote it, as the channel knows them; `None` in what was stored before that was kept.
    pub sender_id: Option<SenderId>,
    /// Who wrote it, as the channel shows it.
    pub sender: String,
    /// What was written.
    pub text: String,
    /// What came with it.
    pub details: Option<Value>,
    /// When it was written.
    pub sent_at: Timestamp,
    /// When it arrived here.
    pub received_at: Timestamp,
    /// Whether it asks for an answer; the others are context for later ones.
    pub wakes: bool,
}

/// What became of a message that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its position.
    pub seq: MessageSeq,
    /// Whether it is new; `false` for one that was delivered before.
    pub fresh: bool,
}

/// A stored message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its position.
    pub seq: MessageSeq,
    /// What the channel handed over.
    pub incoming: Incoming,
    /// The turn that answers it, or has.
    pub turn: Option<TurnId>,
}

const INSERT: &str = "INSERT INTO messages
        (channel, chat, thread, message_id, grp, sender_id, sender, text, details, sent_at,
         received_at, wakes)
    VALUES (:channel, :chat, :thread, :message_id, :grp, :sender_id, :sender, :text, :details,
        :sent_at, :received_at, :wakes)";

pub(super) const FIND: &str = "SELECT seq FROM messages
    WHERE channel = :channel AND chat = :chat AND message_id = :message_id";

pub(super) const OF_TURN: &str = "SELECT * FROM messages
    WHERE turn = :turn AND (wakes = 1 OR seq IN (
        SELECT seq FROM messages WHERE turn = :turn AND wakes = 0 ORDER BY seq DESC LIMIT :context))
    ORDER BY seq";

pub(super) const WAITING: &str = "SELECT * FROM messages INDEXED BY messages_waiting
    WHERE turn IS NULL AND grp = :grp AND wakes = :wakes ORDER BY seq LIMIT :limit";

pub(super) const WAITING_IN: &str = "SELECT * FROM messages INDEXED BY messages_conversation
    WHERE turn IS NULL AND grp = :grp AND channel = :channel AND chat = :chat
        AND thread IS :thread AND sender_id IS :sender AND wakes = 1
    ORDER BY seq LIMIT :limit";

impl Store {
    /// Stores a message. One that was stored before (same channel, chat and
    /// message id) changes nothing, whatever else it says now.
    ///
    /// # Errors
    /// The text is larger than [`MESSAGE_TEXT_MAX`], the sender's name longer
    /// than [`SENDER_LENGTH_MAX`], or it could not be written.
    pub async fn accept(&self, incoming: Incoming) -> Result<Accepted, StoreError> {
        check_size("the text of a message", incoming.text.len(), MESSAGE_TEXT_MAX)?;
        check_size("the name of a sender", incoming.sender.len(), SENDER_LENGTH_MAX)?;
        let details = incoming.details.as_ref().map(rows::to_json);
        let size = details.as_ref().map_or(0, String::len);
        check_size("quote and attachments of a message", size, MESSAGE_DETAILS_MAX)?;
        self.call(move |connection| accept(connection, &incoming, details.as_deref())).await
    }

    /// The group's messages that wait for a turn and ask for one, oldest
    /// first, at most [`WAITING_MAX`] of them.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn waiting(&self, group: &GroupName) -> Result<Vec<Message>, StoreError> {
        let group = group.clone();
        self.read(move |connection| {
            let params = named_params! {
                ":grp": group.as_str(), ":wakes": true, ":limit": WAITING_MAX
            };
            let mut statement = connection.prepare_cached(WAITING)?;
            Ok(statement.query_map(params, message)?.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// As [`Store::waiting`], of one conversation: what its turn under way may be steered with.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn waiting_in(
        &self,
        group: &GroupName,
        conversation: &Conversation,
    ) -> Result<Vec<Message>, StoreError> {
        let (group, conversation) = (group.clone(), conversation.clone());
        self.read(move |connection| waiting_in(connection, &group, &conversation)).await
    }

    /// The messages of a turn, oldest first: all that ask for an answer and
    /// the newest [`TURN_CONTEXT_MAX`] of the others.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn turn_messages(&self, turn: &TurnId) -> Result<Vec<Message>, StoreError> {
        let turn = turn.clone();
        self.read(move |connection| of_turn(connection, &turn)).await
    }
}

impl Reader {
    /// As [`Store::turn_messages`].
    ///
    /// # Errors
    /// They could not be read.
    pub fn turn_messages(&self, turn: &TurnId) -> Result<Vec<Message>, StoreError> {
        self.ask_current(|connection| of_turn(connection, turn))
    }
}

fn accept(
    connection: &Connection,
    incoming: &Incoming,
    details: Option<&str>,
) -> Result<Accepted, CommandError> {
    let known: Option<i64> = connection
        .prepare_cached(FIND)?
        .query_row(
            named_params! {
                ":channel": incoming.channel.as_str(),
                ":chat": incoming.chat.as_str(),
                ":message_id": incoming.message_id.as_str(),
            },
            |row| row.get(0),
        )
        .optional()?;
    if let Some(seq) = known {
        return Ok(Accepted { seq: MessageSeq(seq), fresh: false });
    }
    connection.prepare_cached(INSERT)?.execute(named_params! {
        ":channel": incoming.channel.as_str(),
        ":chat": incoming.chat.as_str(),
        ":thread": incoming.thread.as_ref().map(ThreadId::as_str),
        ":message_id": incoming.message_id.as_str(),
        ":grp": incoming.group.as_str(),
        ":sender_id": incoming.sender_id.as_ref().map(SenderId::as_str),
        ":sender": incoming.sender,
        ":text": incoming.text,
        ":details": details,
        ":sent_at": incoming.sent_at.0,
        ":received_at": incoming.received_at.0,
        ":wakes": incoming.wakes,
    })?;
    Ok(Accepted { seq: MessageSeq(connection.last_insert_rowid()), fresh: true })
}

pub(super) fn waiting_in(
    connection: &Connection,
    group: &GroupName,
    conversation: &Conversation,
) -> Result<Vec<Message>, CommandError> {
    let mut statement = connection.prepare_cached(WAITING_IN)?;
    let messages = statement.query_map(
        named_params! {
            ":grp": group.as_str(),
            ":channel": conversation.channel.as_str(),
            ":chat": conversation.chat.as_str(),
            ":thread": conversation.thread.as_ref().map(ThreadId::as_str),
            ":sender": conversation.sender.as_ref().map(SenderId::as_str),
            ":limit": WAITING_MAX,
        },
        message,
    )?;
    Ok(messages.collect::<Result<_, _>>()?)
}

pub(super) fn of_turn(
    connection: &Connection,
    turn: &TurnId,
) -> Result<Vec<Message>, CommandError> {
    let mut statement = connection.prepare_cached(OF_TURN)?;
    let messages = statement.query_map(
        named_params! { ":turn": turn.as_str(), ":context": TURN_CONTEXT_MAX },
        message,
    )?;
    Ok(messages.collect::<Result<_, _>>()?)
}

fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    let at = Conversation::of_row(row, "sender_id")?;
    let details: Option<String> = row.get("details")?;
    Ok(Message {
        seq: MessageSeq(row.get("seq")?),
        incoming: Incoming {
            channel: at.channel,
            chat: at.chat,
            thread: at.thread,
            message_id: rows::name(row, "message_id")?,
            group: rows::name(row, "grp")?,
            sender_id: at.sender,
            sender: row.get("sender")?,
            text: row.get("text")?,
            details: details.map(|_| rows::json(row, "details")).transpose()?,
            sent_at: rows::moment(row, "sent_at")?,
            received_at: rows::moment(row, "received_at")?,
            wakes: row.get("wakes")?,
        },
        turn: rows::name_maybe(row, "turn")?,
    })
}

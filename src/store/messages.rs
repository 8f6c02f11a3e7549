//! Messages as channels deliver them: each stored once, before anything acts on it.

use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::{CommandError, Reader, Store, StoreError, check_size, rows, turns};
use crate::clock::Timestamp;
use crate::name::{ChannelName, ChatId, GroupName, MessageId, TurnId};

/// Longest text of a message, in bytes.
pub const MESSAGE_TEXT_MAX: usize = 64 << 10;

/// Longest name of a sender, in bytes.
pub const SENDER_LENGTH_MAX: usize = 1 << 10;

/// Messages of a turn that did not wake the agent: the newest ones are its context.
pub const TURN_CONTEXT_MAX: u32 = 1_000;

/// Waiting messages that are returned at a time.
pub const WAITING_MAX: u32 = 1_000;

/// The position of a message in the order in which messages were stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageSeq(pub i64);

/// A message as a channel hands it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The channel it came through.
    pub channel: ChannelName,
    /// The chat it was written in.
    pub chat: ChatId,
    /// What the channel calls it; unique within channel and chat.
    pub message_id: MessageId,
    /// The group it is routed to.
    pub group: GroupName,
    /// Who wrote it, as the channel shows it.
    pub sender: String,
    /// What was written.
    pub text: String,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its position.
    pub seq: MessageSeq,
    /// What the channel handed over.
    pub incoming: Incoming,
    /// The turn that answers it, or has.
    pub turn: Option<TurnId>,
}

const INSERT: &str = "INSERT INTO messages
        (channel, chat, message_id, grp, sender, text, sent_at, received_at, wakes)
    VALUES (:channel, :chat, :message_id, :grp, :sender, :text, :sent_at, :received_at, :wakes)";

pub(super) const FIND: &str = "SELECT seq FROM messages
    WHERE channel = :channel AND chat = :chat AND message_id = :message_id";

pub(super) const OF_TURN: &str = "SELECT * FROM messages
    WHERE turn = :turn AND (wakes = 1 OR seq IN (
        SELECT seq FROM messages WHERE turn = :turn AND wakes = 0 ORDER BY seq DESC LIMIT :context))
    ORDER BY seq";

pub(super) const WAITING: &str = "SELECT * FROM messages
    WHERE turn IS NULL AND grp = :grp AND wakes = :wakes ORDER BY seq LIMIT :limit";

pub(super) const ATTACH: &str = "UPDATE messages SET turn = :turn
    WHERE seq = :seq AND turn IS NULL AND grp = :grp
        AND (wakes = 0 OR (channel = :channel AND chat = :chat))";

pub(super) const DETACH: &str = "UPDATE messages SET turn = NULL WHERE seq = :seq AND turn = :turn";

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
        self.call(move |connection| accept(connection, &incoming)).await
    }

    /// The group's messages that wait for a turn and ask for one, oldest
    /// first, at most [`WAITING_MAX`] of them: what a turn under way may be
    /// steered with.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn waiting(&self, group: &GroupName) -> Result<Vec<Message>, StoreError> {
        let group = group.clone();
        self.call(move |connection| waiting(connection, &group)).await
    }

    /// The groups that have a message which waits and asks for a turn. For
    /// the start of a controller: a stop may have come before their turn was opened.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn waiting_groups(&self) -> Result<Vec<GroupName>, StoreError> {
        self.call(waiting_groups).await
    }

    /// Gives waiting messages to a turn under way that they steer, and returns
    /// how many. Those that are not waiting, are another group's, or ask in
    /// another chat than the turn's reply goes to stay as they are.
    ///
    /// # Errors
    /// There is no such turn, or it has ended.
    pub async fn attach(&self, turn: &TurnId, seqs: &[MessageSeq]) -> Result<usize, StoreError> {
        let (turn, seqs) = (turn.clone(), seqs.to_vec());
        self.call(move |connection| attach(connection, &turn, &seqs)).await
    }

    /// Lets messages wait again that came too late to steer their turn, and
    /// returns how many. To be done before the turn ends where that can be
    /// chosen: a crash between its end and this would leave them unanswered.
    ///
    /// # Errors
    /// There is no such turn, or it could not be written.
    pub async fn detach(&self, turn: &TurnId, seqs: &[MessageSeq]) -> Result<usize, StoreError> {
        let (turn, seqs) = (turn.clone(), seqs.to_vec());
        self.call(move |connection| detach(connection, &turn, &seqs)).await
    }

    /// The messages of a turn, oldest first: all that ask for an answer and
    /// the newest [`TURN_CONTEXT_MAX`] of the others.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn turn_messages(&self, turn: &TurnId) -> Result<Vec<Message>, StoreError> {
        let turn = turn.clone();
        self.call(move |connection| of_turn(connection, &turn)).await
    }
}

impl Reader {
    /// As [`Store::turn_messages`].
    ///
    /// # Errors
    /// They could not be read.
    pub fn turn_messages(&self, turn: &TurnId) -> Result<Vec<Message>, StoreError> {
        self.ask(|connection| of_turn(connection, turn))
    }
}

fn accept(connection: &Connection, incoming: &Incoming) -> Result<Accepted, CommandError> {
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
    insert(connection, incoming)?;
    Ok(Accepted { seq: MessageSeq(connection.last_insert_rowid()), fresh: true })
}

fn insert(connection: &Connection, incoming: &Incoming) -> rusqlite::Result<usize> {
    connection.prepare_cached(INSERT)?.execute(named_params! {
        ":channel": incoming.channel.as_str(),
        ":chat": incoming.chat.as_str(),
        ":message_id": incoming.message_id.as_str(),
        ":grp": incoming.group.as_str(),
        ":sender": incoming.sender,
        ":text": incoming.text,
        ":sent_at": incoming.sent_at.0,
        ":received_at": incoming.received_at.0,
        ":wakes": incoming.wakes,
    })
}

fn attach(
    connection: &Connection,
    turn: &TurnId,
    seqs: &[MessageSeq],
) -> Result<usize, CommandError> {
    let turn = turns::under_way(connection, turn)?;
    let mut statement = connection.prepare_cached(ATTACH)?;
    let mut count = 0;
    for seq in seqs {
        count += statement.execute(named_params! {
            ":turn": turn.id.as_str(),
            ":seq": seq.0,
            ":grp": turn.group.as_str(),
            ":channel": turn.channel.as_str(),
            ":chat": turn.chat.as_str(),
        })?;
    }
    Ok(count)
}

fn detach(
    connection: &Connection,
    turn: &TurnId,
    seqs: &[MessageSeq],
) -> Result<usize, CommandError> {
    turns::find(connection, turn)?;
    let mut statement = connection.prepare_cached(DETACH)?;
    let mut count = 0;
    for seq in seqs {
        count += statement.execute(named_params! { ":turn": turn.as_str(), ":seq": seq.0 })?;
    }
    Ok(count)
}

fn waiting(connection: &Connection, group: &GroupName) -> Result<Vec<Message>, CommandError> {
    let mut statement = connection.prepare_cached(WAITING)?;
    let messages = statement.query_map(
        named_params! { ":grp": group.as_str(), ":wakes": true, ":limit": WAITING_MAX },
        message,
    )?;
    Ok(messages.collect::<Result<_, _>>()?)
}

/// Whether a message of the group asks for a turn and has none.
pub(super) fn waits(connection: &Connection, group: &GroupName) -> Result<bool, CommandError> {
    let mut statement = connection.prepare_cached(WAITING)?;
    let params = named_params! { ":grp": group.as_str(), ":wakes": true, ":limit": 1 };
    Ok(statement.exists(params)?)
}

fn waiting_groups(connection: &Connection) -> Result<Vec<GroupName>, CommandError> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT grp FROM messages WHERE turn IS NULL AND wakes = 1 ORDER BY grp",
    )?;
    let groups = statement.query_map([], |row| rows::name(row, "grp"))?;
    Ok(groups.collect::<Result<_, _>>()?)
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
    Ok(Message {
        seq: MessageSeq(row.get("seq")?),
        incoming: Incoming {
            channel: rows::name(row, "channel")?,
            chat: rows::name(row, "chat")?,
            message_id: rows::name(row, "message_id")?,
            group: rows::name(row, "grp")?,
            sender: row.get("sender")?,
            text: row.get("text")?,
            sent_at: rows::moment(row, "sent_at")?,
            received_at: rows::moment(row, "received_at")?,
            wakes: row.get("wakes")?,
        },
        turn: rows::name_maybe(row, "turn")?,
    })
}

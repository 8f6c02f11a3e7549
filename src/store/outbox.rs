//! What goes out to chats: stored before it is sent. How it is sent is in `delivery`.

use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::conversation::{Conversation, Destination};
use super::error::{CommandError, StoreError, check_size};
use super::open::{Reader, Store};
use super::rows;
use super::state::{OutboxId, PostKind, PostState};
use super::turn::{self, Turn};
use crate::clock::Timestamp;
use crate::name::{MessageId, SenderId, ThreadId, TurnId};

/// Longest text of one entry, in bytes.
pub const REPLY_TEXT_MAX: usize = 256 << 10;

/// An entry to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPost {
    /// The turn it is part of, if it is part of one.
    pub turn: Option<TurnId>,
    /// Where it goes.
    pub to: Conversation,
    /// What it says.
    pub text: String,
}

/// An entry of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// Its number, in the order of sending.
    pub id: OutboxId,
    /// The turn it is part of.
    pub turn: Option<TurnId>,
    /// What it is for.
    pub kind: PostKind,
    /// Where it goes, and whom it answers.
    pub to: Conversation,
    /// What it says.
    pub text: String,
    /// Where it stands.
    pub state: PostState,
    /// How often it was handed to the channel.
    pub attempts: u32,
    /// How often nobody could tell what became of that.
    pub interruptions: u32,
    /// What the channel said last, if it refused.
    pub failure: Option<String>,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When it is tried next, where that is not at once.
    pub next_attempt: Option<Timestamp>,
    /// When the channel had it.
    pub delivered_at: Option<Timestamp>,
    /// What the service calls it, where it says.
    pub service_id: Option<MessageId>,
}

const INSERT: &str = "INSERT INTO outbox
        (turn, kind, channel, chat, thread, recipient, text, state, created_at)
    VALUES (:turn, :kind, :channel, :chat, :thread, :recipient, :text, 'pending', :at)";

pub(super) const FIND: &str = "SELECT * FROM outbox WHERE id = :id";

pub(super) const OF_TURN: &str = "SELECT * FROM outbox WHERE turn = :turn ORDER BY id";

impl Store {
    /// Adds an entry that is neither the reply of a turn nor its notice.
    ///
    /// # Errors
    /// The text is larger than [`REPLY_TEXT_MAX`], there is no such turn, or
    /// it could not be written.
    pub async fn post(&self, post: NewPost, at: Timestamp) -> Result<OutboxId, StoreError> {
        check_size("a message to a chat", post.text.len(), REPLY_TEXT_MAX)?;
        let post = self.call(move |connection| {
            if let Some(turn) = &post.turn {
                turn::find(connection, turn)?;
            }
            put(connection, PostKind::Message, &post, at)
        });
        let post = post.await?;
        self.tell_of_post();
        Ok(post)
    }
}

impl Store {
    /// As [`Reader::posts_of`].
    ///
    /// # Errors
    /// It could not be read.
    pub async fn posts_of(&self, turn: &TurnId) -> Result<Vec<Post>, StoreError> {
        let turn = turn.clone();
        self.read(move |connection| of_turn(connection, &turn)).await
    }
}

impl Reader {
    /// What a turn has put into the outbox, oldest first.
    ///
    /// # Errors
    /// It could not be read.
    pub fn posts_of(&self, turn: &TurnId) -> Result<Vec<Post>, StoreError> {
        self.ask_current(|connection| of_turn(connection, turn))
    }
}

/// Adds the one entry of this kind that a turn has, or returns the one it has; `None` where its
/// reply goes to no chat.
pub(super) fn put_once(
    connection: &Connection,
    turn: &Turn,
    kind: PostKind,
    text: &str,
    at: Timestamp,
) -> Result<Option<OutboxId>, CommandError> {
    let Destination::Chat(to) = &turn.destination else { return Ok(None) };
    let known = of_turn(connection, &turn.id)?.into_iter().find(|post| post.kind == kind);
    if let Some(known) = known {
        return Ok(Some(known.id));
    }
    let post = NewPost { turn: Some(turn.id.clone()), to: to.clone(), text: text.to_owned() };
    put(connection, kind, &post, at).map(Some)
}

pub(super) fn put(
    connection: &Connection,
    kind: PostKind,
    post: &NewPost,
    at: Timestamp,
) -> Result<OutboxId, CommandError> {
    connection.prepare_cached(INSERT)?.execute(named_params! {
        ":turn": post.turn.as_ref().map(TurnId::as_str),
        ":kind": kind.word(),
        ":channel": post.to.channel.as_str(),
        ":chat": post.to.chat.as_str(),
        ":thread": post.to.thread.as_ref().map(ThreadId::as_str),
        ":recipient": post.to.sender.as_ref().map(SenderId::as_str),
        ":text": post.text,
        ":at": at.0,
    })?;
    Ok(OutboxId(connection.last_insert_rowid()))
}

/// The entry with this number.
pub(super) fn find(connection: &Connection, id: OutboxId) -> Result<Post, CommandError> {
    connection
        .prepare_cached(FIND)?
        .query_row(named_params! { ":id": id.0 }, post)
        .optional()?
        .ok_or_else(|| StoreError::UnknownPost { id }.into())
}

fn of_turn(connection: &Connection, turn: &TurnId) -> Result<Vec<Post>, CommandError> {
    let mut statement = connection.prepare_cached(OF_TURN)?;
    let posts = statement.query_map(named_params! { ":turn": turn.as_str() }, post)?;
    Ok(posts.collect::<Result<_, _>>()?)
}

/// An entry out of its row.
pub(super) fn post(row: &Row<'_>) -> rusqlite::Result<Post> {
    Ok(Post {
        id: OutboxId(row.get("id")?),
        turn: rows::name_maybe(row, "turn")?,
        kind: PostKind::of_row(row, "kind")?,
        to: Conversation::of_row(row, "recipient")?,
        text: row.get("text")?,
        state: PostState::of_row(row, "state")?,
        attempts: rows::count(row, "attempts")?,
        interruptions: rows::count(row, "interruptions")?,
        failure: row.get("failure")?,
        created_at: rows::moment(row, "created_at")?,
        next_attempt: rows::moment_maybe(row, "next_attempt")?,
        delivered_at: rows::moment_maybe(row, "delivered_at")?,
        service_id: rows::name_maybe(row, "service_id")?,
    })
}

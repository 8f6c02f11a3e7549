//! What goes out to chats: stored before it is sent, sent at least once.
//!
//! ```text
//! pending ─► sending ─► delivered
//!    ▲        │  │ └──► failed
//!    └────────┘  └────► uncertain ─► sending …   (a crash in between)
//! ```

use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::rows::{self, words};
use super::turns::{self, Turn};
use super::{CommandError, Reader, Store, StoreError, check_size, messages};
use crate::clock::Timestamp;
use crate::name::{ChannelName, ChatId, GroupName, TurnId};

/// Longest text of one entry, in bytes.
pub const REPLY_TEXT_MAX: usize = 256 << 10;

/// Entries that are returned at a time.
pub const OUTBOX_DUE_MAX: u32 = 100;

/// How often an entry is sent that the channel refuses, before it has failed.
pub const OUTBOX_ATTEMPTS_MAX: u32 = 5;

/// How often sending may be cut off by a crash, before the entry has failed:
/// after the first time it is sent once more, after the second it is shown.
pub const OUTBOX_INTERRUPTIONS_MAX: u32 = 2;

/// The number of an entry of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxId(pub i64);

impl std::fmt::Display for OutboxId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PostKind {
    /// The answer of a turn; a turn has exactly one.
    Reply,
    /// That a turn has failed; a turn has at most one.
    Notice,
    /// Anything else, such as what an agent says while it works.
    Message,
}

words!(PostKind { Reply = "reply", Notice = "notice", Message = "message" });

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PostState {
    /// To be sent.
    Pending,
    /// Handed to the channel.
    Sending,
    /// The channel has it.
    Delivered,
    /// A crash came while it was sent: it may have been delivered, and is sent once more.
    Uncertain,
    /// Given up.
    Failed,
}

words!(PostState {
    Pending = "pending",
    Sending = "sending",
    Delivered = "delivered",
    Uncertain = "uncertain",
    Failed = "failed",
});

/// An entry to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPost {
    /// The turn it is part of, if it is part of one.
    pub turn: Option<TurnId>,
    /// The channel it goes to.
    pub channel: ChannelName,
    /// The chat it goes to.
    pub chat: ChatId,
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
    /// The channel it goes to.
    pub channel: ChannelName,
    /// The chat it goes to.
    pub chat: ChatId,
    /// What it says.
    pub text: String,
    /// Where it stands.
    pub state: PostState,
    /// How often it was handed to the channel.
    pub attempts: u32,
    /// How often a crash cut that off.
    pub interruptions: u32,
    /// What the channel said last, if it refused.
    pub failure: Option<String>,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When the channel had it.
    pub delivered_at: Option<Timestamp>,
}

/// What is not settled yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// What is to be sent to the chat, as [`Store::due`] has it.
    pub due: Vec<Post>,
    /// Whether the group has a message that asks for an answer and waits, or a turn that has not
    /// ended.
    pub open: bool,
}

const INSERT: &str = "INSERT INTO outbox (turn, kind, channel, chat, text, state, created_at)
    VALUES (:turn, :kind, :channel, :chat, :text, 'pending', :at)";

pub(super) const FIND: &str = "SELECT * FROM outbox WHERE id = :id";

pub(super) const OF_TURN: &str = "SELECT * FROM outbox WHERE turn = :turn ORDER BY id";

// The first condition is the index's own; the second leaves out what is under
// way. Left to choose, SQLite reads all that was ever sent, in order of `id`.
pub(super) const DUE: &str = "SELECT * FROM outbox INDEXED BY outbox_open
    WHERE state IN ('pending', 'sending', 'uncertain') AND state <> 'sending' AND channel = :channel
    ORDER BY id LIMIT :limit";

/// The same for one chat, which what is due in others must not push out of the limit.
pub(super) const DUE_IN_CHAT: &str = "SELECT * FROM outbox INDEXED BY outbox_open
    WHERE state IN ('pending', 'sending', 'uncertain') AND state <> 'sending' AND channel = :channel
        AND chat = :chat
    ORDER BY id LIMIT :limit";

pub(super) const MOVE: &str = "UPDATE outbox SET
        state = :state,
        attempts = attempts + (:state = 'sending'),
        failure = :failure,
        delivered_at = CASE WHEN :state = 'delivered' THEN :at END
    WHERE id = :id";

const RECOVER: &str = "UPDATE outbox INDEXED BY outbox_open SET
        interruptions = interruptions + 1,
        state = CASE WHEN interruptions + 1 >= :max THEN 'failed' ELSE 'uncertain' END,
        failure = CASE WHEN interruptions + 1 >= :max
            THEN 'sending was cut off repeatedly; it may have been delivered' ELSE failure END
    WHERE state IN ('pending', 'sending', 'uncertain') AND state = 'sending'
    RETURNING *";

const INTERRUPTED: &str = "UPDATE outbox SET
        interruptions = interruptions + 1,
        state = CASE WHEN interruptions + 1 >= :max THEN 'failed' ELSE 'uncertain' END,
        failure = CASE WHEN interruptions + 1 >= :max
            THEN 'sending was cut off repeatedly; it may have been delivered' ELSE failure END
    WHERE id = :id AND state = 'sending'";

const UNDELIVERED: &str = "SELECT * FROM outbox
    WHERE state IN ('pending', 'sending', 'uncertain') OR state = 'failed'
    ORDER BY id DESC LIMIT :limit";

impl Store {
    /// Adds an entry that is neither the reply of a turn nor its notice.
    ///
    /// # Errors
    /// The text is larger than [`REPLY_TEXT_MAX`], there is no such turn, or
    /// it could not be written.
    pub async fn post(&self, post: NewPost, at: Timestamp) -> Result<OutboxId, StoreError> {
        check_size("a message to a chat", post.text.len(), REPLY_TEXT_MAX)?;
        self.call(move |connection| {
            if let Some(turn) = &post.turn {
                turns::find(connection, turn)?;
            }
            put(connection, PostKind::Message, &post, at)
        })
        .await
    }

    /// What is to be sent through a channel, oldest first, at most
    /// [`OUTBOX_DUE_MAX`] entries: those that are pending or uncertain.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn due(&self, channel: &ChannelName) -> Result<Vec<Post>, StoreError> {
        let channel = channel.clone();
        self.call(move |connection| {
            let mut statement = connection.prepare_cached(DUE)?;
            let posts = statement.query_map(
                named_params! { ":channel": channel.as_str(), ":limit": OUTBOX_DUE_MAX },
                post,
            )?;
            Ok(posts.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// What of a chat is not settled, and of the group that answers in it: in one look, so that
    /// what is answered in between is in one of the two.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn unsettled(
        &self,
        channel: &ChannelName,
        chat: &ChatId,
        group: &GroupName,
    ) -> Result<Unsettled, StoreError> {
        let (channel, chat, group) = (channel.clone(), chat.clone(), group.clone());
        self.call(move |connection| {
            let mut statement = connection.prepare_cached(DUE_IN_CHAT)?;
            let posts = statement.query_map(
                named_params! {
                    ":channel": channel.as_str(), ":chat": chat.as_str(), ":limit": OUTBOX_DUE_MAX,
                },
                post,
            )?;
            let due = posts.collect::<Result<_, _>>()?;
            let open = messages::waits(connection, &group)?
                || !turns::unfinished(connection, Some(&group))?.is_empty();
            Ok(Unsettled { due, open })
        })
        .await
    }

    /// Marks an entry as handed to its channel and counts the attempt: to be
    /// called before the channel is.
    ///
    /// # Errors
    /// There is no such entry, or it is neither pending nor uncertain.
    pub async fn sending(&self, id: OutboxId) -> Result<Post, StoreError> {
        self.call(move |connection| {
            let from = find(connection, id)?.state;
            if !matches!(from, PostState::Pending | PostState::Uncertain) {
                return Err(StoreError::PostTransition { id, from, to: PostState::Sending }.into());
            }
            change(connection, id, PostState::Sending, None, None)
        })
        .await
    }

    /// Marks an entry as delivered. Nothing changes for one that is.
    ///
    /// # Errors
    /// There is no such entry, or it was not being sent.
    pub async fn delivered(&self, id: OutboxId, at: Timestamp) -> Result<(), StoreError> {
        self.call(move |connection| match find(connection, id)?.state {
            PostState::Delivered => Ok(()),
            PostState::Sending => {
                change(connection, id, PostState::Delivered, None, Some(at)).map(drop)
            }
            from => Err(StoreError::PostTransition { id, from, to: PostState::Delivered }.into()),
        })
        .await
    }

    /// Notes that the channel refused an entry and says why. It is due again
    /// until it was tried [`OUTBOX_ATTEMPTS_MAX`] times; then it has failed.
    /// When to try again is the caller's business.
    ///
    /// # Errors
    /// There is no such entry, or it was not being sent.
    pub async fn undelivered(&self, id: OutboxId, failure: &str) -> Result<Post, StoreError> {
        check_size("the reason of a failure", failure.len(), turns::FAILURE_TEXT_MAX)?;
        let failure = failure.to_owned();
        self.call(move |connection| {
            let found = find(connection, id)?;
            let to = if found.attempts >= OUTBOX_ATTEMPTS_MAX {
                PostState::Failed
            } else {
                PostState::Pending
            };
            if found.state != PostState::Sending {
                return Err(StoreError::PostTransition { id, from: found.state, to }.into());
            }
            change(connection, id, to, Some(&failure), None)
        })
        .await
    }

    /// Notes that nobody knows what became of an entry that was being sent: whoever was to say so
    /// went away. It is uncertain now, as after a crash. Nothing changes for one that is not being
    /// sent any more.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn interrupted(&self, id: OutboxId) -> Result<(), StoreError> {
        self.call(move |connection| {
            connection
                .prepare_cached(INTERRUPTED)?
                .execute(named_params! { ":max": OUTBOX_INTERRUPTIONS_MAX, ":id": id.0 })?;
            Ok(())
        })
        .await
    }

    /// Takes note of a crash: what was being sent is uncertain now and due
    /// once more, or has failed if that was cut off too
    /// ([`OUTBOX_INTERRUPTIONS_MAX`]). Returns those entries as they now are.
    /// For the start of a controller, before anything is sent.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn recover_outbox(&self) -> Result<Vec<Post>, StoreError> {
        self.call(|connection| {
            let mut statement = connection.prepare_cached(RECOVER)?;
            let posts =
                statement.query_map(named_params! { ":max": OUTBOX_INTERRUPTIONS_MAX }, post)?;
            Ok(posts.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// What a turn has put into the outbox, oldest first.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn posts_of(&self, turn: &TurnId) -> Result<Vec<Post>, StoreError> {
        let turn = turn.clone();
        self.call(move |connection| of_turn(connection, &turn)).await
    }
}

impl Reader {
    /// As [`Store::posts_of`].
    ///
    /// # Errors
    /// It could not be read.
    pub fn posts_of(&self, turn: &TurnId) -> Result<Vec<Post>, StoreError> {
        self.ask(|connection| of_turn(connection, turn))
    }

    /// Everything that is not delivered, failed entries included, newest
    /// first, at most `limit` entries.
    ///
    /// # Errors
    /// It could not be read.
    pub fn outbox(&self, limit: u32) -> Result<Vec<Post>, StoreError> {
        self.ask(|connection| {
            let mut statement = connection.prepare_cached(UNDELIVERED)?;
            let posts = statement.query_map(named_params! { ":limit": limit }, post)?;
            Ok(posts.collect::<Result<_, _>>()?)
        })
    }
}

/// Adds the one entry of this kind that a turn has, or returns the one it has.
pub(super) fn put_once(
    connection: &Connection,
    turn: &Turn,
    kind: PostKind,
    text: &str,
    at: Timestamp,
) -> Result<OutboxId, CommandError> {
    let known = of_turn(connection, &turn.id)?.into_iter().find(|post| post.kind == kind);
    if let Some(known) = known {
        return Ok(known.id);
    }
    let post = NewPost {
        turn: Some(turn.id.clone()),
        channel: turn.channel.clone(),
        chat: turn.chat.clone(),
        text: text.to_owned(),
    };
    put(connection, kind, &post, at)
}

fn put(
    connection: &Connection,
    kind: PostKind,
    post: &NewPost,
    at: Timestamp,
) -> Result<OutboxId, CommandError> {
    connection.prepare_cached(INSERT)?.execute(named_params! {
        ":turn": post.turn.as_ref().map(TurnId::as_str),
        ":kind": kind.word(),
        ":channel": post.channel.as_str(),
        ":chat": post.chat.as_str(),
        ":text": post.text,
        ":at": at.0,
    })?;
    Ok(OutboxId(connection.last_insert_rowid()))
}

fn find(connection: &Connection, id: OutboxId) -> Result<Post, CommandError> {
    connection
        .prepare_cached(FIND)?
        .query_row(named_params! { ":id": id.0 }, post)
        .optional()?
        .ok_or_else(|| StoreError::UnknownPost { id }.into())
}

fn change(
    connection: &Connection,
    id: OutboxId,
    state: PostState,
    failure: Option<&str>,
    at: Option<Timestamp>,
) -> Result<Post, CommandError> {
    connection.prepare_cached(MOVE)?.execute(named_params! {
        ":id": id.0,
        ":state": state.word(),
        ":failure": failure,
        ":at": at.map(|at| at.0),
    })?;
    find(connection, id)
}

fn of_turn(connection: &Connection, turn: &TurnId) -> Result<Vec<Post>, CommandError> {
    let mut statement = connection.prepare_cached(OF_TURN)?;
    let posts = statement.query_map(named_params! { ":turn": turn.as_str() }, post)?;
    Ok(posts.collect::<Result<_, _>>()?)
}

fn post(row: &Row<'_>) -> rusqlite::Result<Post> {
    Ok(Post {
        id: OutboxId(row.get("id")?),
        turn: rows::name_maybe(row, "turn")?,
        kind: PostKind::of_row(row, "kind")?,
        channel: rows::name(row, "channel")?,
        chat: rows::name(row, "chat")?,
        text: row.get("text")?,
        state: PostState::of_row(row, "state")?,
        attempts: rows::count(row, "attempts")?,
        interruptions: rows::count(row, "interruptions")?,
        failure: row.get("failure")?,
        created_at: rows::moment(row, "created_at")?,
        delivered_at: rows::moment_maybe(row, "delivered_at")?,
    })
}

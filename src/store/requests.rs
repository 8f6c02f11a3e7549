//! What agents asked for, each by its identifier, so that it happens once.
//!
//! The identifier and what came of it are stored in the transaction that does it. A request that
//! comes again gets the same answer, after a restart too.

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::conversation::{Conversation, Destination};
use super::error::{CommandError, StoreError, check_size};
use super::open::Store;
use super::outbox::{self, NewPost, REPLY_TEXT_MAX};
use super::state::{OutboxId, PostKind};
use super::turn;
use crate::clock::Timestamp;
use crate::name::{GroupName, RequestId, TurnId};

/// Messages that one turn may send.
pub const SENDS_OF_TURN_MAX: u32 = 20;
/// Messages that a group may send within an hour.
pub const SENDS_OF_HOUR_MAX: u32 = 120;
/// How long an identifier is known, in milliseconds: longer than a request may be old.
const KEPT: i64 = 7 * 24 * HOUR;
const HOUR: i64 = 60 * 60 * 1000;

/// A message that an agent asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSend {
    /// Under which it happens once in its group.
    pub id: RequestId,
    /// The group whose agent asks.
    pub group: GroupName,
    /// The turn in which it asks.
    pub turn: TurnId,
    /// Where the message goes; `None`: where the reply of the turn goes.
    pub to: Option<Conversation>,
    /// What it says.
    pub text: String,
}

/// What came of a message that an agent asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOnce {
    /// It is in the outbox.
    Sent(OutboxId),
    /// There were too many before it.
    TooMany,
    /// The turn answers no chat.
    NoChat,
}

pub(super) const KNOWN: &str = "SELECT post FROM requests WHERE grp = :grp AND id = :id";

pub(super) const OF_TURN: &str =
    "SELECT count(*) FROM requests WHERE turn = :turn AND grp = :grp AND post IS NOT NULL";

pub(super) const SINCE: &str =
    "SELECT count(*) FROM requests WHERE grp = :grp AND at > :since AND post IS NOT NULL";

const INSERT: &str =
    "INSERT INTO requests (grp, id, turn, at, post) VALUES (:grp, :id, :turn, :at, :post)";

pub(super) const FORGET: &str = "DELETE FROM requests WHERE grp = :grp AND at < :before";

impl Store {
    /// Puts a message of an agent into the outbox, once for each identifier: asked again, it gives
    /// what came of it.
    ///
    /// # Errors
    /// The text is larger than [`REPLY_TEXT_MAX`], there is no such turn, or it could not be
    /// written.
    pub async fn send_once(&self, send: NewSend, at: Timestamp) -> Result<SendOnce, StoreError> {
        check_size("a message to a chat", send.text.len(), REPLY_TEXT_MAX)?;
        let sent = self.call(move |connection| once(connection, &send, at)).await?;
        self.tell_of_post();
        Ok(sent)
    }
}

fn once(connection: &Connection, send: &NewSend, at: Timestamp) -> Result<SendOnce, CommandError> {
    let (grp, id) = (send.group.as_str(), send.id.as_str());
    let known: Option<Option<i64>> = connection
        .prepare_cached(KNOWN)?
        .query_row(named_params! { ":grp": grp, ":id": id }, |row| row.get(0))
        .optional()?;
    if let Some(post) = known {
        return Ok(post.map_or(SendOnce::TooMany, |post| SendOnce::Sent(OutboxId(post))));
    }
    let post = if are_too_many(connection, send, at)? {
        None
    } else {
        let Some(post) = put(connection, send, at)? else { return Ok(SendOnce::NoChat) };
        Some(post)
    };
    connection.prepare_cached(INSERT)?.execute(named_params! {
        ":grp": grp, ":id": id, ":turn": send.turn.as_str(), ":at": at.0,
        ":post": post.map(|post| post.0),
    })?;
    connection
        .prepare_cached(FORGET)?
        .execute(named_params! { ":grp": grp, ":before": at.0.saturating_sub(KEPT) })?;
    Ok(post.map_or(SendOnce::TooMany, SendOnce::Sent))
}

fn are_too_many(
    connection: &Connection,
    send: &NewSend,
    at: Timestamp,
) -> Result<bool, CommandError> {
    let grp = send.group.as_str();
    let of_turn: u32 = connection
        .prepare_cached(OF_TURN)?
        .query_row(named_params! { ":turn": send.turn.as_str(), ":grp": grp }, |row| row.get(0))?;
    let since = at.0.saturating_sub(HOUR);
    let of_hour: u32 = connection
        .prepare_cached(SINCE)?
        .query_row(named_params! { ":grp": grp, ":since": since }, |row| row.get(0))?;
    Ok(of_turn >= SENDS_OF_TURN_MAX || of_hour >= SENDS_OF_HOUR_MAX)
}

/// The message in the outbox; `None` where the turn answers no chat.
fn put(
    connection: &Connection,
    send: &NewSend,
    at: Timestamp,
) -> Result<Option<OutboxId>, CommandError> {
    let turn = turn::find(connection, &send.turn)?;
    let to = match (&send.to, turn.destination) {
        (Some(to), _) => to.clone(),
        (None, Destination::Chat(to)) => to,
        (None, Destination::Nobody | Destination::Turn(_)) => return Ok(None),
    };
    let post = NewPost { turn: Some(turn.id), to, text: send.text.clone() };
    outbox::put(connection, PostKind::Message, &post, at).map(Some)
}

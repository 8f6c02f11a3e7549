//! Turns: from the messages that ask for an answer to the one reply that is stored.

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::conversation::Conversation;
use super::error::{CommandError, StoreError, check_size};
use super::messages::{self, Message};
use super::open::{Reader, Store};
use super::state::{OutboxId, PostKind, TurnState};
use super::turn::{self, Turn, change, find, unfinished};
use super::{journal, outbox};
use crate::clock::Timestamp;
use crate::name::{GroupName, SenderId, ThreadId, TurnId};
use crate::protocol::JournalRound;

/// Longest text that says why a turn failed, in bytes.
pub const FAILURE_TEXT_MAX: usize = 16 << 10;

/// A turn that was taken up, with everything it is run from.
#[derive(Clone, Debug, PartialEq)]
pub struct TakenUp {
    /// The turn, running now.
    pub turn: Turn,
    /// What it answers, in the order in which it was stored.
    pub messages: Vec<Message>,
    /// What earlier attempts did.
    pub journal: Vec<JournalRound>,
}

pub(super) const OLDEST_WAKING: &str = "SELECT channel, chat, thread, sender_id
    FROM messages INDEXED BY messages_waiting
    WHERE turn IS NULL AND grp = :grp AND wakes = 1 ORDER BY seq LIMIT 1";

pub(super) const TAKE_WAKING: &str = "UPDATE messages SET turn = :turn
    WHERE turn IS NULL AND grp = :grp AND channel = :channel AND chat = :chat
        AND thread IS :thread AND sender_id IS :sender AND wakes = 1";

pub(super) const TAKE_CONTEXT: &str = "UPDATE messages SET turn = :turn
    WHERE turn IS NULL AND grp = :grp AND channel = :channel AND chat = :chat AND wakes = 0";

impl Store {
    /// Takes up the next turn of a group, in one step: the one that was left unfinished, whoever
    /// was at work on it, or else one for what waits, which is then called `id`. That is all that
    /// asks in the conversation where one has asked for longest, and as context what else was
    /// written in that chat. What asks in another conversation waits for the next turn, for a turn
    /// answers one person in one thread. Whoever calls this is the only one who works for the
    /// group. `None` if there is nothing to do.
    ///
    /// # Errors
    /// The identifier was used before, or it could not be written.
    pub async fn take_up(
        &self,
        group: &GroupName,
        id: &TurnId,
        at: Timestamp,
    ) -> Result<Option<TakenUp>, StoreError> {
        let (group, id) = (group.clone(), id.clone());
        self.call(move |connection| take_up(connection, &group, &id, at)).await
    }

    /// The turns that are queued or running, oldest first: of one group, or of
    /// all. There is at most one for each group.
    ///
    /// # Errors
    /// They could not be read.
    pub async fn unfinished(&self, group: Option<&GroupName>) -> Result<Vec<Turn>, StoreError> {
        let group = group.cloned();
        self.read(move |connection| unfinished(connection, group.as_ref())).await
    }

    /// Puts a running turn back into the queue, for another attempt. Nothing
    /// changes for one that is queued.
    ///
    /// # Errors
    /// There is no such turn, or it has ended.
    pub async fn requeue(&self, id: &TurnId, at: Timestamp) -> Result<(), StoreError> {
        self.end(id, TurnState::Queued, at).await
    }

    /// Gives a turn up, and in the same step puts `notice` into the outbox, for the chat that
    /// waits for a reply; `failure` says why, for the operator. A second call changes nothing.
    ///
    /// # Errors
    /// There is no such turn, it is done or cancelled, the text is larger than
    /// [`FAILURE_TEXT_MAX`], or the notice is larger than a reply may be.
    pub async fn fail_turn_telling(
        &self,
        id: &TurnId,
        failure: &str,
        notice: &str,
        at: Timestamp,
    ) -> Result<Option<OutboxId>, StoreError> {
        check_size("the reason of a failure", failure.len(), FAILURE_TEXT_MAX)?;
        check_size("a notice", notice.len(), outbox::REPLY_TEXT_MAX)?;
        let (id, failure, notice) = (id.clone(), failure.to_owned(), notice.to_owned());
        let post = self.call(move |connection| {
            change(connection, &id, TurnState::Failed, Some(&failure), at)?;
            let turn = find(connection, &id)?;
            outbox::put_once(connection, &turn, PostKind::Notice, &notice, at)
        });
        let post = post.await?;
        self.tell_of_post();
        Ok(post)
    }

    /// Stops a turn for good. Nothing changes for one that was cancelled.
    ///
    /// # Errors
    /// There is no such turn, or it is done or failed.
    pub async fn cancel_turn(&self, id: &TurnId, at: Timestamp) -> Result<(), StoreError> {
        self.end(id, TurnState::Cancelled, at).await
    }

    /// Stores the reply of a running turn in the outbox and marks the turn
    /// done, in one step. A second call changes nothing, whatever it says, and
    /// returns the first reply. A reply that goes to no chat is not put there.
    ///
    /// # Errors
    /// There is no such turn, it is neither running nor done, or the reply is
    /// larger than [`super::REPLY_TEXT_MAX`].
    pub async fn finish_turn(
        &self,
        id: &TurnId,
        reply: &str,
        at: Timestamp,
    ) -> Result<Option<OutboxId>, StoreError> {
        check_size("a reply", reply.len(), outbox::REPLY_TEXT_MAX)?;
        let (id, reply) = (id.clone(), reply.to_owned());
        let post = self.call(move |connection| {
            change(connection, &id, TurnState::Done, None, at)?;
            let turn = find(connection, &id)?;
            outbox::put_once(connection, &turn, PostKind::Reply, &reply, at)
        });
        let post = post.await?;
        self.tell_of_post();
        Ok(post)
    }

    async fn end(&self, id: &TurnId, state: TurnState, at: Timestamp) -> Result<(), StoreError> {
        let id = id.clone();
        self.call(move |connection| change(connection, &id, state, None, at)).await
    }
}

impl Store {
    /// The turn with this identifier.
    ///
    /// # Errors
    /// There is none, or it could not be read.
    pub async fn turn(&self, id: &TurnId) -> Result<Turn, StoreError> {
        let id = id.clone();
        self.read(move |connection| find(connection, &id)).await
    }
}

impl Reader {
    /// As [`Store::unfinished`].
    ///
    /// # Errors
    /// They could not be read.
    pub fn unfinished(&self, group: Option<&GroupName>) -> Result<Vec<Turn>, StoreError> {
        self.ask_current(|connection| unfinished(connection, group))
    }

    /// The turn with this identifier.
    ///
    /// # Errors
    /// There is none, or it could not be read.
    pub fn turn(&self, id: &TurnId) -> Result<Turn, StoreError> {
        self.ask_current(|connection| find(connection, id))
    }
}

fn take_up(
    connection: &Connection,
    group: &GroupName,
    id: &TurnId,
    at: Timestamp,
) -> Result<Option<TakenUp>, CommandError> {
    let id = match unfinished(connection, Some(group))?.into_iter().next() {
        Some(turn) => {
            change(connection, &turn.id, TurnState::Queued, None, at)?;
            turn.id
        }
        None if open(connection, group, id, at)? => id.clone(),
        None => return Ok(None),
    };
    change(connection, &id, TurnState::Running, None, at)?;
    Ok(Some(TakenUp {
        turn: find(connection, &id)?,
        messages: messages::of_turn(connection, &id)?,
        journal: journal::journal_of(connection, &id)?,
    }))
}

/// Opens a turn for the conversation that has waited longest. Says whether there is one.
fn open(
    connection: &Connection,
    group: &GroupName,
    id: &TurnId,
    at: Timestamp,
) -> Result<bool, CommandError> {
    let asking = connection
        .prepare_cached(OLDEST_WAKING)?
        .query_row(named_params! { ":grp": group.as_str() }, |row| {
            Conversation::of_row(row, "sender_id")
        })
        .optional()?;
    let Some(asking) = asking else { return Ok(false) };
    turn::insert(connection, (id, group), &asking, TurnState::Queued, at)?;
    take_waking(connection, group, id, &asking)?;
    connection.prepare_cached(TAKE_CONTEXT)?.execute(named_params! {
        ":turn": id.as_str(),
        ":grp": group.as_str(),
        ":channel": asking.channel.as_str(),
        ":chat": asking.chat.as_str(),
    })?;
    Ok(true)
}

/// Gives a turn all that waits in a conversation for an answer.
pub(super) fn take_waking(
    connection: &Connection,
    group: &GroupName,
    id: &TurnId,
    asking: &Conversation,
) -> Result<usize, CommandError> {
    Ok(connection.prepare_cached(TAKE_WAKING)?.execute(named_params! {
        ":turn": id.as_str(),
        ":grp": group.as_str(),
        ":channel": asking.channel.as_str(),
        ":chat": asking.chat.as_str(),
        ":thread": asking.thread.as_ref().map(ThreadId::as_str),
        ":sender": asking.sender.as_ref().map(SenderId::as_str),
    })?)
}

//! Turns: from the messages that ask for an answer to the one reply that is stored.

use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::rows::{self, words};
use super::{CommandError, Message, MessageSeq, OutboxId, Reader, Store, StoreError, check_size};
use super::{journal, messages, outbox};
use crate::clock::Timestamp;
use crate::name::{ChannelName, ChatId, GroupName, TurnId};
use crate::protocol::JournalRound;

/// Longest text that says why a turn failed, in bytes.
pub const FAILURE_TEXT_MAX: usize = 16 << 10;

/// Where a turn stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TurnState {
    /// It waits for an agent.
    Queued,
    /// An agent is at work on it.
    Running,
    /// Its reply is stored.
    Done,
    /// It was given up.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

words!(TurnState {
    Queued = "queued",
    Running = "running",
    Done = "done",
    Failed = "failed",
    Cancelled = "cancelled",
});

impl TurnState {
    /// All states, in the order in which a turn may reach them.
    pub const ALL: [Self; 5] =
        [Self::Queued, Self::Running, Self::Done, Self::Failed, Self::Cancelled];

    /// Whether a turn may go from this state to `next`. A running turn goes
    /// back to the queue for another attempt; one in the queue may be given
    /// up or cancelled without another; what has ended stays as it is.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        match (self, next) {
            (Self::Queued, Self::Running | Self::Failed | Self::Cancelled) => true,
            (Self::Running, next) => next != Self::Running,
            _ => false,
        }
    }

    /// Whether the turn still has to be answered.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Running)
    }
}

/// A turn of a group's conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Its identifier.
    pub id: TurnId,
    /// The group that answers.
    pub group: GroupName,
    /// Where it stands.
    pub state: TurnState,
    /// The channel the reply goes to.
    pub channel: ChannelName,
    /// The chat the reply goes to.
    pub chat: ChatId,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When its last attempt began.
    pub started_at: Option<Timestamp>,
    /// When it was done, failed or cancelled.
    pub ended_at: Option<Timestamp>,
    /// How often it was begun.
    pub attempts: u32,
    /// Why it failed, for the operator.
    pub failure: Option<String>,
}

/// A turn that was just opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnOpened {
    /// Its identifier.
    pub turn: TurnId,
    /// The channel the reply goes to.
    pub channel: ChannelName,
    /// The chat the reply goes to.
    pub chat: ChatId,
    /// How many messages it took.
    pub messages: usize,
}

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

const INSERT: &str = "INSERT INTO turns (id, grp, state, channel, chat, created_at)
    VALUES (:id, :grp, 'queued', :channel, :chat, :at)";

pub(super) const FIND: &str = "SELECT * FROM turns WHERE id = :id";

const TURN_OF: &str =
    "SELECT turns.* FROM turns JOIN messages ON messages.turn = turns.id WHERE messages.seq = :seq";

pub(super) const OPEN_OF_GROUP: &str =
    "SELECT * FROM turns WHERE state IN ('queued', 'running') AND grp = :grp";

const OPEN_OF_ALL: &str =
    "SELECT * FROM turns WHERE state IN ('queued', 'running') ORDER BY created_at, id";

pub(super) const OLDEST_WAKING: &str = "SELECT channel, chat FROM messages
    WHERE turn IS NULL AND grp = :grp AND wakes = 1 ORDER BY seq LIMIT 1";

pub(super) const TAKE_WAKING: &str = "UPDATE messages SET turn = :turn
    WHERE turn IS NULL AND grp = :grp AND wakes = 1 AND channel = :channel AND chat = :chat";

pub(super) const TAKE_CONTEXT: &str = "UPDATE messages SET turn = :turn
    WHERE turn IS NULL AND grp = :grp AND wakes = 0";

pub(super) const MOVE: &str = "UPDATE turns SET
        state = :state,
        attempts = attempts + (:state = 'running'),
        started_at = CASE WHEN :state = 'running' THEN :at ELSE started_at END,
        ended_at = CASE WHEN :state IN ('queued', 'running') THEN NULL ELSE :at END,
        failure = :failure
    WHERE id = :id";

impl Store {
    /// Opens a turn for what waits in a group, in one step: all waiting
    /// messages that ask for an answer in the chat where one has asked for
    /// longest, and as context all waiting messages that ask for none. What
    /// asks in another chat of the group waits for the next turn, for a turn
    /// has one reply in one chat.
    ///
    /// `None` if nothing asks for an answer, or if a turn of the group is
    /// still queued or running; the messages go on waiting then.
    ///
    /// # Errors
    /// The identifier was used before, or it could not be written.
    pub async fn open_turn(
        &self,
        group: &GroupName,
        id: &TurnId,
        at: Timestamp,
    ) -> Result<Option<TurnOpened>, StoreError> {
        let (group, id) = (group.clone(), id.clone());
        self.call(move |connection| open(connection, &group, &id, at)).await
    }

    /// Takes up the next turn of a group, in one step: the one that was left unfinished, whoever
    /// was at work on it, or else one for what waits, which is then called `id`. Whoever calls
    /// this is the only one who works for the group. `None` if there is nothing to do.
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
        self.call(move |connection| unfinished(connection, group.as_ref())).await
    }

    /// The turn with this identifier.
    ///
    /// # Errors
    /// There is none, or it could not be read.
    pub async fn turn(&self, id: &TurnId) -> Result<Turn, StoreError> {
        let id = id.clone();
        self.call(move |connection| find(connection, &id)).await
    }

    /// The turn that a message was given to, if it was given to one.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn turn_of(&self, message: MessageSeq) -> Result<Option<Turn>, StoreError> {
        self.call(move |connection| {
            let turn = connection
                .prepare_cached(TURN_OF)?
                .query_row(named_params! { ":seq": message.0 }, turn)
                .optional()?;
            Ok(turn)
        })
        .await
    }

    /// Marks a queued turn as running and counts the attempt.
    ///
    /// # Errors
    /// There is no such turn, or it is not queued.
    pub async fn begin_turn(&self, id: &TurnId, at: Timestamp) -> Result<Turn, StoreError> {
        let id = id.clone();
        self.call(move |connection| {
            change(connection, &id, TurnState::Running, None, at)?;
            find(connection, &id)
        })
        .await
    }

    /// Puts a running turn back into the queue, for another attempt. Nothing
    /// changes for one that is queued.
    ///
    /// # Errors
    /// There is no such turn, or it has ended.
    pub async fn requeue(&self, id: &TurnId, at: Timestamp) -> Result<(), StoreError> {
        self.end(id, TurnState::Queued, None, at).await
    }

    /// Gives a turn up; `failure` says why, for the operator. Nothing changes
    /// for one that has failed.
    ///
    /// # Errors
    /// There is no such turn, it is done or cancelled, or the text is larger
    /// than [`FAILURE_TEXT_MAX`].
    pub async fn fail_turn(
        &self,
        id: &TurnId,
        failure: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        check_size("the reason of a failure", failure.len(), FAILURE_TEXT_MAX)?;
        self.end(id, TurnState::Failed, Some(failure.to_owned()), at).await
    }

    /// Gives a turn up like [`Store::fail_turn`] and in the same step puts
    /// `notice` into the outbox, for the chat that waits for a reply. A second
    /// call returns the first notice.
    ///
    /// # Errors
    /// As [`Store::fail_turn`], or the notice is larger than a reply may be.
    pub async fn fail_turn_telling(
        &self,
        id: &TurnId,
        failure: &str,
        notice: &str,
        at: Timestamp,
    ) -> Result<OutboxId, StoreError> {
        check_size("the reason of a failure", failure.len(), FAILURE_TEXT_MAX)?;
        check_size("a notice", notice.len(), outbox::REPLY_TEXT_MAX)?;
        let (id, failure, notice) = (id.clone(), failure.to_owned(), notice.to_owned());
        self.call(move |connection| {
            change(connection, &id, TurnState::Failed, Some(&failure), at)?;
            let turn = find(connection, &id)?;
            outbox::put_once(connection, &turn, outbox::PostKind::Notice, &notice, at)
        })
        .await
    }

    /// Stops a turn for good. Nothing changes for one that was cancelled.
    ///
    /// # Errors
    /// There is no such turn, or it is done or failed.
    pub async fn cancel_turn(&self, id: &TurnId, at: Timestamp) -> Result<(), StoreError> {
        self.end(id, TurnState::Cancelled, None, at).await
    }

    /// Stores the reply of a running turn in the outbox and marks the turn
    /// done, in one step. A second call changes nothing, whatever it says, and
    /// returns the first reply.
    ///
    /// # Errors
    /// There is no such turn, it is neither running nor done, or the reply is
    /// larger than [`super::REPLY_TEXT_MAX`].
    pub async fn finish_turn(
        &self,
        id: &TurnId,
        reply: &str,
        at: Timestamp,
    ) -> Result<OutboxId, StoreError> {
        check_size("a reply", reply.len(), outbox::REPLY_TEXT_MAX)?;
        let (id, reply) = (id.clone(), reply.to_owned());
        self.call(move |connection| {
            change(connection, &id, TurnState::Done, None, at)?;
            let turn = find(connection, &id)?;
            outbox::put_once(connection, &turn, outbox::PostKind::Reply, &reply, at)
        })
        .await
    }

    async fn end(
        &self,
        id: &TurnId,
        state: TurnState,
        failure: Option<String>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let id = id.clone();
        self.call(move |connection| change(connection, &id, state, failure.as_deref(), at)).await
    }
}

impl Reader {
    /// As [`Store::unfinished`].
    ///
    /// # Errors
    /// They could not be read.
    pub fn unfinished(&self, group: Option<&GroupName>) -> Result<Vec<Turn>, StoreError> {
        self.ask(|connection| unfinished(connection, group))
    }

    /// As [`Store::turn`].
    ///
    /// # Errors
    /// There is none, or it could not be read.
    pub fn turn(&self, id: &TurnId) -> Result<Turn, StoreError> {
        self.ask(|connection| find(connection, id))
    }
}

/// The turn, if it is queued or running.
pub(super) fn under_way(connection: &Connection, id: &TurnId) -> Result<Turn, CommandError> {
    let turn = find(connection, id)?;
    if !turn.state.is_open() {
        return Err(StoreError::TurnState { turn: id.clone(), state: turn.state }.into());
    }
    Ok(turn)
}

/// The turn.
pub(super) fn find(connection: &Connection, id: &TurnId) -> Result<Turn, CommandError> {
    connection
        .prepare_cached(FIND)?
        .query_row(named_params! { ":id": id.as_str() }, turn)
        .optional()?
        .ok_or_else(|| StoreError::UnknownTurn { turn: id.clone() }.into())
}

fn open(
    connection: &Connection,
    group: &GroupName,
    id: &TurnId,
    at: Timestamp,
) -> Result<Option<TurnOpened>, CommandError> {
    if !unfinished(connection, Some(group))?.is_empty() {
        return Ok(None);
    }
    let asking = connection
        .prepare_cached(OLDEST_WAKING)?
        .query_row(named_params! { ":grp": group.as_str() }, |row| {
            Ok((rows::name(row, "channel")?, rows::name(row, "chat")?))
        })
        .optional()?;
    let Some((channel, chat)) = asking else { return Ok(None) };
    let mut opened = TurnOpened { turn: id.clone(), channel, chat, messages: 0 };
    insert(connection, group, &opened, at)?;
    opened.messages = take(connection, group, &opened)?;
    Ok(Some(opened))
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
        None => match open(connection, group, id, at)? {
            Some(opened) => opened.turn,
            None => return Ok(None),
        },
    };
    change(connection, &id, TurnState::Running, None, at)?;
    Ok(Some(TakenUp {
        turn: find(connection, &id)?,
        messages: messages::of_turn(connection, &id)?,
        journal: journal::journal_of(connection, &id)?,
    }))
}

fn insert(
    connection: &Connection,
    group: &GroupName,
    opened: &TurnOpened,
    at: Timestamp,
) -> rusqlite::Result<usize> {
    connection.prepare_cached(INSERT)?.execute(named_params! {
        ":id": opened.turn.as_str(),
        ":grp": group.as_str(),
        ":channel": opened.channel.as_str(),
        ":chat": opened.chat.as_str(),
        ":at": at.0,
    })
}

fn take(
    connection: &Connection,
    group: &GroupName,
    opened: &TurnOpened,
) -> rusqlite::Result<usize> {
    let waking = connection.prepare_cached(TAKE_WAKING)?.execute(named_params! {
        ":turn": opened.turn.as_str(),
        ":grp": group.as_str(),
        ":channel": opened.channel.as_str(),
        ":chat": opened.chat.as_str(),
    })?;
    let context = connection
        .prepare_cached(TAKE_CONTEXT)?
        .execute(named_params! { ":turn": opened.turn.as_str(), ":grp": group.as_str() })?;
    Ok(waking + context)
}

pub(super) fn unfinished(
    connection: &Connection,
    group: Option<&GroupName>,
) -> Result<Vec<Turn>, CommandError> {
    let turns = match group {
        Some(group) => connection
            .prepare_cached(OPEN_OF_GROUP)?
            .query_map(named_params! { ":grp": group.as_str() }, turn)?
            .collect::<Result<_, _>>()?,
        None => connection
            .prepare_cached(OPEN_OF_ALL)?
            .query_map([], turn)?
            .collect::<Result<_, _>>()?,
    };
    Ok(turns)
}

/// Moves a turn to another state. A state that is reached already is left as
/// it is, except that a running turn is never begun again: two agents would
/// be at work on it.
fn change(
    connection: &Connection,
    id: &TurnId,
    state: TurnState,
    failure: Option<&str>,
    at: Timestamp,
) -> Result<(), CommandError> {
    let from = find(connection, id)?.state;
    if from == state && state != TurnState::Running {
        return Ok(());
    }
    let legal = from.may_become(state);
    if !legal {
        return Err(StoreError::Transition { turn: id.clone(), from, to: state }.into());
    }
    connection.prepare_cached(MOVE)?.execute(named_params! {
        ":id": id.as_str(), ":state": state.word(), ":at": at.0, ":failure": failure,
    })?;
    Ok(())
}

fn turn(row: &Row<'_>) -> rusqlite::Result<Turn> {
    Ok(Turn {
        id: rows::name(row, "id")?,
        group: rows::name(row, "grp")?,
        state: TurnState::of_row(row, "state")?,
        channel: rows::name(row, "channel")?,
        chat: rows::name(row, "chat")?,
        created_at: rows::moment(row, "created_at")?,
        started_at: rows::moment_maybe(row, "started_at")?,
        ended_at: rows::moment_maybe(row, "ended_at")?,
        attempts: rows::count(row, "attempts")?,
        failure: row.get("failure")?,
    })
}

//! A turn as it is stored, and how it moves from state to state.

use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::conversation::{Conversation, Destination};
use super::error::{CommandError, StoreError};
use super::rows;
use super::state::{TurnSource, TurnState};
use crate::clock::Timestamp;
use crate::name::{GroupName, SenderId, SessionName, ThreadId, TurnId};

/// A turn of a group's conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Its identifier.
    pub id: TurnId,
    /// The group that answers.
    pub group: GroupName,
    /// Where it stands.
    pub state: TurnState,
    /// Where it comes from.
    pub source: TurnSource,
    /// Where its reply goes.
    pub destination: Destination,
    /// What its agent remembers with it.
    pub session: SessionName,
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

const INSERT: &str = "INSERT INTO turns
        (id, grp, state, source, destination, channel, chat, thread, recipient, session, created_at,
         ended_at)
    VALUES (:id, :grp, :state, 'message', 'chat', :channel, :chat, :thread, :recipient, :session,
        :at, CASE WHEN :state = 'cancelled' THEN :at END)";

pub(super) const FIND: &str = "SELECT * FROM turns WHERE id = :id";

pub(super) const OPEN_OF_GROUP: &str =
    "SELECT * FROM turns WHERE state IN ('queued', 'running') AND grp = :grp";

const OPEN_OF_ALL: &str =
    "SELECT * FROM turns WHERE state IN ('queued', 'running') ORDER BY created_at, id";

pub(super) const MOVE: &str = "UPDATE turns SET
        state = :state,
        attempts = attempts + (:state = 'running'),
        started_at = CASE WHEN :state = 'running' THEN :at ELSE started_at END,
        ended_at = CASE WHEN :state IN ('queued', 'running') THEN NULL ELSE :at END,
        failure = :failure
    WHERE id = :id";

/// The turn.
pub(super) fn find(connection: &Connection, id: &TurnId) -> Result<Turn, CommandError> {
    connection
        .prepare_cached(FIND)?
        .query_row(named_params! { ":id": id.as_str() }, turn)
        .optional()?
        .ok_or_else(|| StoreError::UnknownTurn { turn: id.clone() }.into())
}

/// The turn, if it is queued or running.
pub(super) fn under_way(connection: &Connection, id: &TurnId) -> Result<Turn, CommandError> {
    let turn = find(connection, id)?;
    if !turn.state.is_open() {
        return Err(StoreError::TurnState { turn: id.clone(), state: turn.state }.into());
    }
    Ok(turn)
}

/// The turns that are queued or running.
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

/// Adds a turn that answers a conversation.
pub(super) fn insert(
    connection: &Connection,
    (id, group): (&TurnId, &GroupName),
    to: &Conversation,
    state: TurnState,
    at: Timestamp,
) -> Result<(), CommandError> {
    connection.prepare_cached(INSERT)?.execute(named_params! {
        ":id": id.as_str(),
        ":grp": group.as_str(),
        ":state": state.word(),
        ":channel": to.channel.as_str(),
        ":chat": to.chat.as_str(),
        ":thread": to.thread.as_ref().map(ThreadId::as_str),
        ":recipient": to.sender.as_ref().map(SenderId::as_str),
        ":session": SessionName::of_chat(&to.channel, &to.chat).as_str(),
        ":at": at.0,
    })?;
    Ok(())
}

/// Moves a turn to another state. A state that is reached already is left as
/// it is, except that a running turn is never begun again: two agents would
/// be at work on it.
pub(super) fn change(
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
    if !from.may_become(state) {
        return Err(StoreError::Transition { turn: id.clone(), from, to: state }.into());
    }
    connection.prepare_cached(MOVE)?.execute(named_params! {
        ":id": id.as_str(), ":state": state.word(), ":at": at.0, ":failure": failure,
    })?;
    Ok(())
}

fn turn(row: &Row<'_>) -> rusqlite::Result<Turn> {
    let destination = Destination::of_row(row)?;
    // What was stored before sessions had names is of its chat.
    let of_chat = |to: &Conversation| SessionName::of_chat(&to.channel, &to.chat);
    let session = rows::name_maybe(row, "session")?;
    let session = session.or_else(|| destination.conversation().map(of_chat));
    let id: TurnId = rows::name(row, "id")?;
    Ok(Turn {
        session: session.unwrap_or_else(|| SessionName::of_turn(&id)),
        id,
        group: rows::name(row, "grp")?,
        state: TurnState::of_row(row, "state")?,
        source: TurnSource::of_row(row, "source")?,
        destination,
        created_at: rows::moment(row, "created_at")?,
        started_at: rows::moment_maybe(row, "started_at")?,
        ended_at: rows::moment_maybe(row, "ended_at")?,
        attempts: rows::count(row, "attempts")?,
        failure: row.get("failure")?,
    })
}

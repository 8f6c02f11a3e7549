//! What an agent did in a turn, recorded before it does the next thing, so
//! that another attempt goes on where this one stopped.
//!
//! An agent is not trusted: what one turn may leave here is bounded.

use rusqlite::{Connection, OptionalExtension as _, named_params};
use serde_json::Value;

use super::error::{CommandError, StoreError, check_size};
use super::open::{Reader, Store};
use super::rows;
use super::state::TurnState;
use crate::clock::Timestamp;
use crate::name::TurnId;
use crate::protocol::{Event, JournalCall, JournalRound};

/// Largest message of a round, arguments of a call or result of a call, in bytes.
pub const JOURNAL_ENTRY_SIZE_MAX: usize = 1 << 20;

/// Rounds of one turn.
pub const JOURNAL_ROUNDS_MAX: u32 = 1_000;

/// Calls of one round.
pub const JOURNAL_CALLS_MAX: u32 = 256;

/// All that one turn records, in bytes.
pub const JOURNAL_SIZE_MAX: usize = 64 << 20;

const ADD_ROUND: &str =
    "INSERT INTO turn_rounds (turn, round, message) VALUES (:turn, :round, :message)";

const ADD_CALL: &str = "INSERT INTO turn_calls (turn, round, idx, tool, arguments, state, began_at)
    VALUES (:turn, :round, :idx, :tool, :arguments, 'begun', :at)";

pub(super) const ROUND: &str =
    "SELECT message FROM turn_rounds WHERE turn = :turn AND round = :round";

pub(super) const CALL: &str = "SELECT tool, arguments, result FROM turn_calls
    WHERE turn = :turn AND round = :round AND idx = :idx";

pub(super) const END_CALL: &str = "UPDATE turn_calls
    SET state = 'ended', result = :result, ended_at = :at
    WHERE turn = :turn AND round = :round AND idx = :idx AND state = 'begun'";

pub(super) const GROW: &str = "UPDATE turns SET journal_bytes = journal_bytes + :size
    WHERE id = :turn RETURNING journal_bytes";

pub(super) const ROUNDS: &str =
    "SELECT round, message FROM turn_rounds WHERE turn = :turn ORDER BY round";

pub(super) const CALLS: &str = "SELECT idx, tool, result FROM turn_calls
    WHERE turn = :turn AND round = :round ORDER BY idx";

/// Turns that are over whose journals are kept, for whoever wants to know what was done.
pub const JOURNALS_KEPT: u32 = 1_000;

impl Store {
    /// As [`Reader::journal_of`].
    ///
    /// # Errors
    /// It could not be read.
    pub async fn journal_of(&self, turn: &TurnId) -> Result<Vec<JournalRound>, StoreError> {
        let turn = turn.clone();
        self.read(move |connection| journal_of(connection, &turn)).await
    }

    /// Records the rounds and calls among `events`, all of them or none; the
    /// others are not the journal's. What was recorded before changes nothing,
    /// and a result that is known is never replaced.
    ///
    /// # Errors
    /// The turn is not running; a round or call was recorded with another
    /// content; a call comes before its round or a result before its call;
    /// one of the bounds `JOURNAL_…_MAX` is exceeded.
    pub async fn journal(
        &self,
        turn: &TurnId,
        events: &[Event],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let turn = turn.clone();
        let entries: Vec<Entry> =
            events.iter().filter_map(Entry::of).collect::<Result<_, StoreError>>()?;
        self.call(move |connection| record(connection, &turn, &entries, at)).await
    }

    /// Forgets the journals of all but the newest [`JOURNALS_KEPT`] turns that are over. Their
    /// messages and replies stay. Returns how many entries went.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn forget_journals(&self) -> Result<usize, StoreError> {
        self.call(|connection| {
            let mut count = 0;
            // Calls first: they stand on their rounds. Of all turns there ever were, only those are
            // looked at that still have a journal.
            for table in ["turn_calls", "turn_rounds"] {
                count += connection.execute(
                    &format!(
                        "DELETE FROM {table} WHERE turn IN (
                            SELECT id FROM turns WHERE id IN (SELECT DISTINCT turn FROM turn_rounds)
                            AND state NOT IN ('queued', 'running')
                            ORDER BY ended_at DESC, id DESC LIMIT -1 OFFSET {JOURNALS_KEPT})"
                    ),
                    [],
                )?;
            }
            Ok(count)
        })
        .await
    }
}

impl Reader {
    /// What attempts at a turn recorded, oldest first.
    ///
    /// # Errors
    /// It could not be read.
    pub fn journal_of(&self, turn: &TurnId) -> Result<Vec<JournalRound>, StoreError> {
        self.ask(|connection| journal_of(connection, turn))
    }
}

/// An event that the journal keeps, within its bounds.
#[derive(Debug)]
enum Entry {
    Round { round: u32, message: Value },
    CallBegan { round: u32, index: u32, tool: String, arguments: Value },
    CallEnded { round: u32, index: u32, result: String },
}

impl Entry {
    fn of(event: &Event) -> Option<Result<Self, StoreError>> {
        match event {
            Event::Round { round, message } => Some(Self::round(*round, message)),
            Event::CallBegan { round, index, tool, arguments } => {
                Some(Self::call_began(*round, *index, tool, arguments))
            }
            Event::CallEnded { round, index, result } => {
                Some(Self::call_ended(*round, *index, result))
            }
            Event::Text { .. }
            | Event::Struck { .. }
            | Event::Toolless
            | Event::Done { .. }
            | Event::Failed { .. } => None,
        }
    }

    fn round(round: u32, message: &Value) -> Result<Self, StoreError> {
        check_number("the journal of a turn", round, JOURNAL_ROUNDS_MAX)?;
        check_size("the message of a round", rows::to_json(message).len(), JOURNAL_ENTRY_SIZE_MAX)?;
        Ok(Self::Round { round, message: message.clone() })
    }

    fn call_began(
        round: u32,
        index: u32,
        tool: &str,
        arguments: &Value,
    ) -> Result<Self, StoreError> {
        check_number("a round of the journal", index, JOURNAL_CALLS_MAX)?;
        let size = tool.len() + rows::to_json(arguments).len();
        check_size("a call", size, JOURNAL_ENTRY_SIZE_MAX)?;
        Ok(Self::CallBegan { round, index, tool: tool.to_owned(), arguments: arguments.clone() })
    }

    fn call_ended(round: u32, index: u32, result: &str) -> Result<Self, StoreError> {
        check_size("the result of a call", result.len(), JOURNAL_ENTRY_SIZE_MAX)?;
        Ok(Self::CallEnded { round, index, result: result.to_owned() })
    }
}

/// Refuses a position that does not fit among `limit` entries.
fn check_number(what: &'static str, position: u32, limit: u32) -> Result<(), StoreError> {
    if position >= limit {
        let count = u64::from(position) + 1;
        return Err(StoreError::TooMany { what, count, limit: u64::from(limit) });
    }
    Ok(())
}

fn record(
    connection: &Connection,
    turn: &TurnId,
    entries: &[Entry],
    at: Timestamp,
) -> Result<(), CommandError> {
    let state = super::turn::find(connection, turn)?.state;
    if state != TurnState::Running {
        return Err(StoreError::TurnState { turn: turn.clone(), state }.into());
    }
    for entry in entries {
        match entry {
            Entry::Round { round, message } => record_round(connection, turn, *round, message)?,
            Entry::CallBegan { round, index, tool, arguments } => {
                record_call(connection, turn, (*round, *index), (tool, arguments), at)?;
            }
            Entry::CallEnded { round, index, result } => {
                record_result(connection, turn, (*round, *index), result, at)?;
            }
        }
    }
    Ok(())
}

fn record_round(
    connection: &Connection,
    turn: &TurnId,
    round: u32,
    message: &Value,
) -> Result<(), CommandError> {
    match find_round(connection, turn, round)? {
        Some(known) if known == *message => Ok(()),
        Some(_) => Err(StoreError::JournalDiffers { turn: turn.clone(), round }.into()),
        None => {
            let message = rows::to_json(message);
            grow(connection, turn, message.len())?;
            connection.prepare_cached(ADD_ROUND)?.execute(
                named_params! { ":turn": turn.as_str(), ":round": round, ":message": message },
            )?;
            Ok(())
        }
    }
}

fn record_call(
    connection: &Connection,
    turn: &TurnId,
    (round, index): (u32, u32),
    (tool, arguments): (&str, &Value),
    at: Timestamp,
) -> Result<(), CommandError> {
    if let Some(known) = find_call(connection, turn, (round, index))? {
        let same = known.tool == tool && known.arguments == *arguments;
        let differs = || StoreError::JournalDiffers { turn: turn.clone(), round };
        return if same { Ok(()) } else { Err(differs().into()) };
    }
    if find_round(connection, turn, round)?.is_none() {
        return Err(StoreError::JournalGap { turn: turn.clone(), round }.into());
    }
    let arguments = rows::to_json(arguments);
    grow(connection, turn, tool.len() + arguments.len())?;
    connection.prepare_cached(ADD_CALL)?.execute(named_params! {
        ":turn": turn.as_str(),
        ":round": round,
        ":idx": index,
        ":tool": tool,
        ":arguments": arguments,
        ":at": at.0,
    })?;
    Ok(())
}

fn record_result(
    connection: &Connection,
    turn: &TurnId,
    (round, index): (u32, u32),
    result: &str,
    at: Timestamp,
) -> Result<(), CommandError> {
    let Some(known) = find_call(connection, turn, (round, index))? else {
        return Err(StoreError::JournalGap { turn: turn.clone(), round }.into());
    };
    if known.ended {
        return Ok(());
    }
    grow(connection, turn, result.len())?;
    connection.prepare_cached(END_CALL)?.execute(named_params! {
        ":turn": turn.as_str(), ":round": round, ":idx": index, ":result": result, ":at": at.0,
    })?;
    Ok(())
}

/// Counts what is added and refuses what would exceed [`JOURNAL_SIZE_MAX`].
fn grow(connection: &Connection, turn: &TurnId, size: usize) -> Result<(), CommandError> {
    let total: i64 = connection.prepare_cached(GROW)?.query_row(
        named_params! { ":turn": turn.as_str(), ":size": rows::integer(size as u64) },
        |row| row.get(0),
    )?;
    let total = usize::try_from(total).unwrap_or(usize::MAX);
    Ok(check_size("the journal of a turn", total, JOURNAL_SIZE_MAX)?)
}

fn find_round(
    connection: &Connection,
    turn: &TurnId,
    round: u32,
) -> Result<Option<Value>, CommandError> {
    Ok(connection
        .prepare_cached(ROUND)?
        .query_row(named_params! { ":turn": turn.as_str(), ":round": round }, |row| {
            rows::json(row, "message")
        })
        .optional()?)
}

struct KnownCall {
    tool: String,
    arguments: Value,
    ended: bool,
}

fn find_call(
    connection: &Connection,
    turn: &TurnId,
    (round, index): (u32, u32),
) -> Result<Option<KnownCall>, CommandError> {
    Ok(connection
        .prepare_cached(CALL)?
        .query_row(
            named_params! { ":turn": turn.as_str(), ":round": round, ":idx": index },
            |row| {
                Ok(KnownCall {
                    tool: row.get("tool")?,
                    arguments: rows::json(row, "arguments")?,
                    ended: row.get::<_, Option<String>>("result")?.is_some(),
                })
            },
        )
        .optional()?)
}

pub(super) fn journal_of(
    connection: &Connection,
    turn: &TurnId,
) -> Result<Vec<JournalRound>, CommandError> {
    let mut rounds: Vec<JournalRound> = connection
        .prepare_cached(ROUNDS)?
        .query_map(named_params! { ":turn": turn.as_str() }, |row| {
            Ok(JournalRound {
                round: row.get("round")?,
                message: rows::json(row, "message")?,
                calls: Vec::new(),
            })
        })?
        .collect::<Result<_, _>>()?;
    let mut calls = connection.prepare_cached(CALLS)?;
    for round in &mut rounds {
        round.calls = calls
            .query_map(named_params! { ":turn": turn.as_str(), ":round": round.round }, |row| {
                Ok(JournalCall {
                    index: row.get("idx")?,
                    tool: row.get("tool")?,
                    result: row.get("result")?,
                })
            })?
            .collect::<Result<_, _>>()?;
    }
    Ok(rounds)
}

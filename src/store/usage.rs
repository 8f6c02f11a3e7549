//! What models were asked and what it took.

use rusqlite::{Connection, named_params};

use super::error::{CommandError, StoreError};
use super::open::{Reader, Store};
use super::{rows, turn as turns};
use crate::clock::Timestamp;
use crate::name::{GroupName, ModelName, TurnId};
use crate::unit::Period;

/// Requests that are on record, the newest ones.
pub const USAGE_KEPT: u32 = 50_000;

/// How a request to a model ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UsageOutcome {
    /// With an answer.
    Answered,
    /// With an error.
    Failed,
    /// The agent stopped waiting.
    Cancelled,
}

impl UsageOutcome {
    /// The word that stands for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One request to a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The turn it was part of, if it was part of one.
    pub turn: Option<TurnId>,
    /// The group that asked.
    pub group: GroupName,
    /// The model, as the manifest calls it.
    pub model: ModelName,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// How long it took.
    pub duration: Period,
    /// How it ended.
    pub outcome: UsageOutcome,
    /// When it ended.
    pub at: Timestamp,
}

/// The requests of a turn together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageTotal {
    /// How many there were.
    pub requests: u64,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Tokens of all answers.
    pub completion_tokens: u64,
    /// Their durations added up, in milliseconds.
    pub duration_milliseconds: u64,
}

const INSERT: &str = "INSERT INTO usage
        (turn, grp, model, prompt_tokens, completion_tokens, duration_ms, outcome, at)
    VALUES (:turn, :grp, :model, :prompt, :completion, :duration, :outcome, :at)";

const FORGET: &str = "DELETE FROM usage WHERE id <= (SELECT max(id) FROM usage) - :kept";

pub(super) const OF_TURN: &str = "SELECT
        count(*) AS requests,
        coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
        coalesce(sum(completion_tokens), 0) AS completion_tokens,
        coalesce(sum(duration_ms), 0) AS duration_ms
    FROM usage WHERE turn = :turn";

impl Store {
    /// Records one request. The newest [`USAGE_KEPT`] stay.
    ///
    /// # Errors
    /// There is no such turn, or it could not be written.
    pub async fn record_usage(&self, usage: Usage) -> Result<(), StoreError> {
        self.call(move |connection| record(connection, &usage)).await
    }

    /// What a turn took so far.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn usage_of(&self, turn: &TurnId) -> Result<UsageTotal, StoreError> {
        let turn = turn.clone();
        self.call(move |connection| of_turn(connection, &turn)).await
    }
}

impl Reader {
    /// As [`Store::usage_of`].
    ///
    /// # Errors
    /// It could not be read.
    pub fn usage_of(&self, turn: &TurnId) -> Result<UsageTotal, StoreError> {
        self.ask(|connection| of_turn(connection, turn))
    }
}

fn record(connection: &Connection, usage: &Usage) -> Result<(), CommandError> {
    if let Some(turn) = &usage.turn {
        turns::find(connection, turn)?;
    }
    connection.prepare_cached(INSERT)?.execute(named_params! {
        ":turn": usage.turn.as_ref().map(TurnId::as_str),
        ":grp": usage.group.as_str(),
        ":model": usage.model.as_str(),
        ":prompt": rows::integer(usage.prompt_tokens),
        ":completion": rows::integer(usage.completion_tokens),
        ":duration": rows::integer(usage.duration.as_milliseconds()),
        ":outcome": usage.outcome.word(),
        ":at": usage.at.0,
    })?;
    connection.prepare_cached(FORGET)?.execute(named_params! { ":kept": USAGE_KEPT })?;
    Ok(())
}

fn of_turn(connection: &Connection, turn: &TurnId) -> Result<UsageTotal, CommandError> {
    Ok(connection.prepare_cached(OF_TURN)?.query_row(
        named_params! { ":turn": turn.as_str() },
        |row| {
            Ok(UsageTotal {
                requests: rows::count(row, "requests")?,
                prompt_tokens: rows::count(row, "prompt_tokens")?,
                completion_tokens: rows::count(row, "completion_tokens")?,
                duration_milliseconds: rows::count(row, "duration_ms")?,
            })
        },
    )?)
}

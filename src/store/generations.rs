//! What was applied, and when: each successful or partial apply is a generation.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::error::{CommandError, StoreError, check_size};
use super::open::{Reader, Store};
use super::rows::{self, words};
use super::specs;
use crate::clock::Timestamp;
use crate::resource::{ResourceId, Risk, Spec};

/// The newest generations that are kept.
pub const GENERATIONS_KEPT: u64 = 50;

/// Largest manifest, specs and plan of one generation together, in bytes.
pub const GENERATION_SIZE_MAX: usize = 64 << 20;

/// Generations that are listed at a time.
pub const HISTORY_LENGTH_MAX: u32 = GENERATIONS_KEPT as u32;

/// How an apply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApplyOutcome {
    /// All of the plan was carried out.
    Applied,
    /// Some of it was.
    Partial,
}

words!(ApplyOutcome { Applied = "applied", Partial = "partial" });

/// A generation to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGeneration {
    /// The generation the plan was made on; `None` if there was none.
    pub parent: Option<u64>,
    /// When it was applied.
    pub at: Timestamp,
    /// The digest of the project it came from.
    pub digest: String,
    /// The manifest as it was written.
    pub manifest: String,
    /// Every resource as it is now meant to be.
    pub specs: BTreeMap<ResourceId, Spec>,
    /// The plan that was carried out, as JSON text.
    pub plan: String,
    /// The risks a human said yes to.
    pub approved: Vec<Risk>,
    /// The version of babybot that did it.
    pub tool: String,
    /// How it ended.
    pub outcome: ApplyOutcome,
}

/// What was applied last: what a running controller is to keep up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedGeneration {
    /// The generation.
    pub number: u64,
    /// Every resource as it is meant to be.
    pub specs: BTreeMap<ResourceId, Spec>,
    /// When it was applied.
    pub at: Timestamp,
}

/// A generation in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationSummary {
    /// Its number.
    pub number: u64,
    /// The generation before it.
    pub parent: Option<u64>,
    /// When it was applied.
    pub at: Timestamp,
    /// The digest of the project it came from.
    pub digest: String,
    /// The risks a human said yes to.
    pub approved: Vec<Risk>,
    /// The version of babybot that did it.
    pub tool: String,
    /// How it ended.
    pub outcome: ApplyOutcome,
}

/// A generation with all that was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// What a list shows of it.
    pub summary: GenerationSummary,
    /// The manifest as it was written.
    pub manifest: String,
    /// Every resource as it was meant to be.
    pub specs: BTreeMap<ResourceId, Spec>,
    /// The plan that was carried out, as JSON text.
    pub plan: String,
}

impl Store {
    /// Records a generation and returns its number, one more than its
    /// parent's. The newest [`GENERATIONS_KEPT`] stay.
    ///
    /// # Errors
    /// [`StoreError::Stale`] if the newest generation is not the expected
    /// parent; larger than [`GENERATION_SIZE_MAX`]; it could not be written.
    pub async fn record_generation(&self, new: NewGeneration) -> Result<u64, StoreError> {
        let specs = rows::to_json(&new.specs);
        let size = new.manifest.len() + specs.len() + new.plan.len();
        check_size("a generation", size, GENERATION_SIZE_MAX)?;
        self.call(move |connection| record(connection, &new, &specs)).await
    }

    /// The newest generation, however its apply ended; `None` before the first.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn applied(&self) -> Result<Option<AppliedGeneration>, StoreError> {
        self.call(applied).await
    }

    /// The newest generations, newest first, at most `limit` and
    /// [`HISTORY_LENGTH_MAX`].
    ///
    /// # Errors
    /// They could not be read.
    pub async fn history(&self, limit: u32) -> Result<Vec<GenerationSummary>, StoreError> {
        self.call(move |connection| history(connection, limit)).await
    }

    /// One generation, if it is still kept.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn generation(&self, number: u64) -> Result<Option<Generation>, StoreError> {
        self.call(move |connection| find(connection, number)).await
    }
}

impl Reader {
    /// As [`Store::applied`].
    ///
    /// # Errors
    /// It could not be read.
    pub fn applied(&self) -> Result<Option<AppliedGeneration>, StoreError> {
        self.ask(applied)
    }

    /// As [`Store::history`].
    ///
    /// # Errors
    /// They could not be read.
    pub fn history(&self, limit: u32) -> Result<Vec<GenerationSummary>, StoreError> {
        self.ask(|connection| history(connection, limit))
    }

    /// As [`Store::generation`].
    ///
    /// # Errors
    /// It could not be read.
    pub fn generation(&self, number: u64) -> Result<Option<Generation>, StoreError> {
        self.ask(|connection| find(connection, number))
    }
}

fn newest(connection: &Connection) -> Result<Option<u64>, CommandError> {
    Ok(connection
        .query_row("SELECT number FROM generations ORDER BY number DESC LIMIT 1", [], |row| {
            rows::count(row, "number")
        })
        .optional()?)
}

fn record(connection: &Connection, new: &NewGeneration, specs: &str) -> Result<u64, CommandError> {
    let found = newest(connection)?;
    if found != new.parent {
        return Err(StoreError::Stale { expected: new.parent, found }.into());
    }
    let number = found.unwrap_or(0) + 1;
    connection.execute(
        "INSERT INTO generations
             (number, parent, at, digest, manifest, specs, plan, approved, tool, outcome)
         VALUES
             (:number, :parent, :at, :digest, :manifest, :specs, :plan, :approved, :tool, :outcome)",
        named_params! {
            ":number": rows::integer(number),
            ":parent": new.parent.map(rows::integer),
            ":at": new.at.0,
            ":digest": new.digest,
            ":manifest": new.manifest,
            ":specs": specs,
            ":plan": new.plan,
            ":approved": rows::to_json(&new.approved),
            ":tool": new.tool,
            ":outcome": new.outcome.word(),
        },
    )?;
    // The one just recorded is the newest, so the current one always stays.
    connection.execute(
        "DELETE FROM generations WHERE number <= :last",
        named_params! { ":last": rows::integer(number.saturating_sub(GENERATIONS_KEPT)) },
    )?;
    Ok(number)
}

fn applied(connection: &Connection) -> Result<Option<AppliedGeneration>, CommandError> {
    Ok(connection
        .query_row(
            "SELECT number, specs, at FROM generations ORDER BY number DESC LIMIT 1",
            [],
            |row| {
                Ok(AppliedGeneration {
                    number: rows::count(row, "number")?,
                    specs: specs::of_row(row)?,
                    at: rows::moment(row, "at")?,
                })
            },
        )
        .optional()?)
}

fn history(connection: &Connection, limit: u32) -> Result<Vec<GenerationSummary>, CommandError> {
    let mut statement = connection.prepare(
        "SELECT number, parent, at, digest, approved, tool, outcome
         FROM generations ORDER BY number DESC LIMIT :limit",
    )?;
    let generations =
        statement.query_map(named_params! { ":limit": limit.min(HISTORY_LENGTH_MAX) }, summary)?;
    Ok(generations.collect::<Result<_, _>>()?)
}

fn find(connection: &Connection, number: u64) -> Result<Option<Generation>, CommandError> {
    Ok(connection
        .query_row(
            "SELECT * FROM generations WHERE number = :number",
            named_params! { ":number": rows::integer(number) },
            |row| {
                Ok(Generation {
                    summary: summary(row)?,
                    manifest: row.get("manifest")?,
                    specs: specs::of_row(row)?,
                    plan: row.get("plan")?,
                })
            },
        )
        .optional()?)
}

fn summary(row: &Row<'_>) -> rusqlite::Result<GenerationSummary> {
    let parent = match row.get::<_, Option<i64>>("parent")? {
        Some(_) => Some(rows::count(row, "parent")?),
        None => None,
    };
    Ok(GenerationSummary {
        number: rows::count(row, "number")?,
        parent,
        at: rows::moment(row, "at")?,
        digest: row.get("digest")?,
        approved: rows::json(row, "approved")?,
        tool: row.get("tool")?,
        outcome: ApplyOutcome::of_row(row, "outcome")?,
    })
}

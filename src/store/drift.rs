//! What a controller found changed from outside, and where it ever made sandboxes.

use rusqlite::{Connection, Row, named_params};

use super::error::{CommandError, StoreError, check_size};
use super::open::{Reader, Store};
use super::rows;
use crate::clock::Timestamp;
use crate::resource::ResourceId;

/// Entries of drift that are kept, the newest ones.
pub const DRIFT_KEPT: u32 = 1_000;
/// Longest text of an entry, in bytes.
pub const DRIFT_TEXT_MAX: usize = 4 << 10;
/// Endpoints that are remembered, the newest ones.
pub const ENDPOINTS_MAX: u32 = 64;

/// Something that was changed from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// When it was seen.
    pub at: Timestamp,
    /// What.
    pub id: ResourceId,
    /// How it was found, and what was done.
    pub text: String,
    /// Whether it was put right.
    pub mended: bool,
}

impl Store {
    /// Records that something was found changed from outside. The newest [`DRIFT_KEPT`] stay, and
    /// of a longer text the first [`DRIFT_TEXT_MAX`].
    ///
    /// # Errors
    /// It could not be written.
    pub async fn record_drift(&self, mut drift: Drift) -> Result<(), StoreError> {
        drift.text.truncate(drift.text.floor_char_boundary(DRIFT_TEXT_MAX));
        self.call(move |connection| record(connection, &drift)).await
    }

    /// Remembers where sandboxes are made. One that is known changes nothing.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn remember_endpoint(&self, endpoint: &str, at: Timestamp) -> Result<(), StoreError> {
        check_size("an endpoint", endpoint.len(), DRIFT_TEXT_MAX)?;
        let endpoint = endpoint.to_owned();
        self.call(move |connection| {
            connection.execute(
                "INSERT INTO endpoints (endpoint, first_used) VALUES (:endpoint, :at)
                 ON CONFLICT (endpoint) DO NOTHING",
                named_params! { ":endpoint": endpoint, ":at": at.0 },
            )?;
            connection.execute(
                "DELETE FROM endpoints WHERE endpoint IN (
                     SELECT endpoint FROM endpoints ORDER BY first_used DESC LIMIT -1 OFFSET :kept)",
                named_params! { ":kept": ENDPOINTS_MAX },
            )?;
            Ok(())
        })
        .await
    }

    /// Every place where sandboxes were ever made, the newest first, at most [`ENDPOINTS_MAX`].
    ///
    /// # Errors
    /// They could not be read.
    pub async fn endpoints(&self) -> Result<Vec<String>, StoreError> {
        self.call(endpoints).await
    }

    /// What was found changed lately, newest first.
    ///
    /// # Errors
    /// It could not be read.
    pub async fn drift(&self, limit: u32) -> Result<Vec<Drift>, StoreError> {
        self.call(move |connection| drift(connection, limit)).await
    }
}

impl Reader {
    /// As [`Store::endpoints`].
    ///
    /// # Errors
    /// They could not be read.
    pub fn endpoints(&self) -> Result<Vec<String>, StoreError> {
        self.ask(endpoints)
    }

    /// As [`Store::drift`].
    ///
    /// # Errors
    /// It could not be read.
    pub fn drift(&self, limit: u32) -> Result<Vec<Drift>, StoreError> {
        self.ask(|connection| drift(connection, limit))
    }
}

fn record(connection: &Connection, drift: &Drift) -> Result<(), CommandError> {
    connection.execute(
        "INSERT INTO drift (at, what, text, mended) VALUES (:at, :what, :text, :mended)",
        named_params! {
            ":at": drift.at.0,
            ":what": rows::to_json(&drift.id),
            ":text": drift.text,
            ":mended": drift.mended,
        },
    )?;
    connection.execute(
        "DELETE FROM drift WHERE id <= (SELECT max(id) FROM drift) - :kept",
        named_params! { ":kept": DRIFT_KEPT },
    )?;
    Ok(())
}

fn endpoints(connection: &Connection) -> Result<Vec<String>, CommandError> {
    let mut statement = connection
        .prepare("SELECT endpoint FROM endpoints ORDER BY first_used DESC LIMIT :limit")?;
    let endpoints = statement
        .query_map(named_params! { ":limit": ENDPOINTS_MAX }, |row| row.get("endpoint"))?;
    Ok(endpoints.collect::<Result<_, _>>()?)
}

fn drift(connection: &Connection, limit: u32) -> Result<Vec<Drift>, CommandError> {
    let mut statement = connection.prepare("SELECT * FROM drift ORDER BY id DESC LIMIT :limit")?;
    let drift = statement.query_map(named_params! { ":limit": limit.min(DRIFT_KEPT) }, entry)?;
    Ok(drift.collect::<Result<_, _>>()?)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Drift> {
    Ok(Drift {
        at: rows::moment(row, "at")?,
        id: rows::json(row, "what")?,
        text: row.get("text")?,
        mended: row.get("mended")?,
    })
}

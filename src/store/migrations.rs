//! The database's format and how an older one becomes the current one.
//!
//! A migration and the number that records it are one transaction, so a crash
//! leaves one format or the other. There is no way back to an older format.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::error::{CommandError, StoreError};

/// What makes format `n` out of format `n - 1`, from format 1. Entries are
/// never edited once released: stores in that format exist.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/1.sql"),
    include_str!("migrations/2.sql"),
    include_str!("migrations/3.sql"),
    include_str!("migrations/4.sql"),
    include_str!("migrations/5.sql"),
];

/// The format that this babybot writes.
pub(super) const KNOWN: i64 = MIGRATIONS.len() as i64;

/// The oldest format that a reader, which changes nothing, can read what was applied of.
pub(super) const READABLE: i64 = 2;

/// The format of the file; 0 for an empty one.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Refuses a file that a newer babybot wrote.
pub(super) fn check_known(connection: &Connection, path: &Path) -> Result<(), CommandError> {
    let found = version(connection)?;
    if found > KNOWN {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: KNOWN }.into());
    }
    Ok(())
}

/// Brings the file to the current format, one transaction for each step.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), CommandError> {
    loop {
        // The version is read under the write lock: another opener may have been faster.
        let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        check_known(&step, path)?;
        let found = version(&step)?;
        let Some(migration) = usize::try_from(found).ok().and_then(|n| MIGRATIONS.get(n)) else {
            return Ok(());
        };
        step.execute_batch(migration)?;
        step.pragma_update(None, "user_version", found + 1)?;
        step.commit()?;
    }
}

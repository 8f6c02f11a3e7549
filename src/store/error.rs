//! Why the store could not do what was asked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::ErrorCode;
use thiserror::Error;

use super::state::{OutboxId, PostState, TurnState};
use crate::name::TurnId;

/// Why the store could not do what was asked.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    /// The file could not be created or made private.
    #[error("cannot open the store at {}", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// The file is not a database, or parts of it are destroyed.
    #[error("the store at {} is damaged", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
    },
    /// Something else stands in the place of one of its files.
    #[error("{} is {what}, not a file of the store", path.display())]
    NotAFile {
        /// Where.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The file or its folder cannot be written.
    #[error("cannot write to the store at {}", path.display())]
    Unwritable {
        /// The database file.
        path: PathBuf,
    },
    /// The disk, or the size the store may have, is used up. Nothing was half written.
    #[error("no space left on the disk that holds {}", path.display())]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// Another program holds the write lock.
    #[error("another program is writing to the store at {}", path.display())]
    Busy {
        /// The database file.
        path: PathBuf,
    },
    /// A newer babybot wrote this file.
    #[error(
        "the store at {} has format {found}, and this babybot knows formats up to {known}",
        path.display()
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The format found.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// An older babybot wrote this file and a reader does not migrate.
    #[error("the store at {} has format {found}, older than {known}", path.display())]
    Older {
        /// The database file.
        path: PathBuf,
        /// The format found.
        found: i64,
        /// The format needed.
        known: i64,
    },
    /// A row holds something that this babybot cannot read.
    #[error("cannot read an entry of the store at {}", path.display())]
    Unreadable {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it.
        source: Arc<rusqlite::Error>,
    },
    /// Anything else that SQLite reports.
    #[error("cannot use the store at {}", path.display())]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// The writing thread has ended.
    #[error("the store at {} is closed", path.display())]
    Closed {
        /// The database file.
        path: PathBuf,
    },
    /// Something larger than the store takes.
    #[error("{what} has {size} bytes; the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size, in bytes.
        size: u64,
        /// The most that is taken, in bytes.
        limit: u64,
    },
    /// More entries than the store takes.
    #[error("{what} has {count} entries; the limit is {limit}")]
    TooMany {
        /// What has too many.
        what: &'static str,
        /// How many it would have.
        count: u64,
        /// The most that are taken.
        limit: u64,
    },
    /// A generation was to follow one that is not the newest any more.
    #[error("generation {} was expected to be the newest, but it is {}", shown(*expected), shown(*found))]
    Stale {
        /// The parent the caller planned on.
        expected: Option<u64>,
        /// The newest generation there is.
        found: Option<u64>,
    },
    /// There is no such turn.
    #[error("there is no turn {turn}")]
    UnknownTurn {
        /// The turn that was asked for.
        turn: TurnId,
    },
    /// A turn cannot go from its state to the one asked for.
    #[error("turn {turn} is {from} and cannot become {to}")]
    Transition {
        /// The turn.
        turn: TurnId,
        /// Its state.
        from: TurnState,
        /// The state asked for.
        to: TurnState,
    },
    /// Something was reported for a turn that is not in a state to take it.
    #[error("turn {turn} is {state} and accepts nothing more")]
    TurnState {
        /// The turn.
        turn: TurnId,
        /// Its state.
        state: TurnState,
    },
    /// A round or call was reported again with another content.
    #[error("round {round} of turn {turn} is recorded with other content")]
    JournalDiffers {
        /// The turn.
        turn: TurnId,
        /// The round.
        round: u32,
    },
    /// A call was reported before its round, or a result before its call.
    #[error("turn {turn} has no record of what comes before this in round {round}")]
    JournalGap {
        /// The turn.
        turn: TurnId,
        /// The round.
        round: u32,
    },
    /// There is no such entry in the outbox.
    #[error("there is no entry {id} in the outbox")]
    UnknownPost {
        /// The entry that was asked for.
        id: OutboxId,
    },
    /// An entry of the outbox cannot go from its state to the one asked for.
    #[error("entry {id} of the outbox is {from} and cannot become {to}")]
    PostTransition {
        /// The entry.
        id: OutboxId,
        /// Its state.
        from: PostState,
        /// The state asked for.
        to: PostState,
    },
}

fn shown(number: Option<u64>) -> String {
    number.map_or_else(|| "none".to_owned(), |number| number.to_string())
}

impl StoreError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Open { .. } | Self::Unwritable { .. } => {
                Some("check that the folder exists and that this user may write to it")
            }
            Self::NotAFile { .. } => Some("move it away: babybot did not make it"),
            Self::Damaged { .. } => Some(
                "move the file and its -wal and -shm neighbours aside, then restore a backup \
                 or start with an empty store; privileged changes will need approval again",
            ),
            Self::Full { .. } => Some("free some disk space; stored messages are intact"),
            Self::Busy { .. } => Some("close whatever else has the database open, then try again"),
            Self::Newer { .. } => {
                Some("upgrade babybot; a store cannot go back to an older format")
            }
            Self::Older { .. } => Some("run `babybot chat` once to update the store"),
            Self::Unreadable { .. } => {
                Some("the entry may come from a newer babybot: upgrade, then try again")
            }
            Self::Stale { .. } => Some("another apply finished in between; plan again"),
            _ => None,
        }
    }

    pub(super) fn from_sqlite(path: &Path, error: rusqlite::Error) -> Self {
        use rusqlite::Error as Sqlite;
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged { path },
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                Self::Unwritable { path }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path },
            _ => match error {
                Sqlite::FromSqlConversionFailure(..)
                | Sqlite::IntegralValueOutOfRange(..)
                | Sqlite::InvalidColumnType(..) => {
                    Self::Unreadable { path, source: Arc::new(error) }
                }
                _ => Self::Sqlite { path, source: Arc::new(error) },
            },
        }
    }
}

/// A failure inside a command, where the path of the database is not at hand.
#[derive(Debug)]
pub(super) enum CommandError {
    Sqlite(rusqlite::Error),
    Refused(StoreError),
}

impl CommandError {
    pub(super) fn at(self, path: &Path) -> StoreError {
        match self {
            Self::Sqlite(error) => StoreError::from_sqlite(path, error),
            Self::Refused(error) => error,
        }
    }
}

impl From<rusqlite::Error> for CommandError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

/// Refuses what is larger than the store takes.
pub(super) fn check_size(what: &'static str, size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit {
        return Err(StoreError::TooLarge { what, size: size as u64, limit: limit as u64 });
    }
    Ok(())
}

//! What must survive: messages, turns, replies on their way out, and what was applied.
//!
//! One SQLite file with one writing thread. Whatever a method of [`Store`]
//! returns is committed by then: `kill -9` at any moment afterwards loses
//! nothing (a power cut may lose the last moments). Times and identifiers are
//! arguments; the store asks no clock, knows no channel and decides nothing
//! about who is answered.
//!
//! ```text
//! Store (cheap clones) ─► bounded queue ─► writer thread ─► babybot.db
//! Reader ──────────────── its own read-only connection ──────┘
//! ```

mod drift;
mod generations;
mod holds;
mod journal;
mod messages;
mod migrations;
mod outbox;
mod rows;
mod sandboxes;
mod specs;
mod statements;
mod turns;
mod usage;
mod writer;

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::OFlags;
use thiserror::Error;

use crate::file;
use crate::name::TurnId;
use crate::unit::ByteSize;

pub use drift::{DRIFT_KEPT, DRIFT_TEXT_MAX, Drift, ENDPOINTS_MAX};
pub use generations::{
    AppliedGeneration, ApplyOutcome, GENERATION_SIZE_MAX, GENERATIONS_KEPT, Generation,
    GenerationSummary, HISTORY_LENGTH_MAX, NewGeneration,
};
pub use journal::{
    JOURNAL_CALLS_MAX, JOURNAL_ENTRY_SIZE_MAX, JOURNAL_ROUNDS_MAX, JOURNAL_SIZE_MAX, JOURNALS_KEPT,
};
pub use messages::{
    Accepted, Incoming, MESSAGE_TEXT_MAX, Message, MessageSeq, SENDER_LENGTH_MAX, TURN_CONTEXT_MAX,
    WAITING_MAX,
};
pub use outbox::{
    NewPost, OUTBOX_ATTEMPTS_MAX, OUTBOX_DUE_MAX, OUTBOX_INTERRUPTIONS_MAX, OutboxId, Post,
    PostKind, PostState, REPLY_TEXT_MAX, Unsettled,
};
pub use sandboxes::{SANDBOXES_ENDED_KEPT, Sandbox};
pub use statements::PER_MESSAGE_STATEMENTS;
pub use turns::{FAILURE_TEXT_MAX, TakenUp, Turn, TurnOpened, TurnState};
pub use usage::{USAGE_KEPT, Usage, UsageOutcome, UsageTotal};
pub use writer::{BATCH_LENGTH_MAX, QUEUE_LENGTH_MAX};

/// How long a write waits for a program that should not be writing here at all.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// One connection has one user at a time, and a link that somebody planted is not followed.
const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX.union(OpenFlags::SQLITE_OPEN_NOFOLLOW);

/// Statements that are kept parsed: all of those that run again and again.
const STATEMENTS_KEPT: usize = 64;

/// What the write-ahead log is cut back to after a checkpoint, in bytes.
const LOG_SIZE_KEPT: i64 = 16 << 20;

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

    fn from_sqlite(path: &Path, error: rusqlite::Error) -> Self {
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
enum CommandError {
    Sqlite(rusqlite::Error),
    Refused(StoreError),
}

impl CommandError {
    fn at(self, path: &Path) -> StoreError {
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
fn check_size(what: &'static str, size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit {
        return Err(StoreError::TooLarge { what, size: size as u64, limit: limit as u64 });
    }
    Ok(())
}

/// The store, open for writing. Clones are cheap and share one writing thread.
///
/// Every method waits its turn in a bounded queue, so that it sees all that
/// was acknowledged before. A method whose future is dropped may still be
/// carried out. The thread ends after the last clone is dropped and the queue
/// is empty.
#[derive(Clone, Debug)]
pub struct Store {
    queue: writer::Queue,
}

impl Store {
    /// Opens the store at `path`, which is created, made private to this user
    /// (0600) and brought to the current format where needed.
    ///
    /// # Errors
    /// The file cannot be created or written, is damaged, or is of a newer format.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, None)
    }

    /// Like [`Store::open`], but the database grows to at most `size`: a write
    /// beyond it fails with [`StoreError::Full`].
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_bounded(path: &Path, size: ByteSize) -> Result<Self, StoreError> {
        Self::open_with(path, Some(size))
    }

    fn open_with(path: &Path, size: Option<ByteSize>) -> Result<Self, StoreError> {
        check_files(path)?;
        make_private(path)
            .map_err(|error| StoreError::Open { path: path.to_owned(), source: Arc::new(error) })?;
        let connection = writable(path, size).map_err(|fault| fault.at(path))?;
        let queue = writer::start(connection, path)
            .map_err(|error| StoreError::Open { path: path.to_owned(), source: Arc::new(error) })?;
        Ok(Self { queue })
    }

    /// Opens the store at `path` for reading, beside a writer or without one.
    /// `None` if nothing was ever stored there; then nothing is created either.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or is of another format.
    pub fn read_only(path: &Path) -> Result<Option<Reader>, StoreError> {
        match std::fs::symlink_metadata(path) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(StoreError::Open { path: path.to_owned(), source: Arc::new(error) });
            }
        }
        check_files(path)?;
        readable(path).map_err(|fault| fault.at(path))
    }

    /// Gives up this handle and waits until the writing thread has ended,
    /// which it does once every other clone is dropped as well.
    pub async fn close(self) {
        self.queue.close().await;
    }

    async fn call<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, CommandError> + Send + 'static,
    {
        self.queue.call(work).await
    }
}

/// The store, open for reading only.
///
/// Its methods block for as long as SQLite reads: short, but not for the inside of a busy loop.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    path: PathBuf,
}

impl Reader {
    /// Runs `work` on one consistent view of the database.
    fn ask<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, CommandError>,
    ) -> Result<T, StoreError> {
        let view = self
            .connection
            .unchecked_transaction()
            .map_err(|error| StoreError::from_sqlite(&self.path, error))?;
        work(&view).map_err(|fault| fault.at(&self.path))
    }
}

/// Refuses what SQLite would wait for: a pipe in the place of one of its files.
fn check_files(path: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let file = PathBuf::from(file);
        let there = std::fs::symlink_metadata(&file).ok();
        if let Some(what) = there.and_then(|there| file::instead_of_a_file(there.file_type())) {
            return Err(StoreError::NotAFile { path: file, what });
        }
    }
    Ok(())
}

/// Creates the file if need be and takes it away from everybody else.
/// SQLite gives its companion files the same mode.
fn make_private(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default())
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn writable(path: &Path, size: Option<ByteSize>) -> Result<Connection, CommandError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | FLAGS;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    // A file that is not ours to change is refused before anything in it changes.
    migrations::check_known(&connection, path)?;
    // Reports the mode it ended in, so it is a query.
    let _mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    connection.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;")?;
    let _kept: i64 = connection.query_row(
        &format!("PRAGMA journal_size_limit = {LOG_SIZE_KEPT}"),
        [],
        |row| row.get(0),
    )?;
    migrations::migrate(&mut connection, path)?;
    if let Some(size) = size {
        bound(&connection, size)?;
    }
    Ok(connection)
}

/// Lets the database have no more pages than fit in `size`.
fn bound(connection: &Connection, size: ByteSize) -> rusqlite::Result<()> {
    let page: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let pages = i64::try_from(size.as_bytes()).unwrap_or(i64::MAX) / page.max(1);
    connection
        .query_row(&format!("PRAGMA max_page_count = {}", pages.max(1)), [], |row| {
            row.get::<_, i64>(0)
        })
        .map(drop)
}

fn readable(path: &Path) -> Result<Option<Reader>, CommandError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | FLAGS;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    migrations::check_known(&connection, path)?;
    match migrations::version(&connection)? {
        // Created, but the writer was stopped before it stored anything.
        0 => Ok(None),
        found if found < migrations::KNOWN => {
            Err(StoreError::Older { path: path.to_owned(), found, known: migrations::KNOWN }.into())
        }
        _ => Ok(Some(Reader { connection, path: path.to_owned() })),
    }
}

//! Opening the store: its file made private and brought to the current format.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rustix::fs::OFlags;
use tokio::sync::watch;

use super::error::{CommandError, StoreError};
use super::writer::Kind;
use super::{migrations, writer};
use crate::file;
use crate::unit::ByteSize;

/// How long a write waits for a program that should not be writing here at all.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// One connection has one user at a time, and a link that somebody planted is not followed.
const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX.union(OpenFlags::SQLITE_OPEN_NOFOLLOW);

/// Statements that are kept parsed: all of those that run again and again.
const STATEMENTS_KEPT: usize = 64;

/// What the write-ahead log is cut back to after a checkpoint, in bytes.
const LOG_SIZE_KEPT: i64 = 16 << 20;

/// The store, open for writing. Clones are cheap and share one writing thread.
///
/// Every method waits its turn in a bounded queue, so that it sees all that
/// was acknowledged before. A method whose future is dropped may still be
/// carried out. The thread ends after the last clone is dropped and the queue
/// is empty.
#[derive(Clone, Debug)]
pub struct Store {
    queue: writer::Queue,
    /// Grows with every entry of the outbox that is to be sent.
    posted: Arc<watch::Sender<u64>>,
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
        Ok(Self { queue, posted: Arc::new(watch::Sender::new(0)) })
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

    /// Changes whenever there may be something new to be sent.
    #[must_use]
    pub fn posted(&self) -> watch::Receiver<u64> {
        self.posted.subscribe()
    }

    /// Tells whoever sends that there may be something new.
    pub(super) fn tell_of_post(&self) {
        self.posted.send_modify(|count| *count += 1);
    }

    pub(super) async fn call<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, CommandError> + Send + 'static,
    {
        self.queue.call(work, Kind::Write).await
    }

    /// As [`Store::call`], for work that only reads: alone, it opens no transaction.
    pub(super) async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, CommandError> + Send + 'static,
    {
        self.queue.call(work, Kind::Read).await
    }
}

/// The store, open for reading only.
///
/// Its methods block for as long as SQLite reads: short, but not for the inside of a busy loop.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    path: PathBuf,
    format: i64,
}

impl Reader {
    /// As [`Reader::ask`], for work that only the newest format has an answer to.
    pub(super) fn ask_current<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, CommandError>,
    ) -> Result<T, StoreError> {
        let (found, known) = (self.format, migrations::KNOWN);
        if found < known {
            return Err(StoreError::Older { path: self.path.clone(), found, known });
        }
        self.ask(work)
    }

    /// Runs `work` on one consistent view of the database.
    pub(super) fn ask<T>(
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
        found if found < migrations::READABLE => {
            Err(StoreError::Older { path: path.to_owned(), found, known: migrations::KNOWN }.into())
        }
        format => Ok(Some(Reader { connection, path: path.to_owned(), format })),
    }
}
